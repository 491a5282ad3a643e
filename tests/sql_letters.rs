//! The SQL interface of dead letters: lists and decisions, what every mistake is
//! answered with, and what a relay's save writes.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test says what it expects"
)]
#![cfg(feature = "demo")]

#[path = "common/database.rs"]
mod database;
#[path = "sql_letters/sending.rs"]
mod sending;
#[path = "common/statements.rs"]
mod statements;

use std::time::Duration;

use serde_json::json;
use sqlx::PgPool;
use tidegate::core::dead_letter::{DeadLetter, LetterReason, LetterState};
use tidegate::core::ports::{Claim, ClaimRequest, Epoch, Fenced, Letters, OutboxId, OutboxStore};
use tidegate::core::position::{Position, Seq, WindowNumber};
use tidegate::postgres::PgOutboxStore;

use crate::statements::{assert_refused, json_value, run, value};

struct Fixture {
    pool: PgPool,
    store: PgOutboxStore,
    epoch: Epoch,
    outbox: OutboxId,
    rows: Vec<i64>,
}

/// An outbox of ten rows under the keys a and b in turn, and a pipeline.
async fn fixture() -> Fixture {
    let pool = database::pool(&database::migrated_database().await);
    run(&pool, "SELECT tide.outbox_create('events')").await;
    let rows: Vec<i64> = value(
        &pool,
        "SELECT tide.outbox_publish_many('events', array_fill('{\"a\": 1}'::jsonb, ARRAY[10]), NULL,
            ARRAY['a', 'b', 'a', 'b', 'a', 'b', 'a', 'b', 'a', 'b'])",
    )
    .await;
    let store = PgOutboxStore::new(pool.clone());
    let (epoch, outbox) = claim(&store).await;
    Fixture {
        pool,
        store,
        epoch,
        outbox,
        rows,
    }
}

async fn claim(store: &PgOutboxStore) -> (Epoch, OutboxId) {
    let request = ClaimRequest {
        pipeline: "p",
        version: None,
        outbox: "events",
        node: "node",
        lease: Duration::from_secs(60),
    };
    match store.claim(request).await.expect("an answer") {
        Claim::Granted { epoch, outbox, .. } => (epoch, outbox.id),
        Claim::Held { .. } | Claim::PausesChanged => panic!("nobody else is here"),
    }
}

impl Fixture {
    fn letter(&self, place: usize, state: LetterState) -> DeadLetter {
        let key = if place.is_multiple_of(2) { "a" } else { "b" };
        DeadLetter {
            seq: Seq {
                window: WindowNumber(1),
                id: self.rows[place],
            },
            key: Some(key.into()),
            reason: match state {
                LetterState::Parked => LetterReason::RecordTooLarge,
                LetterState::Waiting => LetterReason::KeyBlocked,
            },
            message: "m".to_owned(),
            state,
            blocks_key: true,
            weight: 1,
        }
    }

    async fn save(&self, letters: &[DeadLetter]) -> Fenced {
        let saved = self
            .store
            .save_position("p", self.epoch, &Position::start(), letters)
            .await;
        saved.expect("an answer")
    }

    /// Row 0 of key a is parked, rows 2 and 4 wait behind it; row 1 of b is parked.
    async fn blocked(&self) {
        let (parked, waiting) = (LetterState::Parked, LetterState::Waiting);
        let letters = [(0, parked), (1, parked), (2, waiting), (4, waiting)];
        let letters = letters.map(|(place, state)| self.letter(place, state));
        assert_eq!(self.save(&letters).await, Fenced::Written);
        assert_eq!(self.states().await, "parked parked waiting waiting");
    }

    async fn states(&self) -> String {
        value(
            &self.pool,
            "SELECT coalesce(string_agg(state, ' ' ORDER BY row_id), '') FROM tide.relay_dead_letter",
        )
        .await
    }

    async fn id(&self, place: usize) -> i64 {
        let row = self.rows[place];
        value(
            &self.pool,
            &format!("SELECT letter_id FROM tide.relay_dead_letter WHERE row_id = {row}"),
        )
        .await
    }

    async fn known(&self) -> Letters {
        self.store
            .letters("p", self.outbox)
            .await
            .expect("an answer")
    }
}

#[tokio::test]
async fn letters_are_written_with_the_position_or_not_at_all() {
    let fixture = fixture().await;
    let letters = [fixture.letter(0, LetterState::Parked)];
    let old = Epoch(fixture.epoch.0 - 1);
    let stale = fixture
        .store
        .save_position("p", old, &Position::start(), &letters)
        .await;
    assert_eq!(stale, Ok(Fenced::Stale));
    assert_eq!(fixture.states().await, "");
    assert_eq!(fixture.known().await, Letters::default());
    assert_eq!(fixture.save(&letters).await, Fenced::Written);
    // What is parked twice is one letter.
    assert_eq!(fixture.save(&letters).await, Fenced::Written);
    let letter = json_value(
        &fixture.pool,
        "SELECT to_jsonb(d) - '{letter_id,created_at,first_at,last_at,row_id}'::text[] FROM tide.relay_dead_letter AS d",
    )
    .await;
    assert_eq!(
        letter,
        json!({"pipeline": "p", "outbox_id": fixture.outbox.0, "window_number": 1, "partition_key": "a", "bytes": 10,
            "dedup_key": "a", "payload": {"a": 1}, "headers": {}, "reason": "record_too_large", "message": "m",
            "attempts": 2, "state": "parked", "blocks_key": true, "note": null})
    );
    let known = fixture.known().await;
    assert_eq!((known.highest_row, known.open), (fixture.rows[0], 1));
    assert_eq!(known.blocked_keys, ["a"]);
    let found = fixture
        .store
        .rows_with_letters("p", fixture.outbox, &fixture.rows)
        .await;
    assert_eq!(found, Ok(vec![fixture.rows[0]]));
}

#[tokio::test]
async fn a_letter_that_is_closed_is_not_opened_by_a_restart() {
    let fixture = fixture().await;
    let letters = [fixture.letter(0, LetterState::Parked)];
    fixture.save(&letters).await;
    let id = fixture.id(0).await;
    run(
        &fixture.pool,
        &format!("SELECT tide.relay_dlq_discard({id}, 'test')"),
    )
    .await;
    fixture.save(&letters).await;
    assert_eq!(fixture.states().await, "discarded");
}

#[tokio::test]
async fn a_retried_letter_takes_along_what_waits_behind_it() {
    let fixture = fixture().await;
    fixture.blocked().await;
    let (parked, waiting) = (fixture.id(0).await, fixture.id(2).await);
    let refused = format!("SELECT tide.relay_dlq_retry({waiting})");
    let behind = format!("dead letter {waiting} waits behind letter {parked}");
    assert_refused(
        &fixture.pool,
        &refused,
        "55000",
        &[&behind, "Retry or discard letter"],
    )
    .await;
    let retried: i32 = value(
        &fixture.pool,
        &format!("SELECT tide.relay_dlq_retry({parked})"),
    )
    .await;
    assert_eq!(retried, 3);
    assert_eq!(fixture.states().await, "retry parked retry retry");
    assert_eq!(
        fixture.known().await.blocked_keys,
        ["a", "b"],
        "blocked until delivered"
    );
    // What comes behind a key that is released is sent as well.
    fixture
        .save(&[
            fixture.letter(6, LetterState::Waiting),
            fixture.letter(7, LetterState::Waiting),
        ])
        .await;
    assert_eq!(
        fixture.states().await,
        "retry parked retry retry retry waiting"
    );
    let again = format!("SELECT tide.relay_dlq_retry({parked})");
    assert_refused(
        &fixture.pool,
        &again,
        "55000",
        &["in state 'retry'", "Only a letter in state 'parked'"],
    )
    .await;
    let all: i64 = value(&fixture.pool, "SELECT tide.relay_dlq_retry_all('p')").await;
    assert_eq!(all, 2);
    run(
        &fixture.pool,
        "UPDATE tide.relay_dead_letter SET state = 'delivered'",
    )
    .await;
    assert_eq!(fixture.known().await.blocked_keys, Vec::<String>::new());
}

#[tokio::test]
async fn a_discarded_letter_frees_its_key() {
    let fixture = fixture().await;
    fixture.blocked().await;
    let (parked, waiting) = (fixture.id(0).await, fixture.id(2).await);
    let released: i32 = value(
        &fixture.pool,
        &format!("SELECT tide.relay_dlq_discard({waiting}, 'not wanted')"),
    )
    .await;
    assert_eq!(
        (released, fixture.states().await.as_str()),
        (0, "parked parked discarded waiting")
    );
    let released: i32 = value(
        &fixture.pool,
        &format!("SELECT tide.relay_dlq_discard({parked}, 'broken')"),
    )
    .await;
    assert_eq!(
        (released, fixture.states().await.as_str()),
        (1, "discarded parked discarded retry")
    );
    let note: String = value(
        &fixture.pool,
        &format!("SELECT note FROM tide.relay_dead_letter WHERE letter_id = {parked}"),
    )
    .await;
    assert_eq!(note, "broken");
    let on_its_way = fixture.id(4).await;
    let refused = format!("SELECT tide.relay_dlq_discard({on_its_way}, 'x')");
    assert_refused(&fixture.pool, &refused, "55000", &["is being sent again"]).await;
    run(
        &fixture.pool,
        "UPDATE tide.relay_lease SET expires_at = '-infinity'",
    )
    .await;
    run(&fixture.pool, &refused).await;
}

#[tokio::test]
async fn mistakes_are_named() {
    let fixture = fixture().await;
    fixture.blocked().await;
    let id = fixture.id(1).await;
    let without_reason = format!("SELECT tide.relay_dlq_discard({id}, ' ')");
    for (code, statement, words) in [
        ("42704", "SELECT tide.relay_dlq_retry(987654)", "there is no dead letter 987654"),
        ("42704", "SELECT tide.relay_dlq_retry(NULL)", "there is no dead letter NULL"),
        ("42704", "SELECT tide.relay_dlq_discard(987654, 'x')", "there is no dead letter 987654"),
        ("22023", without_reason.as_str(), "not discarded without a reason"),
        ("42704", "SELECT tide.relay_dlq_retry_all('q')", "pipeline 'q' does not exist and has no dead letters"),
        ("22023", "SELECT * FROM tide.relay_dlq_list('p', 0)", "limit 0 is not allowed"),
        ("22023", "SELECT * FROM tide.relay_dlq_list('p', 1, '{lost}')", "state 'lost' is not known"),
        ("23514", "INSERT INTO tide.relay_dead_letter (pipeline, outbox_id, row_id, window_number, payload, headers, created_at, reason, message, state)
            VALUES ('p', 1, 1, 1, '{}', '{}', now(), 'r', 'm', 'lost')", "relay_dead_letter_state"),
    ] {
        assert_refused(&fixture.pool, statement, code, &[words]).await;
    }
}

#[tokio::test]
async fn lists_are_by_pipeline_and_state_and_need_no_more_than_their_limit() {
    let fixture = fixture().await;
    fixture.blocked().await;
    run(
        &fixture.pool,
        "INSERT INTO tide.relay_dead_letter (pipeline, outbox_id, row_id, window_number, payload, headers, created_at, reason, message, state)
        SELECT 'q', 1, n, 1, '{}', '{}', now(), 'r', 'm', CASE WHEN n > 50000 THEN 'parked' ELSE 'delivered' END
        FROM generate_series(1, 50010) AS n",
    )
    .await;
    // What autovacuum does after so many changes: entries of old states go.
    run(&fixture.pool, "VACUUM (ANALYZE) tide.relay_dead_letter").await;
    let listed = async |arguments: &str| -> Vec<String> {
        let list = format!(
            "SELECT coalesce(array_agg(pipeline_name || ' ' || state), '{{}}') FROM tide.relay_dlq_list({arguments})"
        );
        value(&fixture.pool, &list).await
    };
    assert_eq!(
        listed("'p'").await,
        ["p parked", "p parked", "p waiting", "p waiting"]
    );
    assert_eq!(listed("'p', 1").await, ["p parked"]);
    assert_eq!(
        listed("'p', 9, '{waiting}'").await,
        ["p waiting", "p waiting"]
    );
    assert_eq!(listed("'nobody'").await, Vec::<String>::new());
    assert_eq!(listed("NULL, 1000").await.len(), 14);
    assert_eq!(listed("'q', 60000, '{delivered}'").await.len(), 50_000);
    let counted = async |sql: &str| {
        let explain = format!("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}");
        let plan: serde_json::Value = value(&fixture.pool, &explain).await;
        let buffers = |name: &str| plan[0]["Plan"][name].as_u64().expect("a number");
        buffers("Shared Hit Blocks") + buffers("Shared Read Blocks")
    };
    let blocks = counted("SELECT * FROM tide.relay_dlq_list('q', 5)").await;
    assert!(
        blocks < 200,
        "{blocks} blocks for five of ten open letters beside 50,000 closed ones"
    );
    assert_eq!(fixture.known().await.blocked_keys, ["a", "b"]);
}

#[tokio::test]
async fn a_pipeline_that_is_deleted_leaves_what_is_undecided() {
    let fixture = fixture().await;
    fixture.blocked().await;
    let config = r#"'{"sink_type": "kinesis", "stream_name": "s"}'"#;
    run(
        &fixture.pool,
        &format!("SELECT tide.relay_set_outbox('p', 'events', {config})"),
    )
    .await;
    let parked = fixture.id(1).await;
    run(
        &fixture.pool,
        &format!("SELECT tide.relay_dlq_discard({parked}, 'x')"),
    )
    .await;
    run(&fixture.pool, "SELECT tide.relay_delete('p')").await;
    assert_eq!(fixture.states().await, "parked waiting waiting");
    assert_eq!(
        fixture
            .save(&[fixture.letter(5, LetterState::Parked)])
            .await,
        Fenced::Stale
    );
    // Without its outbox a letter can only be discarded.
    run(&fixture.pool, "SELECT tide.outbox_drop('events')").await;
    let first = fixture.id(0).await;
    let retry = format!("SELECT tide.relay_dlq_retry({first})");
    assert_refused(
        &fixture.pool,
        &retry,
        "55000",
        &["is of an outbox that was dropped", "relay_dlq_discard"],
    )
    .await;
    let none: i64 = value(&fixture.pool, "SELECT tide.relay_dlq_retry_all('p')").await;
    assert_eq!(none, 0);
    run(
        &fixture.pool,
        &format!("SELECT tide.relay_dlq_discard({first}, 'gone')"),
    )
    .await;
}

#[tokio::test]
async fn on_poison_and_on_missing_are_checked() {
    let pool = database::pool(&database::migrated_database().await);
    run(&pool, "SELECT tide.outbox_create('events')").await;
    let set = |more: &str| {
        format!(
            r#"SELECT tide.relay_set_outbox('p', 'events', '{{"sink_type": "kinesis", "stream_name": "s", {more}}}')"#
        )
    };
    for more in [
        r#""on_poison": "park""#,
        r#""on_poison": "block_key""#,
        r#""on_poison": "halt""#,
        r#""on_missing": "park""#,
        r#""on_missing": {"default": "unknown"}"#,
    ] {
        run(&pool, &set(more)).await;
    }
    let long = format!(r#""on_missing": {{"default": "{}"}}"#, "x".repeat(257));
    for (more, words) in [
        (
            r#""on_poison": "drop""#,
            "Expected \"park\", \"block_key\" or \"halt\"",
        ),
        (r#""on_missing": "unknown""#, "\"on_missing\""),
        (r#""on_missing": {}"#, "\"on_missing\""),
        (r#""on_missing": {"default": ""}"#, "\"on_missing.default\""),
        (r#""on_missing": {"default": 1}"#, "\"on_missing.default\""),
        (
            r#""on_missing": {"defualt": "x"}"#,
            "\"on_missing.defualt\" is not known",
        ),
        (long.as_str(), "\"on_missing.default\""),
    ] {
        assert_refused(&pool, &set(more), "22023", &[words]).await;
    }
}

#[tokio::test]
async fn the_commands_do_what_the_functions_do() {
    let fixture = fixture().await;
    fixture.blocked().await;
    let name: String = value(&fixture.pool, "SELECT current_database()::text").await;
    let url = database::server().url_as(database::OWNER, &name);
    let tidegate = async |arguments: &[&str]| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command
            .arg("dlq")
            .args(arguments)
            .env("DATABASE_URL", &url)
            .env_remove("TIDEGATE_CONFIG");
        let output = command.output().await.expect("it runs");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        (
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        )
    };
    let parsed = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("JSON");
    let (code, table, _) = tidegate(&["list"]).await;
    assert_eq!((code, table.lines().count()), (Some(0), 5), "{table}");
    assert!(
        table.starts_with("ID") && !table.contains("{\"a\""),
        "{table}"
    );
    let (_, listed, _) = tidegate(&[
        "list",
        "--pipeline",
        "p",
        "--limit",
        "1",
        "--output",
        "json",
    ])
    .await;
    let letter = &parsed(&listed)["letters"][0];
    assert_eq!(
        (&letter["state"], &letter["payload"]),
        (&json!("parked"), &json!(null))
    );
    let id = letter["letter_id"].to_string();
    let (_, shown, _) = tidegate(&["show", &id, "--output", "json"]).await;
    assert_eq!(
        (&parsed(&shown)["payload"], &parsed(&shown)["outbox"]),
        (&json!({"a": 1}), &json!("events"))
    );
    let (code, said, _) = tidegate(&["retry", &id]).await;
    assert_eq!(code, Some(0));
    assert!(said.contains("and 2 behind it"), "{said}");
    let (code, _, error) = tidegate(&["retry", &id]).await;
    assert_eq!(code, Some(1));
    assert!(
        error.contains("in state 'retry'") && error.contains("Only a letter"),
        "{error}"
    );
    let other = fixture.id(1).await.to_string();
    let (code, _, _) = tidegate(&["discard", &other, "--why", "test data"]).await;
    assert_eq!(
        (code, fixture.states().await.as_str()),
        (Some(0), "retry discarded retry retry")
    );
    let (_, all, _) = tidegate(&["list", "--all", "--output", "json"]).await;
    assert_eq!(parsed(&all)["letters"].as_array().map(Vec::len), Some(4));
    assert_eq!(tidegate(&["retry"]).await.0, Some(64));
    assert_eq!(tidegate(&["show", "987654"]).await.0, Some(1));
    assert_eq!(tidegate(&["list", "--database", "other"]).await.0, Some(1));
}
