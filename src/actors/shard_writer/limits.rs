//! Whose rows wait in the queue, and what for, in time.
//!
//! It is looked at from time to time, after it was decided what to send: what is seen
//! counts for the time until the next look. So what is short is seen by chance, and
//! what lasts is seen as long as it lasts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::ShardWriter;
use crate::actors::tenants::{KeptAt, Tenant};
use crate::core::dispatch::Delay;
use crate::core::tenant::Limit;
use crate::core::time::Moment;

/// The time between two looks, or a little more; a queue that has become empty is
/// seen at once.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The tenants whose rows waited at the last look.
pub(super) struct WaitingTenants {
    seen: Vec<(Arc<Tenant>, Limit)>,
    looked_at: Moment,
}

impl WaitingTenants {
    pub(super) const fn new(now: Moment) -> Self {
        Self {
            seen: Vec::new(),
            looked_at: now,
        }
    }
}

impl ShardWriter {
    /// Has tenants know what their rows waited for since the last look.
    pub(super) fn note_limits(&mut self) {
        let now = self.parts.clock.now();
        let passed = now.since(self.limits.looked_at);
        let is_empty = self.dispatch.queued() == 0;
        let has_ended = is_empty && !self.limits.seen.is_empty();
        if passed < LOOK_EVERY && !has_ended {
            return;
        }
        self.limits.looked_at = now;
        for (tenant, by) in self.limits.seen.drain(..) {
            let (stream, shard) = (self.parts.stream.label(), &self.parts.shard.0);
            let at = KeptAt::Shard(Arc::clone(stream), Arc::clone(shard));
            tenant.limited(by, passed, at);
        }
        // What waits for company waits because it is late, not for the shard.
        if is_empty || self.delay == Some(Delay::Company) {
            return;
        }
        let mut seen: BTreeMap<Arc<str>, (Arc<Tenant>, Limit)> = BTreeMap::new();
        for (flow, by) in self.dispatch.waiting_flows() {
            let Some(tag) = self.tags.get(&flow) else {
                continue;
            };
            let tenant = Arc::clone(&tag.tenant);
            let entry = seen
                .entry(Arc::clone(tenant.name()))
                .or_insert((tenant, by));
            // Some of its rows could go if the shard took more.
            if by == Limit::Shard {
                entry.1 = by;
            }
        }
        self.limits.seen.extend(seen.into_values());
    }
}
