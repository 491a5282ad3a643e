//! `tidegate validate`: the configuration is checked without touching anything;
//! with `--diff`, what a reload of it would do.

mod plan_shown;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use serde_json::json;

use super::{BAD_CONFIGURATION, Failure, Output, load};
use crate::config::desired::Desired;
use crate::config::location;
use crate::config::plan::diff;
use crate::config::settings::Settings;

/// What is to be checked.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Print what a reload would do: which pipelines start, stop, restart or change
    /// while they run, and why. Exit code 78 if a running relay would refuse it
    #[arg(long, requires = "against")]
    diff: bool,
    /// The configuration file that the relay runs with
    #[arg(long, value_name = "OLD_FILE", requires = "diff")]
    against: Option<PathBuf>,
}

pub(super) fn run(
    arguments: &Arguments,
    file: Option<&Path>,
    output: Output,
) -> Result<ExitCode, Failure> {
    let settings = load(file)?;
    if let Some(old) = &arguments.against {
        return compare(old, settings, file, output);
    }
    output.result(&summary(&settings), &summary_json(&settings));
    Ok(ExitCode::SUCCESS)
}

/// What is said of good settings.
pub(super) fn summary(settings: &Settings) -> String {
    format!(
        "the configuration is good: {} database(s), {} pipeline(s) in the file",
        settings.databases.len(),
        settings.pipelines.len()
    )
}

pub(super) fn summary_json(settings: &Settings) -> serde_json::Value {
    json!({
        "ok": true,
        "databases": settings.databases.len(),
        "pipelines": settings.pipelines.len(),
    })
}

fn compare(
    old_file: &Path,
    new: Settings,
    file: Option<&Path>,
    output: Output,
) -> Result<ExitCode, Failure> {
    let old = load(Some(old_file)).map_err(|failure| {
        let reason = format!("--against {}: {failure}", old_file.display());
        Failure::Failed(reason)
    })?;
    let environment = new.environment.clone();
    let desired = |settings: Settings| Desired::new(Arc::new(settings), &BTreeMap::new());
    let mut plan = diff(&desired(old), &desired(new));
    // The file has been read before: what cannot be read now only has no lines.
    let text = file.and_then(|file| std::fs::read_to_string(file).ok());
    location::locate(&text.unwrap_or_default(), &environment, &mut plan.refused);
    let note = "pipelines that databases define are not looked at";
    output.result(
        &plan_shown::text(&plan, note),
        &plan_shown::json(&plan, note),
    );
    if plan.refused.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::from(BAD_CONFIGURATION))
}
