//! Bytes that are set aside for rows before they are read.
//!
//! What is read must go somewhere: so its bytes are taken first, corrected when the
//! rows are there, and become tickets when they are handed. Rules:
//! - a read brings at most half of what is reserved for it: beside the rows that
//!   fit, one that does not may have arrived already;
//! - a row that is larger than anything that is free goes alone: one of all pipelines
//!   at a time, beside what the others have. So the largest record comes on top of
//!   the budget, once, and takes nothing from the others;
//! - what a tenant may have is exceeded by at most one such row of each pipeline.

use std::sync::Arc;

use super::permits::{AlonePass, FlowTag};

/// The most that one read brings, in bytes: about a full page of 1 KiB rows.
pub const MOST_READ: usize = 4 * 1024 * 1024;

/// Less than this is not worth a read, in bytes: some rows.
const LEAST_READ: usize = 4 * 1024;

/// A row that needs more room than a read has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NeedsRoom {
    /// Its id.
    pub row: i64,
    /// What it weighs.
    pub bytes: usize,
}

/// Bytes that are set aside. Dropped, they are free again.
#[derive(Debug)]
pub struct Reservation {
    tag: Arc<FlowTag>,
    bytes: usize,
    alone: Option<AlonePass>,
}

impl Reservation {
    /// What a read may bring now, 0 when there is not room enough.
    #[must_use]
    pub fn most(tag: &FlowTag) -> usize {
        let free = tag.own.free_bytes().min(tag.shared.free_bytes()) / 2;
        if free < LEAST_READ {
            0
        } else {
            free.min(MOST_READ)
        }
    }

    /// Whether a row of so many bytes may be read now, alone.
    #[must_use]
    pub fn has_room_for(tag: &FlowTag, bytes: usize) -> bool {
        own_has_room_for(tag, bytes) && (tag.shared.pool_has(bytes) || tag.shared.may_go_alone())
    }

    /// Sets bytes aside for a read that brings at most so many.
    #[must_use]
    pub fn for_read(tag: &Arc<FlowTag>, bytes: usize) -> Self {
        Self::take(tag, bytes.saturating_mul(2), None)
    }

    /// Sets bytes aside for one row, if that is possible now.
    #[must_use]
    pub fn for_one(tag: &Arc<FlowTag>, bytes: usize) -> Option<Self> {
        if !own_has_room_for(tag, bytes) {
            return None;
        }
        if tag.shared.pool_has(bytes) {
            return Some(Self::take(tag, bytes, None));
        }
        let pass = tag.shared.go_alone(bytes)?;
        Some(Self::take(tag, bytes, Some(pass)))
    }

    fn take(tag: &Arc<FlowTag>, bytes: usize, alone: Option<AlonePass>) -> Self {
        tag.own.reserve(bytes);
        if alone.is_none() {
            tag.shared.take(bytes);
        }
        let tag = Arc::clone(tag);
        Self { tag, bytes, alone }
    }

    /// The rows are there, and weigh so much.
    pub fn shrink_to(&mut self, bytes: usize) {
        let too_much = self.bytes.saturating_sub(bytes);
        self.give_back(too_much);
        self.bytes -= too_much;
    }

    /// The rows are handed now and take tickets: the pass goes with the row that went
    /// alone.
    #[must_use]
    pub fn end(mut self) -> Option<AlonePass> {
        let bytes = std::mem::take(&mut self.bytes);
        self.give_back(bytes);
        self.alone.take()
    }

    fn give_back(&self, bytes: usize) {
        self.tag.own.give_back_reserved(bytes);
        if self.alone.is_none() {
            self.tag.shared.give_back(bytes);
        }
    }
}

fn own_has_room_for(tag: &FlowTag, bytes: usize) -> bool {
    (bytes <= tag.own.free_bytes() || tag.own.bytes() == 0) && tag.shared.tenant_takes_more()
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.give_back(self.bytes);
    }
}
