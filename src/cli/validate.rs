//! `tidegate validate`: the configuration is checked without touching anything.

use std::process::ExitCode;

use serde_json::json;

use super::{Failure, Output};
use crate::config::settings::Settings;

pub(super) fn run(
    settings: Result<Settings, Failure>,
    output: Output,
) -> Result<ExitCode, Failure> {
    let settings = settings?;
    let (databases, pipelines) = (settings.databases.len(), settings.pipelines.len());
    let text = format!(
        "the configuration is good: {databases} database(s), {pipelines} pipeline(s) in the file"
    );
    output.result(
        &text,
        &json!({ "ok": true, "databases": databases, "pipelines": pipelines }),
    );
    Ok(ExitCode::SUCCESS)
}
