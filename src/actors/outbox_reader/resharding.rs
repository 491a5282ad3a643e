//! The stream has other shards now, takes records of another size, must not be
//! written to, or can be again.

use std::sync::Arc;

use actix::{Context, Handler};

use super::OutboxReader;
use crate::actors::child::Exit;
use crate::actors::fault;
use crate::actors::messages::{ShardsChanged, StreamStopped};
use crate::admin::status::PipelineState;
use crate::core::render::Renderer;

impl OutboxReader {
    /// Follows a change of the stream. Nothing may be under way: what is being read
    /// was asked for by lane, and rendered for the old record limit.
    pub(super) fn follow_shards(&mut self) {
        let Some(changed) = self.changed.take() else {
            return;
        };
        let shards = changed.map.shards().iter();
        let ranges: Vec<_> = shards.map(|shard| shard.range).collect();
        self.intake.reshard(&ranges, self.now());
        let old = &self.work.renderer;
        if old.max_record_bytes == changed.max_record_bytes {
            return;
        }
        let has_risen = changed.max_record_bytes > old.max_record_bytes;
        self.work.renderer = Arc::new(Renderer {
            max_record_bytes: changed.max_record_bytes,
            ..Renderer::clone(old)
        });
        // A row that was too large may not be any more.
        if has_risen && self.rejected.is_none() && !self.draining {
            self.intake.resume_reading();
        }
    }
}

impl Handler<ShardsChanged> for OutboxReader {
    type Result = ();

    fn handle(&mut self, message: ShardsChanged, context: &mut Context<Self>) {
        fault::point("outbox_reader.ShardsChanged");
        if message.router != self.router {
            // What was handed to the earlier one, or to its writers, is lost with it.
            if self.tag.own.rows() > 0 {
                self.end(Exit::RowsLost, context);
                return;
            }
            self.router = message.router.clone();
        }
        self.changed = Some(message);
        if self.stopped.take().is_some() {
            // A row that held the pipeline is found again.
            if self.rejected.is_none() && !self.draining {
                self.intake.resume_reading();
            }
            self.is_running();
        }
        self.go_on(context);
    }
}

impl Handler<StreamStopped> for OutboxReader {
    type Result = ();

    fn handle(&mut self, message: StreamStopped, context: &mut Context<Self>) {
        fault::point("outbox_reader.StreamStopped");
        self.stir(context);
        // What is known of the trouble says more than that there is one.
        let known = self.stream.keeps_waiting();
        let reason = known.unwrap_or_else(|| message.reason.clone());
        self.stopped = Some(message.reason);
        self.set_state(PipelineState::Waiting { reason });
    }
}
