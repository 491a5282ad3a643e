//! What is shown can be read again, differs where the settings do, and tells no
//! secret.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::config::desired::Desired;
use crate::config::plan::{Step, diff};
use crate::core::ports::PipelineRow;

const TEXT: &str = r#"
[cluster]
node_id = "a"
[kinesis]
endpoint_url = "http://127.0.0.1:1"
region = "us-east-1"
[[databases]]
name = "orders"
url = "postgres://u:hunter2@h/d"
max_connections = 3
[[streams]]
name = "s"
endpoint_url = "http://127.0.0.1:2"
[streams.shard_budget]
bytes_per_second = "1025B"
[[tenants]]
name = "acme"
weight = 7
max_messages_per_second = 12.5
burst = 3
max_in_flight_bytes = "1MiB"
[[pipelines]]
name = "p"
outbox = "o"
stream_arn = "arn:aws:kinesis:us-east-1:123456789012:stream/s"
access_key_id = "hunter3"
secret_access_key = "hunter4"
session_token = "hunter5"
role_arn = "arn:aws:iam::123456789012:role/r"
external_id = "hunter6"
on_poison = "halt"
tenant = "acme"
on_missing = { default = "x" }
rate_limit = { max_messages_per_second = 0.5, max_bytes_per_second = 7 }
[[pipelines]]
name = "q"
outbox = "o"
stream_name = "t"
"#;

fn settings(text: &str) -> Settings {
    Settings::read("test", text, Environment::default()).expect("good settings")
}

fn shown(text: &str) -> Settings {
    let tree = tree(&settings(text));
    let text = tree.to_string();
    assert!(!text.contains("hunter"), "{text}");
    read(&tree).expect("it can be read again")
}

fn rows(more: Value) -> BTreeMap<Arc<str>, Vec<PipelineRow>> {
    let mut config = json!({"sink_type": "kinesis", "stream_name": "s", "tenant": "acme"});
    for (key, value) in more.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
    let row = PipelineRow {
        name: "r".to_owned(),
        outbox: "o".to_owned(),
        consumer_group: "g".to_owned(),
        config: Ok(config),
        enabled: true,
        version: 3,
    };
    BTreeMap::from([(Arc::from("orders"), vec![row])])
}

#[test]
fn what_is_shown_is_read_again_as_it_was() {
    let once = shown(TEXT);
    assert_eq!(tree(&once)["tenants"][0]["weight"], 7);
    assert_eq!(tree(&once)["tenants"][0]["max_messages_per_second"], 12.5);
    let mut secrets_again = read(&tree(&once)).expect("readable");
    // Marks are marked once more; all else is as it was.
    secrets_again.databases.clone_from(&once.databases);
    for (again, once) in secrets_again.pipelines.iter_mut().zip(&once.pipelines) {
        again.stream.client = once.stream.client.clone();
    }
    assert_eq!(secrets_again, once);
    let mut original = settings(TEXT);
    original.databases.clone_from(&once.databases);
    original.pipelines[0].stream.client = once.pipelines[0].stream.client.clone();
    assert_eq!(original, once);
}

#[test]
fn a_changed_secret_is_a_changed_mark() {
    let state = |text: &str| Desired::new(Arc::new(shown(text)), &BTreeMap::new().into());
    let old = state(TEXT);
    assert!(diff(&old, &state(TEXT)).is_empty());
    for (secret, because) in [
        ("hunter2", "databases.url"),
        ("hunter3", "credentials"),
        ("hunter4", "credentials"),
        ("hunter5", "credentials"),
        ("hunter6", "external_id"),
    ] {
        let plan = diff(&old, &state(&TEXT.replace(secret, "hunter0")));
        let because = vec![because];
        let expected = Step::Restart { because };
        let first = plan.pipelines.values().next();
        assert_eq!(first, Some(&expected), "{secret}");
    }
}

#[test]
fn definitions_are_shown_without_secrets_and_read_again() {
    let more = json!({
        "access_key_id": "hunter1", "secret_access_key": "hunter2", "secret_acces_key": "hunter3",
        "rate_limit": {"max_messages_per_second": 5, "mx": "hunter4"},
        "on_missing": {"default": "x"},
    });
    let tree = catalogs_tree(&rows(more));
    assert!(!tree.to_string().contains("hunter"), "{tree}");
    let config = &tree["orders"][0]["config"];
    assert_eq!(config["rate_limit"]["max_messages_per_second"], 5);
    assert_eq!(config["on_missing"]["default"], "x");
    assert_eq!(config["stream_name"], "s");
    let mut unreadable = rows(json!({}));
    for row in unreadable.values_mut().flatten() {
        row.config = Err("it cannot be read".to_owned());
    }
    let both = [
        rows(json!({"rate_limit": {"max_messages_per_second": 5}})),
        unreadable,
    ];
    for catalogs in both {
        let read = read_catalogs(&catalogs_tree(&catalogs)).expect("readable");
        assert_eq!(read, catalogs);
    }
    assert_eq!(read_catalogs(&json!({"orders": [{"name": 1}]})), None);
}
