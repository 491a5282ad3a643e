//! A pipeline is handed over: what waits for its shards is left to its next owner.
//!
//! ```text
//! asked to drain -> for a moment all goes on: most shards take what was handed
//!   not done by then (a shard is full) -> rows that are in no call are recalled
//!     calls under way have ended, all else has come back -> position, lease
//! ```
//!
//! On a full shard more may lie in the queue than it takes within the grace; cut off,
//! what it took meanwhile would be sent again. A recalled flow begins no call any
//! more, but for rows that may be in the stream already: those are sent until it is
//! known. The last position names what is settled out of turn
//! ([`crate::core::intake`]), and the next owner sends the rest.

use std::time::Duration;

use actix::{AsyncContext, Context};

use std::sync::atomic::Ordering;

use super::OutboxReader;
use crate::actors::messages::{Drain, Purpose, Recall, RoutedRow};
use crate::core::sabotage::{self, Bug};

/// For so long a drain waits for all that was handed, or for half of its grace: where
/// shards are not full nothing is left over, and no position has to say so.
const RECALL_AFTER: Duration = Duration::from_secs(1);

impl OutboxReader {
    /// Rows that are in no call after a moment come back, unless the drain is to send
    /// them.
    pub(super) fn will_recall(&self, drain: Drain, context: &mut Context<Self>) {
        if drain.sends_all || sabotage::is(Bug::DrainWaitsForFullShards) {
            return;
        }
        let grace = drain.until.since(self.now());
        context.run_later(RECALL_AFTER.min(grace / 2), |reader, _| reader.recall());
    }

    fn recall(&self) {
        if self.releasing || self.tag.recalled.swap(true, Ordering::AcqRel) {
            return;
        }
        if self.router.try_send(Recall).is_err() {
            // The dropped tickets have made the flow void: we are about to end.
            tracing::debug!(pipeline = %self.key, "the router is gone");
        }
    }

    /// Rows came back that are certainly not in the stream.
    pub(super) fn take_recalled(&mut self, recalled: Vec<RoutedRow>) {
        for row in recalled {
            let (seq, hash) = (row.envelope.seq, row.envelope.hash);
            row.ticket.settle();
            self.metrics.rows_returned(1);
            self.left += 1;
            match row.purpose {
                Purpose::Live => {
                    self.intake.came_back(seq, hash);
                }
                Purpose::Again => self.resend.came_back(seq),
                Purpose::Letter => self.letters.came_back(seq),
            }
        }
    }

    /// Once, when the pipeline is handed over.
    pub(super) fn say_left(&mut self) {
        let rows = std::mem::take(&mut self.left);
        if rows > 0 {
            tracing::info!(pipeline = %self.key, rows, "rows that were not sent are left to the next owner");
        }
        let rows = self.intake.unnamed();
        if rows > 0 {
            tracing::warn!(pipeline = %self.key, rows, "more rows were sent out of turn than a position can name; these will be sent again");
        }
    }
}
