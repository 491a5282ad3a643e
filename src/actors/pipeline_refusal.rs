//! Pipelines whose definitions are not acceptable.

use std::sync::Arc;

use super::child::legal;
use super::pipeline_slot::{PipelineSlot, Run};
use super::supervisor::Supervisor;
use crate::admin::status::{PipelineState, PipelineStatus};
use crate::config::desired::{Named, PipelineKey};

impl Supervisor {
    pub(super) fn refuse_pipeline(&mut self, key: &PipelineKey, named: &Named, reason: &str) {
        let attempt = self.next_incarnation();
        let until = self.clock.now() + self.settings.limits.drain_grace;
        let now = self.clock.now();
        let slot = self
            .pipelines
            .entry(key.clone())
            .or_insert_with(|| PipelineSlot::new(now));
        slot.retired = false;
        // Where only what it names has changed, there is nothing to end.
        if slot.invalid.as_deref() != Some(reason) {
            tracing::error!(pipeline = %key, %reason, "the pipeline's definition is not acceptable; it does not run");
            slot.invalid = Some(reason.to_owned());
            // A reader that drains holds the stream it writes to by itself.
            slot.stream = None;
            slot.attempt = attempt;
            if !slot.drain(until) {
                slot.run = Run::Invalid;
                legal(slot.life.stops());
            }
        }
        let mut status = PipelineStatus::starting(
            Arc::clone(&key.name),
            Arc::clone(&key.database),
            Arc::clone(&named.outbox),
            Arc::clone(&named.stream),
            Arc::clone(&named.tenant),
        );
        let state = PipelineState::Invalid {
            reason: reason.to_owned(),
        };
        status.state = state.clone();
        self.board.set_pipeline(status);
        if let Some(slot) = self.pipelines.get(key) {
            self.show(key, slot, state);
        }
        self.retire_unused_streams();
    }
}
