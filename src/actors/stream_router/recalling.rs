//! Rows of a pipeline that is handed over go back to its reader.

use std::sync::Arc;

use actix::{Context, Handler};

use super::StreamRouter;
use crate::actors::fault;
use crate::actors::messages::{Outcomes, Recall, RoutedRow};
use crate::actors::permits::FlowTag;

/// Gives rows back to their reader. None of them has been in a call.
pub(super) fn give_back(tag: &Arc<FlowTag>, mut recalled: Vec<RoutedRow>) {
    for row in &mut recalled {
        row.ticket.leave();
    }
    let outcomes = Outcomes {
        recalled,
        ..Outcomes::default()
    };
    if tag.reader.try_send(outcomes).is_err() {
        tracing::debug!(pipeline = %tag.pipeline, "rows of a reader that is gone");
    }
}

impl Handler<Recall> for StreamRouter {
    type Result = ();

    fn handle(&mut self, message: Recall, _: &mut Context<Self>) {
        fault::point("stream_router.Recall");
        if let Some(known) = &mut self.known {
            for (tag, rows) in known.routing.recall(|tag| tag.is_recalled()) {
                give_back(&tag, rows);
            }
        }
        for seat in self.writers.values() {
            if seat.writer.try_send(message.clone()).is_err() {
                tracing::debug!("a writer is gone");
            }
        }
    }
}
