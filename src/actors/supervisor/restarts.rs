//! What is said of an actor that ended and is started again.

use std::sync::Arc;
use std::time::Duration;

use super::Supervisor;
use crate::actors::child::{ChildId, Exit};

impl Supervisor {
    pub(in crate::actors) fn note_restart(&self, child: &ChildId, exit: &Exit, pause: Duration) {
        self.metrics.actor_restarted(child.kind(), exit.cause());
        let tenant = match child {
            ChildId::Reader(key) => self.pipelines.get(key).and_then(|slot| slot.spec.as_ref()),
            ChildId::Router(_)
            | ChildId::Writer(..)
            | ChildId::Probe(_)
            | ChildId::Retention(_) => None,
        };
        let tenant = tenant.map(|spec| Arc::clone(&spec.tenant));
        self.board
            .actor_restarted(child.to_string(), child.kind(), exit.cause(), tenant);
        match exit {
            Exit::Panicked(text) => {
                tracing::error!(%child, panic = %text, ?pause, "an actor panicked; it is started again");
            }
            Exit::Stopped
            | Exit::Drained
            | Exit::LeaseLost
            | Exit::LeaseExpired
            | Exit::RowsLost
            | Exit::Blocked(_)
            | Exit::Refused(_)
            | Exit::Stuck => {
                tracing::warn!(%child, cause = exit.cause(), ?pause, "an actor ended; it is started again");
            }
        }
    }
}
