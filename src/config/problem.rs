//! What is wrong with a configuration, said so that it can be put right.

use std::fmt;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigProblem {
    /// The key's path, such as `pipelines[1].batch_size`.
    pub key: String,
    /// What was found there: `got 0`, `missing`, `unknown key`. Never a secret.
    pub given: String,
    /// What belongs there.
    pub expected: String,
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
        }
    }
}

impl fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
    /// The file cannot be read, or is not TOML.
    #[error("configuration file {path}: {reason}")]
    File {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Some keys are wrong: all of them, in the order they were looked at.
    #[error("the configuration has {} problem(s):{}", .0.len(), one_per_line(.0))]
    Invalid(Vec<ConfigProblem>),
}

fn one_per_line(problems: &[ConfigProblem]) -> String {
    problems
        .iter()
        .map(|problem| format!("\n  {problem}"))
        .collect()
}
