//! What is wrong with a configuration, said so that it can be put right.

use std::fmt;

use super::location::Location;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigProblem {
    /// The key's path, such as `pipelines[1].batch_size`.
    pub key: String,
    /// What was found there: `got 0`, `missing`, `unknown key`. Never a secret.
    pub given: String,
    /// What belongs there.
    pub expected: String,
    /// Where the key stands, or where it is to be added; `None` for what is neither
    /// in a file nor in an environment variable.
    pub location: Option<Location>,
}

impl ConfigProblem {
    /// A problem at `key`.
    pub fn new(
        key: impl Into<String>,
        given: impl Into<String>,
        expected: impl Into<String>,
    ) -> Self {
        Self {
            key: key.into(),
            given: given.into(),
            expected: expected.into(),
            location: None,
        }
    }
}

impl fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(location) = &self.location {
            write!(f, "{location}: ")?;
        }
        write!(
            f,
            "{}: {}; expected {}",
            self.key, self.given, self.expected
        )
    }
}

/// Why there are no settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("configuration file {path}: {reason}")]
    File {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Some keys are wrong: all of them, in the order of the file.
    #[error("the configuration has {} problem(s):{}", .0.len(), one_per_line(.0))]
    Invalid(Vec<ConfigProblem>),
}

fn one_per_line(problems: &[ConfigProblem]) -> String {
    problems
        .iter()
        .map(|problem| format!("\n  {problem}"))
        .collect()
}
