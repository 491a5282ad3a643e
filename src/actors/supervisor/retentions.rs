//! The supervisor's care for retention: one sweeper per database.

use std::sync::Arc;

use actix::{AsyncContext, Context};

use super::Supervisor;
use crate::actors::child::{self, ChildId, Exit};
use crate::actors::messages::StopNow;
use crate::actors::pulse::Pulse;
use crate::actors::retention::{Retention, RetentionParts};
use crate::config::settings::Settings;
use crate::core::retention::FileReader;

/// The pipelines of the file that read from a database.
pub(super) fn readers_of_file(settings: &Settings, database: &str) -> Arc<[FileReader]> {
    let of_file = settings.pipelines.iter();
    let of_file = of_file.filter(|spec| *spec.database == *database);
    let readers = of_file.map(|spec| FileReader {
        pipeline: Arc::clone(&spec.name),
        outbox: Arc::clone(&spec.outbox),
    });
    readers.collect()
}

impl Supervisor {
    pub(super) fn start_retention(&mut self, database: &Arc<str>, context: &Context<Self>) {
        let pulse = Pulse::new(self.database_patience(database));
        let incarnation = self.next_incarnation();
        let now = self.clock.now();
        let Some(slot) = self.databases.get_mut(database) else {
            return;
        };
        let parts = RetentionParts {
            database: Arc::clone(database),
            store: Arc::clone(&slot.database.retention),
            node: Arc::clone(&self.node),
            settings: self.settings.retention,
            of_file: readers_of_file(&self.settings, database),
            metrics: self.metrics.clone(),
            board: Arc::clone(&self.board),
            clock: self.clock,
            pulse: pulse.clone(),
            workers: self.stage.workers().clone(),
        };
        let child = ChildId::Retention(Arc::clone(database));
        self.metrics.actor_began(child.kind());
        let supervisor = context.address().recipient();
        let retention = child::spawn(&self.stage, child, incarnation, supervisor, |_, note| {
            Retention::new(parts, note)
        });
        slot.retention.runs(retention, incarnation, pulse, now);
    }

    pub(super) fn retention_exited(
        &mut self,
        database: &Arc<str>,
        incarnation: u64,
        exit: &Exit,
        context: &mut Context<Self>,
    ) {
        let now = self.clock.now();
        let is_draining = self.is_draining();
        let Some(slot) = self
            .databases
            .get_mut(database)
            .filter(|slot| slot.retention.is_alive(incarnation))
        else {
            return;
        };
        let pause = slot.retention.ended(exit, now);
        if is_draining || slot.is_ending() {
            return;
        }
        self.note_restart(&ChildId::Retention(Arc::clone(database)), exit, pause);
        let database = Arc::clone(database);
        context.run_later(pause, move |supervisor, context| {
            let is_wanted = supervisor.databases.get(&database).is_some_and(|slot| {
                slot.retention.incarnation == incarnation
                    && slot.retention.address.is_none()
                    && !slot.is_ending()
            });
            if is_wanted && !supervisor.is_draining() {
                supervisor.start_retention(&database, context);
            }
        });
    }

    /// A process that is to end deletes nothing more.
    pub(super) fn stop_retention(&self) {
        for (database, slot) in &self.databases {
            let stopped = slot.retention.address.as_ref();
            if stopped.is_some_and(|retention| retention.try_send(StopNow).is_err()) {
                tracing::debug!(%database, "retention is gone");
            }
        }
    }
}
