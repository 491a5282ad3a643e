//! A row of an outbox, before and after it has been made ready to send.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::position::{RowId, Seq};
use super::timestamp::Timestamp;

/// A committed row as it was read. The JSON stays text: a payload that needs no
/// look inside is never parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxRow {
    /// Its id.
    pub id: RowId,
    /// The publisher's key for the event's entity; `None` when it gave none, and
    /// the event id stands for it.
    pub dedup_key: Option<String>,
    /// The payload, as `jsonb` prints it.
    pub payload: String,
    /// The headers, as `jsonb` prints them: a JSON object, or poison.
    pub headers: String,
    /// When it was inserted.
    pub created_at: Timestamp,
    /// How long before the moment it was read it was inserted, on the
    /// database's clock.
    pub age: Duration,
}

/// What a row takes in memory beside its texts, in bytes: the structures it is kept
/// in on its way (row, envelope, ticket, lane and queue entries) and what the
/// allocator adds. Measured (docs/memory.md).
pub const ROW_OVERHEAD: usize = 512;

impl OutboxRow {
    /// What it takes in memory, in bytes.
    #[must_use]
    pub fn memory(&self) -> usize {
        let key = self.dedup_key.as_ref().map_or(0, String::len);
        self.payload.len() + self.headers.len() + key + ROW_OVERHEAD
    }
}

/// A row with its partition key and body rendered: what travels to a writer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Its place in the delivery order of its pipeline.
    pub seq: Seq,
    /// The rendered partition key: 1 to 256 characters.
    pub key: Arc<str>,
    /// MD5 of the key's UTF-8 bytes, big-endian: decides the shard.
    pub hash: u128,
    /// The record's data.
    pub body: Bytes,
}

impl Envelope {
    /// What the record weighs against a shard's bytes and a call's size: data
    /// plus partition key, in bytes.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.body.len() + self.key.len()
    }

    /// What it takes in memory until it is settled, in bytes.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.weight() + ROW_OVERHEAD
    }
}
