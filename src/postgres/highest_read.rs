//! The highest message id that has been read of each outbox.
//!
//! A position is written with it: no message above it is settled, whatever its
//! transaction id says. In a copy of the database that tells the copied messages
//! from those published there, whose transaction ids have started over.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::core::ports::OutboxId;
use crate::core::position::RowId;

/// What one store has read.
#[derive(Debug, Default)]
pub(super) struct HighestRead(Mutex<Read>);

#[derive(Debug, Default)]
struct Read {
    outboxes: HashMap<String, OutboxId>,
    highest: HashMap<OutboxId, RowId>,
}

impl HighestRead {
    /// From now on the pipeline reads this outbox.
    pub(super) fn reads_for(&self, pipeline: &str, outbox: OutboxId) {
        let mut read = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        read.outboxes.insert(pipeline.to_owned(), outbox);
    }

    /// Messages of the outbox up to this one have been read, by any pipeline.
    pub(super) fn has_read(&self, outbox: OutboxId, id: RowId) {
        let mut read = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let highest = read.highest.entry(outbox).or_insert(id);
        *highest = id.max(*highest);
    }

    /// The highest id read of the pipeline's outbox; 0 when none was.
    pub(super) fn of(&self, pipeline: &str) -> RowId {
        let read = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let outbox = read.outboxes.get(pipeline);
        let highest = outbox.and_then(|outbox| read.highest.get(outbox));
        highest.copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outboxes_are_told_apart() {
        let read = HighestRead::default();
        read.reads_for("p", OutboxId(1));
        read.reads_for("q", OutboxId(2));
        read.has_read(OutboxId(1), 9);
        read.has_read(OutboxId(1), 4);
        assert_eq!((read.of("p"), read.of("q"), read.of("r")), (9, 0, 0));
    }
}
