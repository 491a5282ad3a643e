//! The nodes of a database on the board.

use std::sync::Arc;

use serde::Serialize;

/// The nodes of a database, as of this node's last beat.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClusterStatus {
    /// How many pipelines of the database this node has.
    pub held: usize,
    /// How many should be its part.
    pub target: usize,
    /// All nodes, this one included, by name.
    pub nodes: Vec<NodeStatus>,
}

/// A node on the board.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NodeStatus {
    /// What it is called in leases.
    pub node: Arc<str>,
    /// `live`, `joining` (before its second beat) or `draining`.
    pub state: &'static str,
    /// How long ago its last beat was, in seconds.
    pub silent_seconds: f64,
    /// How many pipelines it has.
    pub pipelines: usize,
    /// How many pipelines of others it asks for.
    pub asks: usize,
}
