//! The position an intake has written down: closing, merging, marking.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Intake, PAGE};
use crate::core::invariants::{self, Books, Invariant, Violation};
use crate::core::lane::Lane;
use crate::core::position::{Mark, Position, RowId, Seq, WindowNumber};
use crate::core::time::Moment;

/// Marks are written when the oldest window has been open for so long: a shard
/// is behind then, not just a few milliseconds apart from the others.
const MARKS_AFTER: Duration = Duration::from_secs(1);

impl Intake {
    /// The position to write down now, after closing and merging what can be.
    pub fn position_to_save(&mut self, now: Moment) -> Position {
        self.position_to_write(now, false)
    }

    /// `is_last`: nothing more will be written, so it says all that is known.
    pub(super) fn position_to_write(&mut self, now: Moment, is_last: bool) -> Position {
        self.dirty = false;
        self.close_settled();
        self.join_empty_lanes();
        if self.position.open.len() > self.limits.merge_above && self.backlogs.is_empty() {
            self.merge_windows();
        }
        self.position.marks = if is_last || self.needs_marks(now) {
            self.marks()
        } else {
            Vec::new()
        };
        self.position.ahead = if is_last { self.ahead() } else { Vec::new() };
        self.position.keyed_by = if self.position.marks.is_empty() {
            String::new()
        } else {
            self.keyed_by.clone()
        };
        self.check_position();
        self.position.clone()
    }

    /// The books: what became of the rows that were read.
    #[must_use]
    pub fn books(&self) -> Books {
        let on_their_way = |lane: &Lane| lane.unsettled() + lane.stash().len();
        let in_lanes: usize = self.lanes.iter().map(on_their_way).sum();
        let in_backlogs: usize = self.backlogs.iter().map(|one| one.rows.len()).sum();
        let in_flight = in_lanes + in_backlogs + self.parking.len();
        Books {
            in_flight: in_flight as u64,
            ..self.books
        }
    }

    fn check_position(&mut self) {
        let books = self.books();
        let stashed = self.stashed();
        let position = &self.position;
        let mut found = std::mem::take(&mut self.violations);
        for lane in &self.lanes {
            let first = self.first_unsettled_of(lane);
            let passed = first.filter(|row| position.has_settled(*row, lane.range().first));
            // Only rows that are named one by one lie behind the first.
            let named = || {
                lane.handed_unsettled()
                    .find(|row| position.has_settled_ahead(*row))
            };
            let names_any = !position.ahead.is_empty();
            let passed = passed.or_else(|| names_any.then(named).flatten());
            let holds = invariants::passes_only_settled(passed.is_some(), false);
            found.check(Invariant::Loss, holds, || {
                format!("the position to be written passes row {passed:?}, which is not settled")
            });
        }
        let letter = self.parking.first();
        let passed = letter.filter(|row| position.has_settled_all_before(*row));
        let holds = invariants::passes_only_settled(passed.is_some(), false);
        found.check(Invariant::Loss, holds, || {
            format!("the position to be written passes row {passed:?}, whose letter is not")
        });
        let mut last = None;
        for open in &position.open {
            let rises =
                invariants::rises(last, &open.number) && open.number <= position.last_number;
            found.check(Invariant::SeqRises, rises, || {
                format!("window {:?} is open after {last:?}", open.number)
            });
            last = Some(&open.number);
        }
        found.check(Invariant::LossBooks, books.balance(), || {
            format!("{books:?}")
        });
        let most = self.limits.stashed;
        found.check(
            Invariant::Bound,
            invariants::within_bound(stashed, most, PAGE),
            || format!("{stashed} rows are remembered by id, at most {most} may be"),
        );
        self.violations = found;
    }

    /// Invariants that did not hold since this was asked last.
    pub fn take_violations(&mut self) -> Vec<Violation> {
        self.violations.take()
    }

    /// Nothing more happens before the position is written.
    pub const fn must_be_written(&mut self) {
        self.must_save = true;
    }

    /// The position was written down.
    pub const fn saved(&mut self, now: Moment) {
        self.must_save = false;
        self.saved_at = now;
    }

    /// The position could not be written down.
    pub const fn not_saved(&mut self) {
        self.dirty = true;
    }

    fn close_settled(&mut self) {
        let held_by = self
            .first_unsettled()
            .into_iter()
            .chain(self.next_unread())
            .min();
        let closed = match held_by {
            None => self.position.open.len(),
            Some(row) => self
                .position
                .open
                .partition_point(|open| open.number < row.window),
        };
        if closed > 0 {
            self.position.base = self.position.open[closed - 1].snapshot.clone();
            self.position.open.drain(..closed);
            self.opened_at.drain(..closed.min(self.opened_at.len()));
            self.position.settled_id = 0;
        }
        let in_first = |row: &Seq| {
            self.position
                .open
                .first()
                .is_some_and(|open| open.number == row.window)
        };
        if let Some(row) = held_by.filter(in_first) {
            let settled_before = self
                .recorded
                .open
                .first()
                .filter(|open| open.number == row.window);
            let floor = settled_before.map_or(0, |_| self.recorded.settled_id);
            self.position.settled_id = row.id.saturating_sub(1).max(floor);
        }
        // What was named one by one has been read when the prefix has come past it.
        let position = &self.position;
        let named = &mut self.recorded.ahead;
        named.drain(..named.partition_point(|row| position.has_settled_all_before(*row)));
    }

    fn needs_marks(&self, now: Moment) -> bool {
        let Some((oldest, opened)) = self.opened_at.first() else {
            return false;
        };
        *oldest <= self.marks_up_to || now.since(*opened) >= MARKS_AFTER
    }

    /// What each lane has settled beyond the first open window. A lane whose
    /// recorded mark lies beyond what has been read again keeps that mark.
    fn marks(&self) -> Vec<Mark> {
        let Some(first) = self.position.open.first() else {
            return Vec::new();
        };
        let frontier = match self.next_unread() {
            Some(next) => Seq {
                window: next.window,
                id: next.id.saturating_sub(1),
            },
            None => Seq {
                window: self.position.last_number,
                id: RowId::MAX,
            },
        };
        let prefix = Seq {
            window: first.number,
            id: self.position.settled_id,
        };
        let mut marks = Vec::new();
        for lane in &self.lanes {
            let first_unsettled = self.first_unsettled_of(lane);
            let reached = match first_unsettled {
                Some(row) => Seq {
                    window: row.window,
                    id: row.id.saturating_sub(1),
                },
                None => frontier,
            };
            let recorded = self.recorded.mark_of(lane.range().first);
            let settled = match (first_unsettled, recorded) {
                (None, Some(mark)) => reached.max(mark.settled),
                _ => reached,
            };
            // A row that is to be parked belongs to no lane, or to one.
            let settled = self.parking.first().map_or(settled, |row| {
                settled.min(Seq {
                    window: row.window,
                    id: row.id.saturating_sub(1),
                })
            });
            if settled > prefix {
                marks.push(Mark {
                    range: lane.range(),
                    settled,
                });
            }
        }
        marks
    }

    /// Merges neighbouring windows of which no row was handed, none is being
    /// read, none may have been sent by an earlier incarnation, and in which no
    /// lane's mark lies.
    fn merge_windows(&mut self) {
        let mut fixed: BTreeSet<WindowNumber> = self
            .lanes
            .iter()
            .flat_map(|lane| {
                lane.windows_handed()
                    .chain(lane.first_unsettled().map(|row| row.window))
            })
            .chain(self.next_unread().map(|row| row.window))
            .chain(self.parking.rows().map(|row| row.window))
            .collect();
        fixed.extend(self.position.open.first().map(|open| open.number));
        fixed.extend(self.position.open.last().map(|open| open.number));
        let unmergeable = self.unmergeable_up_to;
        let may_merge = |window: &WindowNumber| *window > unmergeable && !fixed.contains(window);
        let numbers: Vec<WindowNumber> =
            self.position.open.iter().map(|open| open.number).collect();
        for group in numbers.chunk_by(|a, b| may_merge(a) && may_merge(b)) {
            let (Some(from), Some(to)) = (group.first(), group.last()) else {
                continue;
            };
            if group.len() < 2 {
                continue;
            }
            self.position
                .open
                .retain(|open| open.number < *from || open.number >= *to);
            self.opened_at
                .retain(|(number, _)| *number < *from || *number >= *to);
            for lane in &mut self.lanes {
                lane.merge_windows(*from, *to);
            }
            self.marks_up_to = self.marks_up_to.max(*to);
            self.must_save = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{ready, shard_ranges};
    use super::super::{IntakeLimits, Room, Wish};
    use super::*;
    use crate::core::position::OpenWindow;
    use crate::core::shard_map::HashRange;
    use crate::core::snapshot::Snapshot;

    const ROOM: Room = Room {
        rows: 100,
        bytes: 1 << 20,
    };

    const LIMITS: IntakeLimits = IntakeLimits {
        rows: 100,
        stashed: 100,
        merge_above: 64,
    };

    #[test]
    fn marks_say_nothing_once_keys_are_made_differently() {
        let seq = Seq {
            window: WindowNumber(2),
            id: 7,
        };
        let recorded = Position {
            open: vec![OpenWindow {
                number: WindowNumber(1),
                snapshot: Snapshot::nothing(),
            }],
            marks: vec![Mark {
                range: HashRange::ALL,
                settled: seq,
            }],
            keyed_by: "default {dedup_key}".to_owned(),
            last_number: WindowNumber(2),
            ..Position::start()
        };
        let taken_under = |keyed_by: &str| {
            let ranges = shard_ranges();
            let mut intake =
                Intake::new(recorded.clone(), keyed_by, &ranges, LIMITS, Moment::ORIGIN);
            intake.take_in(ready(seq, 5), &mut { ROOM }).is_some()
        };
        assert!(!taken_under("default {dedup_key}"), "it was settled");
        assert!(taken_under("default {headers.customer}"), "it was skipped");
    }

    #[test]
    fn what_settles_while_the_position_is_written_is_written_next() {
        let mut intake = Intake::new(
            Position::start(),
            "",
            &shard_ranges(),
            LIMITS,
            Moment::ORIGIN,
        );
        let later = Moment::from_origin(Duration::from_secs(9));
        let window = intake.open_window(Snapshot::nothing(), Moment::ORIGIN);
        let seq = Seq { window, id: 1 };
        intake.position_to_save(Moment::ORIGIN);
        intake.saved(Moment::ORIGIN);
        intake
            .take_in(ready(seq, 5), &mut { ROOM })
            .expect("handed");
        intake.end_window(window);
        let unsettled = intake.position_to_save(Moment::ORIGIN);
        intake.settled(seq, 5, later).expect("waited for");
        intake.saved(Moment::ORIGIN);
        assert_eq!(unsettled.open.len(), 1);
        assert_eq!(intake.next_wish(ROOM, later), Wish::Save);
        assert!(intake.position_to_save(later).open.is_empty());
    }
}
