//! The rows of one pipeline on their way to one range of hash keys.
//!
//! A lane is the part of a pipeline that goes to one shard. It knows its rows in
//! delivery order: first those handed to the writer, then those stashed. Its
//! share bounds how many may be handed: about what the shard settles in two
//! seconds, so that a stuck shard holds little and a fast one is never short.

use std::collections::VecDeque;
use std::time::Duration;

use super::position::{Seq, WindowNumber};
use super::shard_map::HashRange;
use super::stash::Stash;
use super::time::Moment;

/// The least share of a lane, in rows: one full call (PutRecords takes 500).
pub const LEAST_SHARE: usize = 500;

/// How often a lane's share is fitted to what its shard settles.
const FIT_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy)]
struct Handed {
    seq: Seq,
    visible_since: Moment,
    settled: bool,
}

/// One lane.
#[derive(Debug)]
pub struct Lane {
    range: HashRange,
    handed: VecDeque<Handed>,
    stash: Stash,
    share: usize,
    most_share: usize,
    settled_since_fit: usize,
    fitted_at: Moment,
}

impl Lane {
    /// An empty lane whose share never exceeds `most_share` rows.
    #[must_use]
    pub fn new(range: HashRange, most_share: usize, now: Moment) -> Self {
        Self {
            range,
            handed: VecDeque::new(),
            stash: Stash::default(),
            share: (2 * LEAST_SHARE).min(most_share),
            most_share,
            settled_since_fit: 0,
            fitted_at: now,
        }
    }

    /// The hash keys it carries.
    #[must_use]
    pub const fn range(&self) -> HashRange {
        self.range
    }

    /// Whether the next row may be handed to the writer: none waits before it,
    /// and the share is not used up.
    #[must_use]
    pub fn takes_more(&self) -> bool {
        self.stash.is_empty() && self.handed.len() < self.share
    }

    /// How many rows it would take now.
    #[must_use]
    pub fn free(&self) -> usize {
        if self.takes_more() {
            self.share - self.handed.len()
        } else {
            0
        }
    }

    /// Whether its writer may soon have nothing to do although rows could be
    /// read for it.
    #[must_use]
    pub fn is_hungry(&self) -> bool {
        self.stash.is_empty() && self.handed.len() <= self.share / 2
    }

    /// How many stashed rows should be read again now.
    #[must_use]
    pub fn refill(&self) -> usize {
        if self.handed.len() > self.share / 2 {
            return 0;
        }
        (self.share - self.handed.len()).min(self.stash.len())
    }

    /// Rows handed and not yet known to be settled in order.
    #[must_use]
    pub fn handed(&self) -> usize {
        self.handed.len()
    }

    /// Rows remembered by id alone.
    #[must_use]
    pub const fn stash(&self) -> &Stash {
        &self.stash
    }

    /// Notes a row that is handed to the writer.
    pub fn hand(&mut self, seq: Seq, visible_since: Moment) {
        self.handed.push_back(Handed {
            seq,
            visible_since,
            settled: false,
        });
    }

    /// Remembers a row by id.
    pub fn stash_row(&mut self, seq: Seq) {
        self.stash.push(seq);
    }

    /// Takes the first stashed row, to be handed.
    pub fn unstash(&mut self) -> Option<Seq> {
        self.stash.pop()
    }

    /// Notes that a handed row is settled; answers since when it had been
    /// visible, or `None` when it is not waited for.
    pub fn settle(&mut self, seq: Seq, now: Moment) -> Option<Moment> {
        self.fit_share(now);
        let place = self.handed.binary_search_by_key(&seq, |row| row.seq).ok()?;
        let row = self.handed.get_mut(place)?;
        if row.settled {
            return None;
        }
        row.settled = true;
        let visible_since = row.visible_since;
        self.settled_since_fit += 1;
        while self.handed.front().is_some_and(|row| row.settled) {
            self.handed.pop_front();
        }
        Some(visible_since)
    }

    /// The first handed row that is not settled.
    #[must_use]
    pub fn first_handed(&self) -> Option<Seq> {
        self.handed.front().map(|row| row.seq)
    }

    /// The last handed row that is not settled in order.
    #[must_use]
    pub fn last_handed(&self) -> Option<Seq> {
        self.handed.back().map(|row| row.seq)
    }

    /// The first row in delivery order that is not settled.
    #[must_use]
    pub fn first_unsettled(&self) -> Option<Seq> {
        self.handed
            .front()
            .map(|row| row.seq)
            .or_else(|| self.stash.first())
    }

    /// Since when the first unsettled row has been visible, if it was handed.
    #[must_use]
    pub fn waiting_since(&self) -> Option<Moment> {
        self.handed.front().map(|row| row.visible_since)
    }

    /// The windows of handed rows from the first unsettled one on, in order, with
    /// repeats.
    pub fn windows_handed(&self) -> impl Iterator<Item = WindowNumber> + '_ {
        self.handed.iter().map(|row| row.seq.window)
    }

    /// See [`Stash::merge_windows`]; no handed row may lie in these windows.
    pub fn merge_windows(&mut self, from: WindowNumber, to: WindowNumber) {
        self.stash.merge_windows(from, to);
    }

    /// Fits the share to the rows settled since the last fit.
    pub fn fit_share(&mut self, now: Moment) {
        let passed = now.since(self.fitted_at);
        if passed < FIT_EVERY {
            return;
        }
        let per_second = self.settled_since_fit as f64 / passed.as_secs_f64();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a count of rows, never negative, far below 2^52"
        )]
        let two_seconds = (per_second * 2.0) as usize;
        let least = LEAST_SHARE.min(self.most_share);
        self.share = two_seconds.clamp(least, self.most_share);
        self.settled_since_fit = 0;
        self.fitted_at = now;
    }
}
