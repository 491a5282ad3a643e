//! Which flows have rows in a writer.
//!
//! Rows are entered when they are handed to the writer, before they lie in its
//! mailbox, and leave with their tickets. So when a writer is given up that cannot
//! be asked any more, its supervisor knows at once whose rows are lost with it: of
//! those flows nothing more is sent. The others go on.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::permits::Void;
use crate::core::send_queue::FlowId;

/// The rows of one incarnation of a writer, by flow.
#[derive(Debug, Default)]
pub struct Holder(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    flows: BTreeMap<FlowId, (usize, Void)>,
    given_up: bool,
}

impl Holder {
    /// So many rows of this flow are handed to the writer. Should that be given up
    /// already, they are lost.
    pub fn enter(&self, flow: FlowId, rows: usize, void: &Void) {
        let mut held = self.held();
        if held.given_up {
            void.make_void();
        }
        let entry = held.flows.entry(flow);
        entry.or_insert_with(|| (0, void.clone())).0 += rows;
    }

    /// So many rows of this flow have left: they are settled, given back or dropped.
    pub fn leave(&self, flow: FlowId, rows: usize) {
        let mut held = self.held();
        if let Some((there, _)) = held.flows.get_mut(&flow) {
            *there -= rows;
            if *there == 0 {
                held.flows.remove(&flow);
            }
        }
    }

    /// The writer is given up: what lies in it is lost, and so is what still comes.
    /// Answers how many flows it harms.
    pub fn give_up(&self) -> usize {
        let mut held = self.held();
        held.given_up = true;
        for (_, void) in held.flows.values() {
            void.make_void();
        }
        held.flows.len()
    }

    // A panic while it was locked leaves plain numbers.
    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn giving_up_harms_those_who_have_rows_there_and_those_who_still_come() {
        let holder = Holder::default();
        let voids: [Void; 4] = std::array::from_fn(|_| Void::default());
        let [stays, left, none, late] = &voids;
        holder.enter(1, 1, stays);
        holder.enter(1, 2, stays);
        holder.leave(1, 2);
        holder.enter(2, 2, left);
        holder.leave(2, 1);
        holder.leave(2, 1);
        assert_eq!(holder.give_up(), 1);
        holder.enter(4, 1, late);
        holder.leave(4, 1);
        let harmed: Vec<bool> = [stays, left, none, late].map(Void::is_void).into();
        assert_eq!(harmed, [true, false, false, true]);
    }
}
