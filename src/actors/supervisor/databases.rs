//! Databases come, go and are replaced while the relay runs.
//!
//! A database that is to go, or gets other connections (its URL, or how it is
//! used, has changed), goes through these states, each of which ends by itself:
//!
//! *draining* (its readers finish what they have sent, within the grace) ->
//! *stopping* (its probe and its sweeper end) -> *gone*, or *replaced*: the new
//! connections take the place of the old ones, the definitions are read through
//! them, and its pipelines are claimed again.
//!
//! Meanwhile nothing of it is claimed; other databases do not notice. A reload
//! that comes in between only changes what follows in the end. Old connections are
//! closed when the last task that uses them has ended.

use std::sync::Arc;

use actix::{AsyncContext, Context};

use super::beats::Beats;
use super::states::StateWriter;
use super::{Database, DatabaseSlot, Supervisor};
use crate::actors::child::ChildSlot;
use crate::actors::messages::{CatalogRead, StopNow};
use crate::actors::pipeline_slot::Run;
use crate::admin::status::PipelineState;
use crate::config::desired::PipelineKey;
use crate::core::time::Moment;

/// What follows when nothing of a database runs any more.
pub(super) enum Next {
    /// Nothing: it stays.
    Stay,
    /// It is forgotten.
    Leave,
    /// These connections take the place of the old ones.
    Become(Database),
}

impl DatabaseSlot {
    pub(super) fn new(database: Database, beats: Beats, now: Moment) -> Self {
        Self {
            database,
            probe: ChildSlot::new(now),
            retention: ChildSlot::new(now),
            next: Next::Stay,
            generation: 0,
            is_known: true,
            reading_catalog: false,
            catalog_failed: false,
            beats,
            server: None,
            states: Arc::default(),
        }
    }

    /// Which of the connections it has had these are: never twice, over removals too.
    pub(in crate::actors) const fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether what runs on it is to end.
    pub(in crate::actors) const fn is_ending(&self) -> bool {
        match self.next {
            Next::Stay => false,
            Next::Leave | Next::Become(_) => true,
        }
    }

    /// Why nothing of it may be claimed now, if so.
    pub(in crate::actors) const fn is_not_ready(&self) -> Option<&'static str> {
        if self.is_ending() {
            return Some("the database's settings change: its pipelines end first");
        }
        if !self.is_known {
            return Some("the database's settings have changed: its definitions are read");
        }
        None
    }
}

impl Supervisor {
    /// The settings name these databases now; of those that are new, or are used in
    /// another way, `made` holds the connections.
    pub(super) fn change_databases(&mut self, made: Vec<Database>, context: &mut Context<Self>) {
        let now = self.clock.now();
        for (name, slot) in &mut self.databases {
            if self.settings.database(name).is_none() {
                tracing::info!(database = %name, "the database is removed when its pipelines have ended");
                slot.next = Next::Leave;
            }
        }
        for database in made {
            let name = Arc::clone(&database.name);
            if let Some(slot) = self.databases.get_mut(&name) {
                slot.next = Next::Become(database);
                continue;
            }
            let beats = Beats::new(&self.node, self.settings.cluster.lease, now);
            let slot = DatabaseSlot {
                generation: self.next_incarnation(),
                ..DatabaseSlot::new(database, beats, now)
            };
            self.databases.insert(Arc::clone(&name), slot);
            self.start_probe(&name, context);
            self.start_retention(&name, context);
            self.read_catalog(&name, context);
        }
        let ending = self.databases.iter().filter(|(_, slot)| slot.is_ending());
        let ending: Vec<Arc<str>> = ending.map(|(name, _)| Arc::clone(name)).collect();
        for name in ending {
            self.drain_database(&name);
        }
    }

    fn drain_database(&mut self, database: &Arc<str>) {
        let until = self.clock.now() + self.settings.limits.drain_grace;
        let of_it = |(key, _): &(&PipelineKey, _)| key.database == *database;
        let keys: Vec<PipelineKey> = self
            .pipelines
            .iter()
            .filter(of_it)
            .map(|(key, _)| key.clone())
            .collect();
        for key in keys {
            let attempt = self.next_incarnation();
            if let Some(slot) = self.pipelines.get_mut(&key) {
                // What was begun for it comes too late.
                slot.attempt = attempt;
                if !slot.drain(until) && !matches!(slot.run, Run::Invalid) {
                    slot.run = Run::Waiting;
                }
            }
        }
    }

    /// Goes on with databases that are to go or to be replaced.
    pub(super) fn go_on_with_databases(&mut self, context: &mut Context<Self>) {
        if self.is_draining() {
            // A process that is to end begins nothing.
            return;
        }
        let ending = self.databases.iter().filter(|(_, slot)| slot.is_ending());
        let ending: Vec<Arc<str>> = ending.map(|(name, _)| Arc::clone(name)).collect();
        for database in ending {
            let has_readers = self.pipelines.iter().any(|(key, slot)| {
                key.database == database && matches!(slot.run, Run::Running { .. })
            });
            if has_readers {
                continue;
            }
            let Some(slot) = self.databases.get(&database) else {
                continue;
            };
            let probe = slot.probe.address.as_ref();
            let retention = slot.retention.address.as_ref();
            if probe.is_none() && retention.is_none() {
                self.end_database(&database, context);
                continue;
            }
            // Told again until it is gone; a mailbox that is closed is as good.
            probe.map(|probe| probe.try_send(StopNow));
            retention.map(|retention| retention.try_send(StopNow));
        }
    }

    fn end_database(&mut self, database: &Arc<str>, context: &mut Context<Self>) {
        let now = self.clock.now();
        let Some(slot) = self.databases.remove(database) else {
            return;
        };
        if matches!(slot.next, Next::Leave) {
            // Before it leaves the board: who no longer sees it finds no series either.
            self.metrics.remove_database(database);
        }
        self.board.remove_database(database);
        // Nobody waits for what the old connections still say.
        self.claims.retain(|key, _| key.database != *database);
        match slot.next {
            Next::Stay => {
                self.databases.insert(Arc::clone(database), slot);
            }
            Next::Leave => {
                slot.leave_behind(&self.node);
                self.catalogs.pipelines.remove(database);
                self.catalogs.tenants.remove(database);
                self.pauses.remove(database);
                tracing::info!(%database, "the database is removed");
            }
            Next::Become(new) => {
                let beats = Beats::new(&self.node, self.settings.cluster.lease, now);
                let slot = DatabaseSlot {
                    generation: self.next_incarnation(),
                    is_known: false,
                    ..DatabaseSlot::new(new, beats, now)
                };
                self.databases.insert(Arc::clone(database), slot);
                tracing::info!(%database, "the database is used by its new settings");
                self.start_probe(database, context);
                self.start_retention(database, context);
                self.read_catalog(database, context);
                self.show_not_ready(database);
            }
        }
    }

    /// Its definitions have been read: what waits for that is claimed.
    pub(super) fn database_is_known(&mut self, database: &Arc<str>, context: &mut Context<Self>) {
        let Some(slot) = self.databases.get_mut(database) else {
            return;
        };
        if std::mem::replace(&mut slot.is_known, true) {
            return;
        }
        let waiting =
            |(key, slot): &(&PipelineKey, &crate::actors::pipeline_slot::PipelineSlot)| {
                key.database == *database && matches!(slot.run, Run::Waiting)
            };
        let waiting: Vec<PipelineKey> = self
            .pipelines
            .iter()
            .filter(waiting)
            .map(|(key, _)| key.clone())
            .collect();
        for key in waiting {
            self.claim(&key, context);
        }
    }

    fn show_not_ready(&self, database: &Arc<str>) {
        let Some(reason) = self
            .databases
            .get(database)
            .and_then(DatabaseSlot::is_not_ready)
        else {
            return;
        };
        for (key, slot) in &self.pipelines {
            if key.database == *database && matches!(slot.run, Run::Waiting) {
                let reason = reason.to_owned();
                self.show(key, slot, PipelineState::Waiting { reason });
            }
        }
    }

    pub(super) fn read_catalogs(&mut self, context: &mut Context<Self>) {
        let names: Vec<Arc<str>> = self.databases.keys().cloned().collect();
        for database in names {
            self.read_catalog(&database, context);
        }
        context.run_later(super::CATALOG_EVERY, Self::read_catalogs);
    }

    fn read_catalog(&mut self, database: &Arc<str>, context: &Context<Self>) {
        let Some(slot) = self.databases.get_mut(database) else {
            return;
        };
        if slot.is_ending() || std::mem::replace(&mut slot.reading_catalog, true) {
            return;
        }
        let catalog = Arc::clone(&slot.database.catalog);
        let store = Arc::clone(&slot.database.store);
        let (database, generation) = (Arc::clone(database), slot.generation);
        let states = StateWriter {
            database: slot.database.clone(),
            node: Arc::clone(&self.node),
            board: Arc::clone(&self.board),
            clock: self.clock,
            notes: Arc::clone(&slot.states),
        };
        let supervisor = context.address();
        tokio::spawn(async move {
            let result = catalog.read().await;
            let is_there = result.is_ok();
            let resends = store.wanted_resends().await.unwrap_or_default();
            let read = CatalogRead {
                database,
                generation,
                result,
                resends,
            };
            // Only a stopped supervisor does not hear it.
            supervisor.try_send(read).ok();
            if is_there {
                states.write().await;
            }
        });
    }
}
