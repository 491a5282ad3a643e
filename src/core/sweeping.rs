//! How far the deleting of an outbox's old rows has come, for a person who waits for it.
//!
//! Most sweeps are over with one batch, and nobody waits for those. One is *under way*
//! from the first batch that found as much as it may delete until a batch that did not.
//! Rules:
//! - the rows that are left are not counted: that would read them all. A sweep goes
//!   along from the oldest row to the first that must stay, which is too young or which
//!   some pipeline has not settled; the way is measured in time, between these two;
//! - what is deleted is counted, row by row;
//! - both ends move on while it lasts: rows grow old, pipelines settle more;
//! - looks alone tell how far it is, so its pace is that from its begin to the last
//!   look; until the next one, what remains grows less with the time that passes.

use std::time::Duration;

use super::retention::KeptOutbox;
use super::time::Moment;

/// A sweep of one outbox that is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sweeping {
    since: Moment,
    /// When its ends were seen last.
    looked_at: Moment,
    rows: u64,
    /// The age of the oldest row when it began.
    first_age: Duration,
    /// How far the oldest row has moved on since.
    gone: Duration,
    /// How far it still has to.
    left: Duration,
}

// === impl Sweeping ===

impl Sweeping {
    /// One that begins with what a look at that time has found.
    #[must_use]
    pub fn begin(outbox: &KeptOutbox, looked_at: Moment) -> Self {
        Self {
            since: looked_at,
            looked_at,
            rows: 0,
            first_age: outbox.oldest.unwrap_or_default(),
            gone: Duration::ZERO,
            left: left(outbox),
        }
    }

    /// A batch has deleted so many rows.
    pub fn deleted(&mut self, rows: u64) {
        self.rows += rows;
    }

    /// The outbox was looked at again.
    pub fn looked(&mut self, outbox: &KeptOutbox, now: Moment) {
        self.looked_at = now;
        self.left = left(outbox);
        // The oldest row is now so old; the one it began with would be older.
        let would_be = self.first_age + now.since(self.since);
        let is = outbox
            .oldest
            .or(outbox.retention)
            .unwrap_or_default()
            .min(would_be);
        self.gone = would_be.saturating_sub(is);
    }

    /// How many rows it has deleted.
    #[must_use]
    pub const fn rows(&self) -> u64 {
        self.rows
    }

    /// How long it has been under way.
    #[must_use]
    pub fn lasts(&self, now: Moment) -> Duration {
        now.since(self.since)
    }

    /// The part of its way behind it, from 0 to 1, as it was when it was last looked at.
    #[must_use]
    pub fn part(&self) -> f64 {
        let whole = (self.gone + self.left).as_secs_f64();
        if whole > 0.0 {
            self.gone.as_secs_f64() / whole
        } else {
            0.0
        }
    }

    /// How long it still takes, if it goes on as fast as until the last look; `None`
    /// before it was seen to move.
    #[must_use]
    pub fn remains(&self, now: Moment) -> Option<Duration> {
        let part = self.part();
        if part <= 0.0 {
            return None;
        }
        let until_look = self.looked_at.since(self.since).as_secs_f64();
        let rest = Duration::try_from_secs_f64(until_look * (1.0 - part) / part).ok()?;
        Some(rest.saturating_sub(now.since(self.looked_at)))
    }
}

/// From the oldest row to the first that must stay.
fn left(outbox: &KeptOutbox) -> Duration {
    let (Some(oldest), Some(retention)) = (outbox.oldest, outbox.retention) else {
        return Duration::ZERO;
    };
    let held = outbox.holds.iter().map(|hold| hold.held_for).max();
    oldest
        .saturating_sub(retention)
        .saturating_sub(held.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::ports::OutboxId;
    use crate::core::retention::Hold;

    const HOUR: Duration = Duration::from_secs(3600);

    /// An outbox that keeps rows for a day, with its oldest row and one that is held
    /// so many hours old.
    fn outbox(oldest: Option<u32>, held: Option<u32>) -> KeptOutbox {
        let hold = |age: u32| Hold {
            pipeline: "p".into(),
            disabled: false,
            held_for: HOUR * (age - 24),
        };
        KeptOutbox {
            id: OutboxId(1),
            name: "events".into(),
            retention: Some(HOUR * 24),
            oldest: oldest.map(|age| HOUR * age),
            holds: held.map(hold).into_iter().collect(),
        }
    }

    fn at(hours: u32) -> Moment {
        Moment::from_origin(HOUR * (100 + hours))
    }

    #[track_caller]
    fn assert_part(sweeping: &Sweeping, expected: f64) {
        let part = sweeping.part();
        assert!((part - expected).abs() < 1e-9, "{part} is not {expected}");
    }

    #[test]
    fn its_part_is_how_far_the_oldest_row_has_moved_on() {
        let mut sweeping = Sweeping::begin(&outbox(Some(64), None), at(0));
        assert_part(&sweeping, 0.0);
        sweeping.looked(&outbox(Some(54), None), at(0));
        assert_part(&sweeping, 0.25);
        // An hour later 41 hours of rows are to go in all, and 20 are gone.
        sweeping.looked(&outbox(Some(45), None), at(1));
        assert_part(&sweeping, 20.0 / 41.0);
        sweeping.looked(&outbox(Some(24), None), at(2));
        assert_part(&sweeping, 1.0);
        assert_eq!(sweeping.lasts(at(2)), HOUR * 2);
    }

    #[test]
    fn what_remains_grows_less_between_two_looks() {
        let mut sweeping = Sweeping::begin(&outbox(Some(64), None), at(0));
        sweeping.deleted(5);
        assert_eq!(sweeping.remains(at(1)), None);
        // In two hours half of 42 hours of rows.
        sweeping.looked(&outbox(Some(45), None), at(2));
        assert_eq!(sweeping.remains(at(2)), Some(HOUR * 2));
        sweeping.deleted(5);
        assert_eq!(sweeping.remains(at(3)), Some(HOUR));
        assert_eq!(sweeping.remains(at(5)), Some(Duration::ZERO));
        // It has become slower: one more hour of rows in three, and 23 to go.
        sweeping.looked(&outbox(Some(47), None), at(5));
        let remains = sweeping.remains(at(5)).expect("it has moved");
        assert!(remains > HOUR * 5 && remains < HOUR * 6, "{remains:?}");
        sweeping.looked(&outbox(None, None), at(6));
        assert_eq!(sweeping.remains(at(6)), Some(Duration::ZERO));
    }

    #[test]
    fn it_ends_where_a_pipeline_holds_rows() {
        let mut sweeping = Sweeping::begin(&outbox(Some(64), Some(44)), at(0));
        sweeping.looked(&outbox(Some(54), Some(44)), at(0));
        assert_part(&sweeping, 0.5);
        sweeping.looked(&outbox(Some(44), Some(44)), at(0));
        assert_part(&sweeping, 1.0);
    }

    #[test]
    fn an_outbox_that_is_empty_is_done() {
        let mut sweeping = Sweeping::begin(&outbox(Some(64), None), at(0));
        sweeping.deleted(5);
        sweeping.deleted(2);
        assert_eq!(sweeping.rows(), 7);
        sweeping.looked(&outbox(None, None), at(0));
        assert_part(&sweeping, 1.0);
    }

    /// Late transactions bring rows that are older than any before; a retention may be
    /// made longer.
    #[test]
    fn it_is_never_less_than_nothing_nor_more_than_all() {
        let mut sweeping = Sweeping::begin(&outbox(Some(64), None), at(0));
        sweeping.looked(&outbox(Some(80), None), at(0));
        assert_part(&sweeping, 0.0);
        let mut longer = outbox(Some(60), None);
        longer.retention = Some(HOUR * 100);
        sweeping.looked(&longer, at(0));
        assert_part(&sweeping, 1.0);
        longer.retention = None;
        longer.oldest = None;
        sweeping.looked(&longer, at(0));
        assert_part(&sweeping, 1.0);
        assert_part(&Sweeping::begin(&longer, at(0)), 0.0);
    }
}
