//! Where a key stands: its line in the file, or the environment variable that
//! gives it.
//!
//! Settings are read from a tree that has forgotten both. The file is read once
//! more for its lines alone, and only when there is something to say of them. A key
//! that is missing is to be written in the table that lacks it: it gets that
//! table's line.

use std::collections::BTreeMap;
use std::fmt;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::environment::Environment;
use super::problem::ConfigProblem;

/// Where a key stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Location {
    /// In this line of the file, counted from 1.
    Line(usize),
    /// In this environment variable.
    Variable(String),
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => write!(f, "line {line}"),
            Self::Variable(name) => write!(f, "environment variable {name}"),
        }
    }
}

/// Everything that keeps a text from being TOML. The texts of the file are not
/// quoted: there may be a password among them.
pub(super) fn syntax_problems(file: &str, text: &str) -> Vec<ConfigProblem> {
    let (_, errors) = DeTable::parse_recoverable(text);
    let problem = |error: &toml::de::Error| {
        let line = error.span().map(|span| line_of(text, span.start));
        let given = format!("no TOML: {}", error.message());
        ConfigProblem {
            location: line.map(Location::Line),
            ..ConfigProblem::new(file, given, "TOML, as in configs/tidegate.toml")
        }
    };
    errors.iter().map(problem).collect()
}

/// Adds to every problem where its key stands, and puts them in that order.
pub fn locate(text: &str, environment: &Environment, problems: &mut [ConfigProblem]) {
    let mut lines = BTreeMap::new();
    let (document, _) = DeTable::parse_recoverable(text);
    note_table(text, document.get_ref(), "", &mut lines);
    for problem in problems.iter_mut() {
        let variable = format!("TIDEGATE__{}", problem.key.replace('.', "__")).to_uppercase();
        problem.location = if environment.get(&variable).is_some() {
            Some(Location::Variable(variable))
        } else {
            nearest_line(&lines, &problem.key).map(Location::Line)
        };
    }
    // Those without a place come last.
    problems.sort_by_key(|problem| (problem.location.is_none(), problem.location.clone()));
}

/// The line of a key, or else of the table that is to hold it.
fn nearest_line(lines: &BTreeMap<String, usize>, key: &str) -> Option<usize> {
    let mut key = key;
    loop {
        if let Some(line) = lines.get(key) {
            return Some(*line);
        }
        key = &key[..key.rfind(['.', '['])?];
    }
}

fn note_table(text: &str, table: &DeTable<'_>, path: &str, lines: &mut BTreeMap<String, usize>) {
    let dot = if path.is_empty() { "" } else { "." };
    for (key, value) in table {
        let path = format!("{path}{dot}{}", key.get_ref());
        lines.insert(path.clone(), line_of(text, key.span().start));
        note_value(text, value, &path, lines);
    }
}

fn note_value(
    text: &str,
    value: &Spanned<DeValue<'_>>,
    path: &str,
    lines: &mut BTreeMap<String, usize>,
) {
    match value.get_ref() {
        DeValue::Table(table) => note_table(text, table, path, lines),
        DeValue::Array(list) => {
            for (index, element) in list.iter().enumerate() {
                let path = format!("{path}[{index}]");
                lines.insert(path.clone(), line_of(text, element.span().start));
                note_value(text, element, &path, lines);
            }
        }
        DeValue::String(_)
        | DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_) => {}
    }
}

/// The line of a byte, counted from 1.
fn line_of(text: &str, byte: usize) -> usize {
    let before = text.as_bytes().iter().take(byte);
    1 + before.filter(|byte| **byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "[admin]\nlisten = 1\n\n[[pipelines]]\nname = \"a\"\n\n[[pipelines]]\n\
                        name = \"b\"\nrate_limit = { burst_size = 0 }\n[pipelines.on_missing]\n\
                        default = 1\n[kinesis.shard_budget]\nfraction = 2\n";

    #[track_caller]
    fn line(key: &str) -> Option<Location> {
        let mut problems = [ConfigProblem::new(key, "", "")];
        let environment = Environment::from_iter([("TIDEGATE__CLUSTER__LEASE", "1")]);
        locate(TEXT, &environment, &mut problems);
        problems[0].location.clone()
    }

    #[test]
    fn a_key_is_found_where_it_stands() {
        for (key, expected) in [
            ("admin", 1),
            ("admin.listen", 2),
            ("pipelines[0].name", 5),
            ("pipelines[1].name", 8),
            ("pipelines[1].rate_limit.burst_size", 9),
            ("pipelines[1].on_missing.default", 11),
            ("kinesis.shard_budget.fraction", 13),
        ] {
            assert_eq!(line(key), Some(Location::Line(expected)), "{key}");
        }
    }

    #[test]
    fn a_missing_key_is_where_its_table_begins() {
        assert_eq!(line("pipelines[0].outbox"), Some(Location::Line(4)));
        assert_eq!(line("pipelines[1].outbox"), Some(Location::Line(7)));
        assert_eq!(line("databases"), None);
    }

    #[test]
    fn a_variable_is_named() {
        let name = "TIDEGATE__CLUSTER__LEASE".to_owned();
        assert_eq!(line("cluster.lease"), Some(Location::Variable(name)));
    }

    #[test]
    fn every_mistake_of_syntax_is_named_and_nothing_secret_is_quoted() {
        let text = "[databases\nurl = \"hunter2\n[admin]\nlisten = = 1\n[admin]\n";
        let problems = syntax_problems("t.toml", text);
        assert!(problems.len() >= 3, "{problems:?}");
        assert_eq!(problems[0].location, Some(Location::Line(1)));
        let all: String = problems.iter().map(ToString::to_string).collect();
        assert!(all.starts_with("line 1: t.toml: no TOML: "), "{all}");
        assert!(!all.contains("hunter2"), "{all}");
    }
}
