//! A shard that is gone: what waits for it goes back to the router.

use std::sync::Arc;

use actix::{Context, Handler};

use super::ShardWriter;
use crate::actors::fault;
use crate::actors::messages::{Batch, GiveBack, GivenBack, RoutedRow};
use crate::core::routing::HandoverId;

impl ShardWriter {
    /// Gives back what waits, unless a call is in flight: its answer comes first.
    pub(super) fn give_back(&mut self, handover: HandoverId) {
        let Some(waiting) = self.dispatch.hand_over() else {
            return;
        };
        self.giving_back = None;
        let tags = &self.tags;
        let batch = |(flow, mut rows): (_, Vec<RoutedRow>)| {
            for row in &mut rows {
                row.ticket.leave();
            }
            let tag = Arc::clone(tags.get(&flow)?);
            Some(Batch { tag, rows })
        };
        let given_back = GivenBack {
            shard: self.parts.shard.clone(),
            handover,
            batches: waiting.into_iter().filter_map(batch).collect(),
        };
        if self.parts.router.try_send(given_back).is_err() {
            // The dropped tickets have told the readers.
            tracing::debug!(shard = %self.parts.shard, "the router is gone");
        }
    }
}

impl Handler<GiveBack> for ShardWriter {
    type Result = ();

    fn handle(&mut self, message: GiveBack, context: &mut Context<Self>) {
        fault::point("shard_writer.GiveBack");
        self.giving_back = Some(message.handover);
        self.go_on(context);
    }
}
