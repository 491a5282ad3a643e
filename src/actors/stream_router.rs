//! The actor of one stream: knows its shards, and sends each row to the writer of
//! its shard.
//!
//! States: *examining* (the stream is described and its shards listed; with
//! pauses while that fails), *ready* (rows are routed; the examination is
//! repeated from time to time, and when a record went to an unexpected shard) and
//! *stopped* (the stream is missing or ignores keys: writers hold what they have,
//! readers read nothing, until an examination finds it right again). An examination
//! that fails changes nothing: what is known goes on. Where shards may not be
//! listed, they are *learnt* from where records go. Rows of a shard whose writer is
//! being started wait here.
//!
//! When the shards have changed, the rows that wait in the writers of shards that
//! are gone are moved to the writers of the new ones, in order, while the others
//! flow on (see [`Routing`]). Rows that lie here when the router dies are lost
//! with it: their tickets make their readers start again.

mod examination;
mod key;
mod knowledge;
mod learning;
mod recalling;
mod waiting;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, ActorContext, Addr, Context, Handler, Recipient, SpawnHandle};
use tokio::runtime::Handle;

use super::child::{Exit, ExitNote};
use super::clock::Clock;
use super::fault;
use super::holder::Holder;
use super::messages::{
    Batch, CallRefused, GiveBack, GivenBack, Orders, PurgeVoid, RefreshEvery, RoutedRow,
    ShardRetired, StopNow, StreamChanged, StreamState, UnexpectedShard, WriterGone, WriterReady,
};
use super::permits::FlowTag;
use super::pulse::Pulse;
use super::shard_writer::ShardWriter;
use super::ticket::Ticket;
use crate::admin::status::StatusBoard;
use crate::core::backoff::Backoff;
use crate::core::ports::StreamService;
use crate::core::routing::{Routing, Step};
use crate::core::shard_map::ShardId;
use crate::core::time::Moment;
use knowledge::Known;
use learning::Learning;

pub use key::StreamKey;

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
    /// The clock.
    pub clock: Clock,
    /// Its signs of life.
    pub pulse: Pulse,
    /// Where what takes time is spawned.
    pub workers: Handle,
}

type Rows = Step<Arc<FlowTag>, RoutedRow>;

/// A writer, and the book of the rows that lie in it.
struct Seat {
    writer: Addr<ShardWriter>,
    holder: Arc<Holder>,
}

/// The router of one stream.
pub struct StreamRouter {
    parts: RouterParts,
    note: ExitNote,
    known: Option<Known>,
    writers: BTreeMap<ShardId, Seat>,
    /// What the supervisor was told last.
    announced: Option<StreamState>,
    backoff: Backoff,
    surprises: Backoff,
    next_examination: Option<SpawnHandle>,
    examining: bool,
    /// When the examination under way began, or the next one will.
    examines_at: Moment,
    /// Since when rows move from shards that are gone.
    hands_over_since: Option<Moment>,
    surprised: bool,
    /// Whether a surprise led to the examination under way, or the last one.
    was_surprised: bool,
    /// Why it cannot be examined.
    trouble: Option<String>,
    /// Why it must not be written to.
    stopped: Option<String>,
    advice: Option<String>,
    learning: Option<Learning>,
    /// What the writers were told last.
    given: Orders,
}

impl StreamRouter {
    /// A router that knows nothing yet.
    #[must_use]
    pub fn new(parts: RouterParts, note: ExitNote) -> Self {
        let (first, longest) = examination::EXAMINE_PAUSES;
        let (soon, late) = (examination::SURPRISE_PAUSE, parts.refresh);
        Self {
            examines_at: parts.clock.now(),
            parts,
            note,
            known: None,
            writers: BTreeMap::new(),
            announced: None,
            backoff: Backoff::new(first, longest),
            surprises: Backoff::new(soon, soon.max(late)),
            next_examination: None,
            examining: false,
            hands_over_since: None,
            surprised: false,
            was_surprised: false,
            trouble: None,
            stopped: None,
            advice: None,
            learning: None,
            given: Orders::default(),
        }
    }

    /// Tells all writers how to work, or a new one.
    fn give_orders(&mut self) {
        let orders = self.orders();
        if std::mem::replace(&mut self.given, orders) == orders {
            return;
        }
        for seat in self.writers.values() {
            if seat.writer.try_send(orders).is_err() {
                tracing::debug!("a writer is gone");
            }
        }
    }

    const fn orders(&self) -> Orders {
        Orders {
            hold: self.stopped.is_some(),
            say_where: self.learning.is_some(),
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
        // The supervisor must know the map before it hears that a shard has retired:
        // one that is in the map gets another writer.
        self.announce();
        let mut steps = VecDeque::from(steps);
        while let Some(step) = steps.pop_front() {
            match step {
                Step::Deliver { shard, tag, rows } => self.deliver(&shard, tag, rows),
                Step::AskBack { shard, handover } => {
                    let writer = self.writers.get(&shard);
                    let asked = writer.map(|seat| seat.writer.try_send(GiveBack { handover }));
                    // A writer that is gone has lost what it had, as the tickets say.
                    if !matches!(asked, Some(Ok(())))
                        && let Some(known) = &mut self.known
                    {
                        steps.extend(known.routing.given_back(&shard, handover, Vec::new()));
                        self.announce();
                    }
                }
                Step::Retire { shard } => self.retire(shard),
            }
        }
    }

    /// A closed mailbox drops the rows: their tickets tell their reader.
    fn deliver(&self, shard: &ShardId, tag: Arc<FlowTag>, mut rows: Vec<RoutedRow>) {
        let sent = self.writers.get(shard).map(|seat| {
            Ticket::enter_all(rows.iter_mut().map(|row| &mut row.ticket), &seat.holder);
            seat.writer.try_send(Batch { tag, rows })
        });
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
        fault::strike("stream_router", self.parts.stream.name());
        if batch.tag.is_recalled() {
            recalling::give_back(&batch.tag, batch.rows);
        } else if !batch.tag.is_void() {
            self.with_routing(|routing| routing.route(&batch.tag, batch.rows));
        }
    }
}

impl Handler<WriterReady> for StreamRouter {
    type Result = ();

    fn handle(&mut self, message: WriterReady, _: &mut Self::Context) {
        fault::point("stream_router.WriterReady");
        if fault::forgets("stream_router.writer") {
            return;
        }
        let shard = message.shard;
        let orders = self.orders();
        if orders != Orders::default() && message.writer.try_send(orders).is_err() {
            tracing::debug!(%shard, "a new writer is gone");
        }
        let seat = Seat {
            writer: message.writer,
            holder: message.holder,
        };
        self.writers.insert(shard.clone(), seat);
        self.with_routing(|routing| routing.writer_ready(&shard));
    }
}

impl Handler<WriterGone> for StreamRouter {
    type Result = ();

    fn handle(&mut self, message: WriterGone, _: &mut Self::Context) {
        fault::point("stream_router.WriterGone");
        self.writers.remove(&message.shard);
        self.with_routing(|routing| routing.writer_gone(&message.shard));
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
    }
}

impl Handler<UnexpectedShard> for StreamRouter {
    type Result = ();

    fn handle(&mut self, message: UnexpectedShard, context: &mut Self::Context) {
        fault::point("stream_router.UnexpectedShard");
        // What is learnt is never quite right, and no list would tell.
        if self.learning.is_some() {
            return;
        }
        let stream = &self.parts.stream;
        if !self.surprised {
            tracing::info!(%stream, shard = %message.shard, "a record went to an unexpected shard; listing the shards");
        }
        self.is_surprised(context);
    }
}

impl Handler<CallRefused> for StreamRouter {
    type Result = ();

    fn handle(&mut self, _: CallRefused, context: &mut Self::Context) {
        fault::point("stream_router.CallRefused");
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
        for seat in self.writers.values() {
            if seat.writer.try_send(message.clone()).is_err() {
                tracing::debug!("a writer is gone");
            }
        }
    }
}

impl Handler<RefreshEvery> for StreamRouter {
    type Result = ();

    fn handle(&mut self, message: RefreshEvery, context: &mut Self::Context) {
        fault::point("stream_router.RefreshEvery");
        self.parts.refresh = message.refresh;
        let soon = examination::SURPRISE_PAUSE;
        self.surprises = Backoff::new(soon, soon.max(message.refresh));
        if !self.examining && self.trouble.is_none() && self.stopped.is_none() {
            self.examine_in(Duration::ZERO, context);
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
