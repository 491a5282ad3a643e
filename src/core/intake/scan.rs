//! How far an intake has read the windows that are open.

use super::Intake;
use crate::core::position::{OpenWindow, RowId, Seq, WindowNumber};

/// Where it goes on reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Scan {
    /// All open windows have been read to their end.
    Done,
    /// This window is to be read, from above `after` on.
    Reopen { window: WindowNumber, after: RowId },
    /// This window is being read; `after` is the last id read.
    Paging {
        window: WindowNumber,
        after: RowId,
        first_fresh: RowId,
        last: RowId,
    },
}

impl Scan {
    pub(super) const fn read_from_start(window: WindowNumber) -> Self {
        let after = RowId::MIN;
        Self::Reopen { window, after }
    }
}

impl Intake {
    /// A window turned out to be larger than a page: it is read within these
    /// bounds (see [`crate::core::ports::WindowRows::Bounds`]).
    pub fn begin_paging(
        &mut self,
        window: WindowNumber,
        first: RowId,
        first_fresh: RowId,
        last: RowId,
    ) {
        let is_first = |open: &&OpenWindow| open.number == window;
        let settled = self.recorded.open.first().filter(is_first);
        let settled_id = settled.map_or(RowId::MIN, |_| self.recorded.settled_id);
        let after = settled_id
            .max(first.saturating_sub(1))
            .max(self.read_in(window));
        self.scan = Scan::Paging {
            window,
            after,
            first_fresh,
            last,
        };
        self.news = true;
    }

    /// The last id read of a window that is being read.
    pub(super) const fn read_in(&self, window: WindowNumber) -> RowId {
        match self.scan {
            Scan::Reopen {
                window: read,
                after,
            }
            | Scan::Paging {
                window: read,
                after,
                ..
            } if read.0 == window.0 => after,
            Scan::Done | Scan::Reopen { .. } | Scan::Paging { .. } => RowId::MIN,
        }
    }

    /// All rows of the window have been read; the next one follows.
    pub fn end_window(&mut self, window: WindowNumber) {
        let next = self.position.open.iter().find(|open| open.number > window);
        self.scan = next.map_or(Scan::Done, |open| Scan::read_from_start(open.number));
        self.dirty = true;
    }

    /// Reading stops before a row that cannot be sent; it goes on from there when
    /// it is resumed.
    pub const fn hold_before(&mut self, row: Seq) {
        self.stopped = true;
        if let Scan::Reopen { after, .. } | Scan::Paging { after, .. } = &mut self.scan {
            *after = row.id - 1;
        }
    }

    /// Notes that the scan has come to this row; answers whether it is new.
    pub(super) fn read_on_to(&mut self, row: Seq) -> bool {
        if row.id <= self.read_in(row.window) {
            return false;
        }
        if let Scan::Reopen { window, after } | Scan::Paging { window, after, .. } = &mut self.scan
            && *window == row.window
        {
            *after = row.id;
        }
        true
    }

    /// The first row that has not been read, as far as windows are open.
    pub(super) fn next_unread(&self) -> Option<Seq> {
        match self.scan {
            Scan::Done => None,
            Scan::Reopen { window, after } => Some(Seq {
                window,
                id: after.saturating_add(1),
            }),
            Scan::Paging { window, after, .. } => Some(Seq {
                window,
                id: after.saturating_add(1),
            }),
        }
    }
}
