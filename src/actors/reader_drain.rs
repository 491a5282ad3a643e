//! A reader that is to end while the relay goes on: its pipeline was changed, paused
//! or removed, or its database is replaced.
//!
//! ```text
//! asked -> grace (what was sent is waited for; what was not is taken back)
//!   grace over -> last acts (it writes what is settled and gives the lease back)
//!     last acts over (a database that does not answer) -> it is stopped
//! ```
//!
//! When the process ends the same is done for all readers at once
//! (`supervisor::drain`), and this is left alone.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use actix::Context;

use super::child::{Exit, legal};
use super::messages::{Drain, GiveUp, StopNow};
use super::pipeline_slot::{PipelineSlot, Run};
use super::supervisor::{LAST_ACTS, Supervisor};
use crate::config::desired::PipelineKey;
use crate::core::ports::Epoch;
use crate::core::time::Moment;

/// How far the end of a reader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReaderDrain {
    /// It finishes what it has sent, until then.
    Grace(Moment),
    /// It writes down what is settled, until then.
    LastActs(Moment),
    /// It was told to stop.
    Stopped,
}

impl PipelineSlot {
    /// Has its reader finish what it has, if it runs, within a grace: a stream
    /// that takes nothing must not hold a changed definition up for ever.
    pub(super) fn drain(&mut self, until: Moment) -> bool {
        let sends_all = false;
        self.drain_by(Drain { until, sends_all })
    }

    /// The same before a new definition: nothing is taken back.
    pub(super) fn finish(&mut self, until: Moment) -> bool {
        let sends_all = true;
        self.drain_by(Drain { until, sends_all })
    }

    fn drain_by(&mut self, drain: Drain) -> bool {
        let until = drain.until;
        let Run::Running { reader, .. } = &self.run else {
            return false;
        };
        if self.drain.is_none() {
            reader.try_send(drain).ok();
            self.drain = Some(ReaderDrain::Grace(until));
            legal(self.life.drains(until));
        }
        true
    }
}

impl Supervisor {
    /// A reader that ended without giving its lease back: where nobody here asks for
    /// it again, another node may need it.
    pub(super) fn give_back_unless_it_goes_on(
        &mut self,
        key: &PipelineKey,
        epoch: Epoch,
        exit: &Exit,
        is_given: bool,
        context: &Context<Self>,
    ) {
        let is_held = !matches!(exit, Exit::Drained | Exit::LeaseLost);
        let slot = self.pipelines.get(key).filter(|slot| slot.is_wanted());
        let spec = slot.and_then(|slot| slot.spec.clone());
        let goes_on = spec.is_some_and(|spec| self.why_paused(&spec).is_none());
        if is_held && (!goes_on || is_given) {
            self.give_lease_back(key, epoch, context);
        }
    }

    /// Readers that have drained for too long give up; those that cannot even do that
    /// are stopped.
    pub(super) fn end_long_drains(&mut self) {
        if self.is_draining() {
            return;
        }
        let now = self.clock.now();
        for (key, slot) in &mut self.pipelines {
            let Run::Running { reader, .. } = &slot.run else {
                continue;
            };
            match slot.drain {
                Some(ReaderDrain::Grace(until)) if now >= until => {
                    tracing::warn!(pipeline = %key, "draining took too long; some rows will be sent again");
                    // How many is told to nobody.
                    let left = Arc::new(AtomicU64::new(0));
                    reader.try_send(GiveUp { left }).ok();
                    slot.drain = Some(ReaderDrain::LastActs(now + LAST_ACTS));
                }
                Some(ReaderDrain::LastActs(until)) if now >= until => {
                    tracing::warn!(pipeline = %key, "the last position was not written in time; more rows will be sent again");
                    reader.try_send(StopNow).ok();
                    slot.drain = Some(ReaderDrain::Stopped);
                }
                Some(ReaderDrain::Grace(_) | ReaderDrain::LastActs(_) | ReaderDrain::Stopped)
                | None => {}
            }
        }
    }
}
