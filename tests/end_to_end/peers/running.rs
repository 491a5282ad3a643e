//! Running it.

use std::time::Duration;

use serde_json::json;
use tidegate::demo::emulator::EmulatorOptions;
use tidegate::demo::faults::{CallFault, Often, Operation};
use tidegate::demo::private_postgres::{PrivatePostgres, PrivatePostgresOptions};

use crate::relay::{Relay, program};
use crate::scenario::{PATIENCE, scenario, until};
use crate::world::{STREAM, World};

/// What the whole process may take: a debug build of the program itself takes
/// most of it.
const MEMORY: u64 = 128 * 1024 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_definition_waits_for_a_restart() {
    scenario(PATIENCE, async {
        let world = World::new(1).await;
        world.pipeline("events", json!({})).await;
        let relay = world.relay().await;
        world.publish("events", "k", json!({})).await;
        world.wait_until_received(1).await;
        let changed = json!({"partition_key": "new-{dedup_key}"});
        world.set_pipeline("events", "events", changed).await;
        until("the change is in force", PATIENCE, || {
            relay.log_lines(&["INFO", "running", "epoch=2"]) > 0
        })
        .await;
        world.publish("events", "k", json!({})).await;
        world.wait_until_received(2).await;
        let keys: Vec<String> = world
            .arrived()
            .iter()
            .map(|record| record.partition_key.clone())
            .collect();
        assert_eq!(keys, ["k", "new-k"]);
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_drains_the_backlog_into_the_dead_letters() {
    scenario(2 * PATIENCE, async {
        let world = World::new(1).await;
        world.pipeline("events", json!({})).await;
        let relay = world.relay().await;
        relay.wait_for_state("events", "running").await;
        world.emulator.faults().refuse_connections(true);
        let rows = world.publish_many("events", 200, 20, 10).await;
        relay.wait_for_state("events", "waiting").await;
        until("all rows wait", PATIENCE, || {
            relay.pipeline("events")["lag_rows"] == 200
        })
        .await;
        assert_eq!(relay.metric("tidegate_rows_blocked_total", &[]), 0.0);
        world.emulator.faults().refuse_connections(false);
        let verdict = world.judge(&rows).await;
        assert!(verdict.is_clean(), "{verdict:#?}");
        relay.wait_for_state("events", "running").await;
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_joiner_steals_what_others_own() {
    scenario(PATIENCE, async {
        let world = World::new(1).await;
        for name in ["a", "b", "c"] {
            world.pipeline(name, json!({})).await;
        }
        let first = world.relay().await;
        for name in ["a", "b", "c"] {
            first.wait_for_state(name, "running").await;
        }
        let epochs = "SELECT sum(epoch)::bigint FROM tide.relay_position";
        let before = world.number(epochs).await;
        let second = world.relay().await;
        for name in ["a", "b", "c"] {
            second.wait_for_state(name, "standby").await;
            assert_eq!(first.state(name), "running");
        }
        assert_eq!(world.number(epochs).await, before);
        assert_eq!(second.terminate().await, 0);
        assert_eq!(first.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_pipeline_writes_for_ever() {
    scenario(PATIENCE, async {
        let world = World::new(1).await;
        world.pipeline("events", json!({})).await;
        let relay = world.relay().await;
        world.publish_many("events", 100, 5, 10).await;
        world.wait_until_received(100).await;
        let writes = || relay.metric("tidegate_position_writes_total", &[]);
        // The lease is renewed every 0.7 s; a second after the last row all is
        // written down.
        let renewals = || {
            let renewed = [("event", "renewed")];
            relay.metric("tidegate_lease_events_total", &renewed)
        };
        let before = renewals();
        until("all is written down", PATIENCE, || {
            renewals() >= before + 2.0
        })
        .await;
        let (written, before) = (writes(), renewals());
        assert!(written > 0.0);
        until("time passes", PATIENCE, || renewals() >= before + 4.0).await;
        assert_eq!(writes(), written);
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn recovering_ignores_the_memory_limit() {
    let settings = [
        ("TIDEGATE__LIMITS__MEMORY", "64MiB"),
        ("TIDEGATE__LIMITS__PIPELINE_BYTES", "4MiB"),
    ];
    scenario(3 * PATIENCE, async {
        let world = World::new(2).await;
        world.pipeline("events", json!({})).await;
        let denied = CallFault::code("AccessDeniedException");
        let faults = world.emulator.faults();
        faults.inject(Operation::PutRecords, Often::Always, denied);
        // Far more than the whole process may take.
        for _ in 0..10 {
            world.publish_many("events", 2_000, 500, 10_000).await;
        }
        let mut most = 0;
        for _ in 0..3 {
            let relay = world.relay_with(&settings).await;
            relay.wait_for_state("events", "waiting").await;
            let reads = |relay: &Relay| relay.metric("tidegate_rows_read_total", &[]);
            let mut read = reads(&relay);
            until("it has read what fits", PATIENCE, || {
                most = most.max(relay.resident_bytes());
                let before = std::mem::replace(&mut read, reads(&relay));
                read > 0.0 && read == before
            })
            .await;
            relay.kill();
        }
        eprintln!("{} MiB", most >> 20);
        assert!(most < MEMORY, "{most} bytes");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_fine_while_nothing_moves_or_fails_with_the_database() {
    scenario(2 * PATIENCE, async {
        let mut server =
            PrivatePostgres::start(PrivatePostgresOptions::default()).expect("a server");
        let url = server.create_database("app").await.expect("a database");
        let world = World::at(url, 1, EmulatorOptions::default()).await;
        let migrated = program(&world.settings(&[])).arg("migrate").output();
        assert!(migrated.expect("a migration").status.success());
        world.pipeline("events", json!({})).await;
        let relay = world.relay().await;
        relay.wait_for_state("events", "running").await;
        let livez = || relay.get("/livez").expect("an answer").0;

        // Nothing moves: the status says it, for which stream and since when.
        let fault = CallFault::code("AccessDeniedException");
        let faults = world.emulator.faults();
        faults.account().deny(STREAM, Operation::PutRecords, fault);
        let rows = world.publish_many("events", 10, 5, 10).await;
        relay.wait_for_state("events", "waiting").await;
        until("the lag is shown", PATIENCE, || {
            let pipeline = relay.pipeline("events");
            pipeline["lag_rows"] == 10 && pipeline["lag_oldest_seconds"].as_f64() > Some(1.0)
        })
        .await;
        assert_eq!(livez(), 200, "a restart would mend nothing");
        faults.heal();
        world.wait_for(&rows, PATIENCE).await;

        server.kill().expect("killed");
        until("the database is down", PATIENCE, || {
            relay.status()["databases"][0]["up"] == false
        })
        .await;
        assert_eq!(livez(), 200, "a restart would mend nothing");
        server.restart().expect("a server again");
        let rows = world.publish_many("events", 10, 5, 10).await;
        world.wait_for(&rows, PATIENCE).await;
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_adds_up_the_books_or_shows_the_hot_shard() {
    scenario(2 * PATIENCE, async {
        let world = World::new(2).await;
        world.pipeline("events", json!({})).await;
        let relay = world.relay().await;
        // One key, so one shard is hot.
        let rows = world.publish_many("events", 600, 1, 2_000).await;
        let labels = [("pipeline", "events")];
        let metric = |name: &str| relay.metric(name, &labels);
        until("some rows are on their way", PATIENCE, || {
            metric("tidegate_rows_delivered_total") > 10.0
        })
        .await;
        let queued: Vec<u64> = {
            let status = relay.status();
            let shards = status["streams"][0]["shards"].as_array().expect("shards");
            let queued = shards.iter().map(|shard| shard["queued_rows"].as_u64());
            queued.map(Option::unwrap_or_default).collect()
        };
        assert_eq!(queued.len(), 2);
        world.wait_for(&rows, PATIENCE).await;
        until("the books are closed", PATIENCE, || {
            let read = metric("tidegate_rows_read_total");
            let settled = metric("tidegate_rows_delivered_total");
            read == 600.0 && settled == read && metric("tidegate_in_flight_rows") == 0.0
        })
        .await;
        let accepted: Vec<f64> = world
            .consumer
            .ranges()
            .keys()
            .map(|shard| {
                let labels = [("shard", &*shard.0)];
                relay.metric("tidegate_shard_records_accepted_total", &labels)
            })
            .collect();
        assert!(
            accepted.contains(&600.0) && accepted.contains(&0.0),
            "{accepted:?}"
        );
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_tenant_starves_all() {
    scenario(2 * PATIENCE, async {
        let world = World::new(1).await;
        world.pipeline("flood", json!({"tenant": "loud"})).await;
        world.pipeline("small", json!({"tenant": "quiet"})).await;
        let relay = world.relay().await;
        // Ten seconds' worth of the shard.
        let flood = world.publish_many("flood", 10_000, 500, 10).await;
        until("the flood is under way", PATIENCE, || {
            relay.metric("tidegate_rows_delivered_total", &[("pipeline", "flood")]) > 500.0
        })
        .await;
        let small = world.publish_many("small", 50, 50, 10).await;
        world.wait_for(&small, Duration::from_secs(5)).await;
        let of_flood = world
            .delivered()
            .iter()
            .filter(|one| &*one.outbox == "flood")
            .count();
        assert!(of_flood < 9_000, "{of_flood} rows of the flood came first");
        let verdict = world.judge(&[flood, small].concat()).await;
        assert!(verdict.is_clean(), "{verdict:#?}");
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}
