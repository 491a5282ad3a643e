//! The SQL interface of operators: pipelines, their configuration, and their lag.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test says what it expects"
)]
#![cfg(feature = "demo")]

#[path = "common/database.rs"]
mod database;
#[path = "common/statements.rs"]
mod statements;

use serde_json::json;
use sqlx::{AssertSqlSafe, PgPool};
use tidegate::postgres::catalog;

use crate::statements::{assert_refused, json_value, run};

// === The page's example ===

#[tokio::test]
async fn the_example_of_the_page_works_word_for_word() {
    let pool = database::migrated().await;
    run(&pool, "SELECT tide.outbox_create('events');").await;
    run(
        &pool,
        r#"SELECT tide.relay_set_outbox(
    'events-to-kinesis',
    'events',
    'kinesis-relay',
    '{
        "sink_type": "kinesis",
        "stream_name": "pg-tide-events",
        "region": "us-east-1",
        "partition_key": "{dedup_key}"
    }'::jsonb
);"#,
    )
    .await;
    let pipelines = catalog::list_pipelines(&pool).await.expect("a list");
    assert_eq!(pipelines.len(), 1);
    let pipeline = &pipelines[0];
    assert_eq!(pipeline.name, "events-to-kinesis");
    assert_eq!(pipeline.outbox, "events");
    assert_eq!(pipeline.consumer_group, "kinesis-relay");
    assert!(pipeline.enabled);
    assert_eq!(
        pipeline.config,
        Ok(
            json!({"sink_type": "kinesis", "stream_name": "pg-tide-events", "region": "us-east-1", "partition_key": "{dedup_key}"})
        )
    );
}

// === Pipelines ===

const GOOD: &str = r#"{"sink_type": "kinesis", "stream_name": "s"}"#;

async fn with_outbox() -> PgPool {
    let pool = database::migrated().await;
    run(&pool, "SELECT tide.outbox_create('a')").await;
    pool
}

#[tokio::test]
async fn every_mistake_in_a_configuration_is_named() {
    let pool = with_outbox().await;
    let list = &[
        "sink_type, stream_name, stream_arn, region",
        "tenant, weight",
    ][..];
    let cases: &[(&str, &[&str])] = &[
        (
            r#"{"strem": 1}"#,
            &["config key \"strem\" is not known", list[0], list[1]],
        ),
        (
            r#"{"sink_type": "kafka"}"#,
            &[
                "\"sink_type\": \"kafka\" is not allowed",
                "Expected \"kinesis\"",
            ],
        ),
        (r#"{"sink_type": null}"#, &["\"sink_type\" is missing"]),
        (r#"{"stream_name": null}"#, &["\"stream_name\" is missing"]),
        (
            r#"{"stream_name": ""}"#,
            &["\"stream_name\": \"\" is not allowed"],
        ),
        (
            r#"{"stream_name": "a b"}"#,
            &["\"stream_name\": \"a b\"", "a-z A-Z 0-9 _ . -"],
        ),
        (
            r#"{"stream_arn": "s"}"#,
            &["\"stream_arn\"", "arn:aws:kinesis"],
        ),
        (r#"{"role_arn": "r"}"#, &["\"role_arn\"", "arn:aws:iam"]),
        (
            r#"{"region": 7}"#,
            &["\"region\": 7 is not allowed", "us-east-1"],
        ),
        (
            r#"{"batch_size": 0}"#,
            &[
                "\"batch_size\": 0 is not allowed",
                "an integer from 1 to 500",
            ],
        ),
        (
            r#"{"batch_size": 501}"#,
            &["\"batch_size\": 501", "from 1 to 500"],
        ),
        (r#"{"batch_size": 2.5}"#, &["\"batch_size\": 2.5"]),
        (r#"{"batch_size": 1e300}"#, &["\"batch_size\": 1000"]),
        (
            r#"{"batch_size": "100"}"#,
            &["\"batch_size\": \"100\" is not allowed"],
        ),
        (
            r#"{"weight": 1001}"#,
            &["\"weight\": 1001", "from 1 to 1000"],
        ),
        (r#"{"tenant": ""}"#, &["\"tenant\"", "1 to 128 characters"]),
        (
            r#"{"format": "xml"}"#,
            &["\"format\": \"xml\"", "cloudevents"],
        ),
        (
            r#"{"ordering": "none"}"#,
            &["\"ordering\"", "Expected \"key\"", "supports no other"],
        ),
        (
            r#"{"aggregation": "avro"}"#,
            &[
                "\"aggregation\"",
                "Expected \"none\", \"kpl\" or \"ndjson\"",
            ],
        ),
        (
            r#"{"aggregation": "kpl", "aggregation_max_bytes": 500}"#,
            &["\"aggregation_max_bytes\": 500", "from 1000 to 1048576"],
        ),
        (
            r#"{"aggregation_max_bytes": 50000}"#,
            &[
                "\"aggregation_max_bytes\" needs aggregation",
                "\"kpl\" or \"ndjson\"",
            ],
        ),
        (
            r#"{"compression": "lz4"}"#,
            &["\"compression\"", "Expected \"none\", \"gzip\" or \"zstd\""],
        ),
        (
            r#"{"on_poison": "skip"}"#,
            &[
                "\"on_poison\"",
                "Expected \"park\", \"block_key\" or \"halt\"",
            ],
        ),
        (
            r#"{"endpoint_url": "http://x"}"#,
            &["\"endpoint_url\" is not allowed here", "operator"],
        ),
        (r#"{"partition_key": ""}"#, &["\"partition_key\""]),
        (r#"{"partition_key": 1}"#, &["\"partition_key\": 1"]),
        (
            r#"{"partition_key": "{key}"}"#,
            &["unknown variable {key}", "{dedup_key}, {stream_table}"],
        ),
        (
            r#"{"partition_key": "{payload}"}"#,
            &["unknown variable {payload}"],
        ),
        (
            r#"{"partition_key": "{payload.a..b}"}"#,
            &["unknown variable {payload.a..b}"],
        ),
        (
            r#"{"partition_key": "{headers.}"}"#,
            &["unknown variable {headers.}"],
        ),
        (r#"{"partition_key": "{}"}"#, &["unknown variable {}"]),
        (
            r#"{"partition_key": "{outbox"}"#,
            &["a { that is not closed"],
        ),
        (
            r#"{"partition_key": "{{{outbox"}"#,
            &["a { that is not closed"],
        ),
        (
            r#"{"partition_key": "a}b"}"#,
            &["a } without a { before it"],
        ),
        (
            r#"{"partition_key": "{outbox}}"}"#,
            &["a } without a { before it"],
        ),
        (
            r#"{"access_key_id": "AKIA"}"#,
            &["\"secret_access_key\" is missing", "go together"],
        ),
        (
            r#"{"secret_access_key": "x"}"#,
            &["\"access_key_id\" is missing"],
        ),
        (
            r#"{"secret_access_key": 5}"#,
            &["\"secret_access_key\": a JSON number"],
        ),
        (
            r#"{"session_token": "x"}"#,
            &["\"session_token\" needs access_key_id"],
        ),
        (
            r#"{"external_id": "x"}"#,
            &["\"external_id\" needs role_arn"],
        ),
        (r#"{"rate_limit": 5}"#, &["\"rate_limit\": 5", "an object"]),
        (
            r#"{"rate_limit": {"rate": 5}}"#,
            &["\"rate_limit.rate\" is not known", "burst_size"],
        ),
        (
            r#"{"rate_limit": {"enabled": 1}}"#,
            &["\"rate_limit.enabled\": 1", "true or false"],
        ),
        (
            r#"{"rate_limit": {"max_messages_per_second": 0}}"#,
            &["max_messages_per_second\": 0", "above 0"],
        ),
        (
            r#"{"rate_limit": {"max_messages_per_second": "5"}}"#,
            &["max_messages_per_second\": \"5\""],
        ),
        (
            r#"{"rate_limit": {"burst_size": 0.5}}"#,
            &["burst_size\": 0.5"],
        ),
        (
            r#"{"rate_limit": {"max_bytes_per_second": 0}}"#,
            &["max_bytes_per_second\": 0"],
        ),
        (
            r#"{"rate_limit": {"enabled": true, "burst_size": 5}}"#,
            &[
                "rate_limit",
                "max_messages_per_second, max_bytes_per_second or both",
            ],
        ),
        (
            r#"{"rate_limit": {"max_messages_per_second": 1e400}}"#,
            &["at most 1e9"],
        ),
        (
            r#"{"rate_limit": {"max_messages_per_second": 5, "burst_size": 2000000}}"#,
            &["1 to 1000000"],
        ),
        (
            r#"{"stream_arn": "arn:aws:kinesis:us-east-1:123456789012:stream/other"}"#,
            &["stream_name", "the stream in stream_arn"],
        ),
        (
            r#"{"region": "eu-west-1", "stream_arn": "arn:aws:kinesis:us-east-1:123456789012:stream/s"}"#,
            &["region", "the region in stream_arn"],
        ),
        (
            r#"{"role_arn": "arn:aws:iam::123456789012:role/r", "external_id": "${env:SECRET}"}"#,
            &["external_id", "only in the relay's file"],
        ),
    ];
    for (change, words) in cases {
        let call = format!("SELECT tide.relay_set_outbox('p', 'a', '{GOOD}'::jsonb || '{change}')");
        assert_refused(&pool, &call, "22023", words).await;
    }
    let cases: &[(&str, &str, &[&str])] = &[
        (
            "'p', 'nosuch', '{GOOD}'",
            "42704",
            &["outbox 'nosuch' does not exist", "outbox_create('nosuch')"],
        ),
        ("'', 'a', '{GOOD}'", "22023", &["pipeline name ''"]),
        ("NULL, 'a', '{GOOD}'", "22023", &["pipeline name NULL"]),
        ("'p', NULL, '{GOOD}'", "42704", &["outbox NULL"]),
        (
            "'p', 'a', '', '{GOOD}'",
            "22023",
            &["consumer group name ''"],
        ),
        (
            "'p', 'a', NULL::jsonb",
            "22023",
            &["config must be a JSON object, not NULL"],
        ),
        (
            "'p', 'a', '[]'",
            "22023",
            &["config must be a JSON object, not a JSON array"],
        ),
    ];
    for (arguments, code, words) in cases {
        let call = format!(
            "SELECT tide.relay_set_outbox({})",
            arguments.replace("{GOOD}", GOOD)
        );
        assert_refused(&pool, &call, code, words).await;
    }
    assert!(
        catalog::list_pipelines(&pool)
            .await
            .expect("a list")
            .is_empty()
    );
}

#[tokio::test]
async fn no_error_repeats_a_secret() {
    let pool = with_outbox().await;
    let call = format!(
        r#"SELECT tide.relay_set_outbox('p', 'a', '{GOOD}'::jsonb || '{{"secret_access_key": ["sesame"], "access_key_id": "x"}}')"#
    );
    let error = sqlx::raw_sql(AssertSqlSafe(call))
        .execute(&pool)
        .await
        .expect_err("refused");
    assert!(!format!("{error:?}").contains("sesame"), "{error:?}");
}

#[tokio::test]
async fn a_full_configuration_is_accepted() {
    let pool = with_outbox().await;
    let config = json!({
        "sink_type": "kinesis", "stream_name": "s.t-u_v", "region": "cn-north-1",
        "stream_arn": "arn:aws-cn:kinesis:cn-north-1:123456789012:stream/s.t-u_v",
        "partition_key": "{{x}}-{tenant}/{outbox}/{stream_table}/{event_id}/{dedup_key}/{headers.A.b c}/{payload.a.ü}{{{outbox}}}",
        "access_key_id": "AKIAIOSFODNN7EXAMPLE", "secret_access_key": "${file:/run/secrets/key}",
        "session_token": "token", "role_arn": "arn:aws:iam::123456789012:role/path/relay", "external_id": "id",
        "batch_size": 500, "weight": 1, "tenant": "acme", "format": "cloudevents", "ordering": "key",
        "aggregation": "kpl", "aggregation_max_bytes": 100000, "compression": "zstd", "on_poison": "block_key", "on_missing": {"default": "unknown"},
        "rate_limit": {"enabled": true, "max_messages_per_second": 0.5, "burst_size": 10, "max_bytes_per_second": 1}
    });
    sqlx::query("SELECT tide.relay_set_outbox('p', 'a', 'g', $1::text::jsonb)")
        .bind(config.to_string())
        .execute(&pool)
        .await
        .expect("accepted");
    assert_eq!(
        catalog::list_pipelines(&pool).await.expect("a list")[0].config,
        Ok(config)
    );
    // A key given as null is a key not given; an ARN stands for the name.
    run(
        &pool,
        r#"SELECT tide.relay_set_outbox('q', 'a', '{"sink_type": "kinesis", "access_key_id": null, "batch_size": null,
            "stream_arn": "arn:aws:kinesis:us-east-1:000000000000:stream/s"}')"#,
    )
    .await;
    let pipelines = catalog::list_pipelines(&pool).await.expect("a list");
    assert_eq!(pipelines[1].consumer_group, "q");
    assert_eq!(
        pipelines[1].config,
        Ok(
            json!({"sink_type": "kinesis", "stream_arn": "arn:aws:kinesis:us-east-1:000000000000:stream/s"})
        )
    );
}

#[tokio::test]
async fn secrets_are_masked_and_references_are_not() {
    let pool = with_outbox().await;
    run(
        &pool,
        r#"SELECT tide.relay_set_outbox('p', 'a', 'g', '{"sink_type": "kinesis", "stream_name": "s", "region": "us-east-1",
            "access_key_id": "AKIAIOSFODNN7EXAMPLE", "secret_access_key": "sesame", "session_token": "open sesame",
            "role_arn": "arn:aws:iam::123456789012:role/r", "external_id": "sesame too"}');
        SELECT tide.relay_set_outbox('q', 'a', '{"sink_type": "kinesis", "stream_name": "s",
            "access_key_id": "${env:KEY_ID}", "secret_access_key": "${file:/run/key}"}');
        SELECT tide.relay_set_outbox('r', 'a', '{"sink_type": "kinesis", "stream_name": "s",
            "access_key_id": "short", "secret_access_key": "${env:A}sesame"}')"#,
    )
    .await;
    let shown = json_value(&pool, "tide.relay_get_config('p')").await;
    assert_eq!(shown["name"], "p");
    assert_eq!(shown["outbox"], "a");
    assert_eq!(shown["consumer_group"], "g");
    assert_eq!(shown["enabled"], true);
    assert_eq!(
        shown["config"],
        json!({"sink_type": "kinesis", "stream_name": "s", "region": "us-east-1", "access_key_id": "****MPLE",
            "secret_access_key": "****", "session_token": "****", "role_arn": "arn:aws:iam::123456789012:role/r",
            "external_id": "****"})
    );
    let shown = json_value(&pool, "tide.relay_get_config('q')").await;
    assert_eq!(shown["config"]["access_key_id"], "${env:KEY_ID}");
    assert_eq!(shown["config"]["secret_access_key"], "${file:/run/key}");
    let shown = json_value(
        &pool,
        "SELECT jsonb_agg(c) FROM tide.relay_list_configs() c",
    )
    .await;
    assert_eq!(shown.as_array().map(Vec::len), Some(3));
    assert_eq!(shown[2]["config"]["access_key_id"], "****");
    assert!(!shown.to_string().contains("sesame"), "{shown}");
    let printed = format!(
        "{:?}",
        catalog::list_pipelines(&pool).await.expect("a list")
    );
    assert!(!printed.contains("sesame"), "{printed}");
}

#[tokio::test]
async fn every_change_of_the_catalog_changes_its_version() {
    let pool = with_outbox().await;
    let mut versions = vec![catalog::catalog_version(&pool).await.expect("a version")];
    let set = |name: &str| format!("SELECT tide.relay_set_outbox('{name}', 'a', '{GOOD}')");
    for change in [
        set("p"),
        set("q"),
        set("p"),
        "SELECT tide.relay_disable('p')".to_owned(),
        "SELECT tide.relay_enable('p')".to_owned(),
        "SELECT tide.relay_delete('p')".to_owned(),
        set("p"),
        format!("SELECT tide.relay_delete('q'); {}", set("r")),
    ] {
        run(&pool, &change).await;
        let version = catalog::catalog_version(&pool).await.expect("a version");
        assert!(
            !versions.contains(&version),
            "{change} made {version:?} again"
        );
        versions.push(version);
    }
    let again = catalog::catalog_version(&pool).await.expect("a version");
    assert_eq!(versions.last(), Some(&again));
}

#[tokio::test]
async fn pipelines_are_changed_disabled_and_deleted() {
    let pool = with_outbox().await;
    let set = format!("SELECT tide.relay_set_outbox('p', 'a', '{GOOD}')");
    run(&pool, &set).await;
    run(&pool, "SELECT tide.relay_disable('p')").await;
    run(&pool, &set).await;
    assert!(
        !catalog::list_pipelines(&pool).await.expect("a list")[0].enabled,
        "a change does not enable it"
    );
    run(&pool, "SELECT tide.relay_enable('p')").await;
    assert!(catalog::list_pipelines(&pool).await.expect("a list")[0].enabled);

    run(
        &pool,
        "SELECT tide.outbox_create('b');
        INSERT INTO tide.relay_lease VALUES ('p', 'node', 4, clock_timestamp() + interval '1 hour');
        INSERT INTO tide.relay_position (pipeline, outbox_id, epoch, last_number)
        SELECT 'p', outbox_id, 4, 7 FROM tide.outbox WHERE name = 'a'",
    )
    .await;
    let moved = format!("SELECT tide.relay_set_outbox('p', 'b', '{GOOD}')");
    assert_refused(
        &pool,
        &moved,
        "55000",
        &["position in outbox 'a'", "tide.relay_delete('p')"],
    )
    .await;
    run(&pool, "SELECT tide.relay_delete('p')").await;
    run(&pool, &moved).await;
    let (owner, epoch): (String, i64) = sqlx::query_as("SELECT owner, epoch FROM tide.relay_lease")
        .fetch_one(&pool)
        .await
        .expect("a lease");
    assert_eq!(
        (owner.as_str(), epoch),
        ("", 5),
        "whoever ran it is fenced off"
    );

    for function in [
        "relay_enable",
        "relay_disable",
        "relay_delete",
        "relay_get_config",
    ] {
        let call = format!("SELECT tide.{function}('nosuch')");
        assert_refused(
            &pool,
            &call,
            "42704",
            &["pipeline 'nosuch' does not exist", "relay_list_configs"],
        )
        .await;
    }
}
