//! What there is to be seen: relays with nothing to do, with much, and in trouble.

use std::time::Duration;

use serde_json::json;
use sqlx::PgPool;
use tidegate::demo::load::{Load, OutboxLoad};
use tokio::task::JoinHandle;

use crate::relay::Relay;
use crate::scenario::{PATIENCE, until};
use crate::world::{STREAM, World};

/// What somebody wrote into a database, and the page must only show.
pub(crate) const MARKUP: &str = "<img src=x onerror=\"document.title='taken over'\"> & co";

/// A relay and what surrounds it.
pub(crate) struct Scene {
    pub(crate) relay: Relay,
    pub(crate) world: World,
    load: Option<Load>,
    pump: Option<JoinHandle<()>>,
}

impl Scene {
    /// Publishes no more and ends the relay, whatever it has to do.
    pub(crate) async fn end(self) {
        if let Some(load) = self.load {
            load.stop().await.expect("the books");
        }
        if let Some(pump) = self.pump {
            pump.abort();
            let ended = pump.await;
            assert!(
                ended.is_err_and(|error| error.is_cancelled()),
                "nothing was published any more"
            );
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
        pump: None,
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
        pump: None,
    }
}

/// Six pipelines of four tenants at the hour of the day with the most to do: one stream has
/// a shard with a hot key, another one more than it takes, and a tenant is at its rate.
pub(crate) async fn peak() -> Scene {
    let world = World::new(4).await;
    let two_shards = world.emulator.create_stream("clicks-of-all", 2);
    two_shards.await.expect("a stream");
    for (name, tenant, stream) in [
        ("orders", "acme", STREAM),
        ("invoices", "acme", STREAM),
        ("visits", "globex", STREAM),
        ("payments", "initech", STREAM),
        ("audit", "initech", STREAM),
        ("clicks", "umbrella", "clicks-of-all"),
    ] {
        let more = json!({"tenant": tenant, "stream_name": stream});
        world.pipeline(name, more).await;
    }
    world
        .sql("SELECT tide.relay_set_tenant('initech', '{\"max_messages_per_second\": 80}')")
        .await;
    // A quarter of a shard is enough to show a full one, and leaves room for the browser.
    let settings = [
        ("TIDEGATE__CLUSTER__NODE_ID", "relay-a"),
        ("TIDEGATE__KINESIS__SHARD_BUDGET__RECORDS_PER_SECOND", "250"),
        // The machine that draws may be busy with other things: that is not the picture.
        ("TIDEGATE__CLUSTER__LEASE", "30s"),
    ];
    let relay = world.relay_with(&settings).await;
    for name in [
        "orders", "invoices", "visits", "payments", "audit", "clicks",
    ] {
        relay.wait_for_state(name, "running").await;
    }
    let pump = tokio::spawn(publish_in_waves(world.pool.clone()));
    until("rows flow", PATIENCE, || {
        relay.pipeline("clicks")["delivered_rows"].as_u64() > Some(200)
    })
    .await;
    Scene {
        relay,
        world,
        load: None,
        pump: Some(pump),
    }
}

/// Publishes to the outboxes of [`peak`] every half second, until it is ended.
async fn publish_in_waves(pool: PgPool) {
    // The outbox, its rows each time, and its keys.
    let outboxes = [
        ("orders", 140.0, 400),
        ("orders", 32.0, 1),
        ("invoices", 30.0, 50),
        ("visits", 110.0, 300),
        ("payments", 50.0, 200),
        ("audit", 5.0, 5),
        ("clicks", 320.0, 500),
    ];
    let mut every = tokio::time::interval(Duration::from_millis(500));
    for tick in 0_u32.. {
        every.tick().await;
        for (place, (outbox, rows, keys)) in (0_u32..).zip(outboxes) {
            // Each goes up and down in a time of its own.
            let turn = f64::from(tick) / (9.0 + 4.0 * f64::from(place));
            let rows = rows * (1.0 + 0.25 * turn.sin());
            sqlx::query(
                "INSERT INTO tide.outbox_message (outbox_id, dedup_key, payload)
                SELECT o.outbox_id, 'k-' || n % $3, jsonb_build_object('n', n, 'text', repeat('x', 300))
                FROM tide.outbox AS o, generate_series(1, $2::float8::int) AS n WHERE o.name = $1",
            )
            .bind(outbox)
            .bind(rows.round())
            .bind(keys)
            .execute(&pool)
            .await
            .expect("published");
        }
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
        pump: None,
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
        pump: None,
    }
}
