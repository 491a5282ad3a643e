//! The books of a load: what was committed, exactly.
//!
//! A transaction is written down before its COMMIT is sent. States from there:
//! - *sent*: the outcome is not known (yet);
//! - *committed*, when the server said so, or when its rows are found later;
//! - gone, when the server said that it was rolled back, or its rows are not
//!   found.
//!
//! Rows are found by the transaction's token in their payload, never by their id
//! or transaction id: a server that crashes hands out again the ids of what it
//! had not written down.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use crate::demo::verdict::Committed;

/// A row of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PublishedRow {
    pub(super) id: i64,
    pub(super) key: Option<Arc<str>>,
    pub(super) order: Option<u64>,
}

/// A committed row and when that was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedRow {
    /// The row.
    pub row: Committed,
    /// When its COMMIT was sent: a little before it became visible.
    pub commit_sent_at: Instant,
}

/// A transaction whose COMMIT was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SentCommit {
    pub(super) outbox: Arc<str>,
    pub(super) token: String,
    pub(super) rows: Vec<PublishedRow>,
    pub(super) sent_at: Instant,
}

/// The number of a transaction in the books.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SentNumber(u64);

/// How often what happened, besides commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct LoadCounts {
    /// Transactions that committed.
    pub transactions: u64,
    /// Transactions rolled back on purpose.
    pub rolled_back: u64,
    /// Rows published and undone, by rolling back a transaction or a savepoint.
    pub undone_rows: u64,
    /// Transactions that lost to another one (deadlock, serialisation) and were
    /// given up.
    pub conflicts: u64,
    /// Connections lost and made again.
    pub reconnects: u64,
    /// COMMITs whose outcome had to be looked up.
    pub unknown_outcomes: u64,
    /// Of these, the ones that had committed.
    pub unknown_committed: u64,
}

#[derive(Debug, Default)]
struct State {
    committed: Vec<CommittedRow>,
    by_outbox: BTreeMap<Arc<str>, u64>,
    sent: BTreeMap<SentNumber, SentCommit>,
    last_number: u64,
    counts: LoadCounts,
    failure: Option<String>,
}

/// The books, shared by all workers.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    state: Mutex<State>,
    published: AtomicU64,
}

impl Ledger {
    /// Rows known to be committed.
    pub(super) fn published(&self) -> u64 {
        self.published.load(Ordering::Acquire)
    }

    /// Writes a transaction down whose COMMIT is about to be sent.
    pub(super) fn commit_is_sent(&self, commit: SentCommit) -> SentNumber {
        let mut state = self.state();
        state.last_number += 1;
        let number = SentNumber(state.last_number);
        state.sent.insert(number, commit);
        number
    }

    /// The server said that a transaction has committed.
    pub(super) fn has_committed(&self, number: SentNumber) {
        let mut state = self.state();
        let Some(commit) = state.sent.remove(&number) else {
            return;
        };
        state.counts.transactions += 1;
        let count = commit.rows.len() as u64;
        *state
            .by_outbox
            .entry(Arc::clone(&commit.outbox))
            .or_default() += count;
        let rows = commit.rows.into_iter().map(|row| CommittedRow {
            row: Committed {
                outbox: Arc::clone(&commit.outbox),
                id: row.id,
                key: row.key,
                order: row.order,
            },
            commit_sent_at: commit.sent_at,
        });
        state.committed.extend(rows);
        self.published.fetch_add(count, Ordering::AcqRel);
    }

    /// The server said that a transaction has not committed.
    pub(super) fn has_not_committed(&self, number: SentNumber) {
        self.state().sent.remove(&number);
    }

    /// Transactions whose outcome is not known.
    pub(super) fn unknown(&self) -> Vec<(SentNumber, SentCommit)> {
        let state = self.state();
        state
            .sent
            .iter()
            .map(|(number, commit)| (*number, commit.clone()))
            .collect()
    }

    /// Changes the counts.
    pub(super) fn count(&self, change: impl FnOnce(&mut LoadCounts)) {
        change(&mut self.state().counts);
    }

    /// What happened so far.
    pub(super) fn counts(&self) -> LoadCounts {
        self.state().counts
    }

    /// Notes why a worker has given up for good; the first reason stays.
    pub(super) fn fail(&self, reason: String) {
        self.state().failure.get_or_insert(reason);
    }

    /// Why a worker has given up for good.
    pub(super) fn failure(&self) -> Option<String> {
        self.state().failure.clone()
    }

    /// Takes the committed rows out, in the order in which it was learned.
    pub(super) fn take_committed(&self) -> Vec<CommittedRow> {
        std::mem::take(&mut self.state().committed)
    }

    /// Rows known to be committed, per outbox.
    pub(super) fn published_by_outbox(&self) -> BTreeMap<Arc<str>, u64> {
        self.state().by_outbox.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(id: i64) -> SentCommit {
        SentCommit {
            outbox: "events".into(),
            token: format!("t-{id}"),
            rows: vec![PublishedRow {
                id,
                key: None,
                order: None,
            }],
            sent_at: Instant::now(),
        }
    }

    #[test]
    fn only_what_is_known_to_be_committed_counts() {
        let ledger = Ledger::default();
        let numbers: Vec<SentNumber> = (1..=3)
            .map(|id| ledger.commit_is_sent(commit(id)))
            .collect();
        assert_eq!((ledger.published(), ledger.unknown().len()), (0, 3));
        ledger.has_committed(numbers[0]);
        ledger.has_not_committed(numbers[1]);
        // Told twice, written once.
        ledger.has_committed(numbers[0]);
        assert_eq!(ledger.published(), 1);
        assert_eq!(ledger.published_by_outbox()["events"], 1);
        assert_eq!(ledger.unknown()[0].1.token, "t-3");
        ledger.has_committed(numbers[2]);
        let ids: Vec<i64> = ledger
            .take_committed()
            .iter()
            .map(|row| row.row.id)
            .collect();
        assert_eq!(ids, [1, 3]);
        assert!(ledger.unknown().is_empty());
    }
}
