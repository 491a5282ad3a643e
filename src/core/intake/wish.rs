//! What an intake asks its reader for, and how it decides.

use std::time::Duration;

use super::{Intake, Room, Scan, StashOf};
use crate::core::lane::Lane;
use crate::core::position::{RowId, Seq, WindowNumber};
use crate::core::snapshot::Snapshot;
use crate::core::time::Moment;

/// The most rows read at once: larger pages gain little (postgres-facts: 2,000
/// rows a page read 500,000 rows/s, 500 rows a page half of it).
pub const PAGE: usize = 2000;

/// The least rows read at once, room permitting.
const LEAST_PAGE: usize = 64;

/// How long progress may stay unwritten: what a crash costs in duplicates.
const SAVE_EVERY: Duration = Duration::from_millis(200);

/// With more windows open, new ones are opened less often.
const WIDEN_ABOVE: usize = 256;
const WIDE_WINDOW: Duration = Duration::from_millis(100);

/// What the reader is to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// Open a window after `seen`; when it has rows, write the position down with
    /// it, then hand its rows over.
    Open {
        /// What has been read already.
        seen: Snapshot,
        /// Rows read at once.
        page: usize,
    },
    /// Read a window again that an earlier incarnation wrote down.
    Reopen {
        /// Its number.
        window: WindowNumber,
        /// What was read before it.
        from: Snapshot,
        /// What it reaches up to.
        to: Snapshot,
        /// Rows read at once.
        page: usize,
    },
    /// Read the next page of a large window.
    Page {
        /// Its number.
        window: WindowNumber,
        /// What was read before it.
        from: Snapshot,
        /// What it reaches up to.
        to: Snapshot,
        /// Ids above this.
        after: RowId,
        /// See [`crate::core::ports::WindowRows::Bounds`].
        first_fresh: RowId,
        /// Ids up to this.
        last: RowId,
        /// At most so many.
        page: usize,
    },
    /// Read stashed rows again.
    Refill {
        /// Whose they are.
        lane: StashOf,
        /// The rows, in order.
        rows: Vec<Seq>,
    },
    /// Write the position down.
    Save,
    /// Nothing before this moment, unless something changes.
    Wait {
        /// When to ask again.
        until: Option<Moment>,
    },
}

impl Wish {
    /// How many rows are to be read at most.
    #[must_use]
    pub const fn rows(&self) -> usize {
        match self {
            Self::Open { page, .. } | Self::Reopen { page, .. } | Self::Page { page, .. } => *page,
            Self::Refill { rows, .. } => rows.len(),
            Self::Save | Self::Wait { .. } => 0,
        }
    }
}

impl Intake {
    fn next_refill(&mut self, room: Room, now: Moment) -> Option<Wish> {
        for step in 0..self.lanes.len() {
            let place = (self.next_refill + step) % self.lanes.len();
            let lane = self.lanes.get_mut(place)?;
            lane.fit_share(now);
            let count = lane.refill().min(room.rows).min(PAGE);
            if count > 0 {
                self.next_refill = place + 1;
                return Some(Wish::Refill {
                    lane: StashOf::Lane(place),
                    rows: lane.to_refill(count),
                });
            }
        }
        None
    }

    /// Whether something would be read if there were room for it.
    #[must_use]
    pub fn would_read(&self, now: Moment) -> bool {
        let plenty = Room {
            rows: PAGE,
            bytes: usize::MAX,
        };
        let is_due = self.must_save || self.parking.is_due();
        let refills = || self.lanes.iter().any(|lane| lane.refill() > 0);
        !is_due
            && !self.stopped
            && (!self.backlogs.is_empty() || refills() || self.next_read(plenty, now).is_some())
    }

    fn next_read(&self, room: Room, now: Moment) -> Option<Wish> {
        let some_lane_is_hungry = self.lanes.iter().any(Lane::is_hungry);
        if !some_lane_is_hungry || self.stashed() >= self.limits.stashed {
            return None;
        }
        let free: usize = self.lanes.iter().map(Lane::free).sum();
        let page = free.clamp(LEAST_PAGE, PAGE).min(room.rows);
        match self.scan {
            Scan::Done if self.news && self.may_open_at(now) <= now => Some(Wish::Open {
                seen: self.position.head().clone(),
                page,
            }),
            Scan::Done => None,
            Scan::Reopen { window, .. } => {
                let (from, to) = self.bounds_of(window)?;
                Some(Wish::Reopen {
                    window,
                    from,
                    to,
                    page,
                })
            }
            Scan::Paging {
                window,
                after,
                first_fresh,
                last,
            } => {
                let (from, to) = self.bounds_of(window)?;
                Some(Wish::Page {
                    window,
                    from,
                    to,
                    after,
                    first_fresh,
                    last,
                    page,
                })
            }
        }
    }

    fn may_open_at(&self, now: Moment) -> Moment {
        match self.opened_at.last() {
            Some((_, opened)) if self.position.open.len() > WIDEN_ABOVE => *opened + WIDE_WINDOW,
            _ => now,
        }
    }

    pub(super) fn bounds_of(&self, window: WindowNumber) -> Option<(Snapshot, Snapshot)> {
        let place = self
            .position
            .open
            .iter()
            .position(|open| open.number == window)?;
        let from = match place.checked_sub(1) {
            Some(before) => &self.position.open[before].snapshot,
            None => &self.position.base,
        };
        Some((from.clone(), self.position.open[place].snapshot.clone()))
    }

    /// What to do next, with this room for rows to hand over.
    pub fn next_wish(&mut self, room: Room, now: Moment) -> Wish {
        if self.must_save || self.parking.is_due() {
            return Wish::Save;
        }
        if !self.stopped && room.rows > 0 && room.bytes > 0 {
            if let Some(backlog) = self.next_backlog() {
                return backlog;
            }
            if let Some(refill) = self.next_refill(room, now) {
                return refill;
            }
            if let Some(read) = self.next_read(room, now) {
                return read;
            }
        }
        let save_at = self.saved_at + SAVE_EVERY;
        if self.dirty && now >= save_at {
            return Wish::Save;
        }
        let widened = self.news && self.may_open_at(now) > now;
        let until = match (self.dirty, widened) {
            (true, true) => Some(save_at.min(self.may_open_at(now))),
            (true, false) => Some(save_at),
            (false, true) => Some(self.may_open_at(now)),
            (false, false) => None,
        };
        Wish::Wait { until }
    }
}
