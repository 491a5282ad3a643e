//! Every message between the actors: who sends it, who handles it, and what
//! follows. Data goes one way (reader, router, writer); what runs back are
//! outcomes and dropped tickets, and two things more: when a shard is gone, its
//! writer gives the rows that wait in it back to the router, which sends them on
//! to the writers of the shards that took its place; and when a pipeline is handed
//! over, its rows that are in no call go back to its reader.
//!
//! No message has an answer: two actors that wait for each other deadlock.
//! Every send is a `try_send`; a closed mailbox means that the receiver died,
//! and the supervisor deals with that.

mod change;

use std::sync::Arc;

use actix::Message;

use super::permits::FlowTag;
use super::shard_writer::ShardWriter;
use super::ticket::Ticket;
use crate::core::nodes::BeatDone;
use crate::core::ports::{Claim, PipelineName, StoreError};
use crate::core::position::Seq;
use crate::core::routing::HandoverId;
use crate::core::row::Envelope;
use crate::core::send_queue::Sendable;
use crate::core::shard_map::{HashRange, ShardId, ShardMap};
use crate::core::snapshot::Snapshot;
use crate::core::time::Moment;

pub use change::{ProbeAtPace, RefreshEvery, Reload, Retune, SweepBy};

// === Data: reader -> router -> writer ===

/// A row on its way to a shard.
#[derive(Debug)]
pub struct RoutedRow {
    /// What is sent.
    pub envelope: Envelope,
    /// Its permit, and whose it is.
    pub ticket: Ticket,
    /// Why it is sent.
    pub purpose: Purpose,
    /// It was in a call of which nobody knows what it did.
    pub in_doubt: bool,
}

/// Why a row is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// It comes in its turn.
    Live,
    /// It was delivered before and asked for again: refused, it is left out and
    /// holds nothing up.
    Again,
    /// It is of a dead letter that a person wants delivered: refused, it is parked
    /// again.
    Letter,
}

impl Sendable for RoutedRow {
    fn hash(&self) -> u128 {
        self.envelope.hash
    }

    fn weight(&self) -> usize {
        self.envelope.weight()
    }

    fn key_bytes(&self) -> usize {
        self.envelope.key.len()
    }

    fn is_of_key_of(&self, other: &Self) -> bool {
        self.envelope.key == other.envelope.key
    }

    fn doubt(&mut self) {
        self.in_doubt = true;
    }

    fn is_in_doubt(&self) -> bool {
        self.in_doubt
    }
}

/// Rows of one flow, in delivery order. Reader to router, router to writer.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Batch {
    /// Whose rows they are.
    pub tag: Arc<FlowTag>,
    /// The rows.
    pub rows: Vec<RoutedRow>,
}

/// The shard is gone, or takes other keys now: send nothing more, let the call in
/// flight end, give back what waits, in order. Router to writer, which answers
/// with [`GivenBack`]. A shard that is gone has its writer ended after that; one
/// that stays is fed again.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct GiveBack {
    /// For which hand-over.
    pub handover: HandoverId,
}

/// All that waited in a writer, of each flow in order for each key; rows whose
/// last outcome is a failure or unknown are the first of their keys. Writer to
/// router: the only rows that go back. Should either die on the way, their tickets
/// make their flows void.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct GivenBack {
    /// Whose they were.
    pub shard: ShardId,
    /// For which hand-over.
    pub handover: HandoverId,
    /// The rows.
    pub batches: Vec<Batch>,
}

// === Outcomes: writer -> reader ===

/// What became of rows of one flow. Writer to reader, or, of rows that are recalled on
/// their way to a writer, router to reader.
#[derive(Debug, Default, Message)]
#[rtype(result = "()")]
pub struct Outcomes {
    /// Rows that are in the stream, with their hash keys.
    pub stored: Vec<(Seq, u128)>,
    /// A row the service does not take.
    pub rejected: Option<RejectedRow>,
    /// Rows behind a rejected one of their key: they were not sent
    /// (`on_poison = block_key`).
    pub unsent: Vec<RoutedRow>,
    /// Rows that are certainly not in the stream and were taken back, since their
    /// reader hands its pipeline over ([`Recall`]).
    pub recalled: Vec<RoutedRow>,
}

/// A row the service refused by itself.
#[derive(Debug)]
pub struct RejectedRow {
    /// The row. While the reader keeps its permit, the other rows of the flow go
    /// on.
    pub row: RoutedRow,
    /// Why, with the service's code and message, which may quote the partition key: for
    /// the row's dead letter alone.
    pub reason: String,
    /// Why, as the log and the status may show it.
    pub shown: String,
}

// === Reader ===

/// Rows of the reader's flow were lost with an actor: start again. From the
/// reader's own watch task.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct FlowBecameVoid;

/// There is something new in the outbox. Probe to reader.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Wake;

/// There has been nothing new for a second: the first word of that is where the
/// reader hears it ([`Watch::heard`]). Those that follow, once a second, are only left
/// there. Probe to reader.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct NothingNew;

/// What vouched for you while you rested does not any more. Supervisor to reader, once a
/// second until it stirs.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct LookAtYourself;

/// Something is to be sent again for this pipeline. Supervisor to reader, once a
/// second while it is so.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct LookForResends;

/// The probe was started again: what it watched is forgotten. Supervisor to
/// reader.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ProbeReady {
    /// Its new address.
    pub probe: actix::Addr<super::probe::Probe>,
}

/// The reader's stream must not be written to: read nothing more until
/// [`ShardsChanged`] comes. Supervisor to reader.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct StreamStopped {
    /// Which stream, and why.
    pub reason: String,
}

/// The shards of the reader's stream have changed, or the most that a record may
/// weigh, or it can be used again. Supervisor to reader, which fits its lanes to
/// them.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ShardsChanged {
    /// The shards.
    pub map: Arc<ShardMap>,
    /// The most a record may weigh, in bytes.
    pub max_record_bytes: usize,
    /// Where rows go: another one than before after that one has died.
    pub router: actix::Addr<super::stream_router::StreamRouter>,
}

/// Read nothing more, let what was handed settle, write the position, release
/// the lease, stop. Supervisor to reader.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Drain {
    /// When [`GiveUp`] is to be expected.
    pub until: Moment,
    /// All that was handed is sent: its definition changes, and what goes on under
    /// the new one may have other keys. Otherwise rows that are in no call after a
    /// moment are recalled and left to whoever owns the pipeline next.
    pub sends_all: bool,
}

/// The grace of a drain is over: write the position, with whatever is settled,
/// release the lease, stop. Supervisor to reader.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct GiveUp {
    /// Where the reader says how many rows in flight it leaves.
    pub left: Arc<std::sync::atomic::AtomicU64>,
}

/// Stop now, without waiting for anything. Supervisor to any actor.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct StopNow;

/// Stop now, and give this as the reason. Supervisor to reader.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct StopAs(pub super::child::Exit);

// === Router ===

/// A writer is ready for a shard. Supervisor to router.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct WriterReady {
    /// Its shard.
    pub shard: ShardId,
    /// Its address.
    pub writer: actix::Addr<ShardWriter>,
    /// Whose rows lie in it.
    pub holder: Arc<super::holder::Holder>,
}

/// A shard's writer has ended: its rows wait for the next one. Supervisor to
/// router.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct WriterGone {
    /// Its shard.
    pub shard: ShardId,
}

/// A record went to another shard than the map says. Writer to router.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct UnexpectedShard {
    /// Where it went.
    pub shard: ShardId,
}

/// Where records of a call went. Writer to router, while the router learns the
/// shards from that.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct WentTo {
    /// Of each shard, the lowest and the highest hash key that went there.
    pub places: Vec<(ShardId, HashRange)>,
}

/// The service refused a whole call in a way that only somebody can mend: maybe
/// the stream is gone. Writer to router, which looks at the stream soon.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct CallRefused;

// === Writer ===

/// How to work from now on. Router to writer, when it is ready and when something
/// of it changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Message)]
#[rtype(result = "()")]
pub struct Orders {
    /// Keep what you have and begin no call: the stream must not be written to.
    pub hold: bool,
    /// Say where records went ([`WentTo`]).
    pub say_where: bool,
}

/// Drop the rows of flows that are void. Supervisor to router, router to writer,
/// when a reader ended.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct PurgeVoid;

/// Give the rows of flows that are recalled back to their readers: those that are
/// certainly not in the stream. Reader to router, router to writer, when a pipeline
/// is handed over; what comes later of such a flow goes back as it comes.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct Recall;

// === Probe ===

/// Tell the reader when its outbox has a row that `seen` does not see. Reader to
/// probe; holds until it woke the reader.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Watch {
    /// Who asks.
    pub pipeline: PipelineName,
    /// The outbox.
    pub outbox: crate::core::ports::OutboxId,
    /// What has been read.
    pub seen: Snapshot,
    /// The reader.
    pub reader: actix::Addr<super::outbox_reader::OutboxReader>,
    /// Kept until the reader was told of news: so it can see that it will be.
    pub pledge: Arc<()>,
    /// Where word is left that there is nothing new.
    pub heard: Arc<super::rest::Heard>,
}

// === Supervisor ===

/// An actor's task has ended. From the task that watches it.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ChildExited {
    /// Who.
    pub child: super::child::ChildId,
    /// Which incarnation of it.
    pub incarnation: u64,
    /// How.
    pub exit: super::child::Exit,
}

/// A stream is ready, or in trouble. Router to supervisor.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct StreamChanged {
    /// Which.
    pub stream: super::stream_router::StreamKey,
    /// Which incarnation of its router says so.
    pub incarnation: u64,
    /// Its state.
    pub state: StreamState,
}

/// A shard is gone and its writer has given back what it had: the writer can end,
/// and what is shown of the shard with it. Router to supervisor.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ShardRetired {
    /// The stream.
    pub stream: super::stream_router::StreamKey,
    /// Which incarnation of its router says so.
    pub incarnation: u64,
    /// The shard.
    pub shard: ShardId,
}

/// What a router knows of its stream.
#[derive(Debug, Clone, PartialEq)]
pub enum StreamState {
    /// It takes records; these are its shards.
    Ready {
        /// Which stream it is: budgets of its shards are shared by that.
        identity: Arc<str>,
        /// The map.
        map: Arc<ShardMap>,
        /// The most a record may weigh, in bytes.
        max_record_bytes: usize,
    },
    /// It cannot be used: nothing is sent until it is ready again.
    Trouble {
        /// Why, and what to do.
        reason: String,
    },
}

/// The attempt to take a pipeline has come back. From the supervisor's own task.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ClaimDone {
    /// The pipeline.
    pub pipeline: crate::config::desired::PipelineKey,
    /// Which start it belongs to.
    pub attempt: u64,
    /// When it was begun: the lease runs from there.
    pub asked_at: Moment,
    /// Through which of the database's connections, counted.
    pub generation: u64,
    /// What was answered.
    pub result: Result<Claim, StoreError>,
}

/// A node's beat in a database has come back. From the supervisor's own task.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct BeatAnswered {
    /// The database.
    pub database: Arc<str>,
    /// Which leases were to be renewed.
    pub held: Vec<(PipelineName, crate::core::ports::Epoch)>,
    /// When it was begun.
    pub asked_at: Moment,
    /// Through which of the database's connections, counted.
    pub generation: u64,
    /// What was answered.
    pub result: Result<BeatDone, StoreError>,
}

/// The pipelines that are defined in a database. From the supervisor's own task.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct CatalogRead {
    /// The database.
    pub database: Arc<str>,
    /// Through which of its connections, counted.
    pub generation: u64,
    /// Its pipelines and pauses; `None` when they are what they were.
    pub result: Result<Option<crate::core::catalog::CatalogContent>, StoreError>,
    /// The pipelines for which something is to be sent again.
    pub resends: Vec<String>,
}

/// A write of shares was answered. From the supervisor's own task.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct SharesWritten {
    /// Which one.
    pub number: i64,
    /// What was granted.
    pub result: Result<crate::core::shares::Written, StoreError>,
}

/// A lease that was not used any more was given back, or was not. From the
/// supervisor's own task.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct LeaseGivenBack;

/// Stop everything in order. From the signal handler.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Shutdown;
