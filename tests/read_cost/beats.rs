//! What a beat costs rises with the leases a node holds, not with their square: rows
//! that the parts of its plan look at. (Pages do not show it: lists are in memory.)

use serde_json::Value;
use sqlx::{AssertSqlSafe, PgConnection, PgPool};
use tidegate::postgres::PgOutboxStore;

use crate::database;

const FEW: u32 = 200;
const MANY: u32 = 2_000;

/// As many times the rows for so many times the leases, and a tenth for what comes in
/// whole pages.
const MOST_GROWTH: u64 = MANY as u64 / FEW as u64 * 11 / 10;

/// The node holds so many leases under epoch 1, and there are as many of another.
async fn hold(pool: &PgPool, leases: u32) {
    let fill = format!(
        "INSERT INTO tide.relay_server_life DEFAULT VALUES ON CONFLICT DO NOTHING;
        TRUNCATE tide.relay_lease, tide.relay_position;
        INSERT INTO tide.relay_lease (pipeline, owner, epoch, expires_at, taken_at)
        SELECT node || n, node, 1, clock_timestamp() + interval '1 hour', clock_timestamp()
        FROM generate_series(1, {leases}) n, (VALUES ('one'), ('two')) AS nodes (node);
        INSERT INTO tide.relay_position (pipeline, epoch, server_started, server_life)
        SELECT l.pipeline, 1, pg_postmaster_start_time(), (SELECT s.life FROM tide.relay_server_life AS s)
        FROM tide.relay_lease AS l"
    );
    sqlx::raw_sql(AssertSqlSafe(fill))
        .execute(pool)
        .await
        .expect("leases");
}

/// How many rows the parts of a plan gave and refused, all together.
fn looked_at(plan: &Value) -> u64 {
    let number = |name: &str| plan[name].as_f64().unwrap_or(0.0);
    let of_each = number("Actual Rows")
        + number("Rows Removed by Join Filter")
        + number("Rows Removed by Filter");
    let of_all = of_each * number("Actual Loops").max(1.0);
    let parts = plan["Plans"].as_array().into_iter().flatten();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a number of rows"
    )]
    let own = of_all as u64;
    own + parts.map(looked_at).sum::<u64>()
}

/// Prepares a beat of so many leases; gives what executes it.
async fn prepare(connection: &mut PgConnection, leases: u32, mode: &str) -> String {
    let sql = PgOutboxStore::EXPLAINED_STATEMENTS
        .into_iter()
        .find_map(|(name, sql)| (name == "beat").then_some(sql))
        .expect("the beat");
    let pipelines: Vec<String> = (1..=leases).map(|n| format!("'one{n}'")).collect();
    let epochs = vec!["1"; pipelines.len()];
    let prepare = format!(
        "SET plan_cache_mode = {mode}; DEALLOCATE ALL;
        PREPARE beat (text, bigint, text[], bigint[], boolean, text[], text, text, bigint, text, text) AS {sql}"
    );
    sqlx::raw_sql(AssertSqlSafe(prepare))
        .execute(connection)
        .await
        .expect("prepared");
    format!(
        "EXECUTE beat ('one', 3600000000,
            ARRAY[{}], ARRAY[{}], false, '{{}}', '{{}}', '{{}}', 60000000, '', '1:1:')",
        pipelines.join(","),
        epochs.join(",")
    )
}

async fn explain(pool: &PgPool, leases: u32, mode: &str) -> Value {
    let mut connection = pool.acquire().await.expect("connected");
    let execute = prepare(&mut connection, leases, mode).await;
    let explain = format!("EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) {execute}");
    sqlx::query_scalar(AssertSqlSafe(explain))
        .persistent(false)
        .fetch_one(&mut *connection)
        .await
        .expect("explained")
}

/// How many rows come to the part of a plan that writes leases.
fn renewed(plan: &Value) -> Option<f64> {
    let parts = || plan["Plans"].as_array().into_iter().flatten();
    if plan["Node Type"] == "ModifyTable" && plan["Relation Name"] == "relay_lease" {
        let mut parts = parts();
        return parts
            .find(|part| part["Parent Relationship"] == "Outer")
            .and_then(|part| part["Actual Rows"].as_f64());
    }
    parts().find_map(renewed)
}

#[tokio::test]
async fn a_beat_costs_what_its_leases_do_and_not_their_square() {
    for analysed in [false, true] {
        let pool = database::pool(&database::migrated_database().await);
        for mode in ["force_generic_plan", "force_custom_plan"] {
            let mut rows = Vec::new();
            for leases in [FEW, MANY] {
                hold(&pool, leases).await;
                if analysed {
                    let analyse = "ANALYZE tide.relay_lease, tide.relay_position";
                    sqlx::raw_sql(analyse).execute(&pool).await.expect("done");
                }
                let explained = explain(&pool, leases, mode).await;
                let plan = &explained[0]["Plan"];
                assert_eq!(renewed(plan), Some(f64::from(leases)), "{plan:#}");
                rows.push(looked_at(plan));
            }
            eprintln!("{FEW} and {MANY} leases, analysed {analysed}, {mode}: {rows:?} rows");
            assert!(
                rows[1] <= rows[0] * MOST_GROWTH,
                "{mode}, analysed {analysed}: {rows:?} rows with {FEW} and {MANY} leases"
            );
        }
    }
}

/// So many beats are a minute and a half.
const BEATS: u32 = 90;

/// Pages that a beat touches for each version that beats before it have left: the table is
/// read twice, which is a page for dozens of versions, and where a version finds no room
/// in its page, the index holds it against all others of its key. That is 0.39 here, and
/// 1.81 where leases are searched by their keys.
const MOST_PAGES_OF_A_VERSION: f64 = 0.6;

#[tokio::test]
async fn a_beat_does_not_walk_over_versions_that_an_open_transaction_keeps() {
    for mode in ["force_generic_plan", "force_custom_plan"] {
        let pool = database::pool(&database::migrated_database().await);
        let without_vacuum = "ALTER TABLE tide.relay_lease SET (autovacuum_enabled = off)";
        sqlx::raw_sql(without_vacuum)
            .execute(&pool)
            .await
            .expect("set");
        hold(&pool, FEW).await;
        let mut open = pool.begin().await.expect("begun");
        sqlx::raw_sql("SELECT pg_current_xact_id()")
            .execute(&mut *open)
            .await
            .expect("an id");
        let mut connection = pool.acquire().await.expect("connected");
        let execute = prepare(&mut connection, FEW, mode).await;
        for _ in 0..BEATS {
            sqlx::raw_sql(AssertSqlSafe(execute.clone()))
                .execute(&mut *connection)
                .await
                .expect("a beat");
        }
        drop(connection);
        let explained = explain(&pool, FEW, mode).await;
        let plan = &explained[0]["Plan"];
        assert_eq!(renewed(plan), Some(f64::from(FEW)), "{plan:#}");
        let pages = ["Shared Hit Blocks", "Shared Read Blocks"];
        let pages: f64 = pages.iter().filter_map(|name| plan[name].as_f64()).sum();
        let of_a_version = pages / f64::from(FEW * BEATS);
        eprintln!("{mode}: {pages} pages, {of_a_version:.2} for a version");
        assert!(
            of_a_version <= MOST_PAGES_OF_A_VERSION,
            "{mode}: {of_a_version} pages for a version\n{plan:#}"
        );
        open.rollback().await.expect("rolled back");
    }
}
