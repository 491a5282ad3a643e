//! Every metric family of the relay.
//!
//! Families are registered once, in a registry that is passed in. Workers get
//! handles ([`PipelineMetrics`], [`ShardMetrics`]) whose series are looked up
//! once; an event is then one method call that adds to a few atomics. A label
//! never holds a key, a row or an error's text: a label's values are names from
//! the configuration, shard ids, and names written in this program (`&'static
//! str` or an enum).
//!
//! Rows, records and bytes are plain counts; times are seconds; ratios are 0 to
//! 1.

mod actors;
mod cluster;
mod config;
mod database;
mod memory;
mod pipeline;
mod retention;
mod shard;
mod stored_records;
mod stream;
mod tenant;

use std::sync::Arc;
use std::time::Duration;

use prometheus::{
    GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::admin::status::PipelineState;
use crate::core::invariants::Invariant;
pub use cluster::{Handover, Nodes};
pub use memory::{MemoryMetrics, show_process};
pub use pipeline::{PipelineMetrics, ResentSource, RetryReason, labels_of};
pub use retention::{HeldRows, KeptRows};
pub use shard::{CallOutcome, ShardMetrics};
pub use stored_records::StoredRecords;
pub use stream::StreamMetrics;
pub use tenant::{MOST_TENANTS, TenantMetrics};

use actors::ActorFamilies;
use cluster::ClusterFamilies;
use config::ConfigFamilies;
use database::DatabaseFamilies;
use pipeline::PipelineFamilies;
use retention::RetentionFamilies;
use shard::ShardFamilies;
use stream::StreamFamilies;
use tenant::TenantFamilies;

/// The metrics could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("metrics: {0}")]
pub struct MetricsError(#[from] prometheus::Error);

/// What the database answered when a position was to be written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PositionWrite {
    /// It is written.
    Written,
    /// It was refused: a newer epoch exists.
    Stale,
}

/// What happened to a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseEvent {
    /// A pipeline was taken.
    Claimed,
    /// Another node has it.
    Held,
    /// It was extended.
    Renewed,
    /// It was lost to another node, or ran out.
    Lost,
    /// It was given back.
    Released,
}

/// All metrics. Clones share the same families.
#[derive(Debug, Clone)]
pub struct Metrics {
    families: Arc<Families>,
}

#[derive(Debug)]
struct Families {
    registry: Registry,
    config: ConfigFamilies,
    pipeline: PipelineFamilies,
    shard: ShardFamilies,
    stream: StreamFamilies,
    tenant: TenantFamilies,
    retention: RetentionFamilies,
    actors: ActorFamilies,
    memory: MemoryMetrics,
    actor_restarts: IntCounterVec,
    invariant_violations: IntCounterVec,
    position_writes: IntCounterVec,
    lease_events: IntCounterVec,
    database: DatabaseFamilies,
    cluster: ClusterFamilies,
}

// === impl Metrics ===

impl Metrics {
    /// Registers all families, and `tidegate_build_info` with its one series.
    ///
    /// # Errors
    /// A family of the same name is in the registry already.
    pub fn new(registry: Registry) -> Result<Self, MetricsError> {
        let build_info = int_gauges(
            &registry,
            "tidegate_build_info",
            "Always 1; the version is in the label",
            &["version"],
        )?;
        build_info
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1);
        let families = Families {
            config: ConfigFamilies::register(&registry)?,
            pipeline: PipelineFamilies::register(&registry)?,
            shard: ShardFamilies::register(&registry)?,
            stream: StreamFamilies::register(&registry)?,
            tenant: TenantFamilies::register(&registry)?,
            retention: RetentionFamilies::register(&registry)?,
            actors: ActorFamilies::register(&registry)?,
            memory: MemoryMetrics::register(&registry)?,
            actor_restarts: counters(
                &registry,
                "tidegate_actor_restarts_total",
                "Actors started again after they ended on their own",
                &["actor", "cause"],
            )?,
            invariant_violations: counters(
                &registry,
                "tidegate_invariant_violations_total",
                "Times an invariant did not hold; anything but 0 is a defect",
                &["id"],
            )?,
            position_writes: counters(
                &registry,
                "tidegate_position_writes_total",
                "Positions written down, or refused because a newer epoch exists",
                &["outcome"],
            )?,
            lease_events: counters(
                &registry,
                "tidegate_lease_events_total",
                "What happened to the leases of pipelines",
                &["event"],
            )?,
            database: DatabaseFamilies::register(&registry)?,
            cluster: ClusterFamilies::register(&registry)?,
            registry,
        };
        for invariant in Invariant::ALL {
            if invariant.is_checked_at_run_time() {
                families
                    .invariant_violations
                    .with_label_values(&[invariant.id()]);
            }
        }
        Ok(Self {
            families: Arc::new(families),
        })
    }

    /// The handle of a pipeline, by its [labels](labels_of). Asking again gives the
    /// same series.
    #[must_use]
    pub fn pipeline(&self, labels: [&str; 4]) -> PipelineMetrics {
        let families = &self.families;
        families.pipeline.handle(labels, &families.tenant)
    }

    /// A pipeline's state, while no reader of this node says it. On a node that does
    /// not own the pipeline its backlog has no series: a sum over nodes counts no row
    /// twice, and what was seen before the lease went does not stand there for ever.
    /// One that waits has no lease here: an owner's waiting is said by its own
    /// [handle](PipelineMetrics::state).
    pub fn pipeline_state(&self, labels: [&str; 4], state: &PipelineState) {
        self.pipeline(labels).state(state);
        if !state.keeps_counts() {
            self.families.pipeline.remove_backlog(labels);
        }
    }

    /// Ends a pipeline's series. What its handles still add is seen by nobody.
    pub fn remove_pipeline(&self, labels: [&str; 4]) {
        self.families.pipeline.remove(labels);
    }

    /// The handle of a shard. Asking again gives the same series.
    #[must_use]
    pub fn shard(&self, stream: &str, shard: &str) -> ShardMetrics {
        self.families.shard.handle([stream, shard])
    }

    /// Ends a shard's series. What its handles still add is seen by nobody.
    pub fn remove_shard(&self, stream: &str, shard: &str) {
        self.families.shard.remove([stream, shard]);
    }

    /// The handle of a stream. Asking again gives the same series.
    #[must_use]
    pub fn stream(&self, stream: &str) -> StreamMetrics {
        self.families.stream.handle(stream)
    }

    /// Ends a stream's series. What its handles still add is seen by nobody.
    pub fn remove_stream(&self, stream: &str) {
        self.families.stream.remove(stream);
    }

    /// Rows of an outbox were deleted after its retention.
    pub fn rows_removed(&self, database: &str, outbox: &str, rows: u64) {
        self.families.retention.removed(database, outbox, rows);
    }

    /// What the outboxes of a database keep now; `None` while this node does not know.
    pub fn retention(&self, database: &str, kept: Option<&[KeptRows<'_>]>) {
        self.families.retention.show(database, kept);
    }

    /// An actor ended on its own and is started again. `actor` is its kind,
    /// `cause` a short name such as `panic`.
    pub fn actor_restarted(&self, actor: &'static str, cause: &'static str) {
        self.families
            .actor_restarts
            .with_label_values(&[actor, cause])
            .inc();
    }

    /// An invariant did not hold.
    pub fn invariant_violated(&self, invariant: Invariant) {
        self.families
            .invariant_violations
            .with_label_values(&[invariant.id()])
            .inc();
    }

    /// A position was to be written down.
    pub fn position_write(&self, outcome: PositionWrite) {
        let outcome = match outcome {
            PositionWrite::Written => "written",
            PositionWrite::Stale => "stale",
        };
        self.families
            .position_writes
            .with_label_values(&[outcome])
            .inc();
    }

    /// Something happened to a lease.
    pub fn lease_event(&self, event: LeaseEvent) {
        let event = match event {
            LeaseEvent::Claimed => "claimed",
            LeaseEvent::Held => "held",
            LeaseEvent::Renewed => "renewed",
            LeaseEvent::Lost => "lost",
            LeaseEvent::Released => "released",
        };
        self.families.lease_events.with_label_values(&[event]).inc();
    }

    /// A database answered, or did not.
    pub fn database_up(&self, database: &str, up: bool) {
        self.families.database.is_up(database, up);
    }

    /// A call to a database took so long, and was `answered` or not. `query` is its
    /// name.
    pub fn database_query(
        &self,
        database: &str,
        query: &'static str,
        took: Duration,
        answered: bool,
    ) {
        self.families
            .database
            .query(database, query, took, answered);
    }

    /// For so long has the same transaction been the oldest of a database that runs;
    /// zero when none runs.
    pub fn horizon_held(&self, database: &str, held: Duration) {
        self.families.database.horizon_held(database, held);
    }

    /// All series in the text format of Prometheus.
    ///
    /// # Errors
    /// A series cannot be written as text.
    pub fn render(&self) -> Result<String, MetricsError> {
        Ok(TextEncoder::new().encode_to_string(&self.families.registry.gather())?)
    }
}

// === Registering ===

fn counters(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec, prometheus::Error> {
    let family = IntCounterVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(family.clone()))?;
    Ok(family)
}

fn int_gauges(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntGaugeVec, prometheus::Error> {
    let family = IntGaugeVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(family.clone()))?;
    Ok(family)
}

fn gauges(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<GaugeVec, prometheus::Error> {
    let family = GaugeVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(family.clone()))?;
    Ok(family)
}

fn histograms(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
    upper_bounds: &[f64],
) -> Result<HistogramVec, prometheus::Error> {
    let options = HistogramOpts::new(name, help).buckets(upper_bounds.to_vec());
    let family = HistogramVec::new(options, labels)?;
    registry.register(Box::new(family.clone()))?;
    Ok(family)
}

/// A count as a gauge holds it. No gauge of ours comes near the bound.
fn gauge_value(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// A count as a counter adds it. No count of ours comes near the bound.
fn counter_value(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// Ends one series of each given family. A series that is not there is gone
/// already.
macro_rules! remove_series {
    ($labels:expr, $($family:expr),+ $(,)?) => {
        $(drop($family.remove_label_values($labels));)+
    };
}
use remove_series;

#[cfg(test)]
mod tests;
