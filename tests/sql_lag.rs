//! What an outbox says of the rows that wait in it.

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

use crate::statements::{json_value, run, value};

const GOOD: &str = r#"{"sink_type": "kinesis", "stream_name": "s"}"#;

async fn with_outbox() -> sqlx::PgPool {
    let pool = database::migrated().await;
    run(&pool, "SELECT tide.outbox_create('a')").await;
    pool
}

#[tokio::test]
async fn lag_counts_what_is_not_settled_up_to_a_bound() {
    let pool = with_outbox().await;
    run(
        &pool,
        &format!("SELECT tide.relay_set_outbox('p', 'a', '{GOOD}')"),
    )
    .await;
    let lag = || async {
        let row: (i64, bool, bool) = sqlx::query_as(
            "SELECT pending, pending_at_least, oldest_age >= '0' FROM tide.outbox_lag WHERE pipeline = 'p'",
        )
        .fetch_one(&pool)
        .await
        .map(|row: (i64, bool, Option<bool>)| (row.0, row.1, row.2.unwrap_or(false)))
        .expect("a row");
        row
    };
    assert_eq!(lag().await, (0, false, false));
    run(
        &pool,
        "SELECT tide.outbox_publish('a', to_jsonb(n)) FROM generate_series(1, 100) n",
    )
    .await;
    assert_eq!(lag().await, (100, false, true));
    // 60 of the 100 are settled in the first open window; 5 more came since.
    run(
        &pool,
        "INSERT INTO tide.relay_position (pipeline, outbox_id, epoch, open_windows, settled_id)
        SELECT 'p', outbox_id, 1, jsonb_build_array(jsonb_build_object('number', 1, 'snapshot', pg_current_snapshot()::text)),
            (SELECT id FROM tide.outbox_message ORDER BY id OFFSET 59 LIMIT 1)
        FROM tide.outbox",
    )
    .await;
    assert_eq!(lag().await, (40, false, true));
    run(
        &pool,
        "SELECT tide.outbox_publish('a', to_jsonb(n)) FROM generate_series(1, 5) n",
    )
    .await;
    assert_eq!(lag().await, (45, false, true));
    run(&pool, "SELECT tide.outbox_publish_many('a', array_agg(to_jsonb(n))) FROM generate_series(1, 12000) n").await;
    assert_eq!(lag().await, (10_001, true, true));
    run(
        &pool,
        "UPDATE tide.relay_position SET base = pg_current_snapshot(), open_windows = '[]', settled_id = 0",
    )
    .await;
    assert_eq!(lag().await, (0, false, false));

    let status = json_value(&pool, "tide.outbox_status('a')").await;
    assert_eq!(status["name"], "a");
    assert_eq!(status["enabled"], true);
    assert_eq!(status["retention_hours"], 24);
    assert!(status["newest_id"].is_i64());
    assert_eq!(status["pipelines"][0]["pipeline"], "p");
    assert_eq!(status["pipelines"][0]["pending"], 0);
}

#[tokio::test]
async fn lag_shows_pipelines_of_a_file_and_late_committers() {
    let pool = with_outbox().await;
    let mut late = pool.begin().await.expect("begun");
    sqlx::query("SELECT tide.outbox_publish('a', '1')")
        .execute(&mut *late)
        .await
        .expect("published");
    run(
        &pool,
        "SELECT tide.outbox_publish('a', '2');
        INSERT INTO tide.relay_lease VALUES ('f', 'node-1', 1, clock_timestamp() + interval '1 hour');
        INSERT INTO tide.relay_position (pipeline, outbox_id, epoch, base)
        SELECT 'f', outbox_id, 1, pg_current_snapshot() FROM tide.outbox",
    )
    .await;
    let query = "SELECT pipeline || ' ' || outbox || ' ' || defined_in || ' ' || owner || ' ' || pending FROM tide.outbox_lag";
    // The statement that took the snapshot ran in one transaction with the second
    // publish, which it therefore does not see.
    assert_eq!(value::<String>(&pool, query).await, "f a file node-1 1");
    late.commit().await.expect("committed");
    assert_eq!(value::<String>(&pool, query).await, "f a file node-1 2");
}
