//! Which configuration runs, on the board.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::StatusBoard;
use super::events::Happened;

/// The configuration on the board.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ConfigStatus {
    /// A hash of the configuration that runs, secrets and `node_id` left out.
    pub hash: Arc<str>,
    /// When it was taken, in seconds since 1970.
    pub taken_at: f64,
    /// Reloads that were asked for since the start, taken or not.
    pub reloads: u64,
    /// When the last reload was, in seconds since 1970, and how it went.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_reload: Option<ReloadStatus>,
}

/// A reload on the board.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReloadStatus {
    /// When it ended, in seconds since 1970.
    pub at: f64,
    /// Whether its configuration was taken.
    pub successful: bool,
    /// What is wrong with its configuration, one entry for each mistake.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<String>,
}

impl StatusBoard {
    /// The process starts with a configuration.
    pub fn config_at_start(&self, hash: &str, at: SystemTime) {
        let config = &mut self.write().config;
        config.hash = hash.into();
        config.taken_at = seconds(at);
    }

    /// A reload has taken its configuration.
    pub fn config_taken(&self, hash: &str, at: SystemTime) {
        let mut entries = self.write();
        let config = &mut entries.config;
        config.hash = hash.into();
        config.taken_at = seconds(at);
        config.ended(at, Vec::new());
        let what = config.reload("taken");
        entries.events.add(what, 1, at);
    }

    /// A reload was refused, and why.
    pub fn config_refused(&self, errors: Vec<String>, at: SystemTime) {
        let mut entries = self.write();
        entries.config.ended(at, errors);
        let what = entries.config.reload("refused");
        entries.events.add(what, 1, at);
    }

    /// The configuration that runs.
    #[must_use]
    pub fn config(&self) -> ConfigStatus {
        self.read().config.clone()
    }

    /// Takes a database off the board.
    pub fn remove_database(&self, name: &Arc<str>) {
        let mut entries = self.write();
        entries.databases.remove(name);
        entries.retention.remove(name);
    }
}

impl ConfigStatus {
    fn ended(&mut self, at: SystemTime, errors: Vec<String>) {
        self.reloads += 1;
        self.last_reload = Some(ReloadStatus {
            at: seconds(at),
            successful: errors.is_empty(),
            errors,
        });
    }

    fn reload(&self, cause: &'static str) -> Happened {
        Happened::Reload {
            subject: self.hash.to_string(),
            cause,
        }
    }
}

/// Since 1970.
pub(super) fn seconds(at: SystemTime) -> f64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    since.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_reload_leaves_the_configuration_as_it_is() {
        let board = StatusBoard::new("n".into());
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        board.config_at_start("abc", at(1));
        let shown = serde_json::to_value(board.config()).expect("JSON");
        let start = serde_json::json!({"hash": "abc", "taken_at": 1.0, "reloads": 0});
        assert_eq!(shown, start);
        board.config_refused(vec!["log.format: wrong".to_owned()], at(2));
        let shown = serde_json::to_value(board.config()).expect("JSON");
        let refused =
            serde_json::json!({"at": 2.0, "successful": false, "errors": ["log.format: wrong"]});
        assert_eq!(shown["last_reload"], refused);
        assert_eq!(shown["hash"], "abc");
        board.config_taken("def", at(3));
        let shown = serde_json::to_value(board.config()).expect("JSON");
        assert_eq!(
            shown["last_reload"],
            serde_json::json!({"at": 3.0, "successful": true})
        );
        assert_eq!(
            (&shown["hash"], &shown["reloads"]),
            (&"def".into(), &2.into())
        );
        let events = serde_json::to_value(board.status().events).expect("JSON");
        let reload = |at: f64, subject: &str, cause: &str| {
            serde_json::json!({
                "at": at, "first_at": at, "count": 1, "kind": "reload", "subject": subject, "cause": cause,
            })
        };
        let both = serde_json::json!([reload(3.0, "def", "taken"), reload(2.0, "abc", "refused")]);
        assert_eq!(events, both);
    }
}
