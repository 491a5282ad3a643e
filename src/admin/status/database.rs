//! A database on the board.

use std::sync::Arc;

use serde::Serialize;

use super::cluster::ClusterStatus;

/// A database on the board.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DatabaseStatus {
    /// Its name.
    pub name: Arc<str>,
    /// Whether it answered last.
    pub up: bool,
    /// Why it did not.
    pub problem: Option<String>,
    /// The server behind its URL that answered last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerStatus>,
    /// The nodes that use it, once this one has heard of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterStatus>,
    /// Nodes of it that divide the shards in another database than this one, by name:
    /// their `cluster.database` is another.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub other_budgets: Vec<Arc<str>>,
}

impl DatabaseStatus {
    /// It answered, or did not and why; what else was known of it stays.
    pub(super) fn told(name: &Arc<str>, problem: Option<String>, before: Option<Self>) -> Self {
        let before = before.unwrap_or_else(|| Self {
            name: Arc::clone(name),
            up: false,
            problem: None,
            server: None,
            cluster: None,
            other_budgets: Vec::new(),
        });
        Self {
            up: problem.is_none(),
            problem,
            ..before
        }
    }
}

/// A server on the board.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServerStatus {
    /// When it was started, as it says.
    pub started_at: String,
    /// Its version.
    pub version: String,
    /// What `initdb` called its cluster, where that can be read.
    pub system_identifier: Option<String>,
    /// Its timeline, where that can be read.
    pub timeline: Option<u32>,
}
