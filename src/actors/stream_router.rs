//! The actor of one stream: knows its shards, and sends each row to the writer of
//! its shard.
//!
//! States: *examining* (the stream is described and its shards listed; with
//! pauses while that fails) and *ready* (rows are routed; the examination is
//! repeated from time to time, and when a record went to an unexpected shard).
//! Rows of a shard whose writer is being started wait here.
//!
//! When the shards have changed, the router ends: the readers start again from
//! their durable positions with the new map. The service routes by key in any
//! case, so no order is at risk, only duplicates.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorContext, ActorFutureExt, Addr, AsyncContext, Context, Handler, Recipient,
    SpawnHandle, WrapFuture,
};
use tokio::runtime::Handle;

use super::child::{Exit, ExitNote};
use super::fault;
use super::messages::{
    Batch, PurgeVoid, RoutedRow, StopNow, StreamChanged, StreamState, UnexpectedShard, WriterGone,
    WriterReady,
};
use super::permits::FlowTag;
use super::pulse::Pulse;
use super::shard_writer::ShardWriter;
use crate::admin::status::{ShardStatus, StatusBoard};
use crate::config::pipeline::StreamTarget;
use crate::core::backoff::Backoff;
use crate::core::ports::{CallFailure, StreamDescription, StreamService};
use crate::core::sabotage::{self, Bug};
use crate::core::shard_map::{Shard, ShardId, ShardMap};

/// First and longest pause between attempts to examine a stream.
const EXAMINE_PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// How often the router gives a sign of life.
const BEAT_EVERY: Duration = Duration::from_secs(1);

/// The least time between two examinations that surprises ask for.
const SURPRISE_PAUSE: Duration = Duration::from_secs(1);

/// Which stream, through which client.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StreamKey {
    target: Arc<StreamTarget>,
    label: Arc<str>,
}

impl StreamKey {
    /// The key of a target.
    #[must_use]
    pub fn new(target: &StreamTarget) -> Self {
        Self {
            target: Arc::new(target.clone()),
            label: target.name().into(),
        }
    }

    /// The target.
    #[must_use]
    pub fn target(&self) -> &StreamTarget {
        &self.target
    }

    /// The stream's name, as metrics and statuses show it.
    #[must_use]
    pub const fn label(&self) -> &Arc<str> {
        &self.label
    }
}

impl fmt::Display for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.label.fmt(f)
    }
}

/// What a router is made of.
#[derive(Clone)]
pub struct RouterParts {
    /// Its stream.
    pub stream: StreamKey,
    /// The stream as the service offers it.
    pub service: Arc<dyn StreamService>,
    /// Whom to tell of the stream's state.
    pub supervisor: Recipient<StreamChanged>,
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

#[derive(Default)]
struct Slot {
    writer: Option<Addr<ShardWriter>>,
    waiting: Vec<(Arc<FlowTag>, Vec<RoutedRow>)>,
}

/// The router of one stream.
pub struct StreamRouter {
    parts: RouterParts,
    note: ExitNote,
    state: Option<(Arc<ShardMap>, usize)>,
    slots: BTreeMap<ShardId, Slot>,
    backoff: Backoff,
    next_examination: Option<SpawnHandle>,
    examining: bool,
    surprised: bool,
    trouble: Option<String>,
}

impl StreamRouter {
    /// A router that knows nothing yet.
    #[must_use]
    pub fn new(parts: RouterParts, note: ExitNote) -> Self {
        Self {
            parts,
            note,
            state: None,
            slots: BTreeMap::new(),
            backoff: Backoff::new(EXAMINE_PAUSES.0, EXAMINE_PAUSES.1),
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

    fn examine(&mut self, context: &mut Context<Self>) {
        self.examining = true;
        let service = Arc::clone(&self.parts.service);
        let both = self.parts.workers.spawn(async move {
            let description = service.describe().await?;
            let shards = service.list_open_shards().await?;
            Ok((description, shards))
        });
        let result = async move {
            both.await.unwrap_or_else(|error| {
                let reason = format!("the examination's task ended: {error}");
                Err(CallFailure::Unknown { reason })
            })
        };
        context.spawn(result.into_actor(self).map(|result, router, context| {
            router.examined(result, context);
        }));
    }

    fn examine_in(&mut self, pause: Duration, context: &mut Context<Self>) {
        if let Some(handle) = self.next_examination.take() {
            context.cancel_future(handle);
        }
        let handle = context.run_later(pause, |router, context| {
            router.next_examination = None;
            router.surprised = false;
            router.examine(context);
        });
        self.next_examination = Some(handle);
    }

    fn examined(
        &mut self,
        result: Result<(StreamDescription, Vec<Shard>), CallFailure>,
        context: &mut Context<Self>,
    ) {
        fault::point("stream_router.Examined");
        self.examining = false;
        let judged = match result {
            Ok((description, shards)) => judge(&description, shards).map(|map| (map, description)),
            Err(failure) => Err(failure.to_string()),
        };
        match judged {
            Ok((map, description)) => {
                self.backoff.reset();
                self.parts.pulse.progress();
                self.examine_in(self.parts.refresh, context);
                self.is_ready(map, &description, context);
            }
            Err(reason) => {
                let pause = self.backoff.after_failure(fastrand::f64());
                self.examine_in(pause, context);
                self.is_in_trouble(reason);
            }
        }
    }

    fn is_ready(
        &mut self,
        map: ShardMap,
        description: &StreamDescription,
        context: &mut Context<Self>,
    ) {
        let stream = self.parts.stream.clone();
        let max_record_bytes = description.max_record_bytes;
        if self.trouble.take().is_some() {
            tracing::info!(%stream, "the stream can be used again");
        }
        if let Some((known, known_limit)) = &self.state {
            if **known == map && *known_limit == max_record_bytes {
                return;
            }
            tracing::info!(%stream, "the shards or the record limit of the stream have changed");
            if sabotage::is(Bug::ParentAndChildTogether) {
                self.go_on_with_both(map, description);
                return;
            }
            self.note.write(Exit::Resharded);
            context.stop();
            return;
        }
        tracing::info!(%stream, shards = map.shards().len(), max_record_bytes, "the stream is ready");
        self.slots = map
            .shards()
            .iter()
            .map(|shard| (shard.id.clone(), Slot::default()))
            .collect();
        self.parts.board.update_stream(stream.label(), |entry| {
            entry.name = Arc::clone(stream.label());
            entry.status.clone_from(&description.status);
            entry.problem = None;
            let shard = |shard: &Shard| ShardStatus {
                id: Arc::clone(&shard.id.0),
                ..ShardStatus::default()
            };
            entry.shards = map.shards().iter().map(shard).collect();
        });
        let map = Arc::new(map);
        self.state = Some((Arc::clone(&map), max_record_bytes));
        self.tell_supervisor(StreamState::Ready {
            arn: description.arn.as_str().into(),
            map,
            max_record_bytes,
        });
    }

    /// What [`Bug::ParentAndChildTogether`] does: the parents' writers go on with
    /// what they have, beside those of the children.
    fn go_on_with_both(&mut self, map: ShardMap, description: &StreamDescription) {
        for shard in map.shards() {
            self.slots.entry(shard.id.clone()).or_default();
        }
        let map = Arc::new(map);
        self.state = Some((Arc::clone(&map), description.max_record_bytes));
        self.tell_supervisor(StreamState::Ready {
            arn: description.arn.as_str().into(),
            map,
            max_record_bytes: description.max_record_bytes,
        });
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
        if self.state.is_none() {
            self.tell_supervisor(StreamState::Trouble { reason });
        }
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

    fn route(&mut self, batch: Batch) {
        let Some((map, _)) = &self.state else {
            // Readers start only once the map is known; without one these rows
            // belong to an earlier router, and their dropped tickets say so.
            return;
        };
        let mut per_shard: Vec<Vec<RoutedRow>> = Vec::new();
        per_shard.resize_with(map.shards().len(), Vec::new);
        for row in batch.rows {
            per_shard[map.index_of(row.envelope.hash)].push(row);
        }
        for (shard, rows) in map.shards().iter().zip(per_shard) {
            let Some(slot) = self.slots.get_mut(&shard.id).filter(|_| !rows.is_empty()) else {
                continue;
            };
            match &slot.writer {
                None => slot.waiting.push((Arc::clone(&batch.tag), rows)),
                Some(writer) => send(writer, Arc::clone(&batch.tag), rows),
            }
        }
    }
}

/// A closed mailbox drops the rows: their tickets tell their reader.
fn send(writer: &Addr<ShardWriter>, tag: Arc<FlowTag>, rows: Vec<RoutedRow>) {
    if writer.try_send(Batch { tag, rows }).is_err() {
        tracing::debug!("rows for a writer that is gone");
    }
}

/// Whether a stream can be written to in order, and its map.
fn judge(description: &StreamDescription, shards: Vec<Shard>) -> Result<ShardMap, String> {
    if description.ignores_keys {
        return Err(
            "the stream's record distribution strategy is AUTO: it ignores partition keys, so no order \
             can be kept; set it to PARTITION_KEY"
                .to_owned(),
        );
    }
    if !description.writable {
        return Err(format!(
            "the stream's status is {}; waiting until it is ACTIVE",
            description.status
        ));
    }
    ShardMap::new(shards).map_err(|error| error.to_string())
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
            self.route(batch);
        }
    }
}

impl Handler<WriterReady> for StreamRouter {
    type Result = ();

    fn handle(&mut self, message: WriterReady, _: &mut Self::Context) {
        fault::point("stream_router.WriterReady");
        let Some(slot) = self.slots.get_mut(&message.shard) else {
            return;
        };
        for (tag, rows) in slot.waiting.drain(..) {
            send(&message.writer, tag, rows);
        }
        slot.writer = Some(message.writer);
    }
}

impl Handler<WriterGone> for StreamRouter {
    type Result = ();

    fn handle(&mut self, message: WriterGone, _: &mut Self::Context) {
        fault::point("stream_router.WriterGone");
        if let Some(slot) = self.slots.get_mut(&message.shard) {
            slot.writer = None;
        }
    }
}

impl Handler<UnexpectedShard> for StreamRouter {
    type Result = ();

    fn handle(&mut self, message: UnexpectedShard, context: &mut Self::Context) {
        fault::point("stream_router.UnexpectedShard");
        if !std::mem::replace(&mut self.surprised, true) {
            tracing::info!(stream = %self.parts.stream, shard = %message.shard, "a record went to an unexpected shard; listing the shards");
            self.examine_in(SURPRISE_PAUSE, context);
        }
    }
}

impl Handler<PurgeVoid> for StreamRouter {
    type Result = ();

    fn handle(&mut self, message: PurgeVoid, _: &mut Self::Context) {
        fault::point("stream_router.PurgeVoid");
        for slot in self.slots.values_mut() {
            slot.waiting.retain(|(tag, _)| !tag.is_void());
            if let Some(writer) = &slot.writer
                && writer.try_send(message.clone()).is_err()
            {
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
