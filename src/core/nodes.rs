//! The nodes of a database, as they know of each other: the port.
//!
//! A node *beats*: one statement renews its own row and its leases, and answers what
//! there is of other nodes and of leases. A row says until when its node may own
//! pipelines and send; after that, by the database's clock, it has stopped, since a
//! node that cannot renew stops before that by its own (monotonic) one.
//!
//! A beat also carries two texts of JSON for whoever divides something among the
//! nodes ([`BeatRequest::demand`], [`BeatRequest::shares`]): every node sees those of
//! all others as of their last beats. What divides a thing must also reckon with
//! nodes that are silent: [`NodeSeen::expires_in`] is above zero until the node has
//! surely stopped to begin calls.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use super::ports::{Epoch, PipelineName, StoreError};

/// The most bytes of [`BeatRequest::demand`], and of [`BeatRequest::shares`]. What is
/// longer is not sent: a beat must not fail for it.
pub const MOST_NOTE_BYTES: usize = 32 << 10;

/// For how long a node that has stopped is still told of, by [`NodeSeen::expired_for`].
pub const TOLD_OF_FOR: Duration = Duration::from_secs(60);

/// What a node says with its beat.
#[derive(Debug, Clone, Copy)]
pub struct BeatRequest<'a> {
    /// What it is called in leases.
    pub node: &'a str,
    /// How long its row and its leases are to last from now on.
    pub lease: Duration,
    /// It gives back what it has and takes no more.
    pub draining: bool,
    /// What it holds.
    pub held: &'a [(PipelineName, Epoch)],
    /// Pipelines of others that it wants to be given.
    pub asks: &'a [PipelineName],
    /// A JSON object: what it would send to each shard.
    pub demand: &'a str,
    /// A JSON object: which shares it goes by.
    pub shares: &'a str,
    /// [`BeatDone::digest`] of the last beat whose leases it knows; empty at first.
    pub known: &'a str,
}

/// What has become of a lease that a beat was to renew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// It holds from this beat on.
    Renewed,
    /// Somebody had its row locked. It is the node's still, and ends when it would
    /// have without this beat.
    Locked,
    /// It is not the node's any more.
    Lost,
}

/// What a beat answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BeatDone {
    /// How many beats this node has had, this one included.
    pub beat: u64,
    /// Since when this node's row has run without having expired, in microseconds of
    /// the database's clock. A beat that finds it expired begins anew: what others
    /// left to the node until then they need not have left to it.
    pub runs_since: i64,
    /// What has become of each of `held`, by place.
    pub held: Vec<Renewal>,
    /// All other nodes that have not been gone for longer than [`TOLD_OF_FOR`], by
    /// name.
    pub nodes: Vec<NodeSeen>,
    /// Two equal ones stand for the same owners of the same pipelines.
    pub digest: String,
    /// The leases that run, by pipeline; `None` when the request knew them already.
    pub leases: Option<Vec<LeaseSeen>>,
}

/// Another node, as of its last beat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSeen {
    /// Its name.
    pub node: Arc<str>,
    /// How many beats it has had.
    pub beat: u64,
    /// As [`BeatDone::runs_since`].
    pub runs_since: i64,
    /// How long ago its last one was.
    pub silent_for: Duration,
    /// How long it may still send without another one; zero once it has stopped.
    pub expires_in: Duration,
    /// How long ago it must have stopped; zero while it need not have.
    pub expired_for: Duration,
    /// It gives back what it has and takes no more.
    pub draining: bool,
    /// Pipelines of others that it wants to be given.
    pub asks: Vec<PipelineName>,
    /// As it gave it.
    pub demand: String,
    /// As it gave it.
    pub shares: String,
}

/// A lease that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseSeen {
    /// Of which pipeline.
    pub pipeline: PipelineName,
    /// Who has it.
    pub owner: Arc<str>,
    /// When it took it: rises with time, and says no more. The earliest if that is
    /// not known.
    pub taken_at: i64,
}

/// Where nodes see each other. Implementations bound every call in time.
pub trait NodeStore: Send + Sync {
    /// Renews this node's row and its leases, and looks around, in one statement.
    fn beat<'a>(&'a self, request: BeatRequest<'a>) -> BoxFuture<'a, Result<BeatDone, StoreError>>;

    /// This node has stopped: others need not wait until its row expires.
    fn leave<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<(), StoreError>>;
}
