//! `tidegate rebase`: makes the outboxes of a database that was restored from a
//! dump, or moved by logical replication, deliverable again.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::migrate::pool_settings;
use super::progress::Progress;
use super::{Failure, Output};
use crate::config::settings::Settings;
use crate::postgres::pool::connect_lazily;
use crate::postgres::rebase::{Rebased, outboxes, rebase};

/// Options of the command.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Only this database of the settings
    #[arg(long, value_name = "NAME")]
    database: Option<String>,
    /// Only this outbox
    #[arg(long, value_name = "NAME", conflicts_with = "pipeline")]
    outbox: Option<String>,
    /// Only the outbox of this pipeline; other pipelines of it are rebased along,
    /// since they read the same messages
    #[arg(long, value_name = "NAME")]
    pipeline: Option<String>,
    /// Say what would be done and change nothing
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn run(
    settings: &Settings,
    arguments: &Arguments,
    output: Output,
) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("no runtime: {error}")))?;
    runtime.block_on(rebase_all(settings, arguments, output))
}

async fn rebase_all(
    settings: &Settings,
    arguments: &Arguments,
    output: Output,
) -> Result<ExitCode, Failure> {
    let mut found = 0;
    let asked = arguments.database.as_deref();
    let databases = settings
        .databases
        .iter()
        .filter(|database| asked.is_none_or(|name| name == &*database.name));
    for database in databases {
        let name = &database.name;
        let failed =
            |error: &dyn std::fmt::Display| Failure::Failed(format!("database {name:?}: {error}"));
        let pool = connect_lazily(&pool_settings(database)).map_err(|error| failed(&error))?;
        let (outbox, pipeline) = (arguments.outbox.as_deref(), arguments.pipeline.as_deref());
        let names = outboxes(&pool, outbox, pipeline)
            .await
            .map_err(|error| failed(&error))?;
        let count = names.len();
        for (number, outbox) in (1..).zip(names) {
            found += 1;
            let what = format!("rebasing outbox {outbox:?} ({number} of {count})");
            let progress = Progress::spinner(output, &what);
            let rebased = rebase(&pool, &outbox, arguments.dry_run).await;
            progress.clear();
            let rebased =
                rebased.map_err(|error| failed(&format!("outbox {outbox:?}: {error}")))?;
            let text = text(name, &rebased, arguments.dry_run);
            output.result(&text, &value(name, &rebased, arguments.dry_run));
        }
        pool.close().await;
    }
    if found == 0 {
        return Err(Failure::Failed(nothing_found(settings, arguments)));
    }
    Ok(ExitCode::SUCCESS)
}

fn nothing_found(settings: &Settings, arguments: &Arguments) -> String {
    let names: Vec<&str> = settings.databases.iter().map(|one| &*one.name).collect();
    let names = names.join(", ");
    match arguments {
        Arguments {
            outbox: Some(outbox),
            ..
        } => format!("there is no outbox {outbox:?}; looked in: {names}"),
        Arguments {
            pipeline: Some(pipeline),
            ..
        } => format!(
            "pipeline {pipeline:?} has no outbox in the database; looked in: {names}. A pipeline of the file that \
             has never run has no position yet: use --outbox"
        ),
        Arguments {
            database: Some(database),
            ..
        } => {
            format!("database {database:?} is not configured or has no outbox; configured: {names}")
        }
        Arguments { .. } => format!("there are no outboxes; looked in: {names}"),
    }
}

fn text(database: &str, rebased: &Rebased, dry_run: bool) -> String {
    let Rebased {
        outbox,
        needed,
        messages,
        rewritten,
        pipelines,
    } = rebased;
    if !needed {
        return format!(
            "database {database:?}, outbox {outbox:?}: nothing to do, it is of this database"
        );
    }
    let mut lines = vec![if dry_run {
        format!(
            "database {database:?}, outbox {outbox:?}: {messages} messages; nothing was changed (--dry-run)"
        )
    } else {
        format!(
            "database {database:?}, outbox {outbox:?}: rebased; {messages} messages, {rewritten} written anew"
        )
    }];
    let will = if dry_run {
        "would deliver"
    } else {
        "will deliver"
    };
    for one in pipelines {
        lines.push(format!(
            "  pipeline {:?}: {} settled, {will} {}",
            one.pipeline, one.settled, one.to_deliver
        ));
    }
    lines.join("\n")
}

fn value(database: &str, rebased: &Rebased, dry_run: bool) -> Value {
    let pipelines = rebased.pipelines.iter().map(|one| {
        json!({ "pipeline": one.pipeline, "settled": one.settled, "to_deliver": one.to_deliver })
    });
    json!({
        "database": database,
        "outbox": rebased.outbox,
        "needed": rebased.needed,
        "dry_run": dry_run,
        "messages": rebased.messages,
        "rewritten": rebased.rewritten,
        "pipelines": pipelines.collect::<Vec<_>>(),
    })
}
