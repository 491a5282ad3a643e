//! Dead letters: rows that a pipeline neither delivers nor holds for.
//!
//! What happens to a row that can never be sent is the pipeline's choice
//! ([`OnPoison`]). Under `park` and `block_key` the row becomes a letter in
//! `tide.relay_dead_letter`, written together with the position that steps over
//! it, and a person decides later.
//!
//! States of a letter (`migrations/0005_dead_letters.sql` has the rules):
//!
//! | state | meaning | what follows |
//! |---|---|---|
//! | `parked` | waits for a person | `retry`, `discarded` |
//! | `waiting` | under `block_key`: behind a parked letter of its key | `retry`, `discarded` |
//! | `retry` | a person wants it sent; the relay will | `delivered`, `parked` again |
//! | `delivered` | in the stream | |
//! | `discarded` | closed undelivered, with a note why | |

use std::sync::Arc;

use super::position::{RowId, Seq};
use super::render::Poison;

/// What a pipeline does with a row that can never be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum OnPoison {
    /// Park the row, go on.
    #[default]
    Park,
    /// Park the row and, behind it, every later row of its key; all other keys
    /// flow.
    BlockKey,
    /// Stop before the row.
    Halt,
}

/// Why a row became a letter: a bounded set, for metrics and people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LetterReason {
    /// The partition key renders to nothing.
    KeyEmpty,
    /// The partition key has over 256 characters.
    KeyTooLong,
    /// The template names a field the row lacks.
    VariableMissing,
    /// The template names a field that is an object or an array.
    VariableNotScalar,
    /// The headers are no JSON object.
    HeadersNotObject,
    /// Data and key weigh more than a record of the stream may.
    RecordTooLarge,
    /// The service refused the record by itself.
    RecordRejected,
    /// It is not poison itself: an earlier row of its key is parked.
    KeyBlocked,
}

/// Where a letter stands when a relay writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LetterState {
    /// It waits for a person.
    Parked,
    /// It waits behind a parked letter of its key. Written as `retry` when there
    /// is none any more: a person has just released the key.
    Waiting,
}

/// A row to be parked. Payload, headers and the rest are copied from
/// `tide.outbox_message` where they are: they do not travel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The row's place in the delivery order.
    pub seq: Seq,
    /// Its partition key, if it has one that the stream takes.
    pub key: Option<Arc<str>>,
    /// Why.
    pub reason: LetterReason,
    /// Why, for people.
    pub message: String,
    /// Where it stands.
    pub state: LetterState,
    /// Whether its key is blocked with it (`on_poison = block_key`).
    pub blocks_key: bool,
    /// What is copied for it, in bytes: bounds one write.
    pub weight: usize,
}

/// What is known of the letters of a pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Letters {
    /// No row above this id has a letter; 0 when there is none.
    pub highest_row: RowId,
    /// The keys that are blocked, at most [`MOST_BLOCKED_KEYS`] and one more.
    pub blocked_keys: Vec<String>,
    /// Letters that wait for a person, counted up to [`LETTERS_COUNTED`].
    pub open: u64,
}

/// The most keys of a pipeline that may be blocked at a time: with more, the
/// fault is not in single rows, and the pipeline stops.
pub const MOST_BLOCKED_KEYS: usize = 10_000;

/// Counting letters stops here: it must be cheap at any number.
pub const LETTERS_COUNTED: u64 = 10_000;

// === impl OnPoison ===

impl OnPoison {
    /// All of them, the default first.
    pub const ALL: [Self; 3] = [Self::Park, Self::BlockKey, Self::Halt];

    /// Its name in configurations.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Park => "park",
            Self::BlockKey => "block_key",
            Self::Halt => "halt",
        }
    }
}

// === impl LetterReason ===

impl LetterReason {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::KeyEmpty,
        Self::KeyTooLong,
        Self::VariableMissing,
        Self::VariableNotScalar,
        Self::HeadersNotObject,
        Self::RecordTooLarge,
        Self::RecordRejected,
        Self::KeyBlocked,
    ];

    /// Its stable name in letters, metrics and statuses.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::KeyEmpty => "key_empty",
            Self::KeyTooLong => "key_too_long",
            Self::VariableMissing => "variable_missing",
            Self::VariableNotScalar => "variable_not_scalar",
            Self::HeadersNotObject => "headers_not_object",
            Self::RecordTooLarge => "record_too_large",
            Self::RecordRejected => "record_rejected",
            Self::KeyBlocked => "key_blocked",
        }
    }
}

impl From<&Poison> for LetterReason {
    fn from(poison: &Poison) -> Self {
        match poison {
            Poison::KeyEmpty => Self::KeyEmpty,
            Poison::KeyTooLong { .. } => Self::KeyTooLong,
            Poison::VariableMissing { .. } => Self::VariableMissing,
            Poison::VariableNotScalar { .. } => Self::VariableNotScalar,
            Poison::HeadersNotObject { .. } => Self::HeadersNotObject,
            Poison::RecordTooLarge { .. } => Self::RecordTooLarge,
        }
    }
}

// === impl LetterState ===

impl LetterState {
    /// Its name in the table.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Parked => "parked",
            Self::Waiting => "waiting",
        }
    }
}
