//! What a running relay runs by, asked at its admin port.

use std::time::Duration;

use serde_json::Value;

use crate::cli::Failure;
use crate::cli::admin_port::ask;
use crate::config::desired::Catalogs;
use crate::config::settings::Settings;
use crate::config::shown;

/// How long the relay may take to answer: its admin port has a thread of its own.
const PATIENCE: Duration = Duration::from_secs(5);

/// Settings, and the definitions of each database.
type Loaded = (Settings, Catalogs);

/// Asks the relay at this address what it runs by.
pub(super) fn loaded(address: &str) -> Result<Loaded, Failure> {
    let failed = |reason: String| {
        Failure::Failed(format!(
            "the relay at {address} cannot be asked what it runs by: {reason}; \
             name its admin port with --against http://HOST:PORT, or the file it runs by \
             with --against FILE"
        ))
    };
    let body = get(address, "/api/config").map_err(failed)?;
    let answer: Value = serde_json::from_str(&body)
        .map_err(|error| failed(format!("its answer is no JSON ({error})")))?;
    let version = answer["version"].as_str().unwrap_or("unknown");
    let strange = |what: String| failed(format!("it is of version {version}: {what}"));
    let settings = shown::read(&answer["settings"]).map_err(|problems| {
        let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        strange(problems.join("; "))
    })?;
    let pipelines = shown::read_catalogs(&answer["catalogs"])
        .ok_or_else(|| strange("its pipelines cannot be read".to_owned()))?;
    // A relay of an older version has none.
    let tenants = shown::read_tenants(&answer["tenants"]).unwrap_or_default();
    Ok((settings, Catalogs { pipelines, tenants }))
}

/// The body of a good answer.
fn get(address: &str, path: &str) -> Result<String, String> {
    let answer = ask(address, path, PATIENCE)?;
    match answer.status {
        200 => Ok(answer.body),
        503 => Err("it is still starting".to_owned()),
        404 => Err("it is of a version that does not tell".to_owned()),
        other => Err(format!("it answers with HTTP status {other}")),
    }
}
