//! Stopping in order.
//!
//! ```text
//! asked -> reading has stopped, what was sent is waited for, what was not is taken back
//!   all settled, positions written, leases given back -------------> drained
//!   grace over -> readers write what is settled and give leases back -> cut off
//!     last acts over (a database that does not answer) -------------> cut off
//! ```
//!
//! Claims under way are waited for as well, for as long as last acts may take: a
//! lease that was granted and forgotten would keep another node waiting. Nobody
//! waits for databases and streams that are away while nothing was sent.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actix::{Context, Handler};

use super::{DrainReport, LeftBehind, Supervisor};
use crate::actors::child::{Exit, legal};
use crate::actors::messages::{Drain, GiveUp, LeaseGivenBack, Shutdown};
use crate::actors::pipeline_slot::Run;
use crate::admin::status::Phase;
use crate::config::desired::PipelineKey;
use crate::core::ports::Epoch;
use crate::core::time::Moment;

/// How long a statement may take that writes a last position or gives a lease
/// back, before it is not waited for any more.
pub const LAST_ACTS: Duration = Duration::from_secs(2);

/// How long the end waits for a node's rows to be removed: without that they expire.
const LEAVES_WITHIN: Duration = Duration::from_secs(1);

/// Why a pipeline was cut off when nothing went wrong.
const GRACE_OVER: &str = "the grace is over";

/// A shutdown under way.
pub(super) struct Draining {
    grace_until: Moment,
    /// Claims and leases on their way back are not waited for any longer.
    leases_until: Moment,
    /// Readers that were told to give up end until then.
    last_acts_until: Option<Moment>,
    /// The node's rows are on their way out.
    leaves: bool,
    drained: usize,
    /// What those leave that were told to give up, or ended by themselves.
    left: BTreeMap<PipelineKey, Left>,
}

struct Left {
    /// Rows in flight, where that can be told: of a reader that died it cannot.
    rows: Option<Arc<AtomicU64>>,
    why: String,
}

impl Supervisor {
    fn shut_down(&mut self, context: &Context<Self>) {
        if self.is_draining() {
            return;
        }
        self.board.set_phase(Phase::Draining);
        self.stop_retention();
        let grace = self.settings.limits.drain_grace;
        let until = self.clock.now() + grace;
        for (key, slot) in &mut self.pipelines {
            if let Run::Running { reader, .. } = &slot.run {
                let sends_all = false;
                if reader.try_send(Drain { until, sends_all }).is_err() {
                    tracing::debug!(pipeline = %key, "a reader is gone");
                }
                legal(slot.life.drains(until));
            }
        }
        let now = self.clock.now();
        self.draining = Some(Draining {
            grace_until: until,
            leases_until: now + LAST_ACTS,
            last_acts_until: None,
            leaves: false,
            drained: 0,
            left: BTreeMap::new(),
        });
        tracing::info!(
            ?grace,
            "draining: nothing more is read, what was sent is settled"
        );
        self.beat_everywhere(context);
        self.finish_drain_when_due(context);
    }

    /// A reader has ended while the process does.
    pub(in crate::actors) fn ended_in_drain(
        &mut self,
        key: &PipelineKey,
        epoch: Epoch,
        exit: &Exit,
        context: &Context<Self>,
    ) {
        let Some(draining) = &mut self.draining else {
            return;
        };
        match exit {
            Exit::Drained => {
                draining.left.remove(key);
                draining.drained += 1;
            }
            // It was told to, and has done its last acts.
            Exit::Stopped if draining.left.contains_key(key) => {}
            Exit::Stopped
            | Exit::LeaseLost
            | Exit::LeaseExpired
            | Exit::RowsLost
            | Exit::Refused(_)
            | Exit::Blocked(_)
            | Exit::Stuck
            | Exit::Panicked(_) => {
                let left = draining.left.entry(key.clone()).or_insert_with(|| Left {
                    rows: None,
                    why: String::new(),
                });
                left.why = exit.to_string();
                // The durable position is where another node goes on.
                self.give_lease_back(key, epoch, context);
            }
        }
    }

    /// A claim has ended while the process does.
    pub(in crate::actors) fn claimed_in_drain(
        &mut self,
        key: &PipelineKey,
        is_current: bool,
        context: &Context<Self>,
    ) {
        if !self.is_draining() {
            return;
        }
        if let Some(slot) = self.pipelines.get_mut(key)
            && is_current
        {
            slot.run = Run::Waiting;
        }
        self.finish_drain_when_due(context);
    }

    pub(super) fn finish_drain_when_due(&mut self, context: &Context<Self>) {
        let now = self.clock.now();
        let Some(draining) = &self.draining else {
            return;
        };
        let runs = |is_it: fn(&Run) -> bool| self.pipelines.values().any(|slot| is_it(&slot.run));
        let is_reading = runs(|run| matches!(run, Run::Running { .. }));
        let claims = runs(|run| matches!(run, Run::Claiming)) || self.leases_returning > 0;
        let is_waiting_for_leases = claims && now < draining.leases_until;
        match draining.last_acts_until {
            _ if !is_reading && !is_waiting_for_leases => self.leave_or_finish(context),
            None if is_reading && now >= draining.grace_until => self.end_grace(),
            Some(until) if now >= until => self.finish_drain(),
            None | Some(_) => {}
        }
    }

    /// Nothing runs any more: the node's rows go, and then it is over.
    fn leave_or_finish(&mut self, context: &Context<Self>) {
        let until = self.clock.now() + LEAVES_WITHIN;
        let Some(draining) = &mut self.draining else {
            return;
        };
        if std::mem::replace(&mut draining.leaves, true) {
            self.finish_drain();
            return;
        }
        draining.leases_until = until;
        self.leave_everywhere(context);
        if self.leases_returning == 0 {
            self.finish_drain();
        }
    }

    fn end_grace(&mut self) {
        let until = self.clock.now() + LAST_ACTS;
        let Some(draining) = &mut self.draining else {
            return;
        };
        draining.last_acts_until = Some(until);
        draining.leases_until = until;
        for (key, slot) in &self.pipelines {
            let Run::Running { reader, .. } = &slot.run else {
                continue;
            };
            // Exact as soon as the reader has answered.
            let in_flight = self.board.rows_in_flight(&key.database, &key.name);
            let rows = Arc::new(AtomicU64::new(in_flight));
            let left = Arc::clone(&rows);
            if reader.try_send(GiveUp { left }).is_err() {
                tracing::debug!(pipeline = %key, "a reader is gone");
            }
            let why = GRACE_OVER.to_owned();
            draining.left.insert(
                key.clone(),
                Left {
                    rows: Some(rows),
                    why,
                },
            );
        }
    }

    fn finish_drain(&mut self) {
        let (Some(draining), Some(finished)) = (&self.draining, self.finished.take()) else {
            return;
        };
        let left = draining.left.iter().map(|(key, left)| LeftBehind {
            pipeline: key.clone(),
            rows: left.rows.as_ref().map(|rows| rows.load(Ordering::Relaxed)),
            why: left.why.clone(),
        });
        let report = DrainReport {
            drained: draining.drained,
            left: left.collect(),
        };
        // Only a process that ends already does not wait for it.
        finished.send(report).ok();
    }
}

impl Handler<Shutdown> for Supervisor {
    type Result = ();

    fn handle(&mut self, _: Shutdown, context: &mut Self::Context) {
        self.shut_down(context);
    }
}

impl Handler<LeaseGivenBack> for Supervisor {
    type Result = ();

    fn handle(&mut self, _: LeaseGivenBack, context: &mut Self::Context) {
        self.leases_returning = self.leases_returning.saturating_sub(1);
        self.finish_drain_when_due(context);
    }
}
