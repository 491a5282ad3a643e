//! Room for rows that are sent again beside the live flow (see
//! [`crate::core::resend`], which says why these rules keep the order).

use super::{Intake, Scan};
use crate::core::lane::Lane;
use crate::core::position::WindowNumber;

impl Intake {
    /// Whether rows may be handed that were delivered before: all open windows
    /// have been read to their end, and no letter of them waits to be written.
    #[must_use]
    pub fn may_resend(&self) -> bool {
        self.scan == Scan::Done && !self.stopped && !self.must_save && self.letters() == 0
    }

    /// Which lane carries a hash key.
    #[must_use]
    pub fn lane_for(&self, hash: u128) -> usize {
        self.lane_of(hash)
    }

    /// Whether letters may be handed that a person wants delivered. Rows of their keys
    /// that wait to be parked come after them.
    #[must_use]
    pub fn may_send_letters(&self) -> bool {
        self.scan == Scan::Done && !self.stopped && !self.must_save
    }

    /// Uses a window number up for rows that are sent again. It must be written
    /// down before any of them is handed.
    pub const fn number_resend(&mut self) -> WindowNumber {
        let number = self.position.last_number.next();
        self.position.last_number = number;
        self.must_save = true;
        number
    }

    /// Whether a row of this hash key may be handed under a number of its own:
    /// no live row of its lane waits, which would then come after it under a
    /// lower number.
    #[must_use]
    pub fn takes_resent(&self, hash: u128) -> bool {
        let lane = self.lanes.get(self.lane_of(hash));
        self.last_backlog_of(hash).is_none() && lane.is_some_and(Lane::takes_more)
    }
}
