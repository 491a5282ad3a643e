//! A tenant on the board.

use std::sync::Arc;

use serde::Serialize;

/// A tenant: what it may have, and what it gets on this node.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TenantStatus {
    /// Its name.
    pub name: Arc<str>,
    /// What is wrong with its definition, if anything is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Its share where tenants contend.
    pub weight: u32,
    /// The most messages of all its pipelines in a second, on all nodes.
    pub max_messages_per_second: Option<f64>,
    /// The most bytes of all its pipelines in a second, on all nodes.
    pub max_bytes_per_second: Option<u64>,
    /// How many messages may go at once after a pause.
    pub burst: Option<u32>,
    /// The part of these rates that this node may use.
    pub quota_fraction: f64,
    /// The most bytes of its rows in memory.
    pub max_in_flight_bytes: Option<usize>,
    /// What its rows take in memory.
    pub in_flight_bytes: usize,
    /// Its pipelines.
    pub pipelines: usize,
    /// Those that this node runs.
    pub pipelines_here: usize,
    /// What has kept its rows waiting most of the time lately, if anything has.
    pub limited_by: Option<&'static str>,
    /// The seconds it kept them waiting, of each of its pipelines or shards.
    pub limited_seconds: LimitedSeconds,
}

/// How long what has kept rows waiting, in seconds since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct LimitedSeconds {
    /// A rate that was set.
    pub quota: f64,
    /// The shard.
    pub shard: f64,
    /// Rows of the same key on their way.
    pub key_order: f64,
    /// The memory.
    pub memory: f64,
}
