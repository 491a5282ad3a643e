//! What a reader is built from.

use std::sync::Arc;

use actix::Addr;
use tokio::runtime::Handle;

use crate::actors::clock::Clock;
use crate::actors::permits::{SharedPool, Void};
use crate::actors::pipeline_rate::PipelineRate;
use crate::actors::probe::Probe;
use crate::actors::pulse::Pulse;
use crate::actors::stream_router::StreamRouter;
use crate::actors::stream_watch::StreamWatch;
use crate::actors::tenants::Tenant;
use crate::admin::metrics::Metrics;
use crate::admin::status::StatusBoard;
use crate::config::desired::PipelineKey;
use crate::config::pipeline::PipelineSpec;
use crate::core::ports::{Epoch, Outbox, OutboxStore};
use crate::core::position::Position;
use crate::core::send_queue::FlowId;
use crate::core::shard_map::ShardMap;

/// What a reader is made of.
pub struct ReaderParts {
    /// Which pipeline.
    pub key: PipelineKey,
    /// What this node is called in leases.
    pub node: Arc<str>,
    /// Its definition.
    pub spec: Arc<PipelineSpec>,
    /// Its outbox.
    pub outbox: Outbox,
    /// The epoch it is owned under.
    pub epoch: Epoch,
    /// What its own rate lets it hand over.
    pub rate: PipelineRate,
    /// Where to go on.
    pub position: Position,
    /// The shards of its stream.
    pub map: Arc<ShardMap>,
    /// The most a record of the stream may weigh, in bytes.
    pub max_record_bytes: usize,
    /// Its place in the writers' queues.
    pub flow: FlowId,
    /// Its tenant.
    pub tenant: Arc<Tenant>,
    /// The database.
    pub store: Arc<dyn OutboxStore>,
    /// Where rows go.
    pub router: Addr<StreamRouter>,
    /// What wakes it.
    pub probe: Addr<Probe>,
    /// The permits of the process.
    pub shared: Arc<SharedPool>,
    /// How its stream is.
    pub stream: Arc<StreamWatch>,
    /// Rows in flight of this pipeline, at most.
    pub most_rows: usize,
    /// Bytes in flight of this pipeline, at most.
    pub most_bytes: usize,
    /// Rows remembered by id alone, at most.
    pub most_stashed: usize,
    /// The metrics of the process.
    pub metrics: Metrics,
    /// Where its state is shown.
    pub board: Arc<StatusBoard>,
    /// The clock.
    pub clock: Clock,
    /// Whether its flow is void; the supervisor shares it.
    pub void: Void,
    /// Its signs of life.
    pub pulse: Pulse,
    /// Where what takes time is spawned.
    pub workers: Handle,
}
