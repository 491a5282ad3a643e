//! The actor that starts, watches and restarts all others.
//!
//! What should run comes from the file and from the databases (`desired`); every
//! pipeline that should run is led through its states:
//!
//! *waiting* for its stream -> *claiming* its lease -> *running* (a reader owns
//! it) -> *pausing* (standby behind another node, or backing off after a
//! failure) -> claiming again.
//!
//! Stages are started last first: a stream's router, its writers, then readers.
//! The supervisor waits for nobody: what takes time runs in tasks that come back
//! as messages. Restarts back off and forget failures only after a healthy
//! period; no failure of one child delays another.

mod drain;
mod probes;
mod retentions;
mod secrets;
mod server;
mod watch;

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler};
use tokio::sync::oneshot;

use super::budgets::Budgets;
use super::child::{ChildId, ChildSlot, Exit};
use super::clock::Clock;
use super::desired::{PipelineKey, Wanted, desired};
use super::fault;
use super::messages::{
    CatalogRead, ChildExited, ClaimDone, RenewDone, ShardRetired, Shutdown, StreamChanged,
};
use super::permits::SharedPool;
use super::pipeline_slot::PipelineSlot;
use super::probe::Probe;
use super::retention::Retention;
use super::stage::Stage;
use super::stream_router::StreamKey;
use super::stream_slot::StreamSlot;
use crate::admin::metrics::Metrics;
use crate::admin::status::{Phase, StatusBoard};
use crate::config::pipeline::StreamTarget;
use crate::config::settings::Settings;
use crate::core::memory_plan::MemoryPlan;
use crate::core::ports::{Catalog, OutboxStore, PipelineRow, ServerInfo, StreamService};
use crate::core::retention::RetentionStore;
use crate::core::send_queue::FlowId;
use crate::core::supervision::Life;
use crate::core::time::Moment;

/// How often the pipelines that databases define are read; they are live within
/// two seconds of a change.
const CATALOG_EVERY: Duration = Duration::from_secs(1);

/// How often the supervisor looks around: leases, sign of life, drain.
const TICK: Duration = Duration::from_millis(100);

/// Streams have no order: with a hash of its own every run of a simulation would
/// visit them differently.
type FixedHash = BuildHasherDefault<DefaultHasher>;

/// Where streams come from.
pub trait StreamSource: Send + Sync {
    /// The service's side of a stream.
    fn stream(&self, target: &StreamTarget) -> Arc<dyn StreamService>;
}

/// A database, as the supervisor needs it.
#[derive(Clone)]
pub struct Database {
    /// Its name in the settings.
    pub name: Arc<str>,
    /// Its outboxes.
    pub store: Arc<dyn OutboxStore>,
    /// Its pipelines.
    pub catalog: Arc<dyn Catalog>,
    /// What deletes there.
    pub retention: Arc<dyn RetentionStore>,
}

/// What a supervisor is made of.
pub struct SupervisorParts {
    /// The settings.
    pub settings: Arc<Settings>,
    /// What this node is called in leases.
    pub node: Arc<str>,
    /// The databases.
    pub databases: Vec<Database>,
    /// The streams.
    pub streams: Arc<dyn StreamSource>,
    /// The metrics of the process.
    pub metrics: Metrics,
    /// Where states are shown.
    pub board: Arc<StatusBoard>,
    /// The clock.
    pub clock: Clock,
    /// Where the data actors run.
    pub stage: Stage,
    /// Told when a shutdown is done, with how many pipelines had not finished.
    pub finished: oneshot::Sender<DrainReport>,
}

/// How a shutdown went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DrainReport {
    /// Pipelines that settled all they had sent and gave their leases back.
    pub drained: usize,
    /// Pipelines that were stopped when the grace was over: some of their rows
    /// will be sent again.
    pub cut_off: usize,
}

pub(super) struct DatabaseSlot {
    pub(super) database: Database,
    pub(super) probe: ChildSlot<Probe>,
    pub(super) retention: ChildSlot<Retention>,
    reading_catalog: bool,
    catalog_failed: bool,
    renewing: bool,
    renewed_at: Moment,
    server: Option<Arc<ServerInfo>>,
}

struct Draining {
    until: Moment,
    report: DrainReport,
}

/// The supervisor.
pub struct Supervisor {
    pub(super) settings: Arc<Settings>,
    pub(super) node: Arc<str>,
    pub(super) databases: BTreeMap<Arc<str>, DatabaseSlot>,
    pub(super) source: Arc<dyn StreamSource>,
    pub(super) metrics: Metrics,
    pub(super) board: Arc<StatusBoard>,
    pub(super) clock: Clock,
    pub(super) stage: Stage,
    stage_life: Life,
    looked_at: Moment,
    reread_at: Moment,
    pub(super) shared: Arc<SharedPool>,
    pub(super) budgets: Budgets,
    pub(super) streams: HashMap<StreamKey, StreamSlot, FixedHash>,
    pub(super) pipelines: BTreeMap<PipelineKey, PipelineSlot>,
    pub(super) last_flow: FlowId,
    pub(super) last_incarnation: u64,
    catalogs: BTreeMap<Arc<str>, Vec<PipelineRow>>,
    draining: Option<Draining>,
    finished: Option<oneshot::Sender<DrainReport>>,
}

impl Supervisor {
    /// A supervisor that has started nothing yet.
    #[must_use]
    pub fn new(parts: SupervisorParts) -> Self {
        let now = parts.clock.now();
        let mut stage_life = Life::new(now);
        stage_life.runs(now);
        let slot = |database: Database| DatabaseSlot {
            database,
            probe: ChildSlot::new(now),
            retention: ChildSlot::new(now),
            reading_catalog: false,
            catalog_failed: false,
            renewing: false,
            renewed_at: now,
            server: None,
        };
        let databases = parts.databases.into_iter();
        let ceiling = parts.settings.limits.memory.as_usize();
        let memory = parts.metrics.memory();
        let rows = MemoryPlan::under(ceiling).rows;
        memory.may_use(ceiling, rows);
        Self {
            node: parts.node,
            databases: databases
                .map(|one| (Arc::clone(&one.name), slot(one)))
                .collect(),
            source: parts.streams,
            metrics: parts.metrics,
            board: parts.board,
            clock: parts.clock,
            stage: parts.stage,
            stage_life,
            looked_at: now,
            reread_at: now,
            shared: Arc::new(SharedPool::new(rows, memory)),
            budgets: Budgets::default(),
            settings: parts.settings,
            streams: HashMap::default(),
            pipelines: BTreeMap::new(),
            last_flow: 0,
            last_incarnation: 0,
            catalogs: BTreeMap::new(),
            draining: None,
            finished: Some(parts.finished),
        }
    }

    pub(super) const fn is_draining(&self) -> bool {
        self.draining.is_some()
    }

    pub(super) const fn next_incarnation(&mut self) -> u64 {
        self.last_incarnation += 1;
        self.last_incarnation
    }

    // === Desired state ===

    fn reconcile(&mut self, context: &mut Context<Self>) {
        if self.is_draining() {
            return;
        }
        let wanted = desired(&self.settings, &self.catalogs);
        let gone: Vec<PipelineKey> = self
            .pipelines
            .keys()
            .filter(|key| !wanted.contains_key(*key))
            .cloned()
            .collect();
        for key in gone {
            self.retire_pipeline(&key);
        }
        let is_to_run = |wanted: &&Wanted| matches!(wanted, Wanted::Run { .. });
        self.shared
            .expect(wanted.values().filter(is_to_run).count());
        for (key, wanted) in wanted {
            match wanted {
                Wanted::Run { spec, version } => {
                    self.want_pipeline(key, spec, version, context);
                }
                Wanted::Invalid { outbox, reason } => self.refuse_pipeline(&key, &outbox, &reason),
            }
        }
        self.retire_unused_streams();
    }

    fn read_catalogs(&mut self, context: &mut Context<Self>) {
        for slot in self.databases.values_mut() {
            if std::mem::replace(&mut slot.reading_catalog, true) {
                continue;
            }
            let (database, catalog) = (
                Arc::clone(&slot.database.name),
                Arc::clone(&slot.database.catalog),
            );
            let store = Arc::clone(&slot.database.store);
            let supervisor = context.address();
            tokio::spawn(async move {
                let result = catalog.read().await;
                let resends = store.wanted_resends().await.unwrap_or_default();
                let read = CatalogRead {
                    database,
                    result,
                    resends,
                };
                // Only a stopped supervisor does not hear it.
                supervisor.try_send(read).ok();
            });
        }
        context.run_later(CATALOG_EVERY, Self::read_catalogs);
    }

    pub(super) fn note_restart(&self, child: &ChildId, exit: &Exit, pause: Duration) {
        self.metrics.actor_restarted(child.kind(), exit.cause());
        match exit {
            Exit::Panicked(text) => {
                tracing::error!(%child, panic = %text, ?pause, "an actor panicked; it is started again");
            }
            Exit::Stopped
            | Exit::Drained
            | Exit::LeaseLost
            | Exit::RowsLost
            | Exit::Blocked(_)
            | Exit::Refused(_)
            | Exit::Stuck => {
                tracing::warn!(%child, cause = exit.cause(), ?pause, "an actor ended; it is started again");
            }
        }
    }

    // === Time ===

    fn tick(&mut self, context: &mut Context<Self>) {
        fault::point("supervisor.Tick");
        self.board.beat();
        self.renew_leases(context);
        self.drop_expired_leases();
        self.end_long_drains();
        self.reread_secrets(context);
        self.look_for_stuck(context);
        self.finish_drain_when_due();
        context.run_later(TICK, Self::tick);
    }

    fn renew_leases(&mut self, context: &Context<Self>) {
        let now = self.clock.now();
        let every = self.settings.cluster.renew_every();
        for slot in self.databases.values_mut() {
            if slot.renewing || now.since(slot.renewed_at) < every {
                continue;
            }
            let owned = self
                .pipelines
                .iter()
                .filter(|(key, _)| key.database == slot.database.name);
            let held: Vec<_> = owned
                .filter_map(|(key, pipeline)| Some((Arc::clone(&key.name), pipeline.epoch()?)))
                .collect();
            slot.renewed_at = now;
            if held.is_empty() {
                continue;
            }
            slot.renewing = true;
            let (store, node) = (Arc::clone(&slot.database.store), Arc::clone(&self.node));
            let (database, lease) = (Arc::clone(&slot.database.name), self.settings.cluster.lease);
            let supervisor = context.address();
            tokio::spawn(async move {
                // An answer after the lease is over is worth nothing.
                let renewal = tokio::time::timeout(lease, store.renew(&node, &held, lease)).await;
                let result = renewal.unwrap_or_else(|_| {
                    let reason = "no answer within the lease".to_owned();
                    Err(crate::core::ports::StoreError::Unavailable(reason))
                });
                supervisor
                    .try_send(RenewDone {
                        database,
                        held,
                        asked_at: now,
                        result,
                    })
                    .ok();
            });
        }
    }

    // === Shutdown ===
}

impl Actor for Supervisor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        let names: Vec<Arc<str>> = self.databases.keys().cloned().collect();
        for database in &names {
            self.start_probe(database, context);
            self.start_retention(database, context);
        }
        self.reconcile(context);
        self.read_catalogs(context);
        self.tick(context);
        self.board.set_phase(Phase::Started);
    }
}

impl Handler<CatalogRead> for Supervisor {
    type Result = ();

    fn handle(&mut self, message: CatalogRead, context: &mut Self::Context) {
        fault::point("supervisor.CatalogRead");
        let Some(slot) = self.databases.get_mut(&message.database) else {
            return;
        };
        slot.reading_catalog = false;
        for pipeline in &message.resends {
            let of_name = |(key, _): &(&PipelineKey, &PipelineSlot)| {
                key.database == message.database && *key.name == **pipeline
            };
            if let Some((_, slot)) = self.pipelines.iter().find(of_name) {
                slot.look_for_resends();
            }
        }
        let database = &message.database;
        match message.result {
            Ok(changed) => {
                if std::mem::replace(&mut slot.catalog_failed, false) {
                    tracing::info!(%database, "the pipelines of the database can be read again");
                }
                self.metrics.database_up(database, true);
                self.board.set_database(database, None);
                slot.look_at_server(&self.board);
                if let Some(rows) = changed {
                    self.catalogs.insert(message.database, rows);
                    self.reconcile(context);
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut slot.catalog_failed, true) {
                    tracing::warn!(%database, %error, "the pipelines of the database cannot be read; trying again");
                }
                self.metrics.database_up(database, false);
                self.board.set_database(database, Some(error.to_string()));
            }
        }
    }
}

impl Handler<ChildExited> for Supervisor {
    type Result = ();

    fn handle(&mut self, message: ChildExited, context: &mut Self::Context) {
        fault::point("supervisor.ChildExited");
        let ChildExited {
            child,
            incarnation,
            exit,
        } = message;
        match child {
            ChildId::Reader(key) => self.reader_exited(&key, incarnation, &exit, context),
            ChildId::Router(stream) => self.router_exited(&stream, incarnation, &exit, context),
            ChildId::Writer(stream, shard) => {
                self.writer_exited(&stream, &shard, incarnation, &exit, context)
            }
            ChildId::Probe(database) => self.probe_exited(&database, incarnation, &exit, context),
            ChildId::Retention(database) => {
                self.retention_exited(&database, incarnation, &exit, context)
            }
        }
        self.finish_drain_when_due();
    }
}

impl Handler<StreamChanged> for Supervisor {
    type Result = ();

    fn handle(&mut self, message: StreamChanged, context: &mut Self::Context) {
        fault::point("supervisor.StreamChanged");
        self.stream_changed(&message.stream, message.incarnation, message.state, context);
    }
}

impl Handler<ShardRetired> for Supervisor {
    type Result = ();

    fn handle(&mut self, message: ShardRetired, context: &mut Self::Context) {
        fault::point("supervisor.ShardRetired");
        self.shard_retired(&message, context);
    }
}

impl Handler<ClaimDone> for Supervisor {
    type Result = ();

    fn handle(&mut self, message: ClaimDone, context: &mut Self::Context) {
        self.claim_done(message, context);
    }
}

impl Handler<RenewDone> for Supervisor {
    type Result = ();

    fn handle(&mut self, message: RenewDone, _: &mut Self::Context) {
        if let Some(slot) = self.databases.get_mut(&message.database) {
            slot.renewing = false;
        }
        self.renew_done(message);
    }
}

impl Handler<Shutdown> for Supervisor {
    type Result = ();

    fn handle(&mut self, _: Shutdown, _: &mut Self::Context) {
        self.shut_down();
    }
}
