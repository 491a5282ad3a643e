//! The supervisor's care for probes: one per database.

use std::sync::Arc;

use actix::{AsyncContext, Context};

use super::{HEALTHY_AFTER, Supervisor};
use crate::actors::child::{self, ChildId, Exit};
use crate::actors::messages::ProbeReady;
use crate::actors::pipeline_slot::Run;
use crate::actors::probe::{Probe, ProbeParts};

impl Supervisor {
    pub(super) fn start_probe(&mut self, database: &Arc<str>, context: &Context<Self>) {
        let incarnation = self.next_incarnation();
        let now = self.clock.now();
        let Some(slot) = self.databases.get_mut(database) else {
            return;
        };
        let parts = ProbeParts {
            database: Arc::clone(database),
            store: Arc::clone(&slot.database.store),
            least_pause: self.settings.probe.min_interval,
            most_pause: self.settings.probe.max_interval,
            metrics: self.metrics.clone(),
            board: Arc::clone(&self.board),
            clock: self.clock,
        };
        let child = ChildId::Probe(Arc::clone(database));
        let supervisor = context.address().recipient();
        let probe = child::spawn(child, incarnation, supervisor, |_, note| {
            Probe::new(parts, note)
        });
        slot.incarnation = incarnation;
        slot.started_at = now;
        slot.probe = Some(probe.clone());
        let readers = self
            .pipelines
            .iter()
            .filter(|(key, _)| key.database == *database);
        for (key, pipeline) in readers {
            if let Run::Running { reader, .. } = &pipeline.run
                && reader
                    .try_send(ProbeReady {
                        probe: probe.clone(),
                    })
                    .is_err()
            {
                tracing::debug!(pipeline = %key, "a reader is gone");
            }
        }
    }

    pub(super) fn probe_exited(
        &mut self,
        database: &Arc<str>,
        incarnation: u64,
        exit: &Exit,
        context: &mut Context<Self>,
    ) {
        let now = self.clock.now();
        let Some(slot) = self
            .databases
            .get_mut(database)
            .filter(|slot| slot.incarnation == incarnation)
        else {
            return;
        };
        slot.probe = None;
        if now.since(slot.started_at) >= HEALTHY_AFTER {
            slot.backoff.reset();
        }
        let pause = slot.backoff.after_failure(fastrand::f64());
        self.note_restart(&ChildId::Probe(Arc::clone(database)), exit, pause);
        let database = Arc::clone(database);
        context.run_later(pause, move |supervisor, context| {
            if !supervisor.is_draining() {
                supervisor.start_probe(&database, context);
            }
        });
    }
}
