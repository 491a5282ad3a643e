//! What commands print: text for people, or one JSON object.

use std::io::Write;

use clap::ValueEnum;
use serde_json::{Value, json};

use super::Failure;
use crate::config::location::Location;
use crate::config::problem::{ConfigError, ConfigProblem};

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum Output {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl Output {
    /// Prints a result to standard output. A closed pipe is not an error.
    pub(super) fn result(self, text: &str, value: &Value) {
        let line = match self {
            Self::Text => text.to_owned(),
            Self::Json => value.to_string(),
        };
        writeln!(std::io::stdout(), "{line}").ok();
    }

    /// Prints why a command failed: text to standard error, JSON to standard
    /// output.
    pub(super) fn failure(self, failure: &Failure) {
        match self {
            Self::Text => {
                writeln!(std::io::stderr(), "tidegate: {failure}").ok();
            }
            Self::Json => {
                writeln!(std::io::stdout(), "{}", failure_json(failure)).ok();
            }
        }
    }
}

fn failure_json(failure: &Failure) -> Value {
    let Failure::Configuration(ConfigError::Invalid(problems)) = failure else {
        return json!({ "ok": false, "error": failure.to_string() });
    };
    let problems: Vec<Value> = problems.iter().map(problem_json).collect();
    json!({ "ok": false, "error": "bad configuration", "problems": problems })
}

/// A problem; `line` or `variable` says where it is, if that is known.
pub(super) fn problem_json(problem: &ConfigProblem) -> Value {
    let mut value = json!({
        "key": problem.key, "given": problem.given, "expected": problem.expected,
    });
    match &problem.location {
        Some(Location::Line(line)) => value["line"] = json!(line),
        Some(Location::Variable(name)) => value["variable"] = json!(name),
        None => {}
    }
    value
}
