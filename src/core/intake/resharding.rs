//! The shards change while rows are on their way: the lanes follow.
//!
//! A lane that spans several of the new shards is cut. Its handed rows know their
//! hash keys and go to their piece. Its stashed rows are known by id alone: they
//! become a *backlog* of the whole old lane, which is read again in order, each
//! row to be handed or stashed in its piece, before anything new is read. So one
//! shard that is stuck never holds the rows of another for longer than that takes.
//! Windows are not merged meanwhile: that would change the order between a lane
//! and its backlog.
//!
//! Lanes that are finer than the shards do no harm. Two of one shard become one
//! when both are empty.

use super::{Intake, IntakeLimits, Ready, Room, Wish};
use crate::core::lane::Lane;
use crate::core::position::Seq;
use crate::core::row::Envelope;
use crate::core::shard_map::HashRange;
use crate::core::stash::Stash;
use crate::core::time::Moment;

use super::wish::PAGE;

/// Which stashed rows are read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StashOf {
    /// Those of a lane, by its place.
    Lane(usize),
    /// Those of a lane that was cut when the shards changed.
    Backlog,
}

/// The stashed rows of a lane that was cut.
#[derive(Debug)]
pub(super) struct Backlog {
    range: HashRange,
    pub(super) rows: Stash,
}

/// The most a lane may have handed: with several, a stuck one leaves room.
pub(super) fn most_share(lanes: usize, limits: IntakeLimits) -> usize {
    match lanes {
        0 | 1 => limits.rows,
        _ => (limits.rows / 2).max(1),
    }
}

impl Intake {
    /// The stream has these shards now; together they cover all hash keys.
    pub fn reshard(&mut self, shards: &[HashRange], now: Moment) {
        self.shards = shards.to_vec();
        let old_lanes = std::mem::take(&mut self.lanes);
        let mut backlogs = Vec::new();
        for lane in old_lanes {
            let range = lane.range();
            let firsts = shards.iter().map(|shard| shard.first);
            let cuts: Vec<u128> = firsts
                .filter(|first| range.first < *first && *first <= range.last)
                .collect();
            if cuts.is_empty() {
                self.lanes.push(lane);
                continue;
            }
            let (pieces, rows) = lane.cut(&cuts, now);
            self.lanes.extend(pieces);
            if !rows.is_empty() {
                backlogs.push(Backlog { range, rows });
            }
        }
        // What a piece of a lane that was cut before has stashed since comes before
        // what is left of that lane's backlog.
        backlogs.append(&mut self.backlogs);
        self.backlogs = backlogs;
        self.fit_most_share();
    }

    /// From now on these limits hold. What is known of beyond them stays so.
    pub fn limit(&mut self, limits: IntakeLimits) {
        self.limits = limits;
        self.fit_most_share();
    }

    fn fit_most_share(&mut self) {
        let most_share = most_share(self.lanes.len(), self.limits);
        for lane in &mut self.lanes {
            lane.set_most_share(most_share);
        }
    }

    /// Neighbouring lanes of one shard become one when nothing is in them, unless
    /// a recorded mark ends between them.
    pub(super) fn join_empty_lanes(&mut self) {
        let is_between_marks = |first: u128| {
            let marks = self.recorded.marks.iter();
            marks.clone().any(|mark| mark.range.first == first)
                || marks.clone().any(|mark| mark.range.last == first - 1)
        };
        let mut place = 1;
        while let (Some(left), Some(right)) = (self.lanes.get(place - 1), self.lanes.get(place)) {
            let (left_range, first) = (left.range(), right.range().first);
            let starts_a_shard = self.shards.iter().any(|shard| shard.first == first);
            let are_empty = [left, right].iter().all(|lane| {
                lane.first_unsettled().is_none()
                    && self.first_backlog_of(lane.range().first).is_none()
            });
            if starts_a_shard || !are_empty || is_between_marks(first) {
                place += 1;
                continue;
            }
            let last = right.range().last;
            self.lanes.remove(place);
            if let Some(lane) = self.lanes.get_mut(place - 1) {
                let first = left_range.first;
                lane.widen(HashRange { first, last });
            }
        }
        self.fit_most_share();
    }

    /// The place of the backlog with the first rows of this hash key, if any.
    fn first_backlog_of(&self, hash: u128) -> Option<usize> {
        self.backlogs
            .iter()
            .position(|backlog| backlog.range.contains(hash))
    }

    /// The place of the backlog behind which a new row of this hash key comes.
    pub(super) fn last_backlog_of(&self, hash: u128) -> Option<usize> {
        self.backlogs
            .iter()
            .rposition(|backlog| backlog.range.contains(hash))
    }

    /// The first unsettled row of a lane, those that have not come out of a
    /// backlog again included.
    pub(super) fn first_unsettled_of(&self, lane: &Lane) -> Option<Seq> {
        let backlog = || self.first_backlog_of(lane.range().first);
        lane.first_unsettled()
            .or_else(|| self.backlogs.get(backlog()?)?.rows.first())
    }

    pub(super) fn next_backlog(&self) -> Option<Wish> {
        let backlog = self.backlogs.first()?;
        Some(Wish::Refill {
            lane: StashOf::Backlog,
            rows: backlog.rows.peek(PAGE, usize::MAX),
        })
    }

    /// Removes a row from the first backlog, if it is the first there.
    pub(super) fn leave_backlog(&mut self, seq: Seq) -> bool {
        let Some(backlog) = self.backlogs.first_mut() else {
            return false;
        };
        if backlog.rows.first() != Some(seq) {
            return false;
        }
        backlog.rows.pop();
        if backlog.rows.is_empty() {
            self.backlogs.remove(0);
        }
        true
    }

    /// A row comes out of a backlog: answers it to go to the writer, or stashes it
    /// in its lane.
    pub(super) fn sort_in(&mut self, ready: Ready, room: &mut Room) -> Option<Envelope> {
        if !self.leave_backlog(ready.envelope.seq) {
            return None;
        }
        self.sort(ready, room)
    }
}
