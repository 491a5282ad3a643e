//! What there is to be seen: relays with nothing to do, with much, and in trouble.

use std::time::Duration;

use serde_json::json;
use tidegate::demo::load::{Load, OutboxLoad};

use crate::relay::Relay;
use crate::scenario::{PATIENCE, until};
use crate::world::World;

/// What somebody wrote into a database, and the page must only show.
pub(crate) const MARKUP: &str = "<img src=x onerror=\"document.title='taken over'\"> & co";

/// A relay and what surrounds it.
pub(crate) struct Scene {
    pub(crate) relay: Relay,
    pub(crate) world: World,
    load: Option<Load>,
}

impl Scene {
    /// Publishes no more and ends the relay, whatever it has to do.
    pub(crate) async fn end(self) {
        if let Some(load) = self.load {
            load.stop().await.expect("the books");
        }
        self.relay.kill();
    }
}

/// Three pipelines of two tenants, all delivered.
pub(crate) async fn idle() -> Scene {
    let world = World::new(4).await;
    for (name, tenant) in [
        ("orders", "acme"),
        ("invoices", "acme"),
        ("visits", "globex"),
    ] {
        world.pipeline(name, json!({"tenant": tenant})).await;
    }
    let relay = world
        .relay_with(&[("TIDEGATE__CLUSTER__NODE_ID", "relay-a")])
        .await;
    let mut rows = Vec::new();
    for name in ["orders", "invoices", "visits"] {
        relay.wait_for_state(name, "running").await;
        rows.extend(world.publish_many(name, 50, 10, 50).await);
    }
    world.wait_for(&rows, PATIENCE).await;
    for name in ["orders", "invoices", "visits"] {
        until("everything is delivered", PATIENCE, || {
            let shown = relay.pipeline(name);
            shown["delivered_rows"] == 50 && shown["lag_rows"] == 0
        })
        .await;
    }
    Scene {
        relay,
        world,
        load: None,
    }
}

/// Five pipelines of three tenants under a load that the stream can take.
pub(crate) async fn busy() -> Scene {
    let world = World::new(4).await;
    let pipelines = [
        ("orders", "acme", 300.0),
        ("invoices", "acme", 60.0),
        ("visits", "globex", 220.0),
        ("payments", "initech", 120.0),
        ("audit", "initech", 15.0),
    ];
    for (name, tenant, _) in pipelines {
        world.pipeline(name, json!({"tenant": tenant})).await;
    }
    let relay = world
        .relay_with(&[("TIDEGATE__CLUSTER__NODE_ID", "relay-a")])
        .await;
    for (name, ..) in pipelines {
        relay.wait_for_state(name, "running").await;
    }
    let loads = pipelines.map(|(name, _, rows_per_second)| OutboxLoad {
        workers: 1,
        keys: 200,
        rows_per_second: Some(rows_per_second),
        ..OutboxLoad::new(name)
    });
    let load = world.load(loads.to_vec(), 1).await;
    for (name, ..) in pipelines {
        until("rows flow", PATIENCE, || {
            relay.pipeline(name)["delivered_rows"].as_u64() > Some(20)
        })
        .await;
    }
    Scene {
        relay,
        world,
        load: Some(load),
    }
}

/// A stream that is missing, rows that cannot be sent, a pipeline that is held by one, a
/// paused one, one with a mistake, a shard with more than it takes, and an actor that
/// panicked.
pub(crate) async fn trouble(why_paused: &str) -> Scene {
    let world = World::new(2).await;
    let one_shard = world.emulator.create_stream("clicks-of-all", 1);
    one_shard.await.expect("a stream");
    world.pipeline("orders", json!({"tenant": "acme"})).await;
    let missing = json!({"tenant": "globex", "stream_name": "not-made-yet"});
    world.pipeline("visits", missing).await;
    let poison =
        json!({"tenant": "acme", "partition_key": "{payload.customer}", "on_poison": "block_key"});
    world.pipeline("invoices", poison).await;
    let halts =
        json!({"tenant": "initech", "partition_key": "{payload.customer}", "on_poison": "halt"});
    world.pipeline("payments", halts).await;
    world.pipeline("audit", json!({"tenant": "initech"})).await;
    world
        .pipeline("exports", json!({"tenant": "initech"}))
        .await;
    world
        .sql("UPDATE tide.relay_pipeline SET config = config || '{\"batch_size\": 501}' WHERE name = 'exports'")
        .await;
    let clicks = json!({"tenant": "globex", "stream_name": "clicks-of-all"});
    world.pipeline("clicks", clicks).await;
    let reason = why_paused.replace('\'', "''");
    world
        .sql(&format!(
            "SELECT tide.relay_pause('pipeline', 'audit', '{reason}')"
        ))
        .await;
    let settings = [
        ("TIDEGATE__CLUSTER__NODE_ID", "relay-a"),
        ("TIDEGATE_TEST_FAULTS", "probe.Answered=3:panic"),
    ];
    let relay = world.relay_with(&settings).await;
    for number in 0..17 {
        world
            .publish("invoices", "k", json!({"number": number}))
            .await;
    }
    world.publish("payments", "k", json!({"amount": 12})).await;
    world.publish("visits", "k", json!({})).await;
    world.publish_many("orders", 200, 20, 50).await;
    // More than a minute of what a shard takes.
    world.publish_many("clicks", 90_000, 5_000, 20).await;
    for (name, state) in [
        ("visits", "waiting"),
        ("payments", "blocked"),
        ("audit", "paused"),
        ("exports", "invalid"),
        ("clicks", "running"),
    ] {
        relay.wait_for_state(name, state).await;
    }
    until("letters are counted", PATIENCE, || {
        relay.pipeline("invoices")["dead_letters_open"] == 17
    })
    .await;
    until("the shard is near its budget", PATIENCE, || {
        let status = relay.status();
        let streams = status["streams"].as_array().expect("streams");
        let clicks = streams.iter().find(|one| one["name"] == "clicks-of-all");
        clicks.is_some_and(|stream| stream["shards"][0]["records_utilisation"].as_f64() > Some(0.9))
    })
    .await;
    relay.wait_for_handlers().await;
    relay.signal("HUP");
    until("the reload is done", PATIENCE, || {
        relay.status()["config"]["reloads"] == 1
    })
    .await;
    Scene {
        relay,
        world,
        load: None,
    }
}

/// So many pipelines that wait for work, of one outbox and of ten tenants.
pub(crate) async fn many(pipelines: u32) -> Scene {
    let world = World::new(1).await;
    world.outbox("events").await;
    world
        .sql(&format!(
            "SELECT tide.relay_set_outbox('pipeline-' || lpad(n::text, 4, '0'), 'events', jsonb_build_object(
                'sink_type', 'kinesis', 'stream_name', 'tide-test', 'region', 'us-east-1',
                'partition_key', '{{dedup_key}}', 'tenant', 'tenant-' || n % 10))
            FROM generate_series(1, {pipelines}) AS n"
        ))
        .await;
    let relay = world
        .relay_with(&[("TIDEGATE__CLUSTER__LEASE", "60s")])
        .await;
    let patience = Duration::from_secs(150);
    until("all pipelines run", patience, || {
        let status = relay.status();
        let all = status["pipelines"].as_array().expect("pipelines");
        let running = all.iter().filter(|one| one["state"] == "running");
        running.count() == usize::try_from(pipelines).expect("few")
    })
    .await;
    Scene {
        relay,
        world,
        load: None,
    }
}
