//! What the relay is doing now, for people and for probes.
//!
//! Actors write what they know onto a [`StatusBoard`]; the admin port reads it.
//! A write holds a lock for as long as a few fields take to copy, so neither
//! side waits for the other. The board also carries the supervisor's heartbeat:
//! whoever reads it learns whether the relay makes progress, from another thread
//! than the one that should.
//!
//! No key, payload, URL or credential belongs on the board: it is shown to
//! whoever may reach the admin port. What the relay runs by ([`Loaded`]) is one
//! exception, and is shown with marks in their place; the hottest keys of each shard
//! are the other one, and are no part of [`Status`]: `/api/shards` gives them to who
//! asks for them.

mod cluster;
mod config;
mod database;
mod events;
mod hash_range;
mod loaded;
mod pipeline;
mod retention;
mod tenant;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, SystemTime};

use serde::Serialize;
use tokio::time::Instant;

use crate::core::hot_keys::HotKey;
use events::Events;

pub use cluster::{ClusterStatus, NodeStatus};
pub use config::{ConfigStatus, ReloadStatus};
pub use database::{DatabaseStatus, ServerStatus};
pub use events::{EventStatus, Happened, MOST_OF_A_KIND};
pub use hash_range::HashRangeStatus;
pub use loaded::Loaded;
pub use pipeline::{PipelineId, PipelineState, PipelineStatus, ReplayStatus, WaitStatus};
pub use retention::{HoldStatus, KeptStatus, RetentionStatus, SweepStatus};
pub use tenant::{LimitedSeconds, TenantStatus};

/// A stream on the board.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct StreamStatus {
    /// Its name.
    pub name: Arc<str>,
    /// Its region, account and name, as far as they are configured.
    pub key: Arc<str>,
    /// Its status as the service names it; empty while it is not known.
    pub status: String,
    /// What keeps it from being written to, if anything does.
    pub problem: Option<String>,
    /// The troubles it is in, by the call that meets them.
    pub troubles: Vec<TroubleStatus>,
    /// What the relay does without, and which permission would help.
    pub advice: Option<String>,
    /// What its router waits for.
    pub waits: Option<WaitStatus>,
    /// Its open shards, by rising hash range.
    pub shards: Vec<ShardStatus>,
}

/// A trouble of a stream on the board.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TroubleStatus {
    /// Its kind: see [`crate::core::trouble::TroubleKind`].
    pub kind: &'static str,
    /// The call that meets it, as IAM policies name it.
    pub call: &'static str,
    /// What the first failure of this kind said, and what to do.
    pub reason: String,
}

/// A shard on the board.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ShardStatus {
    /// Its id.
    pub id: Arc<str>,
    /// Part of its budget of records used lately, 0 to 1.
    pub records_utilisation: f64,
    /// Part of its budget of bytes used lately, 0 to 1.
    pub bytes_utilisation: f64,
    /// Part of the configured budget in use now, 0 to 1.
    pub budget_factor: f64,
    /// Part of its budget of records that is this node's, 0 to 1.
    pub records_share: f64,
    /// Part of its budget of bytes that is this node's, 0 to 1.
    pub bytes_share: f64,
    /// Rows that wait for it.
    pub queued_rows: u64,
    /// Bytes of the rows that wait for it.
    pub queued_bytes: u64,
    /// Why calls to it fail, if they do.
    pub problem: Option<String>,
    /// What its writer waits for.
    pub waits: Option<WaitStatus>,
    /// The hash keys it takes.
    pub hash_range: Option<HashRangeStatus>,
    /// Its hottest keys: shown only to who asks for them.
    #[serde(skip)]
    pub hot_keys: Vec<HotKey>,
}

/// Where the process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It is being set up.
    Starting,
    /// It works.
    Started,
    /// It finishes what is in flight, then ends.
    Draining,
}

/// Everything on the board at one moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Status {
    /// The version of the program.
    pub version: &'static str,
    /// What this node is called in leases.
    pub node: Arc<str>,
    /// Where the process is in its life.
    pub phase: Phase,
    /// When this was said, in seconds since 1970.
    pub at: f64,
    /// How long it has run, in seconds.
    pub uptime_seconds: f64,
    /// How long ago the supervisor showed progress, in seconds.
    pub heartbeat_age_seconds: f64,
    /// The configuration that runs, and how the last reload went.
    pub config: ConfigStatus,
    /// The databases, by name.
    pub databases: Vec<DatabaseStatus>,
    /// The pipelines, by database and name.
    pub pipelines: Vec<PipelineStatus>,
    /// The streams, by key.
    pub streams: Vec<StreamStatus>,
    /// The tenants that pipelines name or somebody has defined, by name.
    pub tenants: Vec<TenantStatus>,
    /// What the outboxes of each database keep, as far as this node sweeps it.
    pub retention: Vec<RetentionStatus>,
    /// What happened lately, the newest first.
    pub events: Vec<EventStatus>,
}

/// The board.
#[derive(Debug)]
pub struct StatusBoard {
    node: Arc<str>,
    started_at: Instant,
    /// Milliseconds from `started_at` to the supervisor's last sign of life.
    last_beat: AtomicU64,
    entries: RwLock<Entries>,
}

#[derive(Debug)]
struct Entries {
    phase: Phase,
    config: ConfigStatus,
    databases: BTreeMap<Arc<str>, DatabaseStatus>,
    pipelines: BTreeMap<PipelineId, PipelineStatus>,
    streams: BTreeMap<Arc<str>, StreamStatus>,
    tenants: Vec<TenantStatus>,
    retention: BTreeMap<Arc<str>, RetentionStatus>,
    loaded: Option<Loaded>,
    events: Events,
}

// === impl StatusBoard ===

impl StatusBoard {
    /// An empty board of a process that is starting.
    #[must_use]
    pub fn new(node: Arc<str>) -> Self {
        Self::made_at(Instant::now(), node)
    }

    /// A board as if it had been made at that time.
    pub(super) fn made_at(started_at: Instant, node: Arc<str>) -> Self {
        Self {
            node,
            started_at,
            last_beat: AtomicU64::new(0),
            entries: RwLock::new(Entries {
                phase: Phase::Starting,
                config: ConfigStatus::default(),
                databases: BTreeMap::new(),
                pipelines: BTreeMap::new(),
                streams: BTreeMap::new(),
                tenants: Vec::new(),
                retention: BTreeMap::new(),
                loaded: None,
                events: Events::default(),
            }),
        }
    }

    /// The supervisor shows a sign of life.
    pub fn beat(&self) {
        let since = u64::try_from(self.started_at.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_beat.fetch_max(since, Ordering::Relaxed);
    }

    /// How long ago the supervisor showed a sign of life; before its first one,
    /// how long ago the board was made.
    #[must_use]
    pub fn heartbeat_age(&self) -> Duration {
        self.started_at.elapsed().saturating_sub(self.last_beat())
    }

    /// When the supervisor last showed a sign of life, from when the board was made.
    #[must_use]
    pub fn last_beat(&self) -> Duration {
        Duration::from_millis(self.last_beat.load(Ordering::Relaxed))
    }

    /// Where the process is in its life.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.read().phase
    }

    /// The process has got further in its life. It never goes back: a supervisor
    /// that starts while the process is asked to end makes it ready for nobody.
    pub fn set_phase(&self, phase: Phase) {
        let mut entries = self.write();
        entries.phase = entries.phase.max(phase);
    }

    /// A database answered, or did not and why.
    pub fn set_database(&self, name: &Arc<str>, problem: Option<String>) {
        let mut entries = self.write();
        let before = entries.databases.remove(name);
        let status = DatabaseStatus::told(name, problem, before);
        entries.databases.insert(name.clone(), status);
    }

    /// Which nodes use a database that is on the board.
    pub fn set_cluster(&self, name: &Arc<str>, cluster: ClusterStatus) {
        if let Some(status) = self.write().databases.get_mut(name) {
            status.cluster = Some(cluster);
        }
    }

    /// Which nodes of a database on the board go by other budgets.
    pub fn set_other_budgets(&self, name: &Arc<str>, nodes: Vec<Arc<str>>) {
        if let Some(status) = self.write().databases.get_mut(name) {
            status.other_budgets = nodes;
        }
    }

    /// Which server answers for a database that is on the board.
    pub fn set_server(&self, name: &Arc<str>, server: ServerStatus) {
        if let Some(status) = self.write().databases.get_mut(name) {
            status.server = Some(server);
        }
    }

    /// Puts a pipeline on the board, in the place of what was there.
    pub fn set_pipeline(&self, status: PipelineStatus) {
        let key = (status.database.clone(), status.name.clone());
        self.write().pipelines.insert(key, status);
    }

    /// Changes a pipeline on the board; does nothing if it is not there.
    pub fn update_pipeline(
        &self,
        database: &Arc<str>,
        name: &Arc<str>,
        change: impl FnOnce(&mut PipelineStatus),
    ) {
        let key = (database.clone(), name.clone());
        if let Some(status) = self.write().pipelines.get_mut(&key) {
            change(status);
        }
    }

    /// How many rows of a pipeline are in flight, as its reader said last.
    #[must_use]
    pub fn rows_in_flight(&self, database: &Arc<str>, name: &Arc<str>) -> u64 {
        let key = (database.clone(), name.clone());
        self.read()
            .pipelines
            .get(&key)
            .map_or(0, |status| status.in_flight_rows)
    }

    /// How many pipelines are in which state.
    #[must_use]
    pub fn pipeline_states(&self) -> BTreeMap<&'static str, usize> {
        let mut states = BTreeMap::new();
        for pipeline in self.read().pipelines.values() {
            *states.entry(pipeline.state.name()).or_default() += 1;
        }
        states
    }

    /// The pipelines of a database.
    #[must_use]
    pub fn pipelines_of(&self, database: &str) -> Vec<PipelineStatus> {
        let board = self.read();
        let all = board.pipelines.values();
        all.filter(|status| *status.database == *database)
            .cloned()
            .collect()
    }

    /// Takes a pipeline off the board.
    pub fn remove_pipeline(&self, database: &Arc<str>, name: &Arc<str>) {
        self.write()
            .pipelines
            .remove(&(database.clone(), name.clone()));
    }

    /// Changes a stream on the board, which is put there if it is not. `key`
    /// tells apart streams of one name in several regions or accounts.
    pub fn update_stream(&self, key: &Arc<str>, change: impl FnOnce(&mut StreamStatus)) {
        let mut entries = self.write();
        let entry = entries.streams.entry(key.clone()).or_default();
        entry.key.clone_from(key);
        change(entry);
    }

    /// Changes a stream that is on the board; one that was taken off stays off.
    pub fn change_stream(&self, key: &Arc<str>, change: impl FnOnce(&mut StreamStatus)) {
        if let Some(stream) = self.write().streams.get_mut(key) {
            change(stream);
        }
    }

    /// Takes a stream off the board.
    pub fn remove_stream(&self, key: &Arc<str>) {
        self.write().streams.remove(key);
    }

    /// These are the tenants, by name.
    pub fn set_tenants(&self, tenants: Vec<TenantStatus>) {
        self.write().tenants = tenants;
    }

    /// The relay runs by these settings and definitions.
    pub fn set_loaded(&self, loaded: Loaded) {
        self.write().loaded = Some(loaded);
    }

    /// What the relay runs by; `None` before it has begun.
    #[must_use]
    pub fn loaded(&self) -> Option<Loaded> {
        self.read().loaded.clone()
    }

    /// How many rows of each pipeline are delivered, by database and name.
    #[must_use]
    pub fn delivered(&self) -> Vec<(PipelineId, u64)> {
        let board = self.read();
        let all = board.pipelines.iter();
        all.map(|(key, status)| (key.clone(), status.delivered_rows))
            .collect()
    }

    /// The databases, by name.
    #[must_use]
    pub fn databases(&self) -> Vec<DatabaseStatus> {
        self.read().databases.values().cloned().collect()
    }

    /// Everything at this moment.
    #[must_use]
    pub fn status(&self) -> Status {
        let entries = self.read();
        let pipelines = entries.pipelines.values();
        Status {
            version: env!("CARGO_PKG_VERSION"),
            node: self.node.clone(),
            phase: entries.phase,
            at: config::seconds(SystemTime::now()),
            uptime_seconds: self.started_at.elapsed().as_secs_f64(),
            heartbeat_age_seconds: self.heartbeat_age().as_secs_f64(),
            config: entries.config.clone(),
            databases: entries.databases.values().cloned().collect(),
            pipelines: pipelines.map(PipelineStatus::now).collect(),
            streams: entries.streams.values().cloned().collect(),
            tenants: entries.tenants.clone(),
            retention: entries.retention.values().cloned().collect(),
            events: entries.events.shown(),
        }
    }

    // A writer that panicked left at worst one field of one entry old.

    fn read(&self) -> RwLockReadGuard<'_, Entries> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Entries> {
        self.entries.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pipeline(name: &str) -> PipelineStatus {
        let [outbox, stream, tenant] = ["events", "s", "acme"].map(Arc::from);
        PipelineStatus::starting(name.into(), "default".into(), outbox, stream, tenant)
    }

    #[test]
    fn shows_what_was_written() {
        let board = StatusBoard::new("node-a".into());
        let (database, name): (Arc<str>, Arc<str>) = ("default".into(), "p".into());
        board.set_pipeline(pipeline("p"));
        board.set_pipeline(pipeline("q"));
        board.remove_pipeline(&database, &"q".into());
        board.update_pipeline(&database, &name, |status| {
            status.state = PipelineState::Blocked {
                row_id: 7,
                reason: "no key".to_owned(),
            };
            status.epoch = Some(3);
        });
        board.update_pipeline(&database, &"absent".into(), |status| status.lag_rows = 1);
        board.set_database(&database, Some("connection refused".to_owned()));
        board.update_stream(&"s".into(), |stream| stream.status = "ACTIVE".to_owned());
        board.set_phase(Phase::Started);
        let shown = serde_json::to_value(board.status()).expect("JSON");
        assert_eq!(shown["node"], "node-a");
        assert_eq!(shown["phase"], "started");
        assert_eq!(shown["pipelines"].as_array().map(Vec::len), Some(1));
        assert_eq!(shown["pipelines"][0]["state"], "blocked");
        assert_eq!(shown["pipelines"][0]["row_id"], 7);
        assert_eq!(shown["pipelines"][0]["epoch"], 3);
        assert_eq!(
            shown["databases"],
            json!([{"name": "default", "up": false, "problem": "connection refused"}])
        );
        assert_eq!(shown["streams"][0]["status"], "ACTIVE");
        board.remove_stream(&"s".into());
        // A writer that has not heard of its end yet.
        board.change_stream(&"s".into(), |stream| stream.status = "late".to_owned());
        assert_eq!(board.status().streams, []);
    }

    #[test]
    fn every_state_has_the_name_it_is_shown_under() {
        let reason = || "r".to_owned();
        let states = [
            PipelineState::Starting,
            PipelineState::Standby { owner: reason() },
            PipelineState::Running,
            PipelineState::Waiting { reason: reason() },
            PipelineState::Blocked {
                row_id: 1,
                reason: reason(),
            },
            PipelineState::Failed { reason: reason() },
            PipelineState::Stopped,
            PipelineState::Paused { reason: reason() },
            PipelineState::Invalid { reason: reason() },
        ];
        let shown = states.each_ref().map(|state| {
            let json = serde_json::to_value(state).expect("JSON");
            json["state"].as_str().map(str::to_owned)
        });
        assert_eq!(
            shown,
            PipelineState::NAMES.map(|name| Some(name.to_owned()))
        );
        assert_eq!(
            states.each_ref().map(PipelineState::name),
            PipelineState::NAMES
        );
    }

    #[test]
    fn a_life_never_goes_back() {
        let board = StatusBoard::new("n".into());
        board.set_phase(Phase::Draining);
        board.set_phase(Phase::Started);
        assert_eq!(board.phase(), Phase::Draining);
    }

    #[test]
    fn the_heartbeat_ages_until_the_next() {
        let long_ago = Instant::now()
            .checked_sub(Duration::from_secs(60))
            .expect("a time");
        let board = StatusBoard::made_at(long_ago, "n".into());
        assert!(board.heartbeat_age() >= Duration::from_secs(60));
        board.beat();
        assert!(board.heartbeat_age() < Duration::from_secs(30));
    }
}
