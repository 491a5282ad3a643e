//! A reader that ends: rows of it come back unsent, and its last position names
//! what is settled out of turn.
//!
//! In a lane each key has its own order, so rows of busy keys are behind those of
//! others: with rows 3 (of one key) unsent and 5 (of another) settled, prefix and
//! mark end before 3. A reader that goes on need not write more than that; one
//! that hands its pipeline over names row 5, so that its successor does not send it
//! again. Within a key what is settled is always a prefix, so leaving rows out
//! never lets one pass an earlier one of its key.

use std::collections::BTreeSet;

use super::Intake;
use crate::core::lane::Lane;
use crate::core::position::{MOST_AHEAD, Seq};
use crate::core::sabotage::{self, Bug};

impl Intake {
    /// Rows handed of which it is yet to be heard what became of them.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.lanes.iter().map(Lane::under_way).sum()
    }

    /// Rows that the last position had no room to name: they will come again.
    #[must_use]
    pub const fn unnamed(&self) -> usize {
        self.unnamed
    }

    /// A handed row came back unsent: it stays unsettled and is waited for no more.
    /// Answers whether it was.
    pub fn came_back(&mut self, seq: Seq, hash: u128) -> bool {
        let place = self.lane_of(hash);
        let lane = self.lanes.get_mut(place);
        lane.is_some_and(|lane| lane.came_back(seq))
    }

    /// The rows that are settled and that neither prefix nor marks cover, as far as
    /// they may be named. What an earlier incarnation named and this one has not
    /// come past stays named.
    pub(super) fn ahead(&mut self) -> Vec<Seq> {
        if sabotage::is(Bug::AheadIsForgotten) {
            return Vec::new();
        }
        let of_lanes = self.lanes.iter().flat_map(Lane::settled_ahead);
        let recorded = self.recorded.ahead.iter().copied();
        let mut ahead: Vec<Seq> = of_lanes.chain(recorded).collect();
        // Of a row that is parked its letter tells, once that is written.
        let letters: BTreeSet<Seq> = self.parking.rows().collect();
        ahead.retain(|row| !letters.contains(row));
        ahead.sort_unstable();
        ahead.dedup();
        self.unnamed = ahead.len().saturating_sub(MOST_AHEAD);
        ahead.truncate(MOST_AHEAD);
        ahead
    }
}
