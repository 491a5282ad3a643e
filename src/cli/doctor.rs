//! `tidegate doctor`: looks at everything a relay needs, says of each thing whether it
//! is good, and of what is not what mends it. Nothing is written anywhere.
//!
//! Databases are looked into at the same time, then the streams of the pipelines that
//! were found; one that is down stops no other. What is found is judged in
//! [`crate::core::checkup`].

mod databases;
mod shown;
mod streams;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use futures::future::join_all;

use super::{FAILED, Failure, Output};
use crate::config::desired::{Desired, Wanted};
use crate::config::human_duration::HumanDuration;
use crate::config::settings::{DatabaseSettings, Settings};
use crate::core::checkup::{Finding, Level, Section, Subject, count};

/// Above this a transaction is called old: far longer than one that publishes takes,
/// and soon enough to find who left it open.
const LONG_TRANSACTION: HumanDuration = HumanDuration(Duration::from_secs(300));

/// What is to be looked at.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Only this database of the settings, and the streams of its pipelines
    #[arg(long, value_name = "NAME")]
    database: Option<String>,
    /// Leave AWS alone: look at the databases and no stream
    #[arg(long)]
    skip_aws: bool,
    /// From which age on an open or prepared transaction is warned of
    #[arg(long, value_name = "DURATION", default_value_t = LONG_TRANSACTION)]
    long_transaction: HumanDuration,
}

pub(super) fn run(
    settings: Settings,
    arguments: &Arguments,
    output: Output,
) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("no runtime: {error}")))?;
    let sections = runtime.block_on(Box::pin(examine(Arc::new(settings), arguments)))?;
    output.result(&shown::text(&sections), &shown::json(&sections));
    Ok(if count(&sections, Level::Fail) == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FAILED)
    })
}

async fn examine(settings: Arc<Settings>, arguments: &Arguments) -> Result<Vec<Section>, Failure> {
    let databases = choose(&settings, arguments.database.as_deref())?;
    let most = arguments.long_transaction.0.as_secs_f64();
    let looks = databases.iter().map(|one| databases::examine(one, most));
    let mut examined = join_all(looks).await;
    let definitions: BTreeMap<_, _> = databases
        .iter()
        .zip(&mut examined)
        .map(|(database, found)| (Arc::clone(&database.name), std::mem::take(&mut found.rows)))
        .collect();
    let desired = Desired::new(Arc::clone(&settings), &definitions.into());
    let is_chosen = |name: &str| databases.iter().any(|database| *database.name == *name);
    let mut sections = vec![pipelines(&desired, is_chosen)];
    let mut rates = Vec::new();
    for (database, found) in databases.iter().zip(&examined) {
        let rates_here = databases::rates(database, found, &desired).await;
        rates.push((Arc::clone(&database.name), rates_here));
    }
    sections.extend(examined.into_iter().map(|found| found.section));
    if !arguments.skip_aws {
        let rates = rates.into_iter().collect();
        sections.extend(streams::examine(&settings, &desired, is_chosen, &rates).await);
    }
    Ok(sections)
}

/// The databases that were asked for.
fn choose<'a>(
    settings: &'a Settings,
    name: Option<&str>,
) -> Result<Vec<&'a DatabaseSettings>, Failure> {
    let is_chosen = |database: &&DatabaseSettings| name.is_none_or(|name| *database.name == *name);
    let chosen: Vec<_> = settings.databases.iter().filter(is_chosen).collect();
    if chosen.is_empty() {
        let names: Vec<&str> = settings.databases.iter().map(|one| &*one.name).collect();
        return Err(Failure::Usage(format!(
            "--database {:?} is not configured; expected one of: {}",
            name.unwrap_or_default(),
            names.join(", ")
        )));
    }
    Ok(chosen)
}

/// The definitions: one that is not acceptable does not run.
fn pipelines(desired: &Desired, is_chosen: impl Fn(&str) -> bool) -> Section {
    const CHECK: &str = "definition";
    let here = || {
        let all = desired.pipelines.iter();
        all.filter(|(key, _)| is_chosen(&key.database))
    };
    let mut findings = Vec::new();
    let mut good = 0_usize;
    for (key, wanted) in here() {
        match wanted {
            Wanted::Run { .. } => good += 1,
            Wanted::Invalid { reason, .. } => {
                let message = format!("pipeline {key} does not run: {reason}");
                let fix =
                    "correct it with tide.relay_set_outbox() or in the file; others are not harmed";
                findings.push(Finding::fail(CHECK, message, fix));
            }
        }
    }
    let finding = if here().next().is_none() {
        let fix = "define one: SELECT tide.relay_set_outbox(name, outbox, config), or [[pipelines]] in the file";
        Finding::warn(CHECK, "there is no pipeline to run", fix)
    } else {
        Finding::ok(CHECK, format!("{good} pipeline(s) to run"))
    };
    findings.insert(0, finding);
    Section {
        subject: Subject::Pipelines,
        name: "of the file and the databases".to_owned(),
        findings,
    }
}
