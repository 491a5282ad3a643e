//! What changes in a pipeline that goes on, and what restarts that pipeline alone.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::configured::{File, epoch, reader_restarts, take};
use crate::relay::Relay;
use crate::scenario::{PATIENCE, scenario, scenario_alone, until};
use crate::world::{STREAM, World};

fn configuration(world: &World, pipelines: &Value) -> Value {
    json!({
        "databases": [{"name": "default", "url": world.url}],
        "admin": {"listen": "127.0.0.1:0"},
        "cluster": {"lease": "2s"},
        "pipelines": pipelines,
    })
}

fn pipeline(name: &str) -> Value {
    json!({"name": name, "outbox": name, "stream_name": STREAM, "region": "us-east-1"})
}

fn limited(rows_per_second: u32) -> Value {
    json!({"enabled": true, "max_messages_per_second": rows_per_second, "burst_size": 20})
}

fn started_again(relay: &Relay) -> bool {
    reader_restarts(relay).abs() > f64::EPSILON
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_changes_while_rows_wait_and_the_reader_goes_on() {
    scenario_alone(2 * PATIENCE, async {
        let world = World::new(1).await;
        world.outbox("events").await;
        let with_rate = |rate: u32| {
            let mut pipelines = json!([pipeline("events")]);
            pipelines[0]["rate_limit"] = limited(rate);
            configuration(&world, &pipelines)
        };
        let file = File::with(&with_rate(5));
        let relay = file.relay(&world, &[]).await;
        relay.wait_for_state("events", "running").await;
        let first_epoch = epoch(&relay, "events");
        let rows = world.publish_many("events", 600, 600, 10).await;
        world.wait_until_received(3).await;
        // 600 rows would take two minutes at this rate.
        take(&relay, &file, &with_rate(200)).await;
        let (began, before) = (Instant::now(), world.consumer.received());
        world.wait_until_received(before + 400).await;
        let rate = 400.0 / began.elapsed().as_secs_f64();
        assert!((120.0..230.0).contains(&rate), "{rate:.0} rows/s");
        take(&relay, &file, &with_rate(5)).await;
        let before = world.consumer.received();
        tokio::time::timeout(
            Duration::from_secs(2),
            world.wait_until_received(before + 60),
        )
        .await
        .expect_err("it is slow again");
        take(
            &relay,
            &file,
            &configuration(&world, &json!([pipeline("events")])),
        )
        .await;
        let verdict = world.judge(&rows).await;
        assert!(verdict.is_clean(), "{verdict:#?}");
        assert_eq!(verdict.duplicates, 0);
        assert_eq!(epoch(&relay, "events"), first_epoch);
        assert!(!started_again(&relay));
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_key_that_changes_in_place_leaves_all_readers_running() {
    scenario(2 * PATIENCE, async {
        let world = World::new(1).await;
        for outbox in ["events", "other"] {
            world.outbox(outbox).await;
        }
        let base = configuration(&world, &json!([pipeline("events"), pipeline("other")]));
        let file = File::with(&base);
        let relay = file.relay(&world, &[]).await;
        for name in ["events", "other"] {
            relay.wait_for_state(name, "running").await;
        }
        let epochs = || (epoch(&relay, "events"), epoch(&relay, "other"));
        let first_epochs = epochs();
        let mut rows = Vec::new();
        let hash_at_start = relay.status()["config"]["hash"].clone();
        for change in [
            json!({"pipelines": [{"batch_size": 3}]}),
            json!({"pipelines": [{"weight": 9}]}),
            json!({"tenants": [{"name": "default", "weight": 4}]}),
            json!({"limits": {"pipeline_rows": 100, "pipeline_bytes": "1MiB"}}),
            json!({"limits": {"memory": "64MiB", "drain_grace": "7s"}}),
            json!({"kinesis": {"shard_budget": {"records_per_second": 500, "fraction": 0.9}}}),
            json!({"streams": [{"name": STREAM, "shard_budget": {"bytes_per_second": "512KiB"}}]}),
            json!({"kinesis": {"operation_timeout": "5s", "connect_timeout": "1s"}}),
            json!({"kinesis": {"shard_refresh": "10s"}}),
            json!({"probe": {"min_interval": "1ms", "max_interval": "20ms"}}),
            json!({"retention": {"interval": "1s", "batch_rows": 10, "pause": "1ms"}}),
            json!({"log": {"filter": "debug,actix_server=warn"}}),
        ] {
            let mut changed = base.clone();
            merge(&mut changed, &change);
            let config = take(&relay, &file, &changed).await;
            assert_ne!(config["hash"], hash_at_start, "{change}");
            for outbox in ["events", "other"] {
                rows.extend(world.publish_many(outbox, 20, 7, 10).await);
            }
            world.wait_for(&rows, PATIENCE).await;
            assert_eq!(epochs(), first_epochs, "{change}");
        }
        assert!(relay.log().contains("DEBUG"), "the filter has changed");
        let config = take(&relay, &file, &base).await;
        assert_eq!(config["hash"], hash_at_start);
        let verdict = world.judge(&rows).await;
        assert!(verdict.is_clean(), "{verdict:#?}");
        assert_eq!(verdict.duplicates, 0);
        assert!(!started_again(&relay));
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

/// Puts what a change says in the place of what was there.
fn merge(value: &mut Value, change: &Value) {
    match (value, change) {
        (Value::Object(value), Value::Object(change)) => {
            for (key, change) in change {
                merge(value.entry(key.clone()).or_insert(Value::Null), change);
            }
        }
        (Value::Array(value), Value::Array(change)) => {
            for (value, change) in value.iter_mut().zip(change) {
                merge(value, change);
            }
        }
        (value, change) => *value = change.clone(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_that_must_restart_restarts_alone_and_clean() {
    scenario(2 * PATIENCE, async {
        let world = World::new(2).await;
        world.lost_counters();
        for outbox in ["events", "other"] {
            world.outbox(outbox).await;
        }
        let base = configuration(&world, &json!([pipeline("events"), pipeline("other")]));
        let file = File::with(&base);
        let relay = file.relay(&world, &[]).await;
        for name in ["events", "other"] {
            relay.wait_for_state(name, "running").await;
        }
        let mut rows = Vec::new();
        let of_other = epoch(&relay, "other");
        for change in [
            json!({"on_poison": "halt"}),
            json!({"tenant": "acme"}),
            json!({"on_missing": {"default": "unknown"}}),
            json!({"access_key_id": "AKIA", "secret_access_key": "secret"}),
        ] {
            rows.extend(world.publish_many("events", 200, 20, 10).await);
            rows.extend(world.publish_many("other", 200, 20, 10).await);
            let mut changed = base.clone();
            let before = epoch(&relay, "events");
            merge(&mut changed["pipelines"][0], &change);
            take(&relay, &file, &changed).await;
            until("it has started again", PATIENCE, || {
                epoch(&relay, "events") > before
            })
            .await;
            assert_eq!(epoch(&relay, "other"), of_other, "{change}");
        }
        let verdict = world.judge(&rows).await;
        assert!(verdict.is_clean(), "{verdict:#?}");
        assert_eq!(verdict.duplicates, 0, "{verdict:#?}");
        assert!(!started_again(&relay));
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_in_the_database_changes_in_place_within_two_seconds() {
    scenario_alone(2 * PATIENCE, async {
        let world = World::new(1).await;
        world
            .pipeline("events", json!({"rate_limit": limited(5)}))
            .await;
        world.pipeline("other", json!({})).await;
        let relay = world.relay().await;
        for name in ["events", "other"] {
            relay.wait_for_state(name, "running").await;
        }
        let epochs = || (epoch(&relay, "events"), epoch(&relay, "other"));
        let first_epochs = epochs();
        let rows = world.publish_many("events", 300, 300, 10).await;
        world.wait_until_received(1).await;
        let began = Instant::now();
        world
            .set_pipeline("events", "events", json!({"batch_size": 500}))
            .await;
        world.wait_for(&rows, PATIENCE).await;
        let took = began.elapsed();
        assert!(
            took < Duration::from_secs(4),
            "live after {took:?} and sent"
        );
        assert_eq!(epochs(), first_epochs);
        assert!(!started_again(&relay));
        // One that is not acceptable harms only itself.
        let secret = json!({"access_key_id": "a", "secret_access_key": "${env:NOT_THERE}"});
        world.set_pipeline("events", "events", secret).await;
        relay.wait_for_state("events", "invalid").await;
        let reason = relay.pipeline("events")["reason"].clone();
        assert!(
            reason
                .as_str()
                .is_some_and(|reason| reason.contains("NOT_THERE")),
            "{reason}"
        );
        let rows = world.publish_many("other", 10, 3, 10).await;
        world.wait_for(&rows, PATIENCE).await;
        assert_eq!(epoch(&relay, "other"), first_epochs.1);
        world.set_pipeline("events", "events", json!({})).await;
        relay.wait_for_state("events", "running").await;
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}
