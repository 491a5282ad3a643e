//! Where a pipeline stands in its outbox, as it is written down.
//!
//! A position is a base snapshot (everything it sees is settled) and the open
//! windows after it. Window `n` holds the rows that are visible in its snapshot
//! and not in the one before it. A window is written down before its first row
//! is sent: a restart then reads the same windows under the same numbers, and a
//! row keeps its `seq` when it is sent again.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::digits::write_padded;
use super::shard_map::HashRange;
use super::snapshot::Snapshot;

/// A row's id in its outbox: `tide.outbox_message.id`.
pub type RowId = i64;

/// The number of a window; rises by one with every window of a pipeline and is
/// never used twice.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct WindowNumber(pub u64);

impl WindowNumber {
    /// The number after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// The delivery order of a pipeline's rows: by window, then by id. The row id
/// alone would not do, since a transaction that commits late shows a lower id
/// after a higher one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Seq {
    /// The window the row was read in.
    pub window: WindowNumber,
    /// The row.
    pub id: RowId,
}

impl fmt::Display for Seq {
    /// 34 characters: 14 digits of the window number (at 200 windows a second
    /// they last 15,000 years), a dash, 19 digits of the id (the width of the
    /// largest bigint). Comparing the texts compares the pairs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let window = self.window.0;
        let Ok(id) = u64::try_from(self.id) else {
            return write!(f, "{window:014}-{:019}", self.id);
        };
        if window >= 100_000_000_000_000 {
            return write!(f, "{window:014}-{id:019}");
        }
        let mut text = [b'-'; 34];
        write_padded(&mut text[..14], window);
        write_padded(&mut text[15..], id);
        f.write_str(str::from_utf8(&text).unwrap_or_default())
    }
}

/// A window that was begun and is not settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenWindow {
    /// Its number.
    pub number: WindowNumber,
    /// What it reaches up to.
    pub snapshot: Snapshot,
}

/// Rows whose hash key lies in `range` are settled up to `settled`, although the
/// base has not come so far: their shard is ahead of another one that is stuck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The hash keys it speaks of.
    pub range: HashRange,
    /// Every row of them up to this one, itself included, is settled.
    pub settled: Seq,
}

/// The most rows a position names one by one. A lane may have as many behind a slow key as
/// its share, two seconds of its shard's rate: 2,000 for each of 64 full shards. Rows
/// beyond are sent again.
pub const MOST_AHEAD: usize = 131_072;

/// The durable position of one pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// Everything visible in it is settled.
    pub base: Snapshot,
    /// The windows begun after `base`, rising in number; each one's snapshot
    /// covers the one before.
    pub open: Vec<OpenWindow>,
    /// Rows of the first open window with an id up to this are settled; 0 when
    /// none is.
    pub settled_id: RowId,
    /// What is settled ahead of that, by rising range; the ranges do not overlap.
    pub marks: Vec<Mark>,
    /// Rows that are settled although neither the prefix nor a mark says so, in order:
    /// their shard took them before earlier ones of other keys. Written when a
    /// pipeline is handed over; see [`MOST_AHEAD`].
    pub ahead: Vec<Seq>,
    /// What the hash keys of the marks were made from: with another partition key
    /// template they say nothing. Empty when there are no marks.
    pub keyed_by: String,
    /// The highest window number ever used (0: none).
    pub last_number: WindowNumber,
}

impl Position {
    /// The position of a pipeline that has never delivered anything.
    #[must_use]
    pub const fn start() -> Self {
        Self {
            base: Snapshot::nothing(),
            open: Vec::new(),
            settled_id: 0,
            marks: Vec::new(),
            ahead: Vec::new(),
            keyed_by: String::new(),
            last_number: WindowNumber(0),
        }
    }

    /// Whether nothing of the outbox is settled or open yet.
    #[must_use]
    pub fn has_not_begun(&self) -> bool {
        self.base == Snapshot::nothing() && self.open.is_empty()
    }

    /// The snapshot of the newest window, or the base when none is open: where
    /// the next window begins.
    #[must_use]
    pub fn head(&self) -> &Snapshot {
        self.open
            .last()
            .map_or(&self.base, |window| &window.snapshot)
    }

    /// The mark that speaks of a hash key.
    #[must_use]
    pub fn mark_of(&self, hash: u128) -> Option<&Mark> {
        let place = self.marks.partition_point(|mark| mark.range.last < hash);
        self.marks
            .get(place)
            .filter(|mark| mark.range.contains(hash))
    }

    /// Whether a row lies before all that was unsettled when this position was
    /// written.
    #[must_use]
    pub fn has_settled_all_before(&self, seq: Seq) -> bool {
        match self.open.first() {
            None => seq.window <= self.last_number,
            Some(first) if seq.window == first.number => seq.id <= self.settled_id,
            Some(first) => seq.window < first.number,
        }
    }

    /// Whether a row is among those that were settled out of their turn.
    #[must_use]
    pub fn has_settled_ahead(&self, seq: Seq) -> bool {
        self.ahead.binary_search(&seq).is_ok()
    }

    /// Whether a row was settled when this position was written.
    #[must_use]
    pub fn has_settled(&self, seq: Seq, hash: u128) -> bool {
        self.has_settled_all_before(seq)
            || self.mark_of(hash).is_some_and(|mark| seq <= mark.settled)
            || self.has_settled_ahead(seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_text_of_a_seq_sorts_like_the_seq(
            a in (0u64..100_000_000_000_000, 0i64..), b in (0u64..100_000_000_000_000, 0i64..),
        ) {
            let seq = |(window, id)| Seq { window: WindowNumber(window), id };
            let (a, b) = (seq(a), seq(b));
            prop_assert_eq!(a.to_string().len(), 34);
            prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
        }
    }
}
