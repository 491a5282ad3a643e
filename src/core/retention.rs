//! Which rows of an outbox may be deleted, and which positions that leaves behind.
//!
//! A row may go when it has outlived its outbox's retention and every reader of
//! the outbox has settled it. Rules:
//! - a reader has settled what its durable base snapshot sees, and nothing else:
//!   rows of open windows stay, delivered or not. Conservative, exact enough, and
//!   one comparison a row;
//! - everyone counts who has a position or a definition: running, standing by,
//!   disabled, blocked, of a file. Without any reader nothing is settled by all;
//! - a sweep goes along the ids and remembers how far it came, so that it never
//!   walks over what it has deleted. Rows that drew their ids early and committed
//!   late are left behind; their transactions are remembered, and they are fetched
//!   by transaction when all have settled them;
//! - what was removed is remembered too: a position from before (restored from a
//!   backup, moved back) is refused instead of skipping rows silently.
//!
//! Why remembering transactions is enough: of a row that is deleted, the
//! transaction had ended in every base. A row with a lower id drew it earlier, and
//! its transaction's id earlier still, so that transaction began before every base
//! was taken. It had ended by then, and the row has been swept; or it was running,
//! and the base says so.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use super::ports::{OutboxId, PipelineName, StoreError};
use super::position::{Position, RowId};
use super::snapshot::{Snapshot, Xid};

/// What every reader has settled: the snapshot that sees what all their bases
/// see. `None` when nobody reads.
#[must_use]
pub fn settled_by_all<'a>(bases: impl IntoIterator<Item = &'a Snapshot>) -> Option<Snapshot> {
    bases
        .into_iter()
        .fold(None, |settled: Option<Snapshot>, base| {
            Some(settled.map_or_else(|| base.clone(), |settled| settled.meet(base)))
        })
}

/// What was deleted of an outbox since it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// How many rows.
    pub rows: u64,
    /// The highest id among them; 0 when there is none.
    pub id: RowId,
    /// The highest transaction among them; 0 when there is none.
    pub xact: Xid,
    /// A snapshot that sees them all.
    pub seen: Snapshot,
}

impl Removed {
    /// Nothing.
    #[must_use]
    pub const fn nothing() -> Self {
        Self {
            rows: 0,
            id: 0,
            xact: 0,
            seen: Snapshot::nothing(),
        }
    }

    /// Whether a pipeline that goes on from `position` misses none of the removed
    /// rows. `began_after` is how many had been removed when it began: it was never
    /// to deliver those.
    #[must_use]
    pub fn spares(&self, position: &Position, began_after: u64) -> bool {
        if self.rows == began_after || self.is_seen_by(&position.base) {
            return true;
        }
        // Moved back into the middle of what it had delivered: settled up to an id.
        position
            .open
            .first()
            .is_some_and(|first| position.settled_id >= self.id && self.is_seen_by(&first.snapshot))
    }

    fn is_seen_by(&self, snapshot: &Snapshot) -> bool {
        snapshot.covers(&self.seen) || snapshot.xmin() > self.xact
    }
}

/// How far the sweep of an outbox has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sweep {
    /// Of the rows up to this id only those of [`Self::left_behind`] are left.
    pub swept_id: RowId,
    /// Transactions, rising, that may have rows at or below [`Self::swept_id`].
    pub left_behind: Vec<Xid>,
    /// What was removed.
    pub removed: Removed,
}

/// Rows that were deleted in one go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Deleted {
    /// How many.
    pub rows: u64,
    /// The highest id; 0 without rows.
    pub id: RowId,
    /// The highest transaction; 0 without rows.
    pub xact: Xid,
}

impl Sweep {
    /// A sweep that has not begun.
    #[must_use]
    pub const fn start() -> Self {
        Self {
            swept_id: 0,
            left_behind: Vec::new(),
            removed: Removed::nothing(),
        }
    }

    /// The transactions left behind whose rows all have settled by now.
    #[must_use]
    pub fn due(&self, settled: &Snapshot) -> Vec<Xid> {
        let due = self.left_behind.iter().filter(|xid| settled.sees(**xid));
        due.copied().collect()
    }

    /// Rows along the ids were deleted, the lowest ones that `settled` sees.
    pub fn swept(&mut self, deleted: Deleted, settled: &Snapshot) {
        if deleted.rows == 0 {
            return;
        }
        self.swept_id = self.swept_id.max(deleted.id);
        self.left_behind.extend(settled.in_progress());
        self.left_behind.sort_unstable();
        self.left_behind.dedup();
        self.removed(deleted, settled);
    }

    /// Rows of transactions left behind were deleted. Of those in `due`, the ones
    /// in `remaining` still have rows.
    pub fn fetched(
        &mut self,
        deleted: Deleted,
        settled: &Snapshot,
        due: &[Xid],
        remaining: &[Xid],
    ) {
        self.left_behind
            .retain(|xid| !due.contains(xid) || remaining.contains(xid));
        self.removed(deleted, settled);
    }

    fn removed(&mut self, deleted: Deleted, settled: &Snapshot) {
        if deleted.rows == 0 {
            return;
        }
        let removed = &mut self.removed;
        removed.rows += deleted.rows;
        removed.id = removed.id.max(deleted.id);
        removed.xact = removed.xact.max(deleted.xact);
        removed.seen = removed.seen.join(settled);
    }
}

// === The port ===

/// A pipeline that a configuration file defines. The database learns of it when
/// it takes its first position; until then it holds every row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileReader {
    /// The pipeline.
    pub pipeline: PipelineName,
    /// The outbox it reads.
    pub outbox: Arc<str>,
}

/// A pipeline that keeps rows from being deleted that have outlived their
/// outbox's retention.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// The pipeline.
    pub pipeline: Arc<str>,
    /// Whether its definition is disabled (in the database; what a file says is
    /// not known there).
    pub disabled: bool,
    /// For how long the oldest row it has not settled has outlived the retention.
    pub held_for: Duration,
}

/// An outbox as retention sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptOutbox {
    /// Its id.
    pub id: OutboxId,
    /// Its name.
    pub name: Arc<str>,
    /// How long it keeps rows; `None`: for ever.
    pub retention: Option<Duration>,
    /// The age of the oldest row that is still there.
    pub oldest: Option<Duration>,
    /// Who holds rows that have outlived it.
    pub holds: Vec<Hold>,
}

impl KeptOutbox {
    /// Whether a batch may find something to delete.
    #[must_use]
    pub fn is_due(&self) -> bool {
        matches!((self.retention, self.oldest), (Some(most), Some(age)) if age > most)
    }
}

/// What a look at a database's outboxes gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Survey {
    /// Another node sweeps this database.
    NotOurs,
    /// This node does; these are the outboxes.
    Ours(Vec<KeptOutbox>),
}

/// What a batch did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BatchDone {
    /// Rows deleted.
    pub rows: u64,
    /// Whether the next batch may find more at once.
    pub more: bool,
}

/// The deleting side of a database. Implementations bound every call in time.
pub trait RetentionStore: Send + Sync {
    /// Takes or keeps the turn to sweep the database for so long, unless another
    /// node has it, and looks at all outboxes.
    fn survey<'a>(
        &'a self,
        node: &'a str,
        turn: Duration,
        of_file: &'a [FileReader],
    ) -> BoxFuture<'a, Result<Survey, StoreError>>;

    /// Deletes at most so many rows of an outbox that have outlived it and that
    /// every reader has settled, and remembers what, in one transaction. `of_file`
    /// are the pipelines of a file that read this outbox.
    fn remove_batch<'a>(
        &'a self,
        outbox: OutboxId,
        of_file: &'a [PipelineName],
        rows: u32,
    ) -> BoxFuture<'a, Result<BatchDone, StoreError>>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::position::{OpenWindow, WindowNumber};

    fn snapshot(text: &str) -> Snapshot {
        text.parse().expect("a snapshot")
    }

    #[test]
    fn only_what_every_base_sees_is_settled() {
        let bases = ["10:20:10,14", "12:18:12", "1:1:"].map(snapshot);
        assert_eq!(settled_by_all([]), None);
        assert_eq!(settled_by_all(&bases[..1]), Some(bases[0].clone()));
        assert_eq!(
            settled_by_all(&bases[..2]),
            Some(snapshot("10:18:10,12,14"))
        );
        assert_eq!(settled_by_all(&bases), Some(Snapshot::nothing()));
    }

    #[test]
    fn a_late_transaction_is_fetched_when_all_have_settled_it() {
        let mut sweep = Sweep::start();
        let settled = snapshot("10:20:10,14");
        let deleted = Deleted {
            rows: 5,
            id: 9,
            xact: 19,
        };
        sweep.swept(deleted, &settled);
        assert_eq!((sweep.swept_id, &*sweep.left_behind), (9, &[10, 14][..]));
        assert_eq!(sweep.removed.seen, settled);
        let later = snapshot("14:30:14");
        assert_eq!(sweep.due(&later), [10]);
        let late = Deleted {
            rows: 2,
            id: 3,
            xact: 10,
        };
        sweep.fetched(late, &later, &[10], &[10]);
        assert_eq!(sweep.left_behind, [10, 14], "some of it is still there");
        sweep.fetched(Deleted::default(), &later, &[10], &[]);
        assert_eq!(sweep.left_behind, [14]);
        let removed = &sweep.removed;
        assert_eq!((removed.rows, removed.id, removed.xact), (7, 9, 19));
        assert!(removed.seen.covers(&settled) && removed.seen.sees(10));
    }

    #[test]
    fn a_sweep_that_deletes_nothing_changes_nothing() {
        let mut sweep = Sweep::start();
        sweep.swept(Deleted::default(), &snapshot("10:20:10"));
        assert_eq!(sweep, Sweep::start());
    }

    #[test]
    fn a_position_from_before_a_removal_is_told() {
        let removed = Removed {
            rows: 100,
            id: 50,
            xact: 39,
            seen: snapshot("30:40:30"),
        };
        let at = |base: &str| Position {
            base: snapshot(base),
            ..Position::start()
        };
        let window = |text: &str| {
            vec![OpenWindow {
                number: WindowNumber(7),
                snapshot: snapshot(text),
            }]
        };
        assert!(removed.spares(&at("30:40:30"), 0), "where it was removed");
        assert!(removed.spares(&at("45:50:45"), 0), "later");
        assert!(removed.spares(&at("40:40:"), 0), "past the last of them");
        assert!(!removed.spares(&at("29:40:29,30"), 0), "one is not settled");
        assert!(!removed.spares(&at("20:20:"), 0), "before");
        assert!(!removed.spares(&Position::start(), 0), "at the start");
        assert!(
            removed.spares(&Position::start(), 100),
            "it began after that"
        );
        assert!(!removed.spares(&Position::start(), 90), "it began between");
        let mut moved_back = at("1:1:");
        moved_back.open = window("40:41:");
        moved_back.settled_id = 50;
        assert!(removed.spares(&moved_back, 0), "up to what is kept");
        moved_back.settled_id = 49;
        assert!(!removed.spares(&moved_back, 0), "one further");
        moved_back.settled_id = 50;
        moved_back.open = window("20:20:");
        assert!(!removed.spares(&moved_back, 0), "another window");
        assert!(Removed::nothing().spares(&Position::start(), 0));
    }
}
