//! Drains that cannot finish: they end all the same, and say what they left.

use std::time::Duration;

use serde_json::json;
use tidegate::core::shard_map::HashRange;
use tidegate::demo::faults::{Applied, CallFault, Often, Operation, Refused};
use tokio::time::Instant;

use crate::proxy::Proxy;
use crate::relay::Relay;
use crate::scenario::{PATIENCE, scenario, until};
use crate::world::World;
use crate::{LONG_LEASE, database, leases_held};

const GRACE: Duration = Duration::from_secs(1);
const SHORT_GRACE: (&str, &str) = ("TIDEGATE__LIMITS__DRAIN_GRACE", "1s");

/// What a drain may take besides its grace, on a machine under load.
const SLACK: Duration = Duration::from_secs(4);

/// All hash keys.
const EVERYTHING: HashRange = HashRange {
    first: 0,
    last: u128::MAX,
};

/// Waits until so many rows are in flight.
async fn wait_for_rows_in_flight(relay: &Relay, pipeline: &str, rows: u64) {
    until("rows are in flight", PATIENCE, || {
        relay.pipeline(pipeline)["in_flight_rows"] == rows
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_answers_nothing_holds_no_drain_beyond_its_grace() {
    scenario(2 * PATIENCE, async {
        let world = World::new(1).await;
        world.pipeline("events", json!({})).await;
        world.pipeline("idle", json!({})).await;
        let mut rows = world.publish_many("events", 1, 1, 10).await;
        let mut relay = world.relay_with(&[SHORT_GRACE, LONG_LEASE]).await;
        relay.wait_for_state("idle", "running").await;
        world.wait_until_received(1).await;
        world.answer_no_puts();
        rows.extend(world.publish_many("events", 50, 50, 10).await);
        wait_for_rows_in_flight(&relay, "events", 50).await;
        let asked = Instant::now();
        relay.signal("TERM");
        assert_eq!(relay.end(PATIENCE).await, 0);
        let took = asked.elapsed();
        assert!(took >= GRACE && took < GRACE + SLACK, "{took:?}");
        // One line says all of it. What was in no call is left to the next owner.
        let rows_left = world.unanswered_rows();
        assert!(rows_left > 0 && rows_left <= 50, "{rows_left}");
        let words = [
            "the drain was cut off",
            "drained=1",
            "cut_off=1",
            &format!("rows={rows_left} "),
            &format!("events ({rows_left} rows in flight: the grace is over)"),
        ];
        assert_eq!(relay.log_lines(&words), 1, "{}", relay.log());
        assert_eq!(leases_held(&world).await, 0);

        world.emulator.faults().heal();
        let relay = world.relay_with(&[LONG_LEASE]).await;
        let verdict = world.judge(&rows).await;
        assert!(verdict.is_clean(), "{verdict:#?}");
        assert_eq!(verdict.duplicates, 0, "{verdict:#?}");
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_settled_is_written_when_the_grace_is_over() {
    scenario(2 * PATIENCE, async {
        let world = World::new(2).await;
        world.pipeline("events", json!({})).await;
        // One shard takes everything, the other nothing.
        let half = HashRange {
            first: 0,
            last: u128::MAX / 2,
        };
        world.emulator.faults().refuse(Refused::Range(half));
        let rows = world.publish_many("events", 200, 40, 10).await;
        let mut relay = world.relay_with(&[SHORT_GRACE, LONG_LEASE]).await;
        until(
            "half of it is delivered, the other half is not",
            PATIENCE,
            || {
                let delivered = relay.metric("tidegate_rows_delivered_total", &[]);
                let in_flight = relay.metric("tidegate_in_flight_rows", &[]);
                delivered > 0.0 && in_flight > 0.0 && (delivered + in_flight - 200.0).abs() < 0.5
            },
        )
        .await;
        // Of what is refused it is known that it was not stored: it would be left to
        // the next owner. So that there is something to wait for, nothing is answered.
        let calls = world.emulator.tally().calls(Operation::PutRecords);
        world.answer_no_puts();
        until("a call is not answered", PATIENCE, || {
            world.emulator.tally().calls(Operation::PutRecords) > calls
        })
        .await;
        relay.signal("TERM");
        assert_eq!(relay.end(PATIENCE).await, 0);
        assert_eq!(relay.log_lines(&["the drain was cut off"]), 1);
        assert_eq!(leases_held(&world).await, 0);

        world.emulator.faults().heal();
        let relay = world.relay_with(&[LONG_LEASE]).await;
        let verdict = world.judge(&rows).await;
        assert!(verdict.is_clean(), "{verdict:#?}");
        assert_eq!(verdict.duplicates, 0, "{verdict:#?}");
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_the_process_at_once() {
    scenario(2 * PATIENCE, async {
        let world = World::new(1).await;
        world.pipeline("events", json!({})).await;
        // What is refused for certain would be left to the next owner within a second.
        world.answer_no_puts();
        let rows = world.publish_many("events", 50, 10, 10).await;
        for (first, second) in [("TERM", "INT"), ("INT", "TERM")] {
            let mut relay = world.relay().await;
            wait_for_rows_in_flight(&relay, "events", 50).await;
            relay.signal(first);
            until("it drains", PATIENCE, || {
                relay.status()["phase"] == "draining"
            })
            .await;
            let asked = Instant::now();
            relay.signal(second);
            assert_eq!(relay.end(PATIENCE).await, 1);
            let took = asked.elapsed();
            assert!(took < Duration::from_secs(2), "{took:?}");
            assert_eq!(relay.log_lines(&["a second signal: exits at once"]), 1);
        }
        world.emulator.faults().heal();
        let relay = world.relay().await;
        let verdict = world.judge(&rows).await;
        assert!(verdict.is_clean(), "{verdict:#?}");
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

/// A row that the service does not take holds its pipeline (`halt`), not a drain.
#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_pipeline_holds_no_drain() {
    scenario(2 * PATIENCE, async {
        let world = World::new(1).await;
        world.pipeline("events", json!({"on_poison": "halt"})).await;
        world.publish_many("events", 20, 20, 10).await;
        let relay = world.relay_with(&[LONG_LEASE]).await;
        world.wait_until_received(20).await;
        let faults = world.emulator.faults();
        let invalid = CallFault::Refuse {
            status: 400,
            code: "InvalidArgumentException".to_owned(),
            applied: Applied::Never,
        };
        faults.inject(Operation::PutRecords, Often::Always, invalid);
        world.publish_many("events", 1, 1, 10).await;
        relay.wait_for_state("events", "blocked").await;
        let mut relay = relay;
        let asked = Instant::now();
        relay.signal("TERM");
        assert_eq!(relay.end(PATIENCE).await, 0);
        let took = asked.elapsed();
        assert!(
            took < Duration::from_secs(8),
            "{took:?}, of a grace of 20 s"
        );
        let words = ["the drain was cut off", "events (", "InvalidArgument"];
        assert_eq!(relay.log_lines(&words), 1, "{}", relay.log());
        assert_eq!(leases_held(&world).await, 0);
        world.emulator.faults().heal();
        let relay = world.relay_with(&[LONG_LEASE]).await;
        world.wait_until_received(21).await;
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

/// The last position is written when the database is back.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_for_a_moment_makes_no_repeats() {
    scenario(2 * PATIENCE, async {
        let world = World::new(1).await;
        world.pipeline("events", json!({})).await;
        world.emulator.faults().refuse(Refused::Range(EVERYTHING));
        let rows = world.publish_many("events", 50, 10, 10).await;
        let proxy = Proxy::start(database::server().port());
        let name = world.url.rsplit('/').next().expect("a name").to_owned();
        let url = proxy.url(database::OWNER, &name);
        let mut relay = world
            .relay_with(&[("DATABASE_URL", &url), LONG_LEASE])
            .await;
        wait_for_rows_in_flight(&relay, "events", 50).await;
        // Nobody listens there.
        proxy.lead_to(1);
        relay.signal("TERM");
        world.emulator.faults().admit_all();
        until("a position cannot be written", PATIENCE, || {
            relay.log_lines(&["the last position was not written; trying again"]) > 0
        })
        .await;
        proxy.lead_to(database::server().port());
        assert_eq!(relay.end(PATIENCE).await, 0);
        let words = [
            "drained: everything that was sent is settled",
            "pipelines=1",
        ];
        assert_eq!(relay.log_lines(&words), 1, "{}", relay.log());
        assert_eq!(leases_held(&world).await, 0);

        let relay = world.relay_with(&[LONG_LEASE]).await;
        let verdict = world.judge(&rows).await;
        assert!(verdict.is_clean(), "{verdict:#?}");
        assert_eq!(verdict.duplicates, 0, "{verdict:#?}");
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}
