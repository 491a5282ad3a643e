//! The SQL interface of operators: pausing, resuming, and what pipelines are doing.

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

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use sqlx::PgPool;
use tidegate::core::catalog::{Catalog, StateNote};
use tidegate::core::pause::{Pausable, PauseKind};
use tidegate::core::ports::{Claim, ClaimRequest, Epoch, OutboxStore};
use tidegate::postgres::PgOutboxStore;
use tidegate::postgres::catalog::{self, PgCatalog};

use crate::statements::{assert_refused, json_value, run, value};

const ARN: &str = "arn:aws:kinesis:eu-west-1:123456789012:stream/orders";

/// Pipelines `a` (tenant acme, stream orders), `b` (no tenant, orders by ARN) and
/// `c` (tenant acme, stream payments).
async fn with_pipelines() -> PgPool {
    let pool = database::migrated().await;
    run(&pool, "SELECT tide.outbox_create('events')").await;
    let configs = [
        (
            "a",
            json!({"stream_name": "orders", "tenant": "acme", "region": "eu-west-1"}),
        ),
        ("b", json!({"stream_arn": ARN})),
        ("c", json!({"stream_name": "payments", "tenant": "acme"})),
    ];
    for (name, mut config) in configs {
        config["sink_type"] = json!("kinesis");
        run(
            &pool,
            &format!("SELECT tide.relay_set_outbox('{name}', 'events', '{config}')"),
        )
        .await;
    }
    pool
}

/// The pipelines that are shown as paused.
async fn paused(pool: &PgPool) -> Vec<String> {
    value(
        pool,
        "SELECT ARRAY(SELECT pipeline FROM tide.relay_status WHERE paused ORDER BY pipeline)",
    )
    .await
}

// === Pausing and resuming ===

#[tokio::test]
async fn a_pause_holds_what_it_names_and_only_that() {
    let pool = with_pipelines().await;
    let cases: [(&str, &str, &[&str]); 7] = [
        ("pipeline", "a", &["a"]),
        ("tenant", "acme", &["a", "c"]),
        ("tenant", "default", &["b"]),
        ("stream", "orders", &["a", "b"]),
        ("stream", ARN, &["a", "b"]),
        ("stream", &ARN.replace("eu-west", "us-east"), &[]),
        ("stream", &ARN.replace("123", "999"), &["a"]),
    ];
    for (kind, name, held) in cases {
        let arguments = format!("'{kind}', '{name}'");
        let pause = format!("SELECT tide.relay_pause({arguments}, 'because')");
        assert!(value::<bool>(&pool, &pause).await, "{arguments}");
        assert_eq!(paused(&pool).await, held, "{arguments}");
        let listed: Vec<String> = value(&pool, "SELECT pipelines FROM tide.relay_pauses()").await;
        assert_eq!(listed, held, "{arguments}");

        // The relay's rule and the database's are one.
        let pauses = catalog::list_pauses(&pool).await.expect("pauses");
        let of_rust = |pipeline, tenant, stream, arn, region| {
            let pipeline = Pausable {
                pipeline,
                tenant,
                stream,
                arn,
                region,
            };
            pauses[0].holds(&pipeline)
        };
        let rust = [
            of_rust("a", "acme", "orders", None, Some("eu-west-1")),
            of_rust("b", "default", "orders", Some(ARN), Some("eu-west-1")),
            of_rust("c", "acme", "payments", None, None),
        ];
        let rust: Vec<&str> = ["a", "b", "c"]
            .into_iter()
            .zip(rust)
            .filter_map(|(name, holds)| holds.then_some(name))
            .collect();
        assert_eq!(rust, held, "{arguments}");

        let resume = format!("SELECT tide.relay_resume({arguments})");
        assert!(value::<bool>(&pool, &resume).await, "{arguments}");
        assert!(!value::<bool>(&pool, &resume).await, "{arguments}");
        assert_eq!(paused(&pool).await, [""; 0], "{arguments}");
    }
}

#[tokio::test]
async fn pausing_again_changes_the_reason_alone() {
    let pool = with_pipelines().await;
    let first: bool = value(&pool, "SELECT tide.relay_pause('tenant', 'acme', 'one')").await;
    let at: String = value(&pool, "SELECT paused_at::text FROM tide.relay_pauses()").await;
    let second: bool = value(&pool, "SELECT tide.relay_pause('tenant', 'acme', 'two')").await;
    let third: bool = value(&pool, "SELECT tide.relay_pause('tenant', 'acme')").await;
    assert_eq!((first, second, third), (true, false, false));
    let pause = json_value(&pool, "SELECT to_jsonb(p) FROM tide.relay_pauses() AS p").await;
    assert_eq!(pause["reason"], "two");
    assert_eq!(pause["pipelines"], json!(["a", "c"]));
    let user: String = value(&pool, "SELECT session_user::text").await;
    assert_eq!(pause["paused_by"], json!(user));
    let later: String = value(&pool, "SELECT paused_at::text FROM tide.relay_pauses()").await;
    assert_eq!(later, at);
    // One of two pauses that hold it.
    run(&pool, "SELECT tide.relay_pause('pipeline', 'a')").await;
    run(&pool, "SELECT tide.relay_resume('tenant', 'acme')").await;
    assert_eq!(paused(&pool).await, ["a"]);
}

#[tokio::test]
async fn every_mistake_is_named() {
    let pool = with_pipelines().await;
    let cases: &[(&str, &str, &[&str])] = &[
        (
            "relay_pause('table', 'x')",
            "22023",
            &[
                "'table' cannot be paused",
                "'pipeline', 'tenant' or 'stream'",
            ],
        ),
        (
            "relay_pause(NULL, 'x')",
            "22023",
            &["NULL cannot be paused"],
        ),
        (
            "relay_pause('tenant', NULL)",
            "22023",
            &["name of the tenant is NULL"],
        ),
        (
            "relay_pause('tenant', '')",
            "22023",
            &["0 characters long", "1 to 256"],
        ),
        (
            "relay_pause('stream', 'a b')",
            "22023",
            &["'a b' cannot exist", "or an ARN"],
        ),
        (
            "relay_pause('stream', 'arn:aws:kinesis:x')",
            "22023",
            &["is not an ARN", "REGION:ACCOUNT"],
        ),
        (
            "relay_pause('tenant', 'x', repeat('x', 1001))",
            "22023",
            &["1001 characters long", "up to 1000"],
        ),
        (
            "relay_pause('pipeline', 'nope')",
            "42704",
            &[
                "'nope' does not exist",
                "tide.relay_status",
                "ahead => true",
            ],
        ),
        (
            "relay_resume('pipeline', 'nope')",
            "42704",
            &["'nope' does not exist", "tide.relay_pauses()"],
        ),
        ("relay_resume('table', 'x')", "22023", &["cannot be paused"]),
    ];
    for (call, code, words) in cases {
        assert_refused(&pool, &format!("SELECT tide.{call}"), code, words).await;
    }
    assert_eq!(
        value::<i64>(&pool, "SELECT count(*) FROM tide.relay_pause").await,
        0
    );
}

#[tokio::test]
async fn a_name_may_be_paused_ahead_and_stays_so_when_it_is_deleted() {
    let pool = with_pipelines().await;
    run(
        &pool,
        "SELECT tide.relay_pause('pipeline', 'd', ahead => true)",
    )
    .await;
    assert_eq!(paused(&pool).await, [""; 0]);
    let define = r#"SELECT tide.relay_set_outbox('d', 'events', '{"sink_type": "kinesis", "stream_name": "s"}')"#;
    for _ in 0..2 {
        run(&pool, define).await;
        assert_eq!(paused(&pool).await, ["d"]);
        run(&pool, "SELECT tide.relay_delete('d')").await;
    }
    assert!(value::<bool>(&pool, "SELECT tide.relay_resume('pipeline', 'd')").await);
}

#[tokio::test]
async fn users_see_pauses_where_they_look() {
    let pool = with_pipelines().await;
    run(&pool, "SELECT tide.outbox_publish('events', '{}')").await;
    run(
        &pool,
        "UPDATE tide.outbox_message SET created_at = now() - interval '2 days'",
    )
    .await;
    run(
        &pool,
        "SELECT tide.relay_pause('tenant', 'acme', 'bill unpaid')",
    )
    .await;
    let status = json_value(&pool, "SELECT tide.outbox_status('events')").await;
    let of = |list: &Value| -> Vec<(String, bool)> {
        let list = list.as_array().expect("a list").iter();
        list.map(|one| {
            let name = one["pipeline"].as_str().expect("a name").to_owned();
            (name, one["paused"].as_bool().expect("whether it is paused"))
        })
        .collect()
    };
    let expected = [("a", true), ("b", false), ("c", true)];
    let expected = expected.map(|(name, paused)| (name.to_owned(), paused));
    assert_eq!(of(&status["pipelines"]), expected);
    assert_eq!(of(&status["retention"]["held_by"]), expected);
    let lag = json_value(
        &pool,
        "SELECT jsonb_agg(to_jsonb(l) ORDER BY l.pipeline) FROM tide.outbox_lag AS l",
    )
    .await;
    assert_eq!(of(&lag), expected);
    let config = json_value(&pool, "SELECT tide.relay_get_config('a')").await;
    assert_eq!(
        (&config["paused"], &config["config"]["tenant"]),
        (&json!(true), &json!("acme"))
    );
    let pauses = json_value(
        &pool,
        "SELECT pauses FROM tide.relay_status WHERE pipeline = 'c'",
    )
    .await;
    assert_eq!(pauses[0]["reason"], "bill unpaid");
    assert_eq!(pauses[0]["kind"], "tenant");
}

// === What relays make of it ===

#[tokio::test]
async fn every_change_of_a_pause_is_seen_by_one_look() {
    let pool = with_pipelines().await;
    let catalog = PgCatalog::new(pool.clone());
    let first = catalog.read().await.expect("an answer").expect("content");
    assert_eq!((first.pipelines.len(), first.pauses.list.len()), (3, 0));
    assert_eq!(catalog.read().await.expect("an answer"), None);
    let changes = [
        ("relay_pause('pipeline', 'a', 'one')", 1),
        ("relay_pause('pipeline', 'a', 'two')", 1),
        ("relay_pause('stream', 'orders')", 2),
        ("relay_resume('pipeline', 'a')", 1),
        ("relay_resume('stream', 'orders')", 0),
    ];
    let mut seen = vec![first.pauses.version];
    for (call, left) in changes {
        run(&pool, &format!("SELECT tide.{call}")).await;
        let content = catalog.read().await.expect("an answer").expect("content");
        assert_eq!(content.pauses.list.len(), left, "{call}");
        assert_eq!(catalog.read().await.expect("an answer"), None);
        if left > 0 {
            assert!(!seen.contains(&content.pauses.version), "{call}");
        }
        seen.push(content.pauses.version);
    }
    assert_eq!(seen.first(), seen.last(), "nothing is paused, as before");
    run(&pool, "SELECT tide.relay_pause('pipeline', 'a', 'because')").await;
    let content = catalog.read().await.expect("an answer").expect("content");
    let pause = &content.pauses.list[0];
    assert_eq!(
        (pause.kind, &*pause.name, &*pause.reason),
        (PauseKind::Pipeline, "a", "because")
    );
    // In place of one pipeline another, with as many pauses as before.
    run(&pool, "BEGIN; SELECT tide.relay_resume('pipeline', 'a'); SELECT tide.relay_pause('pipeline', 'b'); COMMIT").await;
    let content = catalog.read().await.expect("an answer").expect("content");
    assert_eq!(content.pauses.list[0].name, "b");
}

fn request(node: &str) -> ClaimRequest<'_> {
    ClaimRequest {
        pipeline: "a",
        version: None,
        outbox: "events",
        node,
        lease: Duration::from_secs(60),
    }
}

#[tokio::test]
async fn a_node_that_has_not_read_the_pauses_gets_no_lease() {
    let pool = with_pipelines().await;
    let (store, catalog) = (
        PgOutboxStore::new(pool.clone()),
        PgCatalog::new(pool.clone()),
    );
    let claims = [true, false].map(|own_sessions| {
        let store = store.clone();
        if own_sessions {
            store
        } else {
            store.with_shared_sessions()
        }
    });
    for store in &claims {
        run(&pool, "SELECT tide.relay_pause('stream', 'orders')").await;
        let leases = "SELECT count(*) FROM tide.relay_lease WHERE expires_at > now()";
        assert_eq!(store.claim(request("n")).await, Ok(Claim::PausesChanged));
        assert_eq!(value::<i64>(&pool, leases).await, 0);
        let content = catalog.read().await.expect("an answer").expect("content");
        store.knows_pauses(&content.pauses.version);
        let Ok(Claim::Granted { epoch, .. }) = store.claim(request("n")).await else {
            panic!("not granted");
        };
        run(&pool, "SELECT tide.relay_resume('stream', 'orders')").await;
        // Whoever stands by is told who runs it, not to look at the pauses.
        let Ok(Claim::Held { owner, .. }) = store.claim(request("m")).await else {
            panic!("not held");
        };
        assert_eq!(owner, "n");
        assert_eq!(store.claim(request("n")).await, Ok(Claim::PausesChanged));
        store.release("a", "n", epoch).await.expect("released");
        let content = catalog.read().await.expect("an answer").expect("content");
        store.knows_pauses(&content.pauses.version);
    }
}

// === States ===

fn note(
    pipeline: &str,
    epoch: Option<Epoch>,
    state: &'static str,
    reason: Option<&str>,
) -> StateNote {
    StateNote {
        pipeline: pipeline.into(),
        epoch,
        state,
        reason: reason.map(str::to_owned),
    }
}

async fn shown(pool: &PgPool, pipeline: &str) -> Value {
    let columns = "jsonb_build_array(state, reason, node)";
    json_value(
        pool,
        &format!("SELECT {columns} FROM tide.relay_status WHERE pipeline = '{pipeline}'"),
    )
    .await
}

#[tokio::test]
async fn who_runs_a_pipeline_speaks_for_it() {
    let pool = with_pipelines().await;
    let (store, catalog) = (
        PgOutboxStore::new(pool.clone()),
        PgCatalog::new(pool.clone()),
    );
    let write = async |node: &str, note: StateNote| {
        let notes = [note];
        catalog
            .write_states(node, &notes, &[])
            .await
            .expect("an answer")
            .len()
    };
    assert_eq!(shown(&pool, "a").await, json!([null, null, null]));
    assert_eq!(
        write("m", note("a", None, "invalid", Some("bad\0"))).await,
        1
    );
    assert_eq!(
        shown(&pool, "a").await,
        json!(["invalid", "bad\u{fffd}", "m"])
    );

    let Ok(Claim::Granted { epoch, .. }) = store.claim(request("n")).await else {
        panic!("not granted");
    };
    assert_eq!(write("n", note("a", Some(epoch), "running", None)).await, 1);
    assert_eq!(write("m", note("a", None, "invalid", Some("bad"))).await, 0);
    assert_eq!(
        write("n", note("a", Some(Epoch(epoch.0 - 1)), "blocked", None)).await,
        0
    );
    assert_eq!(write("m", note("a", Some(epoch), "blocked", None)).await, 0);
    assert_eq!(shown(&pool, "a").await, json!(["running", null, "n"]));
    let gone: [Arc<str>; 1] = ["a".into()];
    let taken = catalog.write_states("m", &[], &gone).await;
    assert_eq!(taken, Ok(vec![]));

    // What is written already is not written again.
    let versions = "SELECT xmin::text FROM tide.relay_pipeline_state";
    let before: String = value(&pool, versions).await;
    assert_eq!(write("n", note("a", Some(epoch), "running", None)).await, 1);
    assert_eq!(value::<String>(&pool, versions).await, before);

    store.release("a", "n", epoch).await.expect("released");
    assert_eq!(shown(&pool, "a").await, json!(["stopped", null, "n"]));
    assert_eq!(write("m", note("a", None, "paused", Some("why"))).await, 1);
    let before: String = value(&pool, versions).await;
    // Any number of nodes may say so.
    assert_eq!(write("n", note("a", None, "paused", Some("why"))).await, 1);
    assert_eq!(value::<String>(&pool, versions).await, before);
    assert_eq!(shown(&pool, "a").await, json!(["paused", "why", "m"]));
    // Of a pipeline of a file the state is all that tells that it is paused.
    assert_eq!(paused(&pool).await, ["a"]);
    let taken = catalog.write_states("n", &[], &gone).await;
    assert_eq!(taken, Ok(vec!["a".to_owned()]));
    assert_eq!(shown(&pool, "a").await, json!([null, null, null]));
}

#[tokio::test]
async fn a_paused_pipeline_of_a_file_cannot_be_forgotten() {
    let pool = with_pipelines().await;
    let store = PgOutboxStore::new(pool.clone());
    let catalog = PgCatalog::new(pool.clone());
    let of_file = ClaimRequest {
        pipeline: "of-file",
        ..request("n")
    };
    let Ok(Claim::Granted { epoch, .. }) = store.claim(of_file).await else {
        panic!("not granted");
    };
    store
        .release("of-file", "n", epoch)
        .await
        .expect("released");
    let notes = [note("of-file", None, "paused", Some("why"))];
    catalog
        .write_states("n", &notes, &[])
        .await
        .expect("an answer");
    let forget = "SELECT tide.relay_forget('of-file')";
    assert_refused(
        &pool,
        forget,
        "55006",
        &["'of-file' is paused", "Take it out"],
    )
    .await;
    let gone: [Arc<str>; 1] = ["of-file".into()];
    catalog
        .write_states("n", &[], &gone)
        .await
        .expect("an answer");
    run(&pool, forget).await;
    // It is known by its lease, so that it can be paused while no relay runs.
    run(&pool, "SELECT tide.relay_pause('pipeline', 'of-file')").await;
}
