//! What is not there yet is waited for, and what went away comes back, without
//! anybody touching the relay.

use std::time::Duration;

use serde_json::json;
use tidegate::demo::emulator::EmulatorOptions;
use tidegate::demo::load::{KeyOrder, OutboxLoad};
use tidegate::demo::private_postgres::{PrivatePostgres, PrivatePostgresOptions};

use crate::relay::{Relay, program};
use crate::scenario::{PATIENCE, scenario, until};
use crate::world::{STREAM, World};

/// Long enough for several attempts.
const SOME_ATTEMPTS: Duration = Duration::from_secs(3);

/// Waits for a warning, then for further attempts, and asserts that the warning
/// was said once, and that the process is alive.
async fn says_once(relay: &Relay, words: &[&str]) {
    let what = format!("a warning of {words:?}");
    until(&what, PATIENCE, || relay.log_lines(words) > 0).await;
    tokio::time::sleep(SOME_ATTEMPTS).await;
    assert_eq!(relay.log_lines(words), 1, "{words:?} is said once");
    assert_eq!(relay.get("/livez").expect("an answer").0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_waits_for_database_schema_and_stream() {
    scenario(2 * PATIENCE, async {
        let mut server =
            PrivatePostgres::start(PrivatePostgresOptions::default()).expect("a server");
        let url = server.create_database("app").await.expect("a database");
        let world = World::at(url, 0, EmulatorOptions::default()).await;
        server.kill().expect("killed");

        let relay = world.relay().await;
        says_once(
            &relay,
            &["WARN", "the pipelines of the database cannot be read"],
        )
        .await;
        let databases = &relay.status()["databases"];
        assert_eq!(databases[0]["up"], false, "{databases}");

        server.restart().expect("a server");
        let missing = ["WARN", "tidegate migrate"];
        until("the missing schema is named", PATIENCE, || {
            relay.status()["databases"]
                .to_string()
                .contains("tidegate migrate")
        })
        .await;
        assert!(relay.log_lines(&missing) <= 1, "{missing:?} is said once");
        let migrated = program(&world.settings(&[])).arg("migrate").output();
        let migrated = migrated.expect("a migration");
        assert!(migrated.status.success(), "{migrated:?}");
        until("the database is up", PATIENCE, || {
            relay.status()["databases"][0]["up"] == true
        })
        .await;

        world.pipeline("events", json!({})).await;
        let rows = world.publish_many("events", 20, 5, 10).await;
        says_once(&relay, &["WARN", "the stream cannot be used"]).await;
        assert_eq!(relay.state("events"), "waiting");
        world
            .emulator
            .create_stream(STREAM, 2)
            .await
            .expect("a stream");
        let verdict = world.judge(&rows).await;
        assert!(
            verdict.is_clean() && verdict.duplicates == 0,
            "{verdict:#?}"
        );
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_killed_under_load_loses_nothing() {
    scenario(3 * PATIENCE, async {
        let mut server =
            PrivatePostgres::start(PrivatePostgresOptions::default()).expect("a server");
        let url = server.create_database("app").await.expect("a database");
        let world = World::at(url, 2, EmulatorOptions::default()).await;
        let migrated = program(&world.settings(&[])).arg("migrate").output();
        assert!(migrated.expect("a migration").status.success());
        world.pipeline("events", json!({})).await;
        let relay = world.relay().await;
        let load = OutboxLoad {
            workers: 4,
            rows_per_second: Some(150.0),
            ..OutboxLoad::new("events")
        };
        let load = world.load(vec![load], 21).await;
        for _ in 0..3 {
            let received = world.consumer.received();
            world.wait_until_received(received + 100).await;
            server.kill().expect("killed");
            server.restart().expect("a server again");
        }
        let published = load.published();
        load.wait_until_published(published + 100, PATIENCE)
            .await
            .expect("rows");
        let report = load.stop().await.expect("the books");
        assert!(report.counts.reconnects > 0, "{:?}", report.counts);
        world.judge_after_a_crash(&report.rows()).await;
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_resets_every_connection_is_waited_for() {
    scenario(2 * PATIENCE, async {
        let world = World::new(2).await;
        world.pipeline("events", json!({})).await;
        let relay = world.relay().await;
        let load = OutboxLoad {
            rows_per_second: Some(100.0),
            ..OutboxLoad::new("events")
        };
        let load = world.load(vec![load], 22).await;
        world.wait_until_received(50).await;
        world.emulator.faults().refuse_connections(true);
        let published = load.published();
        load.wait_until_published(published + 150, PATIENCE)
            .await
            .expect("rows");
        assert_eq!(relay.get("/livez").expect("an answer").0, 200);
        assert!(relay.log_lines(&["WARN", "calls fail; trying again"]) <= 2);
        world.emulator.faults().refuse_connections(false);
        world.settle(load).await;
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_and_a_relay_that_are_killed_at_once_lose_nothing() {
    scenario(3 * PATIENCE, async {
        let mut server =
            PrivatePostgres::start(PrivatePostgresOptions::default()).expect("a server");
        let url = server.create_database("app").await.expect("a database");
        let world = World::at(url, 2, EmulatorOptions::default()).await;
        let migrated = program(&world.settings(&[])).arg("migrate").output();
        assert!(migrated.expect("a migration").status.success());
        world.pipeline("racing", json!({})).await;
        let load = OutboxLoad {
            workers: 6,
            keys: 3,
            rows_per_second: Some(250.0),
            key_order: KeyOrder::Unlocked,
            ..OutboxLoad::new("racing")
        };
        let load = world.load(vec![load], 24).await;
        let named = [("TIDEGATE__CLUSTER__NODE_ID", "the-same")];
        for _ in 0..4 {
            let relay = world.relay_with(&named).await;
            let received = world.consumer.received();
            world.wait_until_received(received + 100).await;
            server.kill().expect("killed");
            relay.kill();
            server.restart().expect("a server again");
        }
        let relay = world.relay_with(&named).await;
        let report = load.stop().await.expect("the books");
        world.judge_after_a_crash(&report.rows()).await;
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}
