//! Pipelines as a database defines them.

use serde_json::json;
use tidegate::config::pipeline::ShardBudgetSettings;
use tidegate::config::{ConfigProblem, CredentialSource, PipelineSpec, Settings, StreamRef};
use tidegate::core::body::BodyFormat;

use super::{default_settings, load_with_database};

fn from_json(config: &serde_json::Value) -> Result<PipelineSpec, Vec<ConfigProblem>> {
    from_json_with(config, &default_settings())
}

fn from_json_with(
    config: &serde_json::Value,
    settings: &Settings,
) -> Result<PipelineSpec, Vec<ConfigProblem>> {
    PipelineSpec::from_json("events-to-kinesis", "events", "default", config, settings)
}

#[track_caller]
fn refuses(config: &serde_json::Value, expected: &[&str]) {
    let found = from_json(config).expect_err("a problem");
    let found: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(
            found.starts_with(expected),
            "{found} does not begin with {expected}"
        );
    }
}

#[test]
fn the_documented_example_is_a_pipeline() {
    let spec = from_json(&json!({
        "sink_type": "kinesis", "stream_name": "pg-tide-events", "region": "us-east-1",
        "partition_key": "{dedup_key}",
    }))
    .expect("valid");
    assert_eq!(&*spec.name, "events-to-kinesis");
    assert_eq!(
        spec.stream.stream,
        StreamRef::Name("pg-tide-events".to_owned())
    );
    assert_eq!(spec.stream.client.region.as_deref(), Some("us-east-1"));
    assert_eq!(
        spec.stream.client.credentials,
        CredentialSource::DefaultChain
    );
    assert_eq!(
        (spec.batch_size, spec.weight, &*spec.tenant),
        (100, 1, "default")
    );
    assert_eq!((spec.format, spec.rate_limit), (BodyFormat::Native, None));
    assert_eq!(spec.shard_budget, ShardBudgetSettings::default());
}

#[test]
fn an_arn_gives_the_region() {
    let arn = "arn:aws:kinesis:eu-west-1:123456789012:stream/s";
    let spec = from_json(&json!({"stream_arn": arn})).expect("valid");
    assert_eq!(spec.stream.stream, StreamRef::Arn(arn.to_owned()));
    assert_eq!(spec.stream.stream.name(), "s");
    assert_eq!(spec.stream.client.region.as_deref(), Some("eu-west-1"));
    refuses(
        &json!({"stream_arn": arn, "stream_name": "t", "region": "us-east-1"}),
        &[
            "stream_name: got \"t\"; expected \"s\"",
            "region: got \"us-east-1\"; expected \"eu-west-1\"",
        ],
    );
    refuses(
        &json!({"stream_arn": "arn:aws:sqs:x"}),
        &["stream_arn: got \"arn:aws:sqs:x\""],
    );
}

#[test]
fn the_operators_settings_fill_the_gaps() {
    let settings = load_with_database(
        r#"
        [kinesis]
        region = "eu-north-1"
        endpoint_url = "http://127.0.0.1:1"
        [[streams]]
        name = "hot"
        endpoint_url = "http://127.0.0.1:2"
        shard_budget = { records_per_second = 10 }
        [[tenants]]
        name = "acme"
        weight = 5
        "#,
    )
    .expect("valid");
    let spec = |config| from_json_with(&config, &settings).expect("valid");
    let hot = spec(json!({"stream_name": "hot", "tenant": "acme"}));
    // The tenant's is its share among tenants.
    assert_eq!(hot.weight, 1);
    assert_eq!(hot.shard_budget.records_per_second, 10);
    assert_eq!(hot.shard_budget.bytes_per_second, 1 << 20);
    assert_eq!(
        hot.stream.client.endpoint_url.as_deref(),
        Some("http://127.0.0.1:2")
    );
    let other = spec(json!({"stream_name": "other", "tenant": "acme", "weight": 2}));
    assert_eq!(other.weight, 2);
    assert_eq!(other.stream.client.region.as_deref(), Some("eu-north-1"));
    assert_eq!(
        other.stream.client.endpoint_url.as_deref(),
        Some("http://127.0.0.1:1")
    );
    assert_ne!(hot, other);
    assert_eq!(hot, hot.clone());
}

#[test]
fn a_bad_pipeline_is_refused_with_every_reason() {
    refuses(
        &json!({
            "sink_type": "kafka", "partition_key": "{dedupkey}", "format": "avro", "batch_size": 0,
            "weight": "5", "ordering": "none", "aggregation": "avro", "compression": "lz4",
            "aggregation_max_bytes": 500,
            "on_poison": "skip", "endpoint_url": "http://evil", "strem_name": "s",
        }),
        &[
            "sink_type: got \"kafka\"; expected \"kinesis\"",
            "stream_name: missing",
            "endpoint_url: given in the database; expected it only in the operator's configuration",
            "partition_key: got \"{dedupkey}\"; expected a key template (unknown variable \"dedupkey\" at character 1",
            "format: got \"avro\"",
            "batch_size: got 0; expected a whole number from 1 to 500",
            "weight: got \"5\"; expected a whole number from 1 to 1000",
            "ordering: got \"none\"; expected \"key\": nothing else is supported in this version",
            "aggregation: got \"avro\"; expected \"none\" or \"kpl\" or \"ndjson\"",
            "aggregation_max_bytes: got 500; expected a whole number of bytes from 1000 to 1048576",
            "compression: got \"lz4\"; expected \"none\" or \"gzip\" or \"zstd\"",
            "on_poison: got \"skip\"; expected \"park\" or \"block_key\" or \"halt\"",
            "strem_name: unknown key; expected stream_name, perhaps",
        ],
    );
    refuses(
        &json!({"stream_name": "s", "aggregation_max_bytes": 50_000}),
        &[
            "aggregation_max_bytes: given alone; expected aggregation = \"kpl\" or \"ndjson\" beside it",
        ],
    );
    refuses(
        &json!([]),
        &[
            "configuration: got a list; expected a table",
            "stream_name: missing",
        ],
    );
}

#[test]
fn a_missing_variable_is_poison_or_has_a_default() {
    let with = |on_missing: serde_json::Value| json!({"sink_type": "kinesis", "stream_name": "s", "on_missing": on_missing});
    let read = |config: &serde_json::Value| from_json(config).expect("accepted");
    let spec = read(&with(json!({"default": "unknown"})));
    assert_eq!(spec.on_missing.as_deref(), Some("unknown"));
    assert_eq!(read(&with(json!("park"))).on_missing, None);
    refuses(&with(json!("unknown")), &["on_missing: got \"unknown\""]);
    refuses(&with(json!({})), &["on_missing.default: missing"]);
    refuses(
        &with(json!({"default": ""})),
        &["on_missing.default: got \"\""],
    );
    refuses(
        &with(json!({"defualt": "x"})),
        &[
            "on_missing.default: missing",
            "on_missing.defualt: unknown key",
        ],
    );
}

#[test]
fn credentials_come_in_pairs_and_are_never_shown() {
    let with = |mut extra: serde_json::Value| {
        extra["stream_name"] = json!("s");
        extra
    };
    refuses(
        &with(json!({"access_key_id": "AKIA"})),
        &["secret_access_key: missing; expected it together"],
    );
    refuses(
        &with(json!({"secret_access_key": "hunter2"})),
        &["access_key_id: missing; expected it together"],
    );
    refuses(
        &with(json!({"session_token": "t"})),
        &["session_token: given alone"],
    );
    refuses(
        &with(json!({"external_id": "x"})),
        &["external_id: given alone; expected role_arn"],
    );
    refuses(
        &with(json!({"role_arn": "relay"})),
        &["role_arn: got \"relay\""],
    );
    refuses(
        &with(json!({"access_key_id": "${env:NOT_THERE}", "secret_access_key": 5})),
        &[
            "access_key_id: refers to ${env:NOT_THERE}, but",
            "secret_access_key: no text",
        ],
    );
    let spec = from_json(&with(json!({
        "access_key_id": "AKIA", "secret_access_key": "hunter2", "session_token": "tok",
        "role_arn": "arn:aws:iam::123456789012:role/r", "external_id": "e",
    })))
    .expect("valid");
    let shown = format!("{spec:?}");
    assert!(
        !shown.contains("hunter2") && !shown.contains("tok\""),
        "{shown}"
    );
    assert_eq!(spec.stream.client.external_id.as_deref(), Some("e"));
}

#[test]
fn a_rate_limit_limits_something() {
    let spec = |limit| from_json(&json!({"stream_name": "s", "rate_limit": limit}));
    let limit = spec(json!({"max_bytes_per_second": 4096}))
        .expect("valid")
        .rate_limit;
    assert_eq!(
        limit.and_then(|limit| limit.max_bytes_per_second),
        Some(4096)
    );
    let off = spec(json!({"enabled": false, "max_messages_per_second": 5})).expect("valid");
    assert_eq!(off.rate_limit, None);
    let problems = |limit| {
        let found = spec(limit).expect_err("a problem");
        found
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("\n")
    };
    assert!(problems(json!({"enabled": true})).starts_with("rate_limit: enabled without a limit"));
    assert!(
        problems(json!({"max_messages_per_second": 0}))
            .starts_with("rate_limit.max_messages_per_second: got 0")
    );
    assert!(
        problems(json!({"rate": 5, "max_messages_per_second": 1}))
            .starts_with("rate_limit.rate: unknown key")
    );
    assert!(problems(json!(5)).starts_with("rate_limit: got 5; expected a table"));
}
