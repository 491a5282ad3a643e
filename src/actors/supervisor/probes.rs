//! The supervisor's care for probes: one per database.

use std::sync::Arc;

use actix::{AsyncContext, Context};

use super::Supervisor;
use crate::actors::child::{self, ChildId, Exit};
use crate::actors::messages::ProbeReady;
use crate::actors::pipeline_slot::Run;
use crate::actors::probe::{Probe, ProbeParts};
use crate::actors::pulse::Pulse;
use crate::core::ports::CallListener;

impl Supervisor {
    pub(super) fn start_probe(&mut self, database: &Arc<str>, context: &Context<Self>) {
        let pulse = Pulse::new(self.database_patience(database));
        let incarnation = self.next_incarnation();
        let now = self.clock.now();
        let Some(slot) = self.databases.get_mut(database) else {
            return;
        };
        let (metrics, named) = (self.metrics.clone(), Arc::clone(database));
        let counts: CallListener = Arc::new(move |query, took, answered| {
            metrics.database_query(&named, query, took, answered);
        });
        slot.database.store.tells(counts);
        let parts = ProbeParts {
            database: Arc::clone(database),
            store: Arc::clone(&slot.database.store),
            least_pause: self.settings.probe.min_interval,
            most_pause: self.settings.probe.max_interval,
            metrics: self.metrics.clone(),
            board: Arc::clone(&self.board),
            clock: self.clock,
            pulse: pulse.clone(),
            workers: self.stage.workers().clone(),
        };
        let child = ChildId::Probe(Arc::clone(database));
        self.metrics.actor_began(child.kind());
        let supervisor = context.address().recipient();
        let probe = child::spawn(&self.stage, child, incarnation, supervisor, |_, note| {
            Probe::new(parts, note)
        });
        slot.probe.runs(probe.clone(), incarnation, pulse, now);
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
            .filter(|slot| slot.probe.is_alive(incarnation))
        else {
            return;
        };
        let pause = slot.probe.ended(exit, now);
        if slot.is_ending() {
            return;
        }
        self.note_restart(&ChildId::Probe(Arc::clone(database)), exit, pause);
        let database = Arc::clone(database);
        context.run_later(pause, move |supervisor, context| {
            let is_wanted = supervisor.databases.get(&database).is_some_and(|slot| {
                slot.probe.incarnation == incarnation
                    && slot.probe.address.is_none()
                    && !slot.is_ending()
            });
            if is_wanted && !supervisor.is_draining() {
                supervisor.start_probe(&database, context);
            }
        });
    }
}
