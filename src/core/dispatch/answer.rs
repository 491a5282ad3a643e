//! What an answer means for the rows of its call.

use crate::core::send_queue::{FlowId, Parcel};
use crate::core::shard_map::ShardId;

/// A record that is in the stream.
#[derive(Debug)]
pub struct Stored<T> {
    /// Its rows.
    pub parcel: Parcel<T>,
    /// The shard it went to.
    pub shard: ShardId,
    /// Its sequence number there.
    pub sequence: String,
}

/// What became of the records of a call. Counts are of records.
#[derive(Debug)]
pub struct Answer<T> {
    /// In the stream.
    pub stored: Vec<Stored<T>>,
    /// Refused alone in a call: this very record is not acceptable. Nothing of its
    /// key goes before [`pass_over`](super::Dispatch::pass_over) or [`take_key`](super::Dispatch::take_key).
    pub rejected: Option<Rejected<T>>,
    /// To be sent again because the shard was over its limit.
    pub throttled: usize,
    /// To be sent again because the service failed on them.
    pub failed: usize,
    /// To be sent again because it is not known whether they were stored.
    pub unknown: usize,
    /// To be sent again because the whole call was refused.
    pub refused: usize,
    /// Rows to be sent again because their record went to another shard than it was
    /// gathered for.
    pub misplaced: usize,
    /// Another shard than the writer's, if a record went there.
    pub surprise: Option<ShardId>,
}

/// A record the service does not take.
#[derive(Debug)]
pub struct Rejected<T> {
    /// Whose it is.
    pub flow: FlowId,
    /// The row.
    pub row: T,
    /// The service's error code.
    pub code: String,
    /// The service's message.
    pub message: String,
}

impl<T> Answer<T> {
    pub(super) const fn nothing() -> Self {
        Self {
            stored: Vec::new(),
            rejected: None,
            throttled: 0,
            failed: 0,
            unknown: 0,
            refused: 0,
            misplaced: 0,
            surprise: None,
        }
    }
}
