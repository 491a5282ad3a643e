//! The environment variables, taken once, and the references that texts of a
//! configuration may make to them and to files.

use std::collections::HashMap;
use std::fmt;

/// Environment variables by name. Its `Debug` shows none of their values.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment(HashMap<String, String>);

/// A reference that leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// The variable is not there, or empty.
    #[error("${{env:{name}}}, but the environment variable {name} is not set or empty")]
    Variable {
        /// The variable.
        name: String,
    },
    /// The file cannot be read, or is empty.
    #[error("${{file:{path}}}, but {reason}")]
    File {
        /// The file.
        path: String,
        /// Why not.
        reason: String,
    },
    /// It refers to something else, or is not closed.
    #[error("a reference that is none of ${{env:NAME}} and ${{file:/path}}")]
    Malformed,
}

impl Environment {
    /// The variables of this process. Those that are not UTF-8 are left out.
    #[must_use]
    pub fn of_process() -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self(std::env::vars_os().filter_map(text).collect())
    }

    /// The value of a variable; `None` when it is not there or empty.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    /// All variables.
    #[must_use]
    pub const fn variables(&self) -> &HashMap<String, String> {
        &self.0
    }

    /// Puts what they refer to in the place of every `${env:NAME}` and
    /// `${file:/path}` in a text. A file's trailing line ends are left out.
    ///
    /// # Errors
    /// Names the first reference that leads nowhere; never shows what another
    /// one led to.
    pub fn resolve(&self, text: &str) -> Result<String, ReferenceError> {
        let mut resolved = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(start) = rest.find("${") {
            resolved.push_str(&rest[..start]);
            let inside = &rest[start + 2..];
            let end = inside.find('}').ok_or(ReferenceError::Malformed)?;
            resolved.push_str(&self.referred(&inside[..end])?);
            rest = &inside[end + 1..];
        }
        resolved.push_str(rest);
        Ok(resolved)
    }

    fn referred(&self, reference: &str) -> Result<String, ReferenceError> {
        if let Some(name) = reference.strip_prefix("env:") {
            let missing = || ReferenceError::Variable {
                name: name.to_owned(),
            };
            return self.get(name).map(str::to_owned).ok_or_else(missing);
        }
        let path = reference
            .strip_prefix("file:")
            .ok_or(ReferenceError::Malformed)?;
        let unusable = |reason: String| ReferenceError::File {
            path: path.to_owned(),
            reason,
        };
        let content = std::fs::read_to_string(path).map_err(|error| unusable(error.to_string()))?;
        let content = content.trim_end_matches(['\r', '\n']);
        if content.is_empty() {
            return Err(unusable("the file is empty".to_owned()));
        }
        Ok(content.to_owned())
    }
}

impl<Name: Into<String>, Value: Into<String>> FromIterator<(Name, Value)> for Environment {
    fn from_iter<I: IntoIterator<Item = (Name, Value)>>(variables: I) -> Self {
        let owned = |(name, value): (Name, Value)| (name.into(), value.into());
        Self(variables.into_iter().map(owned).collect())
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Environment({} variables)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolves_references_anywhere_in_a_text() {
        let environment = Environment::from_iter([("USER", "me"), ("PASS", "pw")]);
        let resolved = environment.resolve("postgres://${env:USER}:${env:PASS}@h/$d");
        assert_eq!(resolved.as_deref(), Ok("postgres://me:pw@h/$d"));
        let own_source = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        let resolved = environment
            .resolve(&format!("${{file:{own_source}}}"))
            .expect("a file");
        assert!(resolved.starts_with("[package]") && !resolved.ends_with('\n'));
    }

    #[test]
    fn names_what_leads_nowhere() {
        let environment = Environment::from_iter([("EMPTY", "")]);
        let error = |text: &str| {
            environment
                .resolve(text)
                .expect_err("a dead reference")
                .to_string()
        };
        assert_eq!(
            error("${env:NO}"),
            "${env:NO}, but the environment variable NO is not set or empty"
        );
        assert!(error("${env:EMPTY}").contains("EMPTY is not set or empty"));
        assert!(error("${file:/no/such/file}").starts_with("${file:/no/such/file}, but "));
        assert_eq!(
            environment.resolve("${vault:x}"),
            Err(ReferenceError::Malformed)
        );
        assert_eq!(
            environment.resolve("${env:NO"),
            Err(ReferenceError::Malformed)
        );
    }
}
