//! Stopping in order: nothing more is read, what was sent is settled.

use super::{DrainReport, Draining, Supervisor};
use crate::actors::child::{Exit, legal};
use crate::actors::messages::Drain;
use crate::actors::pipeline_slot::Run;
use crate::admin::status::Phase;

impl Supervisor {
    pub(super) fn shut_down(&mut self) {
        if self.is_draining() {
            return;
        }
        self.board.set_phase(Phase::Draining);
        self.stop_retention();
        let grace = self.settings.limits.drain_grace;
        let mut report = DrainReport::default();
        let until = self.clock.now() + grace;
        for (key, slot) in &mut self.pipelines {
            match &slot.run {
                Run::Running { reader, .. } => {
                    if reader.try_send(Drain).is_err() {
                        tracing::debug!(pipeline = %key, "a reader is gone");
                    }
                    legal(slot.life.drains(until));
                }
                Run::Waiting | Run::Claiming | Run::Pausing | Run::Invalid => report.drained += 1,
            }
        }
        self.draining = Some(Draining { until, report });
        tracing::info!(
            ?grace,
            "draining: nothing more is read, what was sent is settled"
        );
        self.finish_drain_when_due();
    }

    pub(in crate::actors) const fn count_ended(&mut self, exit: &Exit) {
        if let Some(draining) = &mut self.draining {
            match exit {
                Exit::Drained => draining.report.drained += 1,
                Exit::Stopped
                | Exit::LeaseLost
                | Exit::LeaseExpired
                | Exit::RowsLost
                | Exit::Refused(_)
                | Exit::Blocked(_)
                | Exit::Stuck
                | Exit::Panicked(_) => draining.report.cut_off += 1,
            }
        }
    }

    pub(super) fn finish_drain_when_due(&mut self) {
        let Some(draining) = &self.draining else {
            return;
        };
        let running = self
            .pipelines
            .values()
            .filter(|slot| matches!(slot.run, Run::Running { .. }))
            .count();
        if running > 0 && self.clock.now() < draining.until {
            return;
        }
        let report = DrainReport {
            cut_off: draining.report.cut_off + running,
            ..draining.report
        };
        if let Some(finished) = self.finished.take() {
            finished.send(report).ok();
        }
    }
}
