//! The load of the demo and the end-to-end tests: it trips readers, and its books
//! are exact.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test says what it expects"
)]
#![cfg(feature = "demo")]

#[path = "common/database.rs"]
#[allow(unreachable_pub, reason = "each test binary uses a part of it")]
mod database;

use std::collections::HashMap;
use std::time::Duration;

use sqlx::PgPool;
use tidegate::demo::load::{KeyOrder, Load, LoadOptions, LoadReport, OutboxLoad, TransactionSize};
use tidegate::demo::private_postgres::{PrivatePostgres, PrivatePostgresOptions};
use tidegate::postgres::pool::{PoolSettings, connect_lazily};
use tidegate::postgres::schema;

/// Far more than any step takes, for a machine under load.
const PATIENCE: Duration = Duration::from_secs(60);

/// A row as books and table both show it: outbox, id, key, place.
type Row = (String, i64, Option<String>, Option<i64>);

fn outboxes() -> Vec<OutboxLoad> {
    vec![
        OutboxLoad {
            workers: 4,
            keys: 8,
            ..OutboxLoad::new("events")
        },
        OutboxLoad {
            workers: 2,
            keys: 8,
            rows_per_second: Some(200.0),
            ..OutboxLoad::new("billing")
        },
        OutboxLoad {
            keys: 40,
            rows_per_second: Some(1500.0),
            size: TransactionSize::Bulk {
                keys: 8,
                rows_per_key: 3,
            },
            ..OutboxLoad::new("flood")
        },
        OutboxLoad {
            workers: 3,
            keys: 2,
            rows_per_second: Some(300.0),
            key_order: KeyOrder::Unlocked,
            ..OutboxLoad::new("racing")
        },
    ]
}

async fn create_outboxes(pool: &PgPool) {
    for load in outboxes() {
        sqlx::query("SELECT tide.outbox_create($1)")
            .bind(load.outbox)
            .execute(pool)
            .await
            .expect("an outbox");
    }
}

async fn rows_of_table(pool: &PgPool) -> Vec<Row> {
    sqlx::query_as(
        "SELECT o.name, m.id, m.dedup_key, (m.payload #>> '{entity,place}')::bigint
        FROM tide.outbox_message AS m JOIN tide.outbox AS o USING (outbox_id)
        ORDER BY o.name COLLATE \"C\", m.id",
    )
    .fetch_all(pool)
    .await
    .expect("the table")
}

fn rows_of_books(report: &LoadReport) -> Vec<Row> {
    let row = |row: tidegate::demo::verdict::Committed| {
        let place = row.order.map(|place| place.try_into().expect("a place"));
        let key = row.key.as_deref().map(str::to_owned);
        (row.outbox.to_string(), row.id, key, place)
    };
    let mut rows: Vec<Row> = report.rows().into_iter().map(row).collect();
    rows.sort();
    rows
}

/// The places of each key rise with the ids.
fn check_places(rows: &[Row]) {
    let mut highest: HashMap<(&str, &str), i64> = HashMap::new();
    for (outbox, id, key, place) in rows {
        assert_eq!(
            place.is_some(),
            key.is_some() && outbox != "racing",
            "row {id} of {outbox}"
        );
        let (Some(key), Some(place)) = (key, place) else {
            continue;
        };
        if let Some(before) = highest.insert((outbox, key), *place) {
            assert!(
                before < *place,
                "row {id} of {outbox}: {place} after {before}"
            );
        }
    }
    assert!(highest.len() > 10, "{} keys", highest.len());
}

/// Neighbours of a key, by id, of which the later row has the older transaction.
async fn inverted_transactions(pool: &PgPool) -> i64 {
    sqlx::query_scalar(
        "SELECT count(*) FROM (
            SELECT xact < lag(xact) OVER (PARTITION BY outbox_id, dedup_key ORDER BY id) AS inverted
            FROM tide.outbox_message
            WHERE outbox_id = (SELECT outbox_id FROM tide.outbox WHERE name = 'events')
        ) AS neighbours WHERE inverted",
    )
    .fetch_one(pool)
    .await
    .expect("the table")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_books_are_exact_and_readers_are_tripped() {
    let database = database::migrated_database().await;
    let pool = database::pool(&database);
    create_outboxes(&pool).await;
    let url = database::server().url_as(database::OWNER, &database);
    let options = LoadOptions {
        hold_open: true,
        ..LoadOptions::new(&url, outboxes(), 42)
    };
    let load = Load::start(options).await.expect("a load");
    load.wait_until_published(4000, PATIENCE)
        .await
        .expect("4000 rows");
    let held: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE backend_xid IS NOT NULL
            AND state = 'idle in transaction' AND datname = current_database()
            AND xact_start < (SELECT min(created_at) FROM tide.outbox_message) + interval '1 s')",
    )
    .fetch_one(&pool)
    .await
    .expect("the activity");
    assert!(held, "a transaction is held open");
    let published_live = load.published();
    let by_outbox = load.published_by_outbox();
    assert!(
        by_outbox.len() == 4 && by_outbox.values().all(|rows| *rows > 0),
        "{by_outbox:?}"
    );
    let report = load.stop().await.expect("the books");

    let table = rows_of_table(&pool).await;
    assert_eq!(rows_of_books(&report), table);
    assert!(published_live <= table.len() as u64);
    check_places(&table);

    let counts = report.counts;
    assert!(
        counts.rolled_back > 0 && counts.undone_rows > 0,
        "{counts:?}"
    );
    assert_eq!(
        (counts.conflicts, counts.reconnects, counts.unknown_outcomes),
        (0, 0, 0)
    );
    assert!(
        inverted_transactions(&pool).await > 0,
        "old transactions that waited"
    );
    let ids: Vec<i64> = report.committed.iter().map(|row| row.row.id).collect();
    let late = ids.windows(2).filter(|pair| pair[0] > pair[1]).count();
    assert!(
        late > 50,
        "{late} rows were committed after a row with a higher id"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_publisher_says_why() {
    let database = database::migrated_database().await;
    let url = database::server().url_as(database::OWNER, &database);
    let outboxes = vec![OutboxLoad::new("nobody-made-it")];
    let load = Load::start(LoadOptions::new(&url, outboxes, 1))
        .await
        .expect("a load");
    let error = load
        .wait_until_published(1, PATIENCE)
        .await
        .expect_err("no outbox");
    assert!(error.to_string().contains("nobody-made-it"), "{error}");
    let error = load.stop().await.expect_err("no outbox");
    assert!(error.to_string().contains("does not exist"), "{error}");
}

/// A server that can be killed, with the outboxes.
async fn own_server() -> (PrivatePostgres, PgPool, String) {
    let server = PrivatePostgres::start(PrivatePostgresOptions::default()).expect("a server");
    let url = server.create_database("app").await.expect("a database");
    let pool = connect_lazily(&PoolSettings::new(&url)).expect("a pool");
    schema::migrate(&pool).await.expect("migrations");
    create_outboxes(&pool).await;
    (server, pool, url)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_books_stay_exact_when_the_server_is_killed() {
    let (mut server, pool, url) = own_server().await;
    let load = Load::start(LoadOptions::new(&url, outboxes(), 43))
        .await
        .expect("a load");
    for round in 1..=4 {
        load.wait_until_published(round * 400, PATIENCE)
            .await
            .expect("rows");
        pool.close().await;
        server.kill().expect("killed");
        server.restart().expect("a server again");
    }
    load.wait_until_published(2400, PATIENCE)
        .await
        .expect("rows after the last crash");
    let report = load.stop().await.expect("the books");
    let pool = connect_lazily(&PoolSettings::new(&url)).expect("a pool");
    let table = rows_of_table(&pool).await;
    assert_eq!(rows_of_books(&report), table);
    check_places(&table);
    assert!(report.counts.reconnects > 0, "{:?}", report.counts);
}

/// Waits until a question has an answer of at least one.
async fn wait_for_some(pool: &PgPool, question: &'static str) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let count: i64 = sqlx::query_scalar(question)
            .fetch_one(pool)
            .await
            .expect("an answer");
        if count > 0 {
            return;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "none within {PATIENCE:?}: {question}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_without_an_answer_is_looked_up() {
    let (mut server, pool, url) = own_server().await;
    let load = Load::start(LoadOptions::new(&url, outboxes(), 44))
        .await
        .expect("a load");
    load.wait_until_published(200, PATIENCE)
        .await
        .expect("rows");
    // A standby that never comes: commits are written and never answered.
    for statement in [
        "ALTER SYSTEM SET synchronous_standby_names = 'nobody'",
        "SELECT pg_reload_conf()",
    ] {
        server.administer(statement).await.expect("a setting");
    }
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    wait_for_some(&pool, waits).await;
    server.kill().expect("killed");
    server.restart().expect("a server again");
    for statement in [
        "ALTER SYSTEM RESET synchronous_standby_names",
        "SELECT pg_reload_conf()",
    ] {
        server.administer(statement).await.expect("a setting");
    }
    let before = load.published();
    load.wait_until_published(before + 200, PATIENCE)
        .await
        .expect("rows after the crash");
    let report = load.stop().await.expect("the books");
    let pool = connect_lazily(&PoolSettings::new(&url)).expect("a pool");
    let table = rows_of_table(&pool).await;
    assert_eq!(rows_of_books(&report), table);
    check_places(&table);
    assert!(report.counts.unknown_committed > 0, "{:?}", report.counts);
}
