//! What was not stored, or may not have been, goes back to the front of its keys.

use super::{FlowId, Parcel, SendQueue, Sendable};
use crate::core::sabotage::{self, Bug};

/// When what goes back has its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// In the next call, behind what went back before.
    Next,
    /// First in the next call.
    First,
    /// After other keys have had their turn: it was certainly not stored.
    Last,
}

impl<T: Sendable> SendQueue<T> {
    /// The rows of a record were not stored, or it is not known whether they were:
    /// they go again before anything newer of their keys. Rows of a flow that was
    /// purged meanwhile are dropped.
    pub fn failed(&mut self, parcel: Parcel<T>, turn: Turn) {
        let hashes = parcel.hashes();
        let flow = parcel.flow;
        self.put_back(flow, parcel.into_rows());
        self.free(flow, hashes, turn);
    }

    fn put_back(&mut self, flow: FlowId, rows: impl DoubleEndedIterator<Item = T>) {
        let Some(queue) = self.flows.get_mut(&flow) else {
            return;
        };
        for row in rows.rev() {
            let weight = row.weight();
            let Some(key) = queue.keys.get_mut(&row.hash()) else {
                continue;
            };
            if sabotage::is(Bug::FailedBehindItsKey) {
                key.rows.push_back(row);
            } else {
                key.rows.push_front(row);
            }
            key.bytes += weight;
            key.again += 1;
            queue.rows += 1;
            queue.bytes += weight;
            self.rows += 1;
            self.bytes += weight;
        }
    }

    /// The keys may go again.
    fn free(&mut self, flow: FlowId, hashes: impl Iterator<Item = u128>, turn: Turn) {
        let mut freed = Vec::new();
        for hash in hashes {
            let key = self
                .flows
                .get_mut(&flow)
                .and_then(|queue| queue.keys.get_mut(&hash));
            if let Some(key) = key.filter(|key| key.in_flight) {
                key.in_flight = false;
                freed.push(hash);
            }
        }
        match turn {
            Turn::Next => {
                for hash in freed {
                    self.count_ready(flow, hash);
                    self.retry.push_back((flow, hash));
                }
            }
            Turn::First => {
                for hash in freed.into_iter().rev() {
                    self.count_ready(flow, hash);
                    self.retry.push_front((flow, hash));
                }
            }
            Turn::Last => {
                for hash in freed {
                    self.make_ready(flow, hash);
                }
            }
        }
    }
}
