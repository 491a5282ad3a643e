//! The rows of one pipeline on their way to one range of hash keys.
//!
//! A lane is the part of a pipeline that goes to one shard. It knows its rows in
//! delivery order: first those handed to the writer, then those stashed. Its
//! share bounds how many may be handed: about what the shard settles in two
//! seconds, so that a stuck shard holds little and a fast one is never short.

use std::collections::VecDeque;
use std::time::Duration;

use super::position::{Seq, WindowNumber};
use super::sabotage::{self, Bug};
use super::shard_map::HashRange;
use super::stash::Stash;
use super::time::Moment;

/// The least share of a lane, in rows: one full call (PutRecords takes 500).
pub const LEAST_SHARE: usize = 500;

/// The most windows that handed rows of a lane may lie in. A window with a handed
/// row cannot be merged: a stuck lane pins so many, and no more. A lane that flows
/// has rows of a few windows under way.
pub const MOST_WINDOWS_HANDED: usize = 64;

/// How often a lane's share is fitted to what its shard settles.
const FIT_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy)]
struct Handed {
    seq: Seq,
    hash: u128,
    visible_since: Moment,
    fate: Fate,
}

/// What has become of a handed row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It waits in the writer, or is in a call.
    UnderWay,
    /// It is in the stream, or parked.
    Settled,
    /// It came back unsent.
    Back,
}

/// One lane.
#[derive(Debug)]
pub struct Lane {
    range: HashRange,
    handed: VecDeque<Handed>,
    last_handed: Option<Seq>,
    unsettled: usize,
    /// Of the unsettled rows, those that came back.
    back: usize,
    /// Windows that handed rows lie in.
    windows: usize,
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
            last_handed: None,
            unsettled: 0,
            back: 0,
            windows: 0,
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

    /// The lane becomes several that begin at its first hash key and at each of
    /// these; what was stashed is given back, since nobody knows which piece it
    /// belongs to. Settled rows behind an unsettled one of another piece are done.
    #[must_use]
    pub fn cut(self, firsts: &[u128], now: Moment) -> (Vec<Self>, Stash) {
        let mut pieces = Vec::with_capacity(firsts.len() + 1);
        let mut first = self.range.first;
        for next in firsts.iter().copied().map(Some).chain([None]) {
            let last = next.map_or(self.range.last, |next| next - 1);
            let mut piece = Self::new(HashRange { first, last }, self.most_share, now);
            piece.share = self.share;
            pieces.push(piece);
            first = next.unwrap_or(first);
        }
        for row in self.handed {
            let place = pieces.partition_point(|piece| piece.range.last < row.hash);
            if let Some(piece) = pieces.get_mut(place)
                && !(row.fate == Fate::Settled && piece.handed.is_empty())
            {
                let last = piece.handed.back();
                piece.windows +=
                    usize::from(last.is_none_or(|last| last.seq.window != row.seq.window));
                piece.handed.push_back(row);
                piece.last_handed = Some(row.seq);
                piece.unsettled += usize::from(row.fate != Fate::Settled);
                piece.back += usize::from(row.fate == Fate::Back);
            }
        }
        (pieces, self.stash)
    }

    /// The lane carries these hash keys now: it was joined with an empty one.
    pub const fn widen(&mut self, range: HashRange) {
        self.range = range;
    }

    /// Its share may be so large from now on, in rows.
    pub fn set_most_share(&mut self, most_share: usize) {
        self.most_share = most_share;
        self.share = self.share.min(most_share);
    }

    /// Whether the next row may be handed to the writer: none waits before it,
    /// and the share is not used up.
    #[must_use]
    pub fn takes_more(&self) -> bool {
        self.stash.is_empty() && self.handed.len() < self.share && self.pins_few_windows()
    }

    /// Whether another window may get handed rows.
    const fn pins_few_windows(&self) -> bool {
        self.windows < MOST_WINDOWS_HANDED
    }

    /// The first stashed rows, at most so many, and of no more windows than may
    /// get handed rows.
    #[must_use]
    pub fn to_refill(&self, most: usize) -> Vec<Seq> {
        let windows = MOST_WINDOWS_HANDED.saturating_sub(self.windows);
        self.stash.peek(most, windows)
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
        self.stash.is_empty() && self.handed.len() <= self.share / 2 && self.pins_few_windows()
    }

    /// How many stashed rows should be read again now.
    #[must_use]
    pub fn refill(&self) -> usize {
        if self.handed.len() > self.share / 2 || !self.pins_few_windows() {
            return 0;
        }
        (self.share - self.handed.len()).min(self.stash.len())
    }

    /// Rows handed and not yet known to be settled in order.
    #[must_use]
    pub fn handed(&self) -> usize {
        self.handed.len()
    }

    /// Rows handed and not settled.
    #[must_use]
    pub const fn unsettled(&self) -> usize {
        self.unsettled
    }

    /// Rows handed of which it is yet to be heard what became of them.
    #[must_use]
    pub const fn under_way(&self) -> usize {
        self.unsettled - self.back
    }

    /// Rows that are settled although an earlier one of the lane is not, in order.
    pub fn settled_ahead(&self) -> impl Iterator<Item = Seq> + '_ {
        let settled = self.handed.iter().filter(|row| row.fate == Fate::Settled);
        settled.map(|row| row.seq)
    }

    /// The handed rows that are not settled, in order.
    pub fn handed_unsettled(&self) -> impl Iterator<Item = Seq> + '_ {
        let unsettled = self.handed.iter().filter(|row| row.fate != Fate::Settled);
        unsettled.map(|row| row.seq)
    }

    /// The row handed last.
    #[must_use]
    pub const fn last_handed(&self) -> Option<&Seq> {
        self.last_handed.as_ref()
    }

    /// Rows remembered by id alone.
    #[must_use]
    pub const fn stash(&self) -> &Stash {
        &self.stash
    }

    /// Notes a row that is handed to the writer.
    pub fn hand(&mut self, seq: Seq, hash: u128, visible_since: Moment) {
        if self
            .handed
            .back()
            .is_none_or(|last| last.seq.window != seq.window)
        {
            self.windows += 1;
        }
        self.last_handed = Some(seq);
        self.unsettled += 1;
        self.handed.push_back(Handed {
            seq,
            hash,
            visible_since,
            fate: Fate::UnderWay,
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
        match row.fate {
            Fate::Settled => return None,
            Fate::Back => self.back -= 1,
            Fate::UnderWay => {}
        }
        row.fate = Fate::Settled;
        self.unsettled -= 1;
        let visible_since = row.visible_since;
        self.settled_since_fit += 1;
        while let Some(first) = self.handed.pop_front_if(|row| row.fate == Fate::Settled) {
            let next = self.handed.front();
            if next.is_none_or(|next| next.seq.window != first.seq.window) {
                self.windows -= 1;
            }
        }
        Some(visible_since)
    }

    /// Notes that a handed row came back unsent: it stays unsettled, and nothing more
    /// will be heard of it. Answers whether it was waited for.
    pub fn came_back(&mut self, seq: Seq) -> bool {
        let place = self.handed.binary_search_by_key(&seq, |row| row.seq);
        let row = place.ok().and_then(|place| self.handed.get_mut(place));
        let Some(row) = row.filter(|row| row.fate == Fate::UnderWay) else {
            return false;
        };
        row.fate = Fate::Back;
        self.back += 1;
        true
    }

    /// The first handed row that is not settled.
    #[must_use]
    pub fn first_handed(&self) -> Option<Seq> {
        self.handed.front().map(|row| row.seq)
    }

    /// The first row in delivery order that is not settled.
    #[must_use]
    pub fn first_unsettled(&self) -> Option<Seq> {
        if sabotage::is(Bug::CommitBeforeConfirm) {
            return self.stash.first();
        }
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
