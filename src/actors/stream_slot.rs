//! The supervisor's care for a stream: its router and the writers of its shards.

use std::collections::BTreeMap;
use std::sync::Arc;

use actix::{Addr, AsyncContext, Context};

use super::child::{self, ChildId, ChildSlot, Exit};
use super::messages::{
    PurgeVoid, ShardRetired, ShardsChanged, StopNow, StreamState, StreamStopped, WriterGone,
    WriterReady,
};
use super::pipeline_slot::Run;
use super::pulse::Pulse;
use super::shard_writer::{ShardWriter, WriterParts};
use super::stream_router::{RouterParts, StreamKey, StreamRouter};
use super::stream_watch::{StreamWatch, WatchedStream};
use super::supervisor::Supervisor;
use crate::admin::status::PipelineState;
use crate::config::pipeline::ShardBudgetSettings;
use crate::core::budget::ShardLimits;
use crate::core::ports::StreamService;
use crate::core::shard_map::{Shard, ShardId, ShardMap};
use crate::core::time::Moment;

/// A stream and its actors.
pub(super) struct StreamSlot {
    service: Arc<dyn StreamService>,
    pub(super) watch: Arc<StreamWatch>,
    pub(super) limits: ShardLimits,
    /// Which stream it is: its budgets are shared by that.
    pub(super) identity: Arc<str>,
    pub(super) router: ChildSlot<StreamRouter>,
    ready: Option<(Arc<ShardMap>, usize)>,
    /// When it became so last, or its shards changed.
    pub(super) ready_at: Moment,
    pub(super) trouble: Option<String>,
    pub(super) writers: BTreeMap<ShardId, ChildSlot<ShardWriter>>,
}

/// A stream that can be written to.
pub(super) struct ReadyStream {
    pub(super) router: Addr<StreamRouter>,
    pub(super) watch: Arc<StreamWatch>,
    pub(super) map: Arc<ShardMap>,
    pub(super) max_record_bytes: usize,
}

impl StreamSlot {
    pub(super) fn ready(&self) -> Option<ReadyStream> {
        let ready = self.ready.clone().filter(|_| self.trouble.is_none());
        let (map, max_record_bytes) = ready?;
        let router = self.router.address.clone()?;
        Some(ReadyStream {
            router,
            watch: Arc::clone(&self.watch),
            map,
            max_record_bytes,
        })
    }

    fn stop_all(&mut self) {
        self.ready = None;
        if let Some(router) = self.router.address.take() {
            router.try_send(StopNow).ok();
        }
        for writer in self.writers.values_mut() {
            if let Some(writer) = writer.address.take() {
                writer.try_send(StopNow).ok();
            }
        }
    }
}

impl From<ShardBudgetSettings> for ShardLimits {
    fn from(settings: ShardBudgetSettings) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "bytes a second, far below 2^52")]
        let bytes_per_second = settings.bytes_per_second as f64;
        Self {
            records_per_second: f64::from(settings.records_per_second),
            bytes_per_second,
            fraction: settings.fraction,
        }
    }
}

impl Supervisor {
    /// Makes sure that a stream's router runs.
    pub(super) fn want_stream(
        &mut self,
        stream: &StreamKey,
        budget: ShardBudgetSettings,
        context: &Context<Self>,
    ) {
        if self.streams.contains_key(stream) {
            return;
        }
        let metrics = self.metrics.stream(stream.name());
        let watch = StreamWatch::new(stream.clone(), metrics, Arc::clone(&self.board), self.clock);
        let watch = Arc::new(watch);
        let service = self.source.stream(stream.target());
        let service = WatchedStream::new(service, Arc::clone(&watch));
        let slot = StreamSlot {
            service: Arc::new(service),
            watch,
            limits: ShardLimits::from(budget),
            identity: Arc::from(""),
            router: ChildSlot::new(self.clock.now()),
            ready: None,
            ready_at: self.clock.now(),
            trouble: None,
            writers: BTreeMap::new(),
        };
        self.streams.insert(stream.clone(), slot);
        self.start_router(stream, context);
    }

    /// Stops the streams that no pipeline writes to.
    pub(super) fn retire_unused_streams(&mut self) {
        let unused: Vec<StreamKey> = self
            .streams
            .keys()
            .filter(|stream| {
                !self.pipelines.values().any(|slot| {
                    slot.stream.as_ref() == Some(stream) || slot.stream_in_use() == Some(stream)
                })
            })
            .cloned()
            .collect();
        for stream in unused {
            let Some(mut slot) = self.streams.remove(&stream) else {
                continue;
            };
            slot.stop_all();
            slot.watch.forget();
            let client = &stream.target().client;
            if !self
                .streams
                .keys()
                .any(|other| other.target().client == *client)
            {
                self.source.forget_client(stream.target());
            }
            self.forget_shards(stream.name(), slot.writers.keys());
            let rest = || self.streams.keys();
            if !rest().any(|other| other.label() == stream.label()) {
                self.board.remove_stream(stream.label());
            }
            if !rest().any(|other| other.name() == stream.name()) {
                self.metrics.remove_stream(stream.name());
            }
        }
    }

    /// Ends the series of shards that have no writer any more. The stream may be
    /// written to under other credentials as well.
    fn forget_shards<'a>(&self, name: &str, shards: impl IntoIterator<Item = &'a ShardId>) {
        for shard in shards {
            let is_shown = self
                .streams
                .iter()
                .any(|(other, slot)| &**other.name() == name && slot.writers.contains_key(shard));
            if !is_shown {
                self.metrics.remove_shard(name, &shard.0);
            }
        }
    }

    pub(super) fn start_router(&mut self, stream: &StreamKey, context: &Context<Self>) {
        let pulse = Pulse::new(self.stream_patience());
        let incarnation = self.next_incarnation();
        let now = self.clock.now();
        let Some(slot) = self.streams.get_mut(stream) else {
            return;
        };
        let parts = RouterParts {
            stream: stream.clone(),
            service: Arc::clone(&slot.service),
            supervisor: context.address().recipient(),
            retired: context.address().recipient(),
            board: Arc::clone(&self.board),
            refresh: self.settings.kinesis.shard_refresh,
            incarnation,
            clock: self.clock,
            pulse: pulse.clone(),
            workers: self.stage.workers().clone(),
        };
        let child = ChildId::Router(stream.clone());
        self.metrics.actor_began(child.kind());
        let supervisor = context.address().recipient();
        let router = child::spawn(&self.stage, child, incarnation, supervisor, |_, note| {
            StreamRouter::new(parts, note)
        });
        slot.router.runs(router, incarnation, pulse, now);
    }

    /// A router's end takes its writers along: all of them start again from what
    /// is durable.
    pub(super) fn router_exited(
        &mut self,
        stream: &StreamKey,
        incarnation: u64,
        exit: &Exit,
        context: &mut Context<Self>,
    ) {
        let now = self.clock.now();
        let Some(slot) = self
            .streams
            .get_mut(stream)
            .filter(|slot| slot.router.is_alive(incarnation))
        else {
            return;
        };
        slot.stop_all();
        let writers = std::mem::take(&mut slot.writers);
        let pause = slot.router.ended(exit, now);
        self.forget_shards(stream.name(), writers.keys());
        self.note_restart(&ChildId::Router(stream.clone()), exit, pause);
        let lost = stream.clone();
        let stream = stream.clone();
        context.run_later(pause, move |supervisor, context| {
            let is_wanted = supervisor.streams.get(&stream).is_some_and(|slot| {
                slot.router.incarnation == incarnation && slot.router.address.is_none()
            });
            if is_wanted && !supervisor.is_draining() {
                supervisor.start_router(&stream, context);
            }
        });
        self.stop_readers_of(&lost);
    }

    /// Readers with rows on their way lose them, and start again. The others read
    /// nothing until there is a router again, which they go on with.
    fn stop_readers_of(&self, stream: &StreamKey) {
        for (key, slot) in &self.pipelines {
            let Run::Running { reader, .. } = &slot.run else {
                continue;
            };
            let reason = format!("stream {stream}: its router is started again");
            if slot.stream_in_use() == Some(stream)
                && reader.try_send(StreamStopped { reason }).is_err()
            {
                tracing::debug!(pipeline = %key, "a reader is gone");
            }
        }
    }

    pub(super) fn stream_changed(
        &mut self,
        stream: &StreamKey,
        incarnation: u64,
        state: StreamState,
        context: &mut Context<Self>,
    ) {
        let Some(slot) = self
            .streams
            .get_mut(stream)
            .filter(|slot| slot.router.incarnation == incarnation && slot.router.address.is_some())
        else {
            return;
        };
        match state {
            StreamState::Trouble { reason } => {
                slot.trouble = Some(reason.clone());
                for (key, pipeline) in &self.pipelines {
                    if pipeline.stream.as_ref() == Some(stream)
                        && matches!(pipeline.run, Run::Waiting)
                    {
                        let state = PipelineState::Waiting {
                            reason: format!("stream {stream}: {reason}"),
                        };
                        self.show(key, pipeline, state);
                    }
                    let Run::Running { reader, .. } = &pipeline.run else {
                        continue;
                    };
                    let reason = format!("stream {stream}: {reason}");
                    if pipeline.stream_in_use() == Some(stream)
                        && reader.try_send(StreamStopped { reason }).is_err()
                    {
                        tracing::debug!(pipeline = %key, "a reader is gone");
                    }
                }
            }
            StreamState::Ready {
                identity,
                map,
                max_record_bytes,
            } => {
                let before = std::mem::replace(&mut slot.identity, Arc::clone(&identity));
                if before != identity {
                    let now = self.clock.now();
                    for (shard, budget) in self.budgets.rename(&before, &identity) {
                        self.shares.writes(&identity, &shard, &budget, now);
                    }
                }
                slot.trouble = None;
                slot.ready = Some((Arc::clone(&map), max_record_bytes));
                slot.ready_at = self.clock.now();
                let is_new = |shard: &&Shard| !slot.writers.contains_key(&shard.id);
                let new: Vec<ShardId> = map
                    .shards()
                    .iter()
                    .filter(is_new)
                    .map(|shard| shard.id.clone())
                    .collect();
                for shard in new {
                    self.start_writer(stream, &shard, context);
                }
                self.tell_readers_of_shards(stream, &map, max_record_bytes);
                self.claim_waiting(stream, context);
            }
        }
    }

    fn tell_readers_of_shards(
        &self,
        stream: &StreamKey,
        map: &Arc<ShardMap>,
        max_record_bytes: usize,
    ) {
        let slot = self.streams.get(stream);
        let Some(router) = slot.and_then(|slot| slot.router.address.clone()) else {
            return;
        };
        for (key, slot) in &self.pipelines {
            let Run::Running { reader, .. } = &slot.run else {
                continue;
            };
            let message = ShardsChanged {
                map: Arc::clone(map),
                max_record_bytes,
                router: router.clone(),
            };
            if slot.stream_in_use() == Some(stream) && reader.try_send(message).is_err() {
                tracing::debug!(pipeline = %key, "a reader is gone");
            }
        }
    }

    /// A shard is gone and has handed over what it had. Should there be one of its
    /// id again (the stream was made anew), that one gets a writer of its own.
    pub(super) fn shard_retired(&mut self, message: &ShardRetired, context: &Context<Self>) {
        let ShardRetired {
            stream,
            incarnation,
            shard,
        } = message;
        let Some(slot) = self
            .streams
            .get_mut(stream)
            .filter(|slot| slot.router.incarnation == *incarnation)
        else {
            return;
        };
        let writer = slot.writers.remove(shard);
        if let Some(writer) = writer.and_then(|entry| entry.address) {
            writer.try_send(StopNow).ok();
        }
        let is_wanted = slot
            .ready
            .as_ref()
            .is_some_and(|(map, _)| map.find(shard).is_some());
        self.forget_shards(stream.name(), [shard]);
        if is_wanted {
            self.start_writer(stream, shard, context);
        }
    }

    pub(super) fn start_writer(
        &mut self,
        stream: &StreamKey,
        shard: &ShardId,
        context: &Context<Self>,
    ) {
        let pulse = Pulse::new(self.stream_patience());
        let incarnation = self.next_incarnation();
        let now = self.clock.now();
        let Some(slot) = self.streams.get_mut(stream) else {
            return;
        };
        let Some(router) = slot.router.address.clone() else {
            return;
        };
        let budget = self.budgets.of(&slot.identity, shard, slot.limits, now);
        self.shares.writes(&slot.identity, shard, &budget, now);
        let parts = WriterParts {
            stream: stream.clone(),
            shard: shard.clone(),
            service: Arc::clone(&slot.service),
            budget,
            router: router.clone(),
            metrics: self.metrics.shard(stream.name(), &shard.0),
            all_metrics: self.metrics.clone(),
            board: Arc::clone(&self.board),
            clock: self.clock,
            pulse: pulse.clone(),
            workers: self.stage.workers().clone(),
        };
        let child = ChildId::Writer(stream.clone(), shard.clone());
        self.metrics.actor_began(child.kind());
        let supervisor = context.address().recipient();
        let writer = child::spawn(&self.stage, child, incarnation, supervisor, |_, note| {
            ShardWriter::new(parts, note)
        });
        let entry = slot
            .writers
            .entry(shard.clone())
            .or_insert_with(|| ChildSlot::new(now));
        if let Some(replaced) = entry.address.take() {
            replaced.try_send(StopNow).ok();
            entry.ended(&Exit::Stopped, now);
        }
        entry.runs(writer.clone(), incarnation, pulse, now);
        entry.holder = Arc::default();
        router
            .try_send(WriterReady {
                shard: shard.clone(),
                writer,
                holder: Arc::clone(&entry.holder),
            })
            .ok();
    }

    pub(super) fn writer_exited(
        &mut self,
        stream: &StreamKey,
        shard: &ShardId,
        incarnation: u64,
        exit: &Exit,
        context: &mut Context<Self>,
    ) {
        let now = self.clock.now();
        let router = self
            .streams
            .get(stream)
            .and_then(|slot| slot.router.address.clone());
        let entry = self
            .streams
            .get_mut(stream)
            .and_then(|slot| slot.writers.get_mut(shard));
        let Some(entry) = entry.filter(|entry| entry.is_alive(incarnation)) else {
            return;
        };
        let pause = entry.ended(exit, now);
        if let Some(router) = router {
            let shard = shard.clone();
            router.try_send(WriterGone { shard }).ok();
        }
        self.note_restart(&ChildId::Writer(stream.clone(), shard.clone()), exit, pause);
        let (stream, shard) = (stream.clone(), shard.clone());
        context.run_later(pause, move |supervisor, context| {
            let is_wanted = supervisor
                .streams
                .get(&stream)
                .and_then(|slot| slot.writers.get(&shard))
                .is_some_and(|entry| entry.incarnation == incarnation && entry.address.is_none());
            if is_wanted {
                supervisor.start_writer(&stream, &shard, context);
            }
        });
    }

    /// Has the rows of ended readers dropped from the queues of their stream.
    pub(super) fn purge_void(&self, stream: &StreamKey) {
        let slot = self.streams.get(stream);
        let router = slot.and_then(|slot| slot.router.address.clone());
        if let Some(router) = router {
            router.try_send(PurgeVoid).ok();
        }
    }
}
