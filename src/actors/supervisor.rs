//! The actor that starts, watches and restarts all others.
//!
//! What should run comes from the file and from the databases (`desired`); every
//! pipeline that should run is led through its states:
//!
//! *waiting* for its stream -> *claiming* its lease -> *running* (a reader owns
//! it) -> *pausing* (standby behind another node, or backing off after a
//! failure) -> claiming again. An operator may hold it: *paused*, without a lease.
//!
//! Stages are started last first: a stream's router, its writers, then readers.
//! The supervisor waits for nobody: what takes time runs in tasks that come back
//! as messages. Restarts back off and forget failures only after a healthy
//! period; no failure of one child delays another.

mod balance;
mod beats;
mod databases;
mod drain;
mod drain_report;
mod forgotten;
mod pauses;
mod probes;
mod reload;
mod restarts;
mod retentions;
mod secrets;
mod server;
mod shares;
mod states;
mod tenancy;
mod watch;

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler};
use tokio::sync::{Mutex, oneshot};

use self::beats::Beats;
use self::databases::Next;
use self::reload::say;
use self::shares::NodeShares;
use super::budgets::Budgets;
use super::child::{ChildId, ChildSlot};
use super::clock::Clock;
use super::fault;
use super::messages::{CatalogRead, ChildExited, ClaimDone, ShardRetired, StreamChanged};
use super::permits::SharedPool;
use super::pipeline_slot::PipelineSlot;
use super::probe::Probe;
use super::retention::Retention;
use super::stage::Stage;
use super::stream_router::StreamKey;
use super::stream_slot::StreamSlot;
use super::tenants::Tenants;
use crate::admin::metrics::Metrics;
use crate::admin::status::{Loaded, Phase, StatusBoard};
use crate::config::byte_size::ByteSize;
use crate::config::desired::{Catalogs, Desired, PipelineKey, Wanted};
use crate::config::pipeline::StreamTarget;
use crate::config::plan::diff;
use crate::config::settings::Settings;
use crate::config::tenant::Tenancy;
use crate::core::memory_plan::MemoryPlan;
use crate::core::pause::Pauses;
use crate::core::ports::{Catalog, OutboxStore, ServerInfo, StreamService};
use crate::core::retention::RetentionStore;
use crate::core::send_queue::FlowId;
use crate::core::state_notes::StateNotes;
use crate::core::supervision::Life;
use crate::core::time::Moment;
use drain::Draining;
use tenancy::TenantLooks;

pub use drain::LAST_ACTS;
pub use drain_report::{DrainReport, LeftBehind};

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

    /// Nobody writes to any stream through this target's client any more.
    fn forget_client(&self, _target: &StreamTarget) {}
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
    /// Told when a shutdown is done, with what was left.
    pub finished: oneshot::Sender<DrainReport>,
}

pub(super) struct DatabaseSlot {
    pub(super) database: Database,
    pub(super) probe: ChildSlot<Probe>,
    pub(super) retention: ChildSlot<Retention>,
    next: Next,
    /// Counts its connections: what was asked through earlier ones is not heard.
    generation: u64,
    /// Whether its definitions were read through these connections, or it has had
    /// no others.
    is_known: bool,
    reading_catalog: bool,
    catalog_failed: bool,
    /// What it knows of the database's nodes and leases.
    pub(super) beats: Beats,
    server: Option<Arc<ServerInfo>>,
    states: Arc<Mutex<StateNotes>>,
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
    pub(super) tenants: Tenants,
    tenant_looks: TenantLooks,
    /// What was wrong with tenants, as it was said last.
    tenant_problems: BTreeMap<Arc<str>, String>,
    /// The memory, and by how many pipelines it is divided.
    memory_divided: Option<(ByteSize, usize)>,
    pub(super) budgets: Budgets,
    /// The part of each of them that is this node's.
    pub(super) shares: NodeShares,
    pub(super) streams: HashMap<StreamKey, StreamSlot, FixedHash>,
    pub(super) pipelines: BTreeMap<PipelineKey, PipelineSlot>,
    /// The attempts to take a pipeline that are under way.
    pub(super) claims: BTreeMap<PipelineKey, u64>,
    pub(super) last_flow: FlowId,
    pub(super) last_incarnation: u64,
    catalogs: Catalogs,
    pauses: BTreeMap<Arc<str>, Pauses>,
    /// What was wanted when it was looked at last.
    pub(super) desired: Desired,
    draining: Option<Draining>,
    /// Leases on their way back.
    pub(super) leases_returning: usize,
    finished: Option<oneshot::Sender<DrainReport>>,
}

impl Supervisor {
    /// A supervisor that has started nothing yet.
    #[must_use]
    pub fn new(parts: SupervisorParts) -> Self {
        let now = parts.clock.now();
        let stage_life = watch::running(now);
        parts.metrics.no_actors();
        let databases = parts.databases.into_iter();
        let ceiling = parts.settings.limits.memory.as_usize();
        let memory = parts.metrics.memory();
        let rows = MemoryPlan::under(ceiling).rows;
        memory.may_use(ceiling, rows);
        let tenants = Tenants::new(parts.metrics.clone());
        let shares = NodeShares::new(&parts.node, parts.settings.coordination(), now);
        Self {
            databases: databases
                .map(|one| {
                    let beats = Beats::new(&parts.node, parts.settings.cluster.lease, now);
                    (Arc::clone(&one.name), DatabaseSlot::new(one, beats, now))
                })
                .collect(),
            node: parts.node,
            source: parts.streams,
            metrics: parts.metrics,
            board: parts.board,
            clock: parts.clock,
            stage: parts.stage,
            stage_life,
            looked_at: now,
            reread_at: now,
            shared: Arc::new(SharedPool::new(rows, memory)),
            tenants,
            tenant_looks: TenantLooks::new(now),
            tenant_problems: BTreeMap::new(),
            memory_divided: None,
            budgets: Budgets::default(),
            shares,
            desired: Desired {
                settings: Arc::clone(&parts.settings),
                pipelines: BTreeMap::new(),
                tenants: Tenancy::default(),
            },
            settings: parts.settings,
            streams: HashMap::default(),
            pipelines: BTreeMap::new(),
            claims: BTreeMap::new(),
            last_flow: 0,
            last_incarnation: 0,
            catalogs: Catalogs::default(),
            pauses: BTreeMap::new(),
            draining: None,
            leases_returning: 0,
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
        self.board.set_loaded(Loaded {
            settings: Arc::clone(&self.settings),
            catalogs: Arc::new(self.catalogs.clone()),
        });
        let wanted = Desired::new(Arc::clone(&self.settings), &self.catalogs);
        let plan = diff(&self.desired, &wanted);
        self.desired = wanted.clone();
        let wanted = wanted.pipelines;
        self.define_tenants();
        for (key, step) in &plan.pipelines {
            say(key, step);
            match wanted.get(key) {
                Some(Wanted::Run { spec, version }) => {
                    self.want_pipeline(key, step, spec, *version, context);
                }
                Some(Wanted::Invalid { named, reason }) => {
                    self.refuse_pipeline(key, named, reason);
                }
                None => self.retire_pipeline(key),
            }
        }
        self.apply_pauses(context);
        self.plan_anew(context);
        self.share_memory();
        self.retire_unused_streams();
        self.look_at_tenants();
    }

    // === Time ===

    fn tick(&mut self, context: &mut Context<Self>) {
        fault::point("supervisor.Tick");
        self.board.beat();
        self.beat_where_due(context);
        self.share_budgets(context);
        self.give_back_silent();
        self.drop_expired_leases();
        self.look_at_tenants_when_due();
        self.end_long_drains();
        self.go_on_with_databases(context);
        self.reread_secrets(context);
        self.look_for_stuck(context);
        self.finish_drain_when_due(context);
        context.run_later(TICK, Self::tick);
    }
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
        let slot = self.databases.get_mut(&message.database);
        let Some(slot) = slot.filter(|slot| slot.generation == message.generation) else {
            return;
        };
        slot.reading_catalog = false;
        if slot.is_ending() {
            return;
        }
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
                if let Some(content) = changed {
                    self.take_pauses(database, content.pauses);
                    let (database, catalogs) = (Arc::clone(database), &mut self.catalogs);
                    let tenants = content.tenants;
                    catalogs.tenants.insert(Arc::clone(&database), tenants);
                    catalogs.pipelines.insert(database, content.pipelines);
                    self.reconcile(context);
                }
                self.database_is_known(database, context);
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
        self.metrics.actor_ended(child.kind());
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
        self.finish_drain_when_due(context);
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
