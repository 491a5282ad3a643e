//! Many rows in one Kinesis record.
//!
//! Why: a shard takes 1,000 records a second and AWS bills PUT units of 25 KB, so
//! small events cost twenty to a hundred times less together; and the rows of one
//! record are stored together or not at all, so that one key can run at the byte
//! rate of its shard without losing its order.
//!
//! Rules:
//! - a record holds rows of one pipeline only; of each key the first ones that wait,
//!   in order, and each key is in one record of a call;
//! - a record of one row is the row's data under its own partition key;
//! - a record whose rows are all of one key has that key as its partition key: it
//!   goes to the right shard whatever the relay knows of the shards;
//! - a record of several keys has the partition key [`SHARED_KEY`] and the hash key
//!   of its first row as explicit hash key, which lies in the range of the shard it
//!   is meant for. Its rows are right only in that shard: a record that went to
//!   another one is sent again, row by row (see [`super::dispatch`]).
//!
//! | container | data |
//! |---|---|
//! | `kpl` | the aggregation format of the Kinesis Producer Library: see [`kpl`] |
//! | `ndjson` | the bodies, each with a newline behind it, compressed as a whole if asked for; a record of one row as well |

pub mod kpl;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;

use super::compression::Compression;

/// The partition key of a record that holds rows of several keys; the one the
/// Kinesis Producer Library uses. Its explicit hash key decides the shard.
pub const SHARED_KEY: &str = "a";

/// The most a record that holds several rows weighs, unless its pipeline says
/// otherwise: two PUT units of 25 KB (25,000 bytes, the smaller of the two readings),
/// partition key included. A shard's whole 1 MiB/s goes through one such record per
/// call up to round trips of 48 ms.
pub const DEFAULT_MAX_BYTES: usize = 50_000;

/// The most that may be asked for: what every stream takes as one record.
pub const MOST_MAX_BYTES: usize = 1 << 20;

/// The least that may be asked for: a record limit worth a thousandth of a shard.
pub const LEAST_MAX_BYTES: usize = 1_000;

/// How the rows of a pipeline become records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Aggregation {
    /// Each row is a record.
    #[default]
    None,
    /// Records of the Kinesis Producer Library.
    Kpl,
    /// Bodies line by line.
    Ndjson,
}

/// A text that names no aggregation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown aggregation {text:?} (allowed are none, kpl, ndjson)")]
pub struct UnknownAggregation {
    /// The text.
    pub text: String,
}

/// What holds the rows of a record together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Container {
    /// The format of the Kinesis Producer Library.
    Kpl,
    /// Lines.
    Ndjson,
}

/// How the rows of one pipeline share records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packing {
    /// In what.
    pub container: Container,
    /// What is done to a record's data in the end.
    pub compression: Compression,
    /// The most a record of several rows weighs, partition key included, in bytes.
    pub max_bytes: usize,
}

/// One row of a record to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubRecord {
    /// Its partition key.
    pub key: Arc<str>,
    /// The key's hash key.
    pub hash: u128,
    /// Its data.
    pub body: Bytes,
}

/// A record that is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// Its partition key.
    pub key: Arc<str>,
    /// What decides its shard, where the partition key does not.
    pub explicit_hash_key: Option<u128>,
    /// Its data.
    pub data: Bytes,
}

/// Measures a record while rows are added to it: exactly, but for compression, which
/// may make it lighter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measure {
    container: Container,
    compression: Compression,
    rows: usize,
    keys: usize,
    first_key: usize,
    content: Content,
}

/// Bytes of data without what frames them: of all rows together, of the first alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Content {
    packed: usize,
    alone: usize,
}

// === impl Aggregation ===

impl Aggregation {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::None, Self::Kpl, Self::Ndjson];

    /// Its name in a configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Kpl => "kpl",
            Self::Ndjson => "ndjson",
        }
    }

    /// What holds the rows together, if they share records.
    #[must_use]
    pub const fn container(self) -> Option<Container> {
        match self {
            Self::None => None,
            Self::Kpl => Some(Container::Kpl),
            Self::Ndjson => Some(Container::Ndjson),
        }
    }
}

impl fmt::Display for Aggregation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Aggregation {
    type Err = UnknownAggregation;

    fn from_str(text: &str) -> Result<Self, UnknownAggregation> {
        let named = Self::ALL.into_iter().find(|one| one.as_str() == text);
        named.ok_or_else(|| UnknownAggregation {
            text: text.to_owned(),
        })
    }
}

// === impl Measure ===

impl Measure {
    /// Of a record without rows.
    #[must_use]
    pub const fn empty(packing: Packing) -> Self {
        Self {
            container: packing.container,
            compression: packing.compression,
            rows: 0,
            keys: 0,
            first_key: 0,
            content: Content {
                packed: 0,
                alone: 0,
            },
        }
    }

    /// With one more row: of the key at place `key` among the record's keys, in the
    /// order of their first rows, with a key and a body of so many bytes.
    #[must_use]
    pub const fn with(self, key: usize, key_bytes: usize, body_bytes: usize) -> Self {
        let is_new_key = key >= self.keys;
        let content = match self.container {
            Container::Kpl => {
                let entry = if is_new_key {
                    kpl::key_bytes(key_bytes)
                } else {
                    0
                };
                entry + kpl::record_bytes(key, body_bytes)
            }
            Container::Ndjson => body_bytes,
        };
        let content = if self.rows == 0 {
            Content {
                packed: content,
                alone: body_bytes,
            }
        } else {
            Content {
                packed: self.content.packed + content,
                ..self.content
            }
        };
        Self {
            container: self.container,
            compression: self.compression,
            rows: self.rows + 1,
            keys: if is_new_key { self.keys + 1 } else { self.keys },
            first_key: if self.rows == 0 {
                key_bytes
            } else {
                self.first_key
            },
            content,
        }
    }

    /// How many keys it has.
    #[must_use]
    pub const fn keys(self) -> usize {
        self.keys
    }

    /// What the record weighs at most, data and partition key, in bytes.
    #[must_use]
    pub const fn weight(self) -> usize {
        let key = if self.keys <= 1 {
            self.first_key
        } else {
            SHARED_KEY.len()
        };
        let is_alone = self.rows <= 1;
        let data = match self.container {
            Container::Kpl if !is_alone => kpl::FRAME_BYTES + self.content.packed,
            Container::Ndjson if !is_alone => self.content.packed,
            Container::Kpl | Container::Ndjson => self.content.alone,
        };
        key + self.compression.most_bytes(data)
    }
}

// === Making records ===

/// Makes rows into a record. Rows of one hash key must be of one key; of no rows a
/// record without data is made.
#[must_use]
pub fn pack(packing: Packing, rows: &[SubRecord]) -> Packed {
    let goes_by = rows.first().map_or(0, |row| row.hash);
    let one_key = rows
        .first()
        .filter(|_| rows.iter().all(|row| row.hash == goes_by));
    let data = match (packing.container, rows) {
        (_, [alone]) => alone.body.clone(),
        (Container::Kpl, _) => kpl::encode(rows),
        (Container::Ndjson, _) => lines(rows),
    };
    Packed {
        key: one_key.map_or_else(|| SHARED_KEY.into(), |row| Arc::clone(&row.key)),
        explicit_hash_key: one_key.is_none().then_some(goes_by),
        data: packing.compression.compress(data),
    }
}

fn lines(rows: &[SubRecord]) -> Bytes {
    let mut lines = Vec::with_capacity(rows.iter().map(|row| row.body.len()).sum());
    for row in rows {
        lines.extend_from_slice(&row.body);
    }
    lines.into()
}

#[cfg(test)]
mod tests;
