//! A record with a native body, taken apart.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::consumer::Arrived;
use crate::core::shard_map::ShardId;

/// A row's outbox and id.
pub type EventId = (Arc<str>, i64);

/// A record whose body is a native one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    /// The shard it was read from.
    pub shard: ShardId,
    /// The record's partition key.
    pub partition_key: Arc<str>,
    /// The row's outbox.
    pub outbox: Arc<str>,
    /// The row's id.
    pub id: i64,
    /// The body's `seq`.
    pub seq: String,
    /// The body's `event_id`.
    pub event_id: String,
    /// The body's `key`.
    pub key: String,
    /// The payload's JSON text.
    pub payload: String,
}

/// A record whose data is not a native body.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("record {sequence} of {shard} is not a native body: {reason}")]
pub struct NotNative {
    /// The shard it was read from.
    pub shard: ShardId,
    /// Its sequence number.
    pub sequence: String,
    /// What is wrong with it.
    pub reason: String,
}

#[derive(Deserialize)]
struct NativeBody<'a> {
    id: Id,
    seq: String,
    event_id: String,
    outbox: String,
    key: String,
    #[serde(borrow)]
    payload: &'a RawValue,
}

/// Ids are numbers; consumers that cannot hold 64 bits take texts.
#[derive(Deserialize)]
#[serde(untagged)]
enum Id {
    Number(i64),
    Text(String),
}

impl Delivered {
    /// Reads a native body.
    ///
    /// # Errors
    /// [`NotNative`] when the data is not JSON or lacks a field.
    pub fn parse(arrived: &Arrived) -> Result<Self, NotNative> {
        let refused = |reason: String| NotNative {
            shard: arrived.shard.clone(),
            sequence: arrived.sequence.clone(),
            reason,
        };
        let body: NativeBody<'_> =
            serde_json::from_slice(&arrived.data).map_err(|error| refused(error.to_string()))?;
        let id = match body.id {
            Id::Number(id) => id,
            Id::Text(text) => text
                .parse()
                .map_err(|_| refused(format!("id {text:?} is not a number")))?,
        };
        Ok(Self {
            shard: arrived.shard.clone(),
            partition_key: arrived.partition_key.as_str().into(),
            outbox: body.outbox.into(),
            id,
            seq: body.seq,
            event_id: body.event_id,
            key: body.key,
            payload: body.payload.get().to_owned(),
        })
    }

    /// The row it carries.
    #[must_use]
    pub fn event(&self) -> EventId {
        (Arc::clone(&self.outbox), self.id)
    }

    /// What it keeps its order in: its outbox and partition key.
    #[must_use]
    pub fn lane(&self) -> (Arc<str>, Arc<str>) {
        (Arc::clone(&self.outbox), Arc::clone(&self.partition_key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    #[test]
    fn reads_native_bodies_and_says_what_is_not_one() {
        let arrived = |data: &'static str| Arrived {
            shard: "s0".into(),
            sequence: "77".to_owned(),
            partition_key: "a".to_owned(),
            data: data.into(),
            arrived_unix_ms: None,
            received_at: Instant::now(),
        };
        let body = r#"{"id":4,"seq":"00-4","event_id":"e","outbox":"events","key":"a","created_at":"x","headers":{},"payload":{"n": 1}}"#;
        let delivered = Delivered::parse(&arrived(body)).expect("a native body");
        assert_eq!((delivered.id, &*delivered.payload), (4, r#"{"n": 1}"#));
        let error = Delivered::parse(&arrived("{}")).expect_err("nothing in it");
        assert!(error.to_string().contains("record 77 of s0"), "{error}");
    }
}
