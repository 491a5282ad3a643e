//! What a beat costs rises with the leases a node holds, not with their square: rows
//! that the parts of its plan look at. (Pages do not show it: lists are in memory.)

use serde_json::Value;
use sqlx::{AssertSqlSafe, PgPool};
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

async fn explain(pool: &PgPool, leases: u32, mode: &str) -> Value {
    let sql = PgOutboxStore::EXPLAINED_STATEMENTS
        .into_iter()
        .find_map(|(name, sql)| (name == "beat").then_some(sql))
        .expect("the beat");
    let pipelines: Vec<String> = (1..=leases).map(|n| format!("'one{n}'")).collect();
    let epochs = vec!["1"; pipelines.len()];
    let mut connection = pool.acquire().await.expect("connected");
    let prepare = format!(
        "SET plan_cache_mode = {mode}; DEALLOCATE ALL;
        PREPARE beat (text, bigint, text[], bigint[], boolean, text[], text, text, bigint, text, text) AS {sql}"
    );
    sqlx::raw_sql(AssertSqlSafe(prepare))
        .execute(&mut *connection)
        .await
        .expect("prepared");
    let explain = format!(
        "EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) EXECUTE beat ('one', 3600000000,
            ARRAY[{}], ARRAY[{}], false, '{{}}', '{{}}', '{{}}', 60000000, '', '1:1:')",
        pipelines.join(","),
        epochs.join(",")
    );
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
