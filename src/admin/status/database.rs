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
