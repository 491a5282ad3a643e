//! Marks as `tide.relay_position.marks` has them.
//!
//! A mark per shard is most of what a position weighs when one shard is stuck and
//! 500 are not, and the row is written five times a second. So ranges that lie
//! side by side name only where they begin, and neighbours that have settled the
//! same are written as one. JSON numbers hold no hash key: those are hexadecimal
//! texts.
//!
//! Beside them stand the rows that are settled ahead of all marks, if there are any:
//! [`super::ahead`]. A relay that does not know of them passes over the member, and
//! sends those rows again.

use std::num::ParseIntError;

use serde::{Deserialize, Serialize};

use super::ahead;
use crate::core::position::{Mark, Position, RowId, Seq, WindowNumber};
use crate::core::shard_map::HashRange;

/// The marks of a position.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum MarksRecord {
    /// What the hash keys were made from, and the marks.
    Keyed {
        keyed_by: String,
        ranges: Vec<MarkRecord>,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        ahead: String,
    },
    /// None.
    Empty([u8; 0]),
}

/// One mark.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum MarkRecord {
    /// First hash key; the last one, unless the next mark begins right behind it
    /// (or there is none behind it); window; id.
    Short(String, Option<String>, WindowNumber, RowId),
    /// As it was written at first.
    Long {
        first: String,
        last: String,
        window: WindowNumber,
        id: RowId,
    },
}

impl MarksRecord {
    pub(super) fn of(position: &Position) -> Self {
        if position.marks.is_empty() && position.ahead.is_empty() {
            return Self::Empty([]);
        }
        let joined = join(&position.marks);
        let mut ranges = Vec::with_capacity(joined.len());
        for (place, mark) in joined.iter().enumerate() {
            let next = joined.get(place + 1);
            let ends_before = next.map_or(u128::MAX, |next| next.range.first.saturating_sub(1));
            let last = (mark.range.last != ends_before).then(|| format!("{:x}", mark.range.last));
            let first = format!("{:x}", mark.range.first);
            ranges.push(MarkRecord::Short(
                first,
                last,
                mark.settled.window,
                mark.settled.id,
            ));
        }
        Self::Keyed {
            keyed_by: position.keyed_by.clone(),
            ranges,
            ahead: ahead::write(&position.ahead),
        }
    }

    /// Makes them part of a position.
    pub(super) fn read_into(self, position: &mut Position) -> Result<(), ParseIntError> {
        let Self::Keyed {
            keyed_by,
            ranges,
            ahead,
        } = self
        else {
            return Ok(());
        };
        let mut marks: Vec<Mark> = Vec::with_capacity(ranges.len());
        // From the last one on: a range may end where the next one begins.
        let mut end = u128::MAX;
        for range in ranges.into_iter().rev() {
            let (first, last, window, id) = match range {
                MarkRecord::Short(first, last, window, id) => (first, last, window, id),
                MarkRecord::Long {
                    first,
                    last,
                    window,
                    id,
                } => (first, Some(last), window, id),
            };
            let hash = |text: &str| u128::from_str_radix(text, 16);
            let range = HashRange {
                first: hash(&first)?,
                last: last.as_deref().map_or(Ok(end), hash)?,
            };
            end = range.first.saturating_sub(1);
            let settled = Seq { window, id };
            marks.push(Mark { range, settled });
        }
        marks.reverse();
        position.keyed_by = keyed_by;
        position.marks = marks;
        position.ahead = ahead::read(&ahead)?;
        Ok(())
    }
}

/// Neighbours that have settled the same, as one.
fn join(marks: &[Mark]) -> Vec<Mark> {
    let mut joined: Vec<Mark> = Vec::with_capacity(marks.len());
    for mark in marks {
        match joined.last_mut() {
            Some(last)
                if last.settled == mark.settled
                    && last.range.last.checked_add(1) == Some(mark.range.first) =>
            {
                last.range.last = mark.range.last;
            }
            Some(_) | None => joined.push(*mark),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn position(marks: Vec<Mark>) -> Position {
        Position {
            marks,
            keyed_by: "default {dedup_key}".to_owned(),
            ..Position::start()
        }
    }

    fn read(text: &str) -> Position {
        let record: MarksRecord = serde_json::from_str(text).expect("what was written");
        let mut position = Position::start();
        record.read_into(&mut position).expect("numbers");
        position
    }

    fn written_and_read(marks: Vec<Mark>) -> Vec<Mark> {
        let text = serde_json::to_string(&MarksRecord::of(&position(marks))).expect("json");
        read(&text).marks
    }

    #[test]
    fn rows_that_are_ahead_are_written_without_marks_too() {
        let seq = |window, id| Seq {
            window: WindowNumber(window),
            id,
        };
        let written = Position {
            ahead: vec![seq(3, 7), seq(3, 12), seq(4, 2)],
            ..position(Vec::new())
        };
        let text = serde_json::to_string(&MarksRecord::of(&written)).expect("json");
        assert_eq!(
            text,
            r#"{"keyed_by":"default {dedup_key}","ranges":[],"ahead":"3:7,5;4:2"}"#
        );
        assert_eq!(read(&text), written);
    }

    #[test]
    fn what_was_written_at_first_is_read() {
        let text = r#"{"keyed_by":"k","ranges":[{"first":"0","last":"ff","window":3,"id":7},{"first":"200","last":"2ff","window":4,"id":9}]}"#;
        let Position {
            keyed_by, marks, ..
        } = read(text);
        assert_eq!(keyed_by, "k");
        let lasts: Vec<u128> = marks.iter().map(|mark| mark.range.last).collect();
        assert_eq!(lasts, [0xff, 0x2ff]);
        assert_eq!(
            marks[1].settled,
            Seq {
                window: WindowNumber(4),
                id: 9
            }
        );
    }

    #[test]
    fn nothing_is_an_empty_list() {
        let record = MarksRecord::of(&position(Vec::new()));
        assert_eq!(serde_json::to_string(&record).expect("json"), "[]");
    }

    proptest! {
        #[test]
        fn every_hash_key_is_covered_as_before(
            cuts in prop::collection::btree_set(any::<u128>(), 1..12),
            kept in prop::collection::vec((any::<bool>(), 1u64..3, 1i64..3), 13),
            hashes in prop::collection::vec(any::<u128>(), 20),
        ) {
            let mut first = 0;
            let mut marks = Vec::new();
            for (last, (is_kept, window, id)) in cuts.iter().copied().chain([u128::MAX]).zip(kept) {
                let settled = Seq { window: WindowNumber(window), id };
                if is_kept && first <= last {
                    marks.push(Mark { range: HashRange { first, last }, settled });
                }
                first = last.saturating_add(1);
            }
            let (before, after) = (position(marks.clone()), position(written_and_read(marks)));
            let edges = cuts.iter().flat_map(|cut| [*cut, cut.saturating_add(1)]);
            for hash in edges.chain(hashes).chain([0, u128::MAX]) {
                let settled = |position: &Position| position.mark_of(hash).map(|mark| mark.settled);
                prop_assert_eq!(settled(&before), settled(&after));
            }
        }
    }
}
