//! A reader that has ended and whose pipeline goes on: what is said of it, and when it
//! is claimed again.

use std::time::Duration;

use actix::Context;

use super::child::{ChildId, Exit, legal};
use super::pipeline_lease::STANDBY_PAUSE;
use super::pipeline_slot::Run;
use super::supervisor::Supervisor;
use crate::admin::metrics::LeaseEvent;
use crate::admin::status::PipelineState;
use crate::config::desired::PipelineKey;
use crate::core::supervision::ChildState;

impl Supervisor {
    pub(super) fn restart_reader(
        &mut self,
        key: &PipelineKey,
        exit: &Exit,
        pause: Duration,
        context: &mut Context<Self>,
    ) {
        let Some(slot) = self.pipelines.get_mut(key) else {
            return;
        };
        if let Some(reason) = slot.invalid.clone() {
            slot.run = Run::Invalid;
            legal(slot.life.stops());
            // Its reader has shown what it did meanwhile.
            if let Some(slot) = self.pipelines.get(key) {
                self.show(key, slot, PipelineState::Invalid { reason });
            }
            return;
        }
        let has_failed = slot.life.state() == ChildState::Failed;
        let quick_deaths = slot.life.quick_deaths();
        let pause = match exit {
            Exit::LeaseLost | Exit::LeaseExpired => STANDBY_PAUSE,
            Exit::Drained
            | Exit::Blocked(_)
            | Exit::Stopped
            | Exit::RowsLost
            | Exit::Refused(_)
            | Exit::Stuck
            | Exit::Panicked(_) => pause,
        };
        let child = ChildId::Reader(key.clone());
        match exit {
            Exit::Drained => {}
            Exit::LeaseLost | Exit::LeaseExpired => {
                self.metrics.lease_event(LeaseEvent::Lost);
                self.note_restart(&child, exit, pause);
            }
            Exit::Stopped
            | Exit::RowsLost
            | Exit::Refused(_)
            | Exit::Blocked(_)
            | Exit::Stuck
            | Exit::Panicked(_) => self.note_restart(&child, exit, pause),
        }
        let state = match exit {
            _ if has_failed => Some(PipelineState::Failed {
                reason: format!("its reader ended {quick_deaths} times in a row: {exit}"),
            }),
            Exit::Refused(reason) => Some(PipelineState::Failed {
                reason: reason.clone(),
            }),
            // It is still blocked, as it says.
            Exit::Blocked(_) => None,
            Exit::Drained
            | Exit::Stopped
            | Exit::LeaseLost
            | Exit::LeaseExpired
            | Exit::RowsLost
            | Exit::Stuck
            | Exit::Panicked(_) => Some(PipelineState::Starting),
        };
        if let (Some(state), Some(slot)) = (state, self.pipelines.get(key)) {
            self.show(key, slot, state);
        }
        self.claim_in(key, pause, context);
    }
}
