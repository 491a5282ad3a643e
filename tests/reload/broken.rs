//! A wrong value at every key of the example file: refused and named by a running
//! relay, which goes on.

use serde_json::{Value, json};
use tidegate::config::settings::Settings;

use crate::configured::{File, refuse, reload, take};
use crate::scenario::{PATIENCE, scenario};
use crate::world::{STREAM, World};

/// A configuration that runs, with an element in each of its lists.
fn good(world: &World) -> Value {
    json!({
        "databases": [{"name": "orders", "url": world.url}],
        "admin": {"listen": "127.0.0.1:0"},
        "cluster": {"lease": "2s"},
        "streams": [{"name": "other"}],
        "tenants": [{"name": "acme"}],
        "pipelines": [{
            "name": "events", "outbox": "events", "stream_name": STREAM, "region": "us-east-1",
        }],
    })
}

/// The configuration with another value at a key; `[]` stands for the first place.
fn with(configuration: &Value, key: &str, value: Value) -> Value {
    let mut changed = configuration.clone();
    let mut place = &mut changed;
    for part in key.split('.') {
        let (name, is_list) = match part.strip_suffix("[]") {
            Some(name) => (name, true),
            None => (part, false),
        };
        if !place[name].is_object() && !place[name].is_array() {
            place[name] = json!({});
        }
        place = &mut place[name];
        if is_list {
            place = &mut place[0];
        }
    }
    *place = value;
    changed
}

/// A value that no key takes which is given a text, a number or a switch; and one
/// that no table or list takes.
fn broken_values(key: &str, keys: &[String]) -> Vec<Value> {
    let is_table = keys.iter().any(|other| {
        let inside = other.strip_prefix(key);
        inside.is_some_and(|rest| rest.starts_with('.') || rest.starts_with("[]."))
    });
    if is_table {
        return vec![json!("broken"), json!(7)];
    }
    vec![json!({"broken": true}), json!([[1]])]
}

/// What is wrong although its type is right.
fn wrong_values() -> Vec<(&'static str, Value)> {
    vec![
        ("databases[].url", json!("mysql://user:hunter2@h/d")),
        ("databases[].url", json!("${env:NOT_THERE}")),
        ("databases[].url", json!("${file:/not/there}")),
        ("databases[].max_connections", json!(1)),
        ("databases[].statement_timeout", json!("60")),
        ("databases[].prepared_statements", json!("maybe")),
        ("admin.listen", json!("localhost")),
        ("cluster.lease", json!("10ms")),
        ("limits.memory", json!("64")),
        ("limits.pipeline_rows", json!(0)),
        ("limits.pipeline_bytes", json!("1TiB")),
        ("limits.drain_grace", json!(20)),
        ("log.format", json!("xml")),
        ("log.filter", json!("info,=nonsense=")),
        ("probe.min_interval", json!("10s")),
        ("probe.max_interval", json!("-1ms")),
        ("retention.batch_rows", json!(0)),
        ("kinesis.operation_timeout", json!("soon")),
        ("kinesis.shard_budget.fraction", json!(1.5)),
        ("streams[].shard_budget.records_per_second", json!(0)),
        ("tenants[].weight", json!(1001)),
        ("pipelines[].database", json!("elsewhere")),
        ("pipelines[].sink_type", json!("kafka")),
        ("pipelines[].stream_name", json!("with a space")),
        ("pipelines[].partition_key", json!("{no_such_variable}")),
        ("pipelines[].batch_size", json!(501)),
        ("pipelines[].weight", json!(0)),
        ("pipelines[].format", json!("avro")),
        ("pipelines[].on_poison", json!("ignore")),
        ("pipelines[].secret_access_key", json!("${env:NOT_THERE}")),
        (
            "pipelines[].rate_limit",
            json!({"max_messages_per_second": -1}),
        ),
        ("no_such_key", json!(1)),
        ("pipelines[].no_such_key", json!(1)),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_value_at_every_key_is_refused_and_named() {
    scenario(3 * PATIENCE, async {
        let world = World::new(1).await;
        world.outbox("events").await;
        let good = good(&world);
        let file = File::with(&good);
        let relay = file.relay(&world, &[]).await;
        relay.wait_for_state("events", "running").await;
        let epoch = relay.pipeline("events")["epoch"].clone();
        let keys = Settings::known_keys();
        assert!(keys.len() > 60, "{keys:?}");
        let mut wrong = wrong_values();
        for key in &keys {
            let values = broken_values(key, &keys).into_iter();
            wrong.extend(values.map(|value| (key.as_str(), value)));
        }
        let mut rows = Vec::new();
        for (number, (key, value)) in wrong.iter().enumerate() {
            let errors = refuse(&relay, &file, &with(&good, key, value.clone())).await;
            let named = key.replace("[]", "[0]");
            assert!(
                errors
                    .iter()
                    .any(|error| error.contains(&named) && error.starts_with("line ")),
                "{key} = {value} is not named: {errors:#?}"
            );
            assert!(
                relay.log_lines(&["the configuration is wrong", &named]) > 0,
                "{named}"
            );
            if number % 20 == 0 {
                rows.extend(world.publish_many("events", 10, 3, 10).await);
            }
        }
        for text in ["[admin\n", "\u{0}", "admin = {}\nadmin = {}\n"] {
            file.write_text(text);
            let config = reload(&relay).await;
            assert_eq!(config["last_reload"]["successful"], false, "{config}");
        }
        assert!(!relay.log().contains("hunter2"), "a secret is in the log");
        assert_eq!(
            relay.pipeline("events")["epoch"],
            epoch,
            "it was left alone"
        );
        let verdict = world.judge(&rows).await;
        assert!(verdict.is_clean(), "{verdict:#?}");
        take(&relay, &file, &good).await;
        eprintln!("{} wrong values, each refused and named", wrong.len());
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_a_new_process_can_take_is_refused_by_name() {
    scenario(2 * PATIENCE, async {
        let world = World::new(1).await;
        world.outbox("events").await;
        let good = good(&world);
        let file = File::with(&good);
        let relay = file.relay(&world, &[]).await;
        for (key, value) in [
            ("admin.listen", json!("127.0.0.1:1")),
            ("cluster.node_id", json!("another")),
            ("cluster.lease", json!("3s")),
            ("log.format", json!("json")),
        ] {
            let mut changed = with(&good, key, value);
            // Something that could be taken alone is not.
            changed["pipelines"][0]["batch_size"] = 7.into();
            let errors = refuse(&relay, &file, &changed).await;
            assert_eq!(errors.len(), 1, "{errors:#?}");
            assert!(
                errors[0].contains(&format!("{key}: changed from")),
                "{errors:?}"
            );
        }
        // All of it at once, and all of it named.
        let mut changed = with(&good, "admin.listen", json!("127.0.0.1:1"));
        changed = with(&changed, "log.format", json!("json"));
        assert_eq!(refuse(&relay, &file, &changed).await.len(), 2);
        take(&relay, &file, &good).await;
        relay.wait_for_state("events", "running").await;
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}
