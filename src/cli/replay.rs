//! `tidegate replay`: has rows sent again that a pipeline has read.
//!
//! The command writes a request; the relay that owns the pipeline carries it out,
//! within two seconds if it runs. The pipeline's position stays where it is.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use sqlx::PgPool;

use super::migrate::pool_settings;
use super::progress::Progress;
use super::{Failure, Output};
use crate::config::pipeline::ShardBudgetSettings;
use crate::config::settings::{DatabaseSettings, Settings};
use crate::postgres::pool::connect_lazily;
use crate::postgres::replay;

/// How often progress is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What is to be replayed.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The pipeline
    #[arg(long, value_name = "NAME")]
    pipeline: String,
    /// The id of the first row to send again
    #[arg(long, value_name = "ID", required_unless_present = "cancel")]
    from_id: Option<i64>,
    /// The id of the last one, itself included
    #[arg(long, value_name = "ID", required_unless_present = "cancel")]
    to_id: Option<i64>,
    /// Only say what would be done
    #[arg(long, conflicts_with_all = ["wait", "cancel"])]
    dry_run: bool,
    /// Wait until it is done, showing how far it has come
    #[arg(long, conflicts_with = "cancel")]
    wait: bool,
    /// End the pipeline's replays that are queued or running
    #[arg(long, conflicts_with_all = ["from_id", "to_id"])]
    cancel: bool,
    /// The database of the pipeline, where several are configured
    #[arg(long, value_name = "NAME")]
    database: Option<String>,
}

pub(super) fn run(
    settings: &Settings,
    arguments: &Arguments,
    output: Output,
) -> Result<ExitCode, Failure> {
    let database = find_database(settings, arguments.database.as_deref())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("no runtime: {error}")))?;
    runtime.block_on(async {
        let pool = connect_lazily(&pool_settings(database)).map_err(|error| failed(&error))?;
        let done = replay(settings, &pool, arguments, output).await;
        pool.close().await;
        done
    })
}

fn failed(error: &dyn std::fmt::Display) -> Failure {
    Failure::Failed(error.to_string())
}

fn find_database<'a>(
    settings: &'a Settings,
    name: Option<&str>,
) -> Result<&'a DatabaseSettings, Failure> {
    let databases = &settings.databases;
    let names: Vec<&str> = databases.iter().map(|database| &*database.name).collect();
    let names = names.join(", ");
    match (name, &databases[..]) {
        (Some(name), _) => databases
            .iter()
            .find(|database| *database.name == *name)
            .ok_or_else(|| failed(&format!("there is no database {name:?}, only {names}"))),
        (None, [only]) => Ok(only),
        (None, []) => Err(failed(&"no database is configured: set DATABASE_URL")),
        (None, _) => Err(failed(&format!(
            "several databases are configured: say which with --database ({names})"
        ))),
    }
}

async fn replay(
    settings: &Settings,
    pool: &PgPool,
    arguments: &Arguments,
    output: Output,
) -> Result<ExitCode, Failure> {
    let pipeline = &arguments.pipeline;
    let (Some(from), Some(to)) = (arguments.from_id, arguments.to_id) else {
        let cancelled = replay::cancel_replays(pool, pipeline)
            .await
            .map_err(|error| failed(&error))?;
        let text = format!("pipeline {pipeline:?}: {cancelled} replays cancelled");
        output.result(
            &text,
            &json!({ "pipeline": pipeline, "cancelled": cancelled }),
        );
        return Ok(ExitCode::SUCCESS);
    };
    let mut plan = replay::plan_replay(pool, pipeline, from, to)
        .await
        .map_err(|error| failed(&error))?;
    let seconds = seconds_on_one_shard(&plan, settings.kinesis.shard_budget);
    plan["seconds_on_one_shard"] = json!(seconds);
    plan["dry_run"] = json!(arguments.dry_run);
    if arguments.dry_run {
        output.result(&describe(&plan), &plan);
        return Ok(ExitCode::SUCCESS);
    }
    let id = replay::request_replay(pool, pipeline, from, to)
        .await
        .map_err(|error| failed(&error))?;
    plan["replay"] = json!(id);
    output.result(
        &format!("{}\nasked for as replay {id}", describe(&plan)),
        &plan,
    );
    if arguments.wait {
        return wait(pool, id, (from, to), output).await;
    }
    Ok(ExitCode::SUCCESS)
}

/// Where nobody sees a bar each change is a line.
async fn wait(
    pool: &PgPool,
    id: i64,
    (from, to): (i64, i64),
    output: Output,
) -> Result<ExitCode, Failure> {
    let ids = u64::try_from(to.saturating_sub(from).saturating_add(1)).unwrap_or(0);
    let progress = Progress::bar(output, ids, &format!("replay {id}"));
    let mut shown = None;
    loop {
        let standing = replay::replay_standing(pool, id)
            .await
            .map_err(|error| failed(&error))?;
        let (state, next) = (&standing.state, standing.next_id);
        let (sent, skipped) = (standing.sent, standing.skipped);
        let done = u64::try_from(next.saturating_sub(from)).unwrap_or(0);
        progress.at(done.min(ids), format!("{state}, {sent} rows sent"));
        let is_over = matches!(state.as_str(), "done" | "cancelled");
        let is_news = is_over || !progress.is_shown();
        if is_over {
            progress.clear();
        }
        if is_news && shown.as_ref() != Some(&standing) {
            let text = format!(
                "replay {id}: {state}, {sent} rows sent, {skipped} cannot be sent, next id {next}"
            );
            let value = json!({ "replay": id, "state": state, "sent": sent, "skipped": skipped, "next_id": next });
            output.result(&text, &value);
        }
        match state.as_str() {
            "done" => return Ok(ExitCode::SUCCESS),
            "cancelled" => return Err(failed(&format!("replay {id} was cancelled"))),
            _ => {}
        }
        shown = Some(standing);
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// How long one shard needs for these rows with nothing else to do; n shards need
/// about an n-th of it.
fn seconds_on_one_shard(plan: &Value, budget: ShardBudgetSettings) -> f64 {
    let number = |key: &str| plan[key].as_f64().unwrap_or(0.0);
    let by_records = number("rows") / f64::from(budget.records_per_second);
    let by_bytes = number("rows") * number("bytes_per_row") / budget.bytes_per_second as f64;
    (by_records.max(by_bytes) / budget.fraction * 10.0).ceil() / 10.0
}

fn describe(plan: &Value) -> String {
    let mut lines = vec![format!(
        "pipeline {}: {}{} rows from id {} to {}, inserted from {} to {}, about {} s of one shard's budget",
        plan["pipeline"],
        plan["rows"],
        if plan["rows_at_least"] == true {
            " or more"
        } else {
            ""
        },
        plan["first_id"],
        plan["last_id"],
        plan["oldest_at"],
        plan["newest_at"],
        plan["seconds_on_one_shard"],
    )];
    if plan["before_lowest"] == true {
        lines.push(format!(
            "the lowest id still in the outbox is {}: what retention removed before it cannot be sent",
            plan["lowest_id"]
        ));
    }
    if plan["not_read_yet"] != 0 {
        lines.push(format!(
            "{} more rows of the range are not read yet: they are delivered live",
            plan["not_read_yet"]
        ));
    }
    if plan["queued_before"] != 0 {
        lines.push(format!("{} replays come before it", plan["queued_before"]));
    }
    lines.join("\n")
}
