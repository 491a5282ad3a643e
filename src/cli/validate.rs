//! `tidegate validate`: the configuration is checked without touching anything;
//! with `--diff`, what a reload of it would do.

mod plan_shown;
mod running;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use serde_json::json;

use super::admin_port::address_of;
use super::{BAD_CONFIGURATION, Failure, Output, load};
use crate::config::desired::{Catalogs, Desired};
use crate::config::location;
use crate::config::plan::diff;
use crate::config::settings::Settings;
use crate::config::shown;

/// What is to be checked.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Print what a reload would do: which pipelines start, stop, restart or change
    /// while they run, and why. Asks the relay that runs at admin.listen what it
    /// runs by; exit code 78 if it would refuse the reload
    #[arg(long)]
    diff: bool,
    /// Compare with this instead: the file that a relay runs by (offline; pipelines
    /// of databases are left out), or the admin port of a relay, as in
    /// http://127.0.0.1:9464
    #[arg(long, value_name = "OLD_FILE|URL", requires = "diff")]
    against: Option<String>,
}

pub(super) fn run(
    arguments: &Arguments,
    file: Option<&Path>,
    output: Output,
) -> Result<ExitCode, Failure> {
    let settings = load(file)?;
    if arguments.diff {
        return compare(arguments.against.as_deref(), settings, file, output);
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

/// Two states to compare, and what is to be known of them.
struct Compared {
    old: Desired,
    new: Desired,
    note: &'static str,
}

fn compare(
    against: Option<&str>,
    new: Settings,
    file: Option<&Path>,
    output: Output,
) -> Result<ExitCode, Failure> {
    let environment = new.environment.clone();
    let url = "http://";
    let compared = match against {
        Some(old) if !old.starts_with(url) => with_file(Path::new(old), new)?,
        Some(address) => {
            let address = address.trim_start_matches(url).trim_end_matches('/');
            with_relay(address, &new)?
        }
        None => with_relay(&address_of(new.admin.listen), &new)?,
    };
    let mut plan = diff(&compared.old, &compared.new);
    // The file has been read before: what cannot be read now only has no lines.
    let text = file.and_then(|file| std::fs::read_to_string(file).ok());
    location::locate(&text.unwrap_or_default(), &environment, &mut plan.refused);
    output.result(
        &plan_shown::text(&plan, compared.note),
        &plan_shown::json(&plan, compared.note),
    );
    if plan.refused.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::from(BAD_CONFIGURATION))
}

fn with_file(old_file: &Path, new: Settings) -> Result<Compared, Failure> {
    let old = load(Some(old_file)).map_err(|failure| {
        let reason = format!("--against {}: {failure}", old_file.display());
        Failure::Failed(reason)
    })?;
    let desired = |settings: Settings| Desired::new(Arc::new(settings), &Catalogs::default());
    Ok(Compared {
        old: desired(old),
        new: desired(new),
        note: "pipelines that databases define are not looked at",
    })
}

/// The relay tells its secrets as marks, so ours are made marks as well.
fn with_relay(address: &str, new: &Settings) -> Result<Compared, Failure> {
    let (old, catalogs) = running::loaded(address)?;
    let marked = shown::read(&shown::tree(new)).map_err(|problems| {
        let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        let reason = format!(
            "the configuration cannot be compared: {}",
            problems.join("; ")
        );
        Failure::Failed(reason)
    })?;
    Ok(Compared {
        old: Desired::new(Arc::new(old), &catalogs),
        new: Desired::new(Arc::new(marked), &catalogs),
        note: "pipelines that databases define are as the relay read them last",
    })
}
