//! What a read costs, whatever the planner knows: pages touched under EXPLAIN.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test says what it expects"
)]
#![cfg(feature = "demo")]

#[path = "read_cost/beats.rs"]
mod beats;
#[path = "common/database.rs"]
mod database;
#[path = "common/outbox.rs"]
mod outbox;
#[path = "read_cost/positions.rs"]
mod positions;

use futures::TryStreamExt;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, PgConnection, Row};
use tidegate::core::snapshot::Snapshot;
use tidegate::postgres::PgOutboxStore;
use tidegate::postgres::pool::{PoolSettings, connect_lazily};

use crate::outbox::Fixture;

/// What EXPLAIN says of a statement.
#[derive(Debug)]
struct Cost {
    /// Pages touched.
    pages: i64,
    /// Rows given.
    rows: usize,
    plan: String,
}

impl Cost {
    #[track_caller]
    fn assert(&self, rows: usize, pages: i64, what: &str) {
        assert_eq!(self.rows, rows, "{what}: rows\n{}", self.plan);
        assert!(
            self.pages <= pages,
            "{what}: {} pages, at most {pages} expected\n{}",
            self.pages,
            self.plan
        );
    }
}

/// Runs a reading statement as the store would, under EXPLAIN, with the plan
/// made for these arguments or for any.
async fn explain(
    connection: &mut PgConnection,
    statement: &str,
    arguments: &str,
    mode: &str,
) -> Cost {
    let (_, sql) = PgOutboxStore::EXPLAINED_STATEMENTS
        .into_iter()
        .find(|(name, _)| *name == statement)
        .expect("a statement");
    let types = match statement {
        "open_window" => "int, text, text[], bigint, bigint",
        "reopen_window" => "int, text, text[], bigint, text, text, bigint",
        "read_page" => "int, text, text[], text, bigint, bigint, bigint, bigint, bigint",
        "read_rows" => "int, bigint[], bigint",
        _ => "int[], text[]",
    };
    let prepare =
        format!("SET plan_cache_mode = {mode}; DEALLOCATE ALL; PREPARE reading ({types}) AS {sql}");
    sqlx::raw_sql(AssertSqlSafe(prepare))
        .execute(&mut *connection)
        .await
        .expect("prepared");
    let explain = format!("EXPLAIN (ANALYZE, BUFFERS, TIMING OFF) EXECUTE reading ({arguments})");
    let lines: Vec<PgRow> = sqlx::raw_sql(AssertSqlSafe(explain))
        .fetch_many(&mut *connection)
        .try_filter_map(|step| async { Ok(step.right()) })
        .try_collect()
        .await
        .expect("explained");
    let plan: Vec<String> = lines.iter().map(|row| row.get(0)).collect();
    // The first line with buffers is the whole statement's.
    let buffers = plan
        .iter()
        .find(|line| line.trim_start().starts_with("Buffers: shared"));
    let pages = buffers.map_or(0, |line| {
        line.split_whitespace()
            .filter_map(|word| {
                word.strip_prefix("hit=")
                    .or_else(|| word.strip_prefix("read="))
            })
            .filter_map(|count| count.parse::<i64>().ok())
            .sum()
    });
    // "(actual rows=61 loops=1)", since PostgreSQL 18 "rows=61.00".
    let rows = plan[0].split_once("actual rows=").and_then(|(_, rest)| {
        rest.split(|end: char| !end.is_ascii_digit())
            .next()?
            .parse()
            .ok()
    });
    Cost {
        pages,
        rows: rows.expect("a number of rows"),
        plan: plan.join("\n"),
    }
}

/// How the planner's knowledge of the table came about.
#[derive(Debug, Clone, Copy)]
enum Statistics {
    Never,
    /// Taken when the table was empty.
    OfNothing,
    /// Taken when all rows were of one transaction.
    OfOneTransaction,
    Fresh,
}

/// 240,000 rows, a third of them the outbox's, ten to a transaction, between those
/// of two others; all of transactions long past.
async fn large_table(statistics: Statistics) -> (Fixture, PoolSettings) {
    let name = database::migrated_database().await;
    let settings = PoolSettings::new(&database::server().url_as(database::OWNER, &name));
    let pool = database::pool(&name);
    let fixture = Fixture::on(pool.clone(), PgOutboxStore::new(pool)).await;
    fixture
        .run("ALTER TABLE tide.outbox_message SET (autovacuum_enabled = off)")
        .await;
    let id = fixture.outbox.0;
    match statistics {
        Statistics::OfNothing => fixture.run("VACUUM ANALYZE tide.outbox_message").await,
        Statistics::OfOneTransaction => {
            let fill = format!(
                "INSERT INTO tide.outbox_message (outbox_id, xact, payload)
                SELECT {id}, '3', to_jsonb(n) FROM generate_series(1, 20000) n; ANALYZE tide.outbox_message"
            );
            fixture.run(&fill).await;
        }
        Statistics::Never | Statistics::Fresh => {}
    }
    fixture
        .run(&format!(
            "INSERT INTO tide.outbox_message (outbox_id, xact, payload)
            SELECT {id} + n % 3, (10 + n / 30)::text::xid8, to_jsonb(n) FROM generate_series(0, 239999) n"
        ))
        .await;
    // Those transactions must be in the past.
    fixture
        .run("DO $$ BEGIN WHILE pg_current_xact_id() < '8100' LOOP COMMIT; END LOOP; END $$")
        .await;
    if matches!(statistics, Statistics::Fresh) {
        fixture.run("ANALYZE tide.outbox_message").await;
    }
    (fixture, settings)
}

/// Transactions 10 to 8,009 hold the rows. The costs are bounds on pages: a read
/// of the whole outbox would touch 3,000 to 80,000.
async fn assert_reads_are_flat(statistics: Statistics) {
    let (fixture, settings) = large_table(statistics).await;
    let id = fixture.outbox.0;
    let pool = connect_lazily(&settings).expect("a pool");
    let mut connection = pool.acquire().await.expect("connected");
    let (first, last): (i64, i64) =
        sqlx::query_as("SELECT min(id), max(id) FROM tide.outbox_message WHERE outbox_id = $1")
            .bind(id)
            .fetch_one(&mut *connection)
            .await
            .expect("ids");
    let middle = (first + last) / 2;
    let hundred: Vec<String> = (0..100).map(|n| (first + 3 * n).to_string()).collect();
    for mode in ["force_generic_plan", "force_custom_plan"] {
        let what = |read: &str| format!("{read}, {statistics:?}, {mode}");
        // The last 5 transactions are new, and one of the middle was late.
        let cost = explain(
            &mut connection,
            "open_window",
            &format!("{id}, '8005', '{{4000}}', 2000, 4000000"),
            mode,
        )
        .await;
        cost.assert(61, 300, &what("a small window"));
        let cost = explain(
            &mut connection,
            "open_window",
            &format!("{id}, '30000', '{{}}', 2000, 4000000"),
            mode,
        )
        .await;
        cost.assert(1, 60, &what("an empty window"));
        let cost = explain(
            &mut connection,
            "reopen_window",
            &format!("{id}, '4000', '{{3000}}', 2000, '4005', '4005:4005:', 4000000"),
            mode,
        )
        .await;
        cost.assert(61, 300, &what("a small window read again"));
        let page = |xmax: u32, late: &str, after: i64, fresh_after: i64| {
            format!(
                "{id}, '{xmax}', '{late}', '8010:8010:', {after}, {fresh_after}, {last}, 1000, 4000000"
            )
        };
        let cost = explain(
            &mut connection,
            "read_page",
            &page(1, "{}", 0, first - 1),
            mode,
        )
        .await;
        cost.assert(1_000, 1_500, &what("the first page of everything"));
        let cost = explain(
            &mut connection,
            "read_page",
            &page(1, "{}", middle, middle),
            mode,
        )
        .await;
        cost.assert(1_000, 1_500, &what("a page deep inside"));
        let cost = explain(
            &mut connection,
            "read_page",
            &page(4_010, "{10}", 0, middle),
            mode,
        )
        .await;
        cost.assert(1_000, 1_500, &what("a page with a late row of low id"));
        let cost = explain(
            &mut connection,
            "read_rows",
            &format!("{id}, '{{{}}}', 4000000", hundred.join(",")),
            mode,
        )
        .await;
        cost.assert(100, 700, &what("a hundred rows by id"));
        let cost = explain(
            &mut connection,
            "probe",
            &format!("'{{{id},{},{},{id}}}', '{{8010:8010:,30000:30000:,8009:8009:,\"5000:30000:5000\"}}'", id + 1, id + 2),
            mode,
        )
        .await;
        cost.assert(1, 60, &what("a probe of four outboxes"));
    }
}

#[tokio::test]
async fn reads_are_flat_without_statistics() {
    assert_reads_are_flat(Statistics::Never).await;
}

#[tokio::test]
async fn reads_are_flat_with_statistics_of_an_empty_table() {
    assert_reads_are_flat(Statistics::OfNothing).await;
}

#[tokio::test]
async fn reads_are_flat_with_statistics_of_one_transaction() {
    assert_reads_are_flat(Statistics::OfOneTransaction).await;
}

#[tokio::test]
async fn reads_are_flat_with_fresh_statistics() {
    assert_reads_are_flat(Statistics::Fresh).await;
}

/// A transaction that has inserted much and still runs costs a poll nothing.
#[tokio::test]
async fn rows_of_a_running_transaction_are_not_walked_over() {
    let fixture = Fixture::new().await;
    let mut long = fixture.begin().await;
    sqlx::raw_sql("SELECT tide.outbox_publish_many('events', array_agg(to_jsonb(n))) FROM generate_series(1, 20000) n")
        .execute(&mut *long)
        .await
        .expect("published");
    let mut connection = fixture.pool.acquire().await.expect("connected");
    // At first no later transaction has ended, and snapshots end below it; then
    // they name it.
    for named in [false, true] {
        if named {
            fixture.publish().await;
        }
        let (seen, _) = fixture.open(&Snapshot::nothing()).await;
        assert!(!named || !seen.in_progress().is_empty());
        let late: Vec<String> = seen.in_progress().iter().map(u64::to_string).collect();
        let window = format!(
            "{}, '{}', '{{{}}}', 2000, 4000000",
            fixture.outbox.0,
            seen.xmax(),
            late.join(",")
        );
        // One row: the snapshot.
        let cost = explain(
            &mut connection,
            "open_window",
            &window,
            "force_generic_plan",
        )
        .await;
        cost.assert(1, 60, "a window beside a long transaction");
        let probe = format!("'{{{}}}', '{{\"{seen}\"}}'", fixture.outbox.0);
        let cost = explain(&mut connection, "probe", &probe, "force_generic_plan").await;
        cost.assert(1, 20, "a probe beside a long transaction");
        let id = fixture.publish().await;
        let (_, rows) = fixture.open(&seen).await;
        assert_eq!(rows, [id]);
    }
    long.rollback().await.expect("rolled back");
}
