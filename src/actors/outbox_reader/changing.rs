//! What changes while the reader runs: it keeps its epoch, its position and all
//! that is on its way.

use actix::{Context, Handler};

use super::{OutboxReader, RESENT_SHARE};
use crate::actors::fault;
use crate::actors::messages::Retune;
use crate::config::pipeline::PipelineSpec;
use crate::core::intake::IntakeLimits;
use crate::core::rate_limit::RateLimits;

/// A pipeline's own limits, as its limiter takes them.
pub(in crate::actors) fn rate_limits(spec: &PipelineSpec) -> RateLimits {
    spec.rate_limit
        .map_or_else(RateLimits::default, |limit| RateLimits {
            rows_per_second: limit.max_messages_per_second,
            burst_rows: limit.burst_size,
            bytes_per_second: limit.max_bytes_per_second,
        })
}

impl OutboxReader {
    /// Follows a change of limits. Nothing may be under way: what is being read was
    /// asked for by the old ones.
    pub(super) fn follow_retune(&mut self) {
        let Some(retune) = self.retuned.take() else {
            return;
        };
        let now = self.now();
        self.limiter.change(retune.rate, now);
        self.tag.own.resize(retune.most_rows, retune.most_bytes);
        self.resend.limit((retune.most_rows / RESENT_SHARE).max(1));
        self.intake.limit(IntakeLimits {
            rows: retune.most_rows,
            stashed: retune.most_stashed,
            merge_above: super::MERGE_ABOVE,
        });
    }
}

impl Handler<Retune> for OutboxReader {
    type Result = ();

    fn handle(&mut self, retune: Retune, context: &mut Context<Self>) {
        fault::point("outbox_reader.Retune");
        let shares = &self.tag.flow.shares;
        shares.change(retune.tenant_weight, retune.weight, retune.batch_size);
        self.quota.weigh(retune.weight);
        self.retuned = Some(retune);
        self.go_on(context);
    }
}
