//! The outside, as the core and the actors see it. Each port has a real side
//! (`postgres`, `kinesis`) and can be given a simulated one.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;

pub use super::catalog::{Catalog, CatalogContent, PipelineRow, TenantRow};
use super::dead_letter::DeadLetter;
pub use super::dead_letter::{LETTERS_COUNTED, Letters, MOST_BLOCKED_KEYS};
use super::nodes::NodeStore;
use super::page::{ReadBound, RowPage};
use super::pause::PausesVersion;
use super::position::{Position, RowId};
use super::resend::ResendStore;
use super::row::OutboxRow;
use super::shard_map::{Shard, ShardId};
use super::shares::ShareStore;
use super::snapshot::Snapshot;

// === Names ===

/// A pipeline's name, unique in its database.
pub type PipelineName = Arc<str>;

/// The catalog id of an outbox: `tide.outbox.outbox_id`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OutboxId(pub i32);

/// An outbox of the catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outbox {
    /// Its id.
    pub id: OutboxId,
    /// Its name.
    pub name: Arc<str>,
    /// What the event ids of its rows are made from.
    pub uuid: uuid::Uuid,
}

/// How often a pipeline has been taken over; a write of an older epoch is
/// refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch(pub i64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

// === The database ===

/// The server that answers behind a database's URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerInfo {
    /// Rises when another server answers than before, or the same one after a
    /// restart: what was read before must not be mixed with what is read then.
    pub generation: u64,
    /// When it was started, as it says.
    pub started_at: String,
    /// Its version.
    pub version: String,
    /// What `initdb` called its cluster, where that can be read.
    pub system_identifier: Option<String>,
    /// Its timeline, where that can be read: a promotion begins a new one.
    pub timeline: Option<u32>,
}

impl ServerInfo {
    /// Whether it is the same server in the same life. What one of them does not
    /// tell says nothing.
    #[must_use]
    pub fn is_same_as(&self, other: &Self) -> bool {
        fn differ<T: PartialEq>(a: Option<&T>, b: Option<&T>) -> bool {
            matches!((a, b), (Some(a), Some(b)) if a != b)
        }
        let (a, b) = (
            self.system_identifier.as_ref(),
            other.system_identifier.as_ref(),
        );
        self.started_at == other.started_at
            && !differ(a, b)
            && !differ(self.timeline.as_ref(), other.timeline.as_ref())
    }
}

/// What went wrong with the database.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The database did not answer, or said it cannot now: wait and try again.
    #[error("database unavailable: {0}")]
    Unavailable(String),
    /// What was asked for is not there, or the schema is not: somebody must act.
    #[error("{0}")]
    Refused(String),
}

/// What a relay gets when it asks for a pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// It owns the pipeline under a new epoch, from this position on.
    Granted {
        /// The new epoch.
        epoch: Epoch,
        /// Where to go on.
        position: Position,
        /// The outbox to read.
        outbox: Outbox,
    },
    /// Another node holds a lease that has not expired.
    Held {
        /// That node.
        owner: String,
        /// How long its lease still runs on the database's clock.
        expires_in: Duration,
    },
    /// The pauses are not those of which [`OutboxStore::knows_pauses`] told: one of
    /// them may hold the pipeline. Read them first.
    PausesChanged,
}

/// Who asks for which pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClaimRequest<'a> {
    /// The pipeline.
    pub pipeline: &'a str,
    /// The version of its definition in the database; `None` when a file defines
    /// it.
    pub version: Option<i64>,
    /// The outbox it reads.
    pub outbox: &'a str,
    /// The node that asks.
    pub node: &'a str,
    /// How long the lease is to last.
    pub lease: Duration,
}

/// Whether a fenced write was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fenced {
    /// The epoch was current and the write is done.
    Written,
    /// A newer epoch exists: the writer no longer owns the pipeline.
    Stale,
}

/// The rows of a window, when they are few; its bounds, when they are many or heavy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WindowRows {
    /// All of them, in id order (possibly none).
    Whole(Vec<OutboxRow>),
    /// More than a page: read it page by page within these bounds.
    Bounds {
        /// What has been read of it: none when it has too many rows, the first ones
        /// when they are too heavy.
        read: RowPage,
        /// Lowest id of the window, or a lower one.
        first: RowId,
        /// Lowest id of the rows whose transactions began after the window did
        /// (all but the late committers'), or a lower one: pages look for them
        /// from here on, or one late row of low id would make the first page
        /// walk through everything settled since.
        first_fresh: RowId,
        /// Highest id of the window, or a higher one.
        last: RowId,
    },
}

/// A window as it was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// The snapshot it reaches up to.
    pub snapshot: Snapshot,
    /// Its rows.
    pub rows: WindowRows,
}

/// The rows between two snapshots, within the bounds of a large window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageRequest {
    /// The outbox.
    pub outbox: OutboxId,
    /// Rows visible in this are not of the window.
    pub from: Snapshot,
    /// Rows not visible in this are not of the window.
    pub to: Snapshot,
    /// Only ids above this.
    pub after: RowId,
    /// As [`WindowRows::Bounds`] gave it.
    pub first_fresh: RowId,
    /// Only ids up to this: as [`WindowRows::Bounds`] gave it.
    pub last: RowId,
    /// At most so much.
    pub bound: ReadBound,
}

/// What a probe asks of one outbox: is there a row this snapshot does not see?
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeTarget {
    /// The outbox.
    pub outbox: OutboxId,
    /// What has been read already.
    pub seen: Snapshot,
}

/// What a probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeReport {
    /// The snapshot the probe ran in: an outbox without news that was looked into is
    /// read up to it.
    pub snapshot: Snapshot,
    /// Whether the outboxes were looked into. Otherwise nothing tells of rows whose ids
    /// were made by hand: what was seen of an outbox stays what it was.
    pub looked: bool,
    /// For each target, in order, whether it has a row its snapshot does not see.
    pub news: Vec<bool>,
}

/// How much waits in an outbox behind a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Backlog {
    /// Rows not yet read, counted up to a bound.
    pub rows: u64,
    /// Whether the count stopped at its bound.
    pub at_least: bool,
    /// Age of the oldest of them, zero when there is none.
    pub oldest: Duration,
}

/// Hears how each call to a database went: the name of the call, how long it took
/// (waiting for a connection included), and whether it was answered.
pub type CallListener = Arc<dyn Fn(&'static str, Duration, bool) + Send + Sync>;

/// The database of some outboxes. Implementations bound every call in time.
pub trait OutboxStore: ResendStore + NodeStore + ShareStore {
    /// Takes the pipeline for a node under a new epoch, unless another node's
    /// lease on it still runs. A node that holds it already gets a new epoch. A
    /// definition that is not in force any more is refused.
    fn claim<'a>(&'a self, request: ClaimRequest<'a>) -> BoxFuture<'a, Result<Claim, StoreError>>;

    /// Gives a pipeline back, so that another node need not wait for expiry.
    fn release<'a>(
        &'a self,
        pipeline: &'a str,
        node: &'a str,
        epoch: Epoch,
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Writes a position down, if `epoch` is the pipeline's newest, and with it
    /// the letters of rows it steps over: both or neither.
    fn save_position<'a>(
        &'a self,
        pipeline: &'a str,
        epoch: Epoch,
        position: &'a Position,
        letters: &'a [DeadLetter],
    ) -> BoxFuture<'a, Result<Fenced, StoreError>>;

    /// What a reader must know of the letters of its pipeline before it reads.
    fn letters<'a>(
        &'a self,
        pipeline: &'a str,
        outbox: OutboxId,
    ) -> BoxFuture<'a, Result<Letters, StoreError>>;

    /// Which of these rows have a letter, whatever its state: they are settled.
    fn rows_with_letters<'a>(
        &'a self,
        pipeline: &'a str,
        outbox: OutboxId,
        rows: &'a [RowId],
    ) -> BoxFuture<'a, Result<Vec<RowId>, StoreError>>;

    /// Takes a fresh snapshot and reads the rows it sees and `seen` does not,
    /// both in one statement.
    fn open_window<'a>(
        &'a self,
        outbox: OutboxId,
        seen: &'a Snapshot,
        page: ReadBound,
    ) -> BoxFuture<'a, Result<Opened, StoreError>>;

    /// Reads a window that was opened before, by its recorded snapshots.
    fn reopen_window<'a>(
        &'a self,
        outbox: OutboxId,
        from: &'a Snapshot,
        to: &'a Snapshot,
        page: ReadBound,
    ) -> BoxFuture<'a, Result<WindowRows, StoreError>>;

    /// Reads one page of a large window, in id order. Fewer rows than the limit and
    /// no cut mean that it was the last page.
    fn read_page<'a>(
        &'a self,
        request: &'a PageRequest,
    ) -> BoxFuture<'a, Result<RowPage, StoreError>>;

    /// Reads rows by id, in the order of `ids`, no more than `bytes` of them. A row
    /// that is gone is left out.
    fn read_rows<'a>(
        &'a self,
        outbox: OutboxId,
        ids: &'a [RowId],
        bytes: usize,
    ) -> BoxFuture<'a, Result<RowPage, StoreError>>;

    /// Reads single fields of a row's payload, by their member names, as JSON text:
    /// an object or an array as an empty one, a text cut off behind what a partition
    /// key could hold. By default none is there.
    fn read_fields<'a>(
        &'a self,
        outbox: OutboxId,
        row: RowId,
        paths: &'a [Vec<String>],
    ) -> BoxFuture<'a, Result<Vec<Option<String>>, StoreError>> {
        let _ = (outbox, row);
        Box::pin(async { Ok(vec![None; paths.len()]) })
    }

    /// Asks for many outboxes at once whether they have anything new.
    fn probe<'a>(
        &'a self,
        targets: &'a [ProbeTarget],
    ) -> BoxFuture<'a, Result<ProbeReport, StoreError>>;

    /// Counts what waits in an outbox behind `seen`, at most `bound` rows.
    fn backlog<'a>(
        &'a self,
        outbox: OutboxId,
        seen: &'a Snapshot,
        bound: u32,
    ) -> BoxFuture<'a, Result<Backlog, StoreError>>;

    /// Which pauses the node goes by from now on: a claim that meets others is not
    /// granted. By default there are none.
    fn knows_pauses(&self, pauses: &PausesVersion) {
        let _ = pauses;
    }

    /// Who hears how each call goes from now on; the first one that is named stays.
    /// By default nobody hears.
    fn tells(&self, listener: CallListener) {
        let _ = listener;
    }

    /// The server that answered last, if the store knows.
    fn server(&self) -> Option<Arc<ServerInfo>> {
        None
    }
}

// === The stream ===

/// What is known of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamDescription {
    /// Its ARN.
    pub arn: String,
    /// When it was made, in milliseconds since 1970, if the service says so: tells
    /// a stream from one that was deleted and made again under its name.
    pub created_at_ms: Option<i64>,
    /// Whether it takes records now (ACTIVE or UPDATING).
    pub writable: bool,
    /// Its status as the service names it.
    pub status: String,
    /// The most a record may weigh (data plus partition key), in bytes: the
    /// stream's `MaxRecordSizeInKiB`, 1 MiB when the service does not say.
    pub max_record_bytes: usize,
    /// Whether the service spreads records without regard to their keys
    /// (`RecordDistributionStrategy = AUTO`): no order could be kept.
    pub ignores_keys: bool,
}

/// One record of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutRecord {
    /// The partition key.
    pub key: Arc<str>,
    /// The hash key that decides its shard in place of the partition key's.
    pub explicit_hash_key: Option<u128>,
    /// The data.
    pub data: Bytes,
}

/// What became of one record of a call that was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordOutcome {
    /// It is in the stream.
    Stored {
        /// The shard it went to.
        shard: ShardId,
        /// Its sequence number there.
        sequence: String,
    },
    /// The shard was over its limit; it was not stored.
    Throttled,
    /// The service failed on it; it was not stored.
    Failed {
        /// The service's error code.
        code: String,
        /// The service's message.
        message: String,
    },
}

/// Why a whole call was not answered record by record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallFailure {
    /// Nothing was stored; too much was asked for: back off.
    #[error("throttled ({code}): {message}")]
    Throttled {
        /// The service's error code.
        code: String,
        /// The service's message.
        message: String,
    },
    /// It is not known whether anything was stored: the same records go again
    /// before anything newer of their keys.
    #[error("unknown outcome: {reason}")]
    Unknown {
        /// What happened to the call.
        reason: String,
    },
    /// Nothing was stored; credentials or the clock must be refreshed.
    #[error("credentials not accepted ({code}): {message}")]
    Credentials {
        /// The service's or the credential chain's error code.
        code: String,
        /// Its message.
        message: String,
    },
    /// Nothing was stored; the operator must act (access denied, key of the
    /// stream disabled, stream missing).
    #[error("{code}: {message}")]
    Operator {
        /// The service's error code.
        code: String,
        /// Its message, with what to do.
        message: String,
    },
    /// Nothing was stored; some record of the call is not acceptable.
    #[error("a record was not accepted ({code}): {message}")]
    BadRecord {
        /// The service's error code.
        code: String,
        /// Its message.
        message: String,
    },
}

// === impl CallFailure ===

impl CallFailure {
    /// What the log and the status may show of it. What the service says of a record may
    /// quote its partition key: that goes to the record's own dead letter alone.
    #[must_use]
    pub fn shown(&self) -> String {
        match self {
            Self::BadRecord { code, .. } => format!("a record was not accepted ({code})"),
            Self::Throttled { .. }
            | Self::Unknown { .. }
            | Self::Credentials { .. }
            | Self::Operator { .. } => self.to_string(),
        }
    }
}

/// One stream, through one client. Implementations bound every call in time and
/// never try a call twice: retries belong to the caller, who keeps the order.
pub trait StreamService: Send + Sync {
    /// Describes the stream.
    fn describe(&self) -> BoxFuture<'_, Result<StreamDescription, CallFailure>>;

    /// Lists the shards that are open now, all pages of them.
    fn list_open_shards(&self) -> BoxFuture<'_, Result<Vec<Shard>, CallFailure>>;

    /// Sends records in one call. The answer has one outcome per record, in
    /// order.
    fn put(
        &self,
        records: Vec<PutRecord>,
    ) -> BoxFuture<'_, Result<Vec<RecordOutcome>, CallFailure>>;
}

// === The catalog ===
