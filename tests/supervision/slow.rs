//! Waiting is not being stuck, however long it takes.

use std::time::Duration;

use serde_json::json;
use sqlx::Connection;
use tidegate::demo::faults::Operation;
use tokio::time::Instant;

use crate::restarts::{all_restarts, reader_waits, writer_waits};
use crate::scenario::{PATIENCE, scenario, until};
use crate::world::World;

/// Three times as long as an actor may give no sign of life.
const SLOW: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_call_to_the_service_is_not_being_stuck() {
    scenario(3 * PATIENCE, async {
        let world = World::new(1).await;
        world.pipeline("events", json!({})).await;
        let settings = [("TIDEGATE__KINESIS__OPERATION_TIMEOUT", "60s")];
        let relay = world.relay_with(&settings).await;
        relay.wait_for_state("events", "running").await;
        world.emulator.faults().set_latency(SLOW, SLOW);
        let published = Instant::now();
        let rows = world.publish_many("events", 20, 20, 10).await;
        let longest = Duration::from_secs(12).as_secs_f64();
        until("the writer waits for the service", PATIENCE, || {
            let (what, seconds) = writer_waits(&relay);
            what == "kinesis" && seconds > longest
        })
        .await;
        assert_eq!(reader_waits(&relay, "events").0, "outcomes");
        assert_eq!(relay.get("/livez").expect("an answer").0, 200);
        // What is under way takes its time.
        let faults = world.emulator.faults();
        faults.set_latency(Duration::ZERO, Duration::ZERO);
        let verdict = world.judge(&rows).await;
        assert!(published.elapsed() >= SLOW, "the call was not slow");
        assert!(verdict.is_clean(), "{verdict:#?}");
        assert_eq!(verdict.duplicates, 0, "{verdict:#?}");
        assert_eq!(all_restarts(&relay), 0.0);
        assert!(world.emulator.tally().calls(Operation::PutRecords) >= 1);
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_statement_is_not_being_stuck() {
    scenario(3 * PATIENCE, async {
        let world = World::new(1).await;
        world.pipeline("events", json!({})).await;
        // Leases must outlive the statements that renew them.
        let settings = [("TIDEGATE__CLUSTER__LEASE", "60s")];
        let relay = world.relay_with(&settings).await;
        let before = world.publish_many("events", 20, 20, 10).await;
        world.wait_for(&before, PATIENCE).await;
        // Nobody reads the outbox while this is held.
        let mut blocker = sqlx::PgConnection::connect(&world.url)
            .await
            .expect("a connection");
        sqlx::raw_sql(
            "BEGIN; LOCK TABLE tide.outbox_message, tide.relay_position IN ACCESS EXCLUSIVE MODE",
        )
        .execute(&mut blocker)
        .await
        .expect("a lock");
        let mut longest = 0.0_f64;
        let began = Instant::now();
        until("the lock has been held for long", PATIENCE, || {
            let status = relay.status().to_string();
            assert_eq!(relay.get("/livez").expect("an answer").0, 200);
            assert_eq!(all_restarts(&relay), 0.0, "{status}");
            let (what, seconds) = reader_waits(&relay, "events");
            if what == "database" || what == "news" {
                longest = longest.max(seconds);
            }
            began.elapsed() > SLOW
        })
        .await;
        assert!(longest > 10.0, "it waited for {longest:.1} s");
        sqlx::raw_sql("ROLLBACK")
            .execute(&mut blocker)
            .await
            .expect("no lock any more");
        let mut rows = world.publish_many("events", 20, 20, 10).await;
        rows.extend(before);
        let verdict = world.judge(&rows).await;
        assert!(verdict.is_clean(), "{verdict:#?}");
        assert_eq!(verdict.duplicates, 0, "{verdict:#?}");
        assert_eq!(all_restarts(&relay), 0.0);
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}
