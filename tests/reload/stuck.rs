//! What is changed, paused or removed while its stream takes nothing: the grace of its
//! drain is over before its rows are settled.

use serde_json::{Value, json};
use tidegate::core::shard_map::HashRange;
use tidegate::demo::faults::Refused;

use crate::configured::{File, take};
use crate::relay::Relay;
use crate::scenario::{PATIENCE, scenario, until};
use crate::world::{STREAM, World};

/// Leases last longer than a test: nobody waits for one to run out.
fn configuration(world: &World, pipelines: &[&str], more: &Value) -> Value {
    let pipeline = |name: &&str| json!({"name": name, "outbox": name, "stream_name": STREAM, "region": "us-east-1"});
    let pipelines: Vec<Value> = pipelines.iter().map(pipeline).collect();
    let mut all = json!({
        "databases": [{"name": "default", "url": world.url}],
        "admin": {"listen": "127.0.0.1:0"},
        "cluster": {"lease": "10m"},
        "limits": {"drain_grace": "1s"},
        "pipelines": pipelines,
    });
    for (table, keys) in more.as_object().expect("tables") {
        for (key, value) in keys.as_object().expect("keys") {
            let table = if all[table].is_array() {
                &mut all[table][0]
            } else {
                &mut all[table]
            };
            table[key] = value.clone();
        }
    }
    all
}

/// A relay with rows of "events" on their way that nobody takes.
async fn stuck(world: &World, file: &File) -> Relay {
    let relay = file.relay(world, &[]).await;
    relay.wait_for_state("events", "running").await;
    let rows = world.publish_many("events", 20, 5, 10).await;
    world.wait_for(&rows, PATIENCE).await;
    world
        .emulator
        .faults()
        .refuse(Refused::Range(HashRange::ALL));
    world.publish_many("events", 50, 5, 10).await;
    until("rows are on their way", PATIENCE, || {
        relay.metric("tidegate_in_flight_rows", &[("pipeline", "events")]) >= 50.0
    })
    .await;
    relay
}

/// The same, and of none of them it is known whether it is stored: a drain waits for
/// that. (What is refused for certain is left to the next owner.)
async fn unanswered(world: &World, file: &File) -> Relay {
    let relay = file.relay(world, &[]).await;
    relay.wait_for_state("events", "running").await;
    let rows = world.publish_many("events", 20, 5, 10).await;
    world.wait_for(&rows, PATIENCE).await;
    world.answer_no_puts();
    world.publish_many("events", 50, 50, 10).await;
    until("rows are on their way", PATIENCE, || {
        relay.metric("tidegate_in_flight_rows", &[("pipeline", "events")]) >= 50.0
    })
    .await;
    relay
}

async fn until_the_lease_is_back(world: &World) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let live = "SELECT count(*) FROM tide.relay_lease
        WHERE pipeline = 'events' AND expires_at > clock_timestamp()";
    while world.number(live).await > 0 {
        assert!(
            tokio::time::Instant::now() < deadline,
            "the lease is not given back"
        );
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_pipeline_that_is_paused_gives_its_lease_back() {
    scenario(2 * PATIENCE, async {
        let world = World::new(1).await;
        world.outbox("events").await;
        let file = File::with(&configuration(&world, &["events"], &json!({})));
        let relay = stuck(&world, &file).await;
        world
            .sql("SELECT tide.relay_pause('pipeline', 'events', 'a test', true)")
            .await;
        relay.wait_for_state("events", "paused").await;
        until_the_lease_is_back(&world).await;
        world.emulator.faults().admit_all();
        world
            .sql("SELECT tide.relay_resume('pipeline', 'events')")
            .await;
        until("all rows are delivered", PATIENCE, || {
            world.consumer.received() >= 70
        })
        .await;
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_pipeline_that_is_removed_gives_its_lease_back() {
    scenario(2 * PATIENCE, async {
        let world = World::new(1).await;
        world.lost_counters();
        for outbox in ["events", "other"] {
            world.outbox(outbox).await;
        }
        let file = File::with(&configuration(&world, &["events"], &json!({})));
        let relay = stuck(&world, &file).await;
        take(
            &relay,
            &file,
            &configuration(&world, &["other"], &json!({})),
        )
        .await;
        until("it is removed", PATIENCE, || {
            relay.pipeline("events").is_null()
        })
        .await;
        until_the_lease_is_back(&world).await;
        world.emulator.faults().admit_all();
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_ends_while_a_database_is_replaced_begins_nothing_there() {
    scenario(2 * PATIENCE, async {
        let world = World::new(1).await;
        world.outbox("events").await;
        let file = File::with(&configuration(&world, &["events"], &json!({})));
        let mut relay = unanswered(&world, &file).await;
        let more = json!({"databases": {"max_connections": 7}});
        take(&relay, &file, &configuration(&world, &["events"], &more)).await;
        relay.signal("TERM");
        assert_eq!(relay.end(PATIENCE).await, 0);
        let (log, left) = (relay.log(), world.unanswered_rows());
        assert!(left > 0, "{log}");
        assert!(
            log.contains(&format!("{left} rows in flight: the grace is over")),
            "{log}"
        );
        assert!(!log.contains("is used by its new settings"), "{log}");
        until_the_lease_is_back(&world).await;
    })
    .await;
}

/// `limits.memory` bounds the ids that are remembered of rows for a stuck shard: 32,768
/// under 16 MiB.
#[tokio::test(flavor = "multi_thread")]
async fn more_memory_reaches_a_reader_that_runs() {
    scenario(3 * PATIENCE, async {
        let world = World::new(2).await;
        world.outbox("events").await;
        let with = |memory: &str| {
            let more = json!({"limits": {"memory": memory, "pipeline_bytes": "1MiB"}});
            configuration(&world, &["events"], &more)
        };
        let file = File::with(&with("16MiB"));
        let relay = stuck(&world, &file).await;
        world.publish_many("events", 60_000, 1, 10).await;
        let deferred = || relay.metric("tidegate_deferred_rows", &[("pipeline", "events")]);
        until("ids wait", PATIENCE, || deferred() > 20_000.0).await;
        take(&relay, &file, &with("128MiB")).await;
        until("the rest is remembered", PATIENCE, || deferred() > 55_000.0).await;
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_pipeline_that_becomes_invalid_is_shown_so_everywhere() {
    scenario(2 * PATIENCE, async {
        let world = World::new(1).await;
        world.pipeline("events", json!({})).await;
        let file = File::with(&configuration(&world, &[], &json!({})));
        let relay = stuck(&world, &file).await;
        let secret = json!({
            "access_key_id": "AKIA", "secret_access_key": "${env:TIDEGATE_NOT_SET}"
        });
        world.set_pipeline("events", "events", secret).await;
        relay.wait_for_state("events", "invalid").await;
        // Its stream is away: its reader shows that while it drains.
        world.emulator.faults().hide_stream(STREAM);
        until_the_lease_is_back(&world).await;
        let labels = [("pipeline", "events"), ("state", "invalid")];
        until("metrics and status show it", PATIENCE, || {
            relay.metric("tidegate_pipeline_state", &labels) > 0.5
                && relay.state("events") == "invalid"
        })
        .await;
        let reason = relay.pipeline("events")["reason"].to_string();
        assert!(reason.contains("TIDEGATE_NOT_SET"), "{reason}");
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

/// Its router and writers end with it, and begin anew when it is mended.
#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_pipeline_leaves_its_stream() {
    scenario(2 * PATIENCE, async {
        let world = World::new(1).await;
        world.pipeline("events", json!({})).await;
        let relay = world.relay().await;
        let first = world.publish_many("events", 10, 5, 10).await;
        world.wait_for(&first, PATIENCE).await;
        let streams = || relay.status()["streams"].as_array().map_or(0, Vec::len);
        assert_eq!(streams(), 1);
        assert!(relay.metric("tidegate_shard_records_offered_total", &[]) > 9.0);
        let secret = json!({
            "access_key_id": "AKIA", "secret_access_key": "${env:TIDEGATE_NOT_SET}"
        });
        world.set_pipeline("events", "events", secret).await;
        relay.wait_for_state("events", "invalid").await;
        until("its stream is not kept for it", PATIENCE, || {
            streams() == 0 && relay.metric("tidegate_shard_records_offered_total", &[]) == 0.0
        })
        .await;
        world.set_pipeline("events", "events", json!({})).await;
        relay.wait_for_state("events", "running").await;
        let second = world.publish_many("events", 10, 5, 10).await;
        world.wait_for(&second, PATIENCE).await;
        assert_eq!((streams(), relay.terminate().await), (1, 0));
    })
    .await;
}
