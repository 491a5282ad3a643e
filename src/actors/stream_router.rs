//! The actor of one stream: knows its shards, and sends each row to the writer of
//! its shard.
//!
//! States: *examining* (the stream is described and its shards listed; with
//! pauses while that fails) and *ready* (rows are routed; the examination is
//! repeated from time to time, and when a record went to an unexpected shard).
//! Rows of a shard whose writer is being started wait here.
//!
//! When the shards have changed, the rows that wait in the writers of shards that
//! are gone are moved to the writers of the new ones, in order, while the others
//! flow on (see [`Routing`]). Rows that lie here when the router dies are lost
//! with it: their tickets make their readers start again.

mod examination;
mod key;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, ActorContext, Addr, AsyncContext, Context, Handler, Recipient, SpawnHandle};
use tokio::runtime::Handle;

use super::child::{Exit, ExitNote};
use super::fault;
use super::messages::{
    Batch, GiveBack, GivenBack, PurgeVoid, RoutedRow, ShardRetired, StopNow, StreamChanged,
    StreamState, UnexpectedShard, WriterGone, WriterReady,
};
use super::permits::FlowTag;
use super::pulse::Pulse;
use super::shard_writer::ShardWriter;
use crate::admin::status::{ShardStatus, StatusBoard};
use crate::core::backoff::Backoff;
use crate::core::ports::{StreamDescription, StreamService};
use crate::core::routing::{Change, Routing, Step};
use crate::core::shard_map::{Shard, ShardId, ShardMap};

pub use key::StreamKey;

/// How often the router gives a sign of life.
const BEAT_EVERY: Duration = Duration::from_secs(1);

/// What a router is made of.
#[derive(Clone)]
pub struct RouterParts {
    /// Its stream.
    pub stream: StreamKey,
    /// The stream as the service offers it.
    pub service: Arc<dyn StreamService>,
    /// Whom to tell of the stream's state.
    pub supervisor: Recipient<StreamChanged>,
    /// Whom to tell that a shard's writer can end.
    pub retired: Recipient<ShardRetired>,
    /// Where the state is shown.
    pub board: Arc<StatusBoard>,
    /// How often a ready stream is examined again.
    pub refresh: Duration,
    /// Which incarnation it is.
    pub incarnation: u64,
    /// Its signs of life.
    pub pulse: Pulse,
    /// Where what takes time is spawned.
    pub workers: Handle,
}

type Rows = Step<Arc<FlowTag>, RoutedRow>;

/// A stream whose shards are known.
struct Known {
    routing: Routing<Arc<FlowTag>, RoutedRow>,
    arn: Arc<str>,
    max_record_bytes: usize,
}

/// The router of one stream.
pub struct StreamRouter {
    parts: RouterParts,
    note: ExitNote,
    known: Option<Known>,
    writers: BTreeMap<ShardId, Addr<ShardWriter>>,
    /// What the supervisor was told last.
    announced: Option<StreamState>,
    backoff: Backoff,
    surprises: Backoff,
    next_examination: Option<SpawnHandle>,
    examining: bool,
    surprised: bool,
    trouble: Option<String>,
}

impl StreamRouter {
    /// A router that knows nothing yet.
    #[must_use]
    pub fn new(parts: RouterParts, note: ExitNote) -> Self {
        let (first, longest) = examination::EXAMINE_PAUSES;
        let (soon, late) = (examination::SURPRISE_PAUSE, parts.refresh);
        Self {
            parts,
            note,
            known: None,
            writers: BTreeMap::new(),
            announced: None,
            backoff: Backoff::new(first, longest),
            surprises: Backoff::new(soon, soon.max(late)),
            next_examination: None,
            examining: false,
            surprised: false,
            trouble: None,
        }
    }

    fn beat(&mut self, context: &mut Context<Self>) {
        // Without an examination to come, no reshard would ever be seen.
        if self.examining || self.next_examination.is_some() {
            self.parts.pulse.beat();
        }
        context.run_later(BEAT_EVERY, Self::beat);
    }

    // === What is known of the stream ===

    fn is_ready(&mut self, map: ShardMap, description: &StreamDescription) {
        let stream = self.parts.stream.clone();
        if self.trouble.take().is_some() {
            tracing::info!(%stream, "the stream can be used again");
        }
        self.parts.board.update_stream(stream.label(), |entry| {
            entry.name = Arc::clone(stream.label());
            entry.status.clone_from(&description.status);
            entry.problem = None;
        });
        let max_record_bytes = description.max_record_bytes;
        let Some(known) = &mut self.known else {
            tracing::info!(%stream, shards = map.shards().len(), max_record_bytes, "the stream is ready");
            self.known = Some(Known {
                routing: Routing::new(Arc::new(map)),
                arn: description.arn.as_str().into(),
                max_record_bytes,
            });
            self.announce();
            return;
        };
        if known.max_record_bytes != max_record_bytes {
            tracing::info!(%stream, max_record_bytes, "the stream takes records of another size now");
            known.max_record_bytes = max_record_bytes;
        }
        if **known.routing.newest_map() != map {
            let (before, shards) = (known.routing.map().shards().len(), map.shards().len());
            tracing::info!(%stream, before, shards, "the shards of the stream have changed");
            self.surprises.reset();
            let steps = known.routing.reshard(Arc::new(map), Change::Reshard);
            self.perform(steps);
        }
        self.announce();
    }

    /// Trouble with the examination does not stop what is known to work: rows go
    /// on to the writers, whose calls will tell.
    fn is_in_trouble(&mut self, reason: String) {
        if self.trouble.as_ref() == Some(&reason) {
            return;
        }
        let stream = self.parts.stream.clone();
        tracing::warn!(%stream, %reason, "the stream cannot be examined; trying again");
        self.parts.board.update_stream(stream.label(), |entry| {
            entry.name = Arc::clone(stream.label());
            entry.problem = Some(reason.clone());
        });
        self.trouble = Some(reason.clone());
        if self.known.is_none() {
            self.tell_supervisor(StreamState::Trouble { reason });
        }
    }

    /// Tells the supervisor what rows are routed by, when that has changed.
    fn announce(&mut self) {
        let Some(known) = &self.known else {
            return;
        };
        let map = Arc::clone(known.routing.map());
        let state = StreamState::Ready {
            arn: Arc::clone(&known.arn),
            map: Arc::clone(&map),
            max_record_bytes: known.max_record_bytes,
        };
        if self.announced.as_ref() == Some(&state) {
            return;
        }
        let label = self.parts.stream.label();
        self.parts.board.update_stream(label, |entry| {
            let mut shown = std::mem::take(&mut entry.shards);
            let mut status = |shard: &Shard| {
                let place = shown.iter().position(|one| one.id == shard.id.0);
                let fresh = || ShardStatus {
                    id: Arc::clone(&shard.id.0),
                    ..ShardStatus::default()
                };
                place.map_or_else(fresh, |place| shown.swap_remove(place))
            };
            entry.shards = map.shards().iter().map(&mut status).collect();
        });
        self.announced = Some(state.clone());
        self.tell_supervisor(state);
    }

    fn tell_supervisor(&self, state: StreamState) {
        let stream = self.parts.stream.clone();
        let changed = StreamChanged {
            stream,
            incarnation: self.parts.incarnation,
            state,
        };
        if self.parts.supervisor.try_send(changed).is_err() {
            tracing::debug!("the supervisor is gone");
        }
    }

    // === Rows ===

    fn with_routing(
        &mut self,
        act: impl FnOnce(&mut Routing<Arc<FlowTag>, RoutedRow>) -> Vec<Rows>,
    ) {
        // Readers start only once the map is known; without one, rows belong to an
        // earlier router, and their dropped tickets say so.
        let Some(known) = &mut self.known else {
            return;
        };
        let steps = act(&mut known.routing);
        self.perform(steps);
    }

    fn perform(&mut self, steps: Vec<Rows>) {
        let mut steps = VecDeque::from(steps);
        while let Some(step) = steps.pop_front() {
            match step {
                Step::Deliver { shard, tag, rows } => self.deliver(&shard, tag, rows),
                Step::AskBack { shard, handover } => {
                    let writer = self.writers.get(&shard);
                    let asked = writer.map(|writer| writer.try_send(GiveBack { handover }));
                    // A writer that is gone has lost what it had, as the tickets say.
                    if !matches!(asked, Some(Ok(())))
                        && let Some(known) = &mut self.known
                    {
                        steps.extend(known.routing.given_back(&shard, handover, Vec::new()));
                    }
                }
                Step::Retire { shard } => self.retire(shard),
            }
        }
    }

    /// A closed mailbox drops the rows: their tickets tell their reader.
    fn deliver(&self, shard: &ShardId, tag: Arc<FlowTag>, rows: Vec<RoutedRow>) {
        let writer = self.writers.get(shard);
        let sent = writer.map(|writer| writer.try_send(Batch { tag, rows }));
        if !matches!(sent, Some(Ok(()))) {
            tracing::debug!(%shard, "rows for a writer that is gone");
        }
    }

    fn retire(&mut self, shard: ShardId) {
        self.writers.remove(&shard);
        tracing::info!(stream = %self.parts.stream, %shard, "a shard is gone; what waited for it has moved on");
        let retired = ShardRetired {
            stream: self.parts.stream.clone(),
            incarnation: self.parts.incarnation,
            shard,
        };
        if self.parts.retired.try_send(retired).is_err() {
            tracing::debug!("the supervisor is gone");
        }
    }
}

impl Actor for StreamRouter {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        self.beat(context);
        self.examine(context);
    }
}

impl Handler<Batch> for StreamRouter {
    type Result = ();

    fn handle(&mut self, batch: Batch, _: &mut Self::Context) {
        fault::point("stream_router.Batch");
        if !batch.tag.is_void() {
            self.with_routing(|routing| routing.route(&batch.tag, batch.rows));
        }
    }
}

impl Handler<WriterReady> for StreamRouter {
    type Result = ();

    fn handle(&mut self, message: WriterReady, _: &mut Self::Context) {
        fault::point("stream_router.WriterReady");
        let shard = message.shard;
        self.writers.insert(shard.clone(), message.writer);
        self.with_routing(|routing| routing.writer_ready(&shard));
    }
}

impl Handler<WriterGone> for StreamRouter {
    type Result = ();

    fn handle(&mut self, message: WriterGone, _: &mut Self::Context) {
        fault::point("stream_router.WriterGone");
        self.writers.remove(&message.shard);
        self.with_routing(|routing| routing.writer_gone(&message.shard));
        self.announce();
    }
}

impl Handler<GivenBack> for StreamRouter {
    type Result = ();

    fn handle(&mut self, message: GivenBack, _: &mut Self::Context) {
        fault::point("stream_router.GivenBack");
        let GivenBack {
            shard,
            handover,
            batches,
        } = message;
        let live = batches.into_iter().filter(|batch| !batch.tag.is_void());
        let groups = live.map(|batch| (batch.tag, batch.rows)).collect();
        self.with_routing(|routing| routing.given_back(&shard, handover, groups));
        self.announce();
    }
}

impl Handler<UnexpectedShard> for StreamRouter {
    type Result = ();

    fn handle(&mut self, message: UnexpectedShard, context: &mut Self::Context) {
        fault::point("stream_router.UnexpectedShard");
        let stream = &self.parts.stream;
        if !self.surprised {
            tracing::info!(%stream, shard = %message.shard, "a record went to an unexpected shard; listing the shards");
        }
        self.is_surprised(context);
    }
}

impl Handler<PurgeVoid> for StreamRouter {
    type Result = ();

    fn handle(&mut self, message: PurgeVoid, _: &mut Self::Context) {
        fault::point("stream_router.PurgeVoid");
        if let Some(known) = &mut self.known {
            known.routing.purge(|tag| tag.is_void());
        }
        for writer in self.writers.values() {
            if writer.try_send(message.clone()).is_err() {
                tracing::debug!("a writer is gone");
            }
        }
    }
}

impl Handler<StopNow> for StreamRouter {
    type Result = ();

    fn handle(&mut self, _: StopNow, context: &mut Self::Context) {
        self.note.write(Exit::Stopped);
        context.stop();
    }
}
