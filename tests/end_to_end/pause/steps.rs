//! What an operator does, and what he sees of it.

use std::process::Output;
use std::time::Duration;

use serde_json::Value;
use tidegate::demo::verdict::{Committed, Verdict};
use tokio::time::Instant;

use crate::relay::program;
use crate::scenario::{PATIENCE, until};
use crate::world::World;

/// Runs a command of the program that prints JSON; answers what it printed.
pub(super) fn tidegate(world: &World, arguments: &[&str]) -> (bool, Vec<Value>) {
    with_settings(&world.settings(&[]), arguments)
}

pub(super) fn with_settings(
    settings: &[(String, String)],
    arguments: &[&str],
) -> (bool, Vec<Value>) {
    let mut command = program(settings);
    command.args(["--output", "json"]).args(arguments);
    let Output { status, stdout, .. } = command.output().expect("the program runs");
    let text = String::from_utf8_lossy(&stdout);
    let lines = text.lines().map(serde_json::from_str);
    let lines: Result<Vec<Value>, _> = lines.collect();
    (status.success(), lines.expect("JSON"))
}

#[track_caller]
pub(super) fn pause(world: &World, arguments: &[&str]) -> Value {
    let (is_done, mut lines) = tidegate(world, &[&["pause"], arguments].concat());
    assert!(is_done, "{lines:?}");
    lines.remove(0)
}

#[track_caller]
pub(super) fn resume(world: &World, arguments: &[&str]) -> Value {
    let (is_done, mut lines) = tidegate(world, &[&["resume"], arguments].concat());
    assert!(is_done, "{lines:?}");
    lines.remove(0)
}

pub(super) fn arrived(world: &World, outbox: &str) -> usize {
    let delivered = world.delivered();
    let of_outbox = delivered.iter().filter(|record| *record.outbox == *outbox);
    of_outbox.count()
}

pub(super) async fn wait_for_more(world: &World, outbox: &str, more: usize) {
    let wanted = arrived(world, outbox) + more;
    let what = format!("{more} more rows of {outbox} arrive");
    until(&what, PATIENCE, || arrived(world, outbox) >= wanted).await;
}

#[track_caller]
pub(super) fn assert_exactly_once(verdict: &Verdict) {
    assert!(verdict.is_clean(), "{verdict:#?}");
    assert_eq!(verdict.duplicates, 0, "{verdict:#?}");
}

pub(super) async fn text(world: &World, sql: &str) -> String {
    sqlx::query_scalar(sqlx::AssertSqlSafe(sql.to_owned()))
        .fetch_one(&world.pool)
        .await
        .unwrap_or_else(|error| panic!("{sql}\n{error}"))
}

/// Waits until SQL shows a state of a pipeline.
pub(super) async fn wait_for_sql(world: &World, pipeline: &str, state: &str) {
    let sql = format!(
        "SELECT coalesce((SELECT state FROM tide.relay_status WHERE pipeline = '{pipeline}'), '')"
    );
    let deadline = Instant::now() + PATIENCE;
    loop {
        let shown = text(world, &sql).await;
        if shown == state {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{pipeline} is {shown:?}, not {state}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub(super) async fn publish(world: &World, outbox: &str, rows: u32) -> Vec<Committed> {
    world
        .publish_many(outbox, rows.try_into().expect("a number"), 5, 10)
        .await
}
