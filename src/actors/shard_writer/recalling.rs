//! Rows of a pipeline that is handed over go back to its reader.

use std::sync::Arc;

use actix::{Context, Handler};

use super::{ShardWriter, tell};
use crate::actors::fault;
use crate::actors::messages::{Outcomes, Recall};
use crate::actors::permits::FlowTag;

impl ShardWriter {
    /// Gives back what of recalled flows is certainly not in the stream. Asked before
    /// every call, so that whatever comes back from one or comes in later goes the
    /// same way.
    pub(super) fn give_back_recalled(&mut self) {
        let is_recalled = |tag: &&Arc<FlowTag>| tag.is_recalled();
        for tag in self.tags.values().filter(is_recalled) {
            let recalled = self.dispatch.recall(tag.flow.id);
            if !recalled.is_empty() {
                let outcomes = Outcomes {
                    recalled,
                    ..Outcomes::default()
                };
                tell(tag, outcomes);
            }
        }
    }
}

impl Handler<Recall> for ShardWriter {
    type Result = ();

    fn handle(&mut self, _: Recall, context: &mut Context<Self>) {
        fault::point("shard_writer.Recall");
        self.go_on(context);
    }
}
