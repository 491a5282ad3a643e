//! What a writer waits for, and what it shows of itself.

use std::sync::Arc;
use std::time::Duration;

use actix::{AsyncContext, Context};

use super::ShardWriter;
use crate::admin::status::{ShardStatus, WaitStatus};
use crate::core::dispatch::Delay;
use crate::core::time::Moment;
use crate::core::wait::{Doing, Wait, judge_timer};

/// How often it looks at itself and brings gauges up to date.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// How many of its hottest keys are kept for who asks.
const SHOWN_KEYS: usize = 20;

impl ShardWriter {
    /// What it finds itself doing. Rows that wait while no call is in flight and no
    /// timer is set wait for a wake-up that was lost.
    fn doing(&self, now: Moment) -> Doing {
        if !self.dispatch.in_flight().is_empty() {
            let patience = self.parts.pulse.patience();
            return patience.judge(Wait::Kinesis, self.called_at, now);
        }
        if self.giving_back.is_some() {
            return Doing::Stalled("what waits was asked back and lies here");
        }
        if self.orders.hold {
            return Doing::Waits(Wait::Stream);
        }
        if self.dispatch.queued() == 0 {
            return Doing::Waits(Wait::Work);
        }
        match &self.timer {
            Some((due, _)) => {
                let wait = match self.delay {
                    Some(Delay::Company) => Wait::Company,
                    Some(Delay::Shard) | None => Wait::Budget,
                };
                judge_timer(wait, *due, now)
            }
            None => Doing::Stalled("rows wait and nothing is under way"),
        }
    }

    pub(super) fn report(&mut self, context: &mut Context<Self>) {
        let now = self.parts.clock.now();
        self.hot_keys.tick(now);
        self.note_limits();
        let waits = self.parts.pulse.says(self.doing(now), now);
        self.waits = Some(WaitStatus::of(waits));
        self.show();
        context.run_later(REPORT_EVERY, Self::report);
    }

    pub(super) fn show(&mut self) {
        let now = self.parts.clock.now();
        let queued = self.dispatch.queued();
        let queued_bytes = self.dispatch.queued_bytes();
        let mut budget = self.dispatch.budget();
        let (records, bytes) = budget.utilisation(now);
        let factor = budget.factor();
        let share = budget.held(now);
        drop(budget);
        self.parts.metrics.utilisation(records, bytes);
        self.parts.metrics.budget_factor(factor);
        self.parts.metrics.share(share.records, share.bytes);
        self.parts.metrics.queued(queued, queued_bytes);
        let hot_keys = self.hot_keys.hottest(SHOWN_KEYS);
        let (shard, trouble, waits) = (&self.parts.shard, &self.trouble, &self.waits);
        self.parts
            .board
            .change_stream(self.parts.stream.label(), |status| {
                let place = status.shards.iter_mut().find(|entry| entry.id == shard.0);
                if let Some(entry) = place {
                    *entry = ShardStatus {
                        id: Arc::clone(&shard.0),
                        records_utilisation: records,
                        bytes_utilisation: bytes,
                        budget_factor: factor,
                        records_share: share.records,
                        bytes_share: share.bytes,
                        queued_rows: queued as u64,
                        queued_bytes: queued_bytes as u64,
                        problem: trouble.clone(),
                        waits: waits.clone(),
                        hash_range: entry.hash_range.take(),
                        hot_keys,
                    };
                }
            });
    }
}
