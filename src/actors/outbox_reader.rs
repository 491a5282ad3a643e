//! The actor of one pipeline: reads its outbox and hands rows to the router.
//!
//! It holds an [`Intake`] and does what that wishes, one thing at a time, each in
//! a task of its own. It starts under a fresh epoch from the durable position and
//! never trusts anything an earlier incarnation knew. It ends when it was told
//! to, when another node owns its pipeline, when rows of it were lost with
//! another actor, or when the service refuses one of its rows; the supervisor
//! decides what follows.

use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorContext, ActorFutureExt, Addr, AsyncContext, Context, Handler, SpawnHandle,
    WrapFuture,
};

use super::child::{Exit, ExitNote};
use super::clock::Clock;
use super::desired::PipelineKey;
use super::fault;
use super::messages::{
    Batch, Drain, FlowBecameVoid, NothingNew, Outcomes, ProbeReady, RoutedRow, StopNow, Wake, Watch,
};
use super::permits::{FlowTag, Pool, Ticket};
use super::probe::Probe;
use super::reader_work::{Done, Fetched, Rendered, Work};
use super::stream_router::StreamRouter;
use crate::admin::metrics::{Metrics, PipelineMetrics, PositionWrite};
use crate::admin::status::{PipelineState, StatusBoard};
use crate::config::pipeline::PipelineSpec;
use crate::core::backoff::Backoff;
use crate::core::intake::{Intake, IntakeLimits, Ready, Room, Wish};
use crate::core::ports::{Epoch, Fenced, Outbox, OutboxStore, StoreError};
use crate::core::position::{Position, Seq, WindowNumber};
use crate::core::rate_limit::{RateLimiter, RateLimits};
use crate::core::render::{Poison, Renderer};
use crate::core::send_queue::{Flow, FlowId};
use crate::core::shard_map::ShardMap;
use crate::core::time::Moment;

/// First and longest pause after the database failed.
const DATABASE_PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How often a row that cannot be sent is looked at again: somebody may have
/// mended it, or raised the stream's record limit.
pub const BLOCKED_RETRY: Duration = Duration::from_secs(15);

/// When permits of the whole process are used up, nobody says when they are free
/// again: look that often.
const PERMIT_RETRY: Duration = Duration::from_millis(20);

/// How often gauges are brought up to date.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// How often the backlog is counted, in reports.
const BACKLOG_EVERY: u32 = 5;

/// Counting a backlog stops here: it must be cheap at any size.
const BACKLOG_BOUND: u32 = 10_000;

/// With more windows open, those that can be are merged.
const MERGE_ABOVE: usize = 64;

/// What a row is taken to weigh before one has been seen, in bytes.
const UNKNOWN_WEIGHT: usize = 16 * 1024;

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
    /// Where to go on.
    pub position: Position,
    /// The shards of its stream.
    pub map: Arc<ShardMap>,
    /// The most a record of the stream may weigh, in bytes.
    pub max_record_bytes: usize,
    /// Its place in the writers' queues.
    pub flow: FlowId,
    /// Its tenant's weight.
    pub tenant_weight: u32,
    /// The database.
    pub store: Arc<dyn OutboxStore>,
    /// Where rows go.
    pub router: Addr<StreamRouter>,
    /// What wakes it.
    pub probe: Addr<Probe>,
    /// The permits of the process.
    pub shared: Arc<Pool>,
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
}

/// The reader of one pipeline.
pub struct OutboxReader {
    key: PipelineKey,
    node: Arc<str>,
    note: ExitNote,
    work: Work,
    intake: Intake,
    limiter: RateLimiter,
    tag: Arc<FlowTag>,
    router: Addr<StreamRouter>,
    probe: Addr<Probe>,
    all_metrics: Metrics,
    metrics: PipelineMetrics,
    board: Arc<StatusBoard>,
    state: PipelineState,
    busy: bool,
    /// Rows of a window that is being written down.
    opened: Option<(WindowNumber, Fetched)>,
    last_number: WindowNumber,
    floor: Option<Moment>,
    weight: usize,
    watching: bool,
    draining: bool,
    releasing: bool,
    backoff: Backoff,
    paused_until: Option<Moment>,
    timer: Option<(Moment, SpawnHandle)>,
    reports: u32,
}

impl OutboxReader {
    /// A reader that goes on from a position.
    pub fn new(parts: ReaderParts, note: ExitNote, context: &mut Context<Self>) -> Self {
        let now = parts.clock.now();
        let spec = &parts.spec;
        let metrics = parts
            .metrics
            .pipeline(&spec.name, &spec.tenant, spec.stream.name());
        let flow = Flow {
            id: parts.flow,
            tenant: Arc::clone(&spec.tenant),
            tenant_weight: parts.tenant_weight,
            weight: spec.weight,
            batch_size: spec.batch_size,
        };
        let tag = FlowTag::new(
            Arc::clone(&spec.name),
            parts.epoch,
            flow,
            context.address().recipient(),
            metrics.clone(),
            Pool::new(parts.most_rows, parts.most_bytes),
            parts.shared,
        );
        let limits = IntakeLimits {
            rows: parts.most_rows,
            stashed: parts.most_stashed,
            merge_above: MERGE_ABOVE,
        };
        let ranges: Vec<_> = parts.map.shards().iter().map(|shard| shard.range).collect();
        let rate = spec
            .rate_limit
            .map_or_else(RateLimits::default, |limit| RateLimits {
                rows_per_second: limit.max_messages_per_second,
                burst_rows: limit.burst_size,
                bytes_per_second: limit.max_bytes_per_second,
            });
        let renderer = Renderer {
            template: spec.partition_key.clone(),
            format: spec.format,
            outbox: parts.outbox,
            tenant: Arc::clone(&spec.tenant),
            max_record_bytes: parts.max_record_bytes,
        };
        let work = Work {
            store: parts.store,
            renderer: Arc::new(renderer),
            pipeline: Arc::clone(&spec.name),
            epoch: parts.epoch,
            clock: parts.clock,
        };
        Self {
            key: parts.key,
            node: parts.node,
            note,
            work,
            last_number: parts.position.last_number,
            intake: Intake::new(parts.position, &ranges, limits, now),
            limiter: RateLimiter::new(rate, now),
            tag,
            router: parts.router,
            probe: parts.probe,
            all_metrics: parts.metrics,
            metrics,
            board: parts.board,
            state: PipelineState::Starting,
            busy: false,
            opened: None,
            floor: None,
            weight: UNKNOWN_WEIGHT,
            watching: false,
            draining: false,
            releasing: false,
            backoff: Backoff::new(DATABASE_PAUSES.0, DATABASE_PAUSES.1),
            paused_until: None,
            timer: None,
            reports: 0,
        }
    }

    fn now(&self) -> Moment {
        self.work.clock.now()
    }

    // === Deciding what to do ===

    fn go_on(&mut self, context: &mut Context<Self>) {
        if self.busy || self.releasing {
            return;
        }
        let now = self.now();
        if let Some(until) = self.paused_until.filter(|until| *until > now) {
            self.wake_at(until, context);
            return;
        }
        self.paused_until = None;
        if self.draining && self.intake.nothing_handed() {
            self.release(context);
            return;
        }
        let room = self.room(now);
        match self.intake.next_wish(room, now) {
            Wish::Save => self.save(context),
            Wish::Wait { until } => self.wait(until, room, now, context),
            Wish::Open { seen, page } => {
                self.floor = self.intake.head_taken_at();
                self.read(Wish::Open { seen, page }, context);
            }
            wish @ (Wish::Reopen { .. } | Wish::Page { .. } | Wish::Refill { .. }) => {
                self.read(wish, context);
            }
        }
    }

    fn room(&mut self, now: Moment) -> Room {
        let tag = &self.tag;
        let bytes = tag.own.free_bytes().min(tag.shared.free_bytes());
        let by_bytes = bytes / self.weight.max(1);
        let rows = tag
            .own
            .free_rows()
            .min(tag.shared.free_rows())
            .min(by_bytes.max(1));
        Room {
            rows: rows.min(self.limiter.rows(now)),
            bytes,
        }
    }

    fn wait(
        &mut self,
        until: Option<Moment>,
        room: Room,
        now: Moment,
        context: &mut Context<Self>,
    ) {
        if self.intake.wants_news() {
            self.watch(context);
        }
        let starved = room.rows == 0 || room.bytes == 0;
        let retry = starved.then(|| self.limiter.next_at(now).max(now + PERMIT_RETRY));
        if let Some(until) = until.into_iter().chain(retry).min() {
            self.wake_at(until, context);
        }
    }

    fn watch(&mut self, context: &mut Context<Self>) {
        if self.watching || self.draining {
            return;
        }
        let watch = Watch {
            pipeline: Arc::clone(&self.work.pipeline),
            outbox: self.work.renderer.outbox.id,
            seen: self.intake.head().clone(),
            reader: context.address(),
        };
        self.watching = self.probe.try_send(watch).is_ok();
        if !self.watching {
            // The probe is being started again: look by ourselves meanwhile.
            self.intake.wake();
            let later = self.now() + Duration::from_secs(1);
            self.wake_at(later, context);
        }
    }

    fn wake_at(&mut self, until: Moment, context: &mut Context<Self>) {
        if let Some((set_for, handle)) = self.timer.take() {
            if set_for <= until && set_for > self.now() {
                self.timer = Some((set_for, handle));
                return;
            }
            context.cancel_future(handle);
        }
        let handle = context.run_later(until.since(self.now()), |reader, context| {
            reader.timer = None;
            reader.go_on(context);
        });
        self.timer = Some((until, handle));
    }

    // === Having it done ===

    fn read(&mut self, wish: Wish, context: &mut Context<Self>) {
        let task = self
            .work
            .clone()
            .read(wish, self.last_number.next(), self.floor);
        self.start(task, context);
    }

    fn save(&mut self, context: &mut Context<Self>) {
        let position = self.intake.position_to_save(self.now());
        let task = self.work.clone().save(position);
        self.start(task, context);
    }

    fn start(
        &mut self,
        task: impl Future<Output = Result<Option<Done>, StoreError>> + Send + 'static,
        context: &mut Context<Self>,
    ) {
        self.busy = true;
        let task = tokio::spawn(task);
        let result = async move {
            task.await.unwrap_or_else(|error| {
                Err(StoreError::Unavailable(format!("the task ended: {error}")))
            })
        };
        context.spawn(result.into_actor(self).map(|result, reader, context| {
            reader.busy = false;
            reader.done(result, context);
        }));
    }

    fn done(&mut self, result: Result<Option<Done>, StoreError>, context: &mut Context<Self>) {
        fault::point("outbox_reader.Done");
        match result {
            Ok(done) => {
                self.backoff.reset();
                if let Some(done) = done {
                    self.take(done, context);
                }
            }
            Err(StoreError::Unavailable(reason)) => {
                self.opened = None;
                let pause = self.backoff.after_failure(fastrand::f64());
                self.paused_until = Some(self.now() + pause);
                self.set_state(PipelineState::Waiting {
                    reason: format!("database: {reason}"),
                });
            }
            Err(StoreError::Refused(reason)) => {
                self.end(Exit::Refused(reason), context);
                return;
            }
        }
        self.go_on(context);
    }

    fn take(&mut self, done: Done, context: &mut Context<Self>) {
        match done {
            Done::Opened {
                snapshot,
                taken_at,
                fetched,
            } => {
                if matches!(&fetched, Fetched::Whole(rows) if rows.read == 0) {
                    self.intake.nothing_new(snapshot, taken_at);
                    self.is_running();
                    return;
                }
                let window = self.intake.open_window(snapshot, taken_at);
                self.last_number = window;
                self.opened = Some((window, fetched));
            }
            Done::Reopened { window, fetched } => self.take_window(window, fetched),
            Done::Page {
                window,
                rows,
                is_last,
            } => {
                let is_held = self.take_rows(rows);
                if is_last && !is_held {
                    self.intake.end_window(window);
                }
            }
            Done::Refilled { lane, asked, rows } => self.take_back(lane, &asked, rows),
            Done::Saved(Fenced::Written) => {
                self.all_metrics.position_write(PositionWrite::Written);
                self.intake.saved(self.now());
                if let Some((window, fetched)) = self.opened.take() {
                    self.take_window(window, fetched);
                }
            }
            Done::Saved(Fenced::Stale) => {
                self.all_metrics.position_write(PositionWrite::Stale);
                self.end(Exit::LeaseLost, context);
            }
        }
    }

    fn take_window(&mut self, window: WindowNumber, fetched: Fetched) {
        match fetched {
            Fetched::Bounds {
                first,
                first_fresh,
                last,
            } => self.intake.begin_paging(window, first, first_fresh, last),
            Fetched::Whole(rows) => {
                if !self.take_rows(rows) {
                    self.intake.end_window(window);
                }
            }
        }
    }

    /// Takes rows in; answers whether reading is held before one of them.
    fn take_rows(&mut self, rows: Rendered) -> bool {
        let mut room = self.room_for(rows.ready.len());
        self.learn_weight(&rows.ready);
        self.metrics.rows_read(rows.ready.len(), rows.bytes);
        let mut handed = Vec::with_capacity(rows.ready.len());
        for ready in rows.ready {
            handed.extend(self.intake.take_in(ready, &mut room));
        }
        self.hand(handed);
        match rows.poison {
            None => {
                self.is_running();
                false
            }
            Some((seq, poison)) => {
                self.intake.hold_before(seq);
                self.block(seq, &poison);
                true
            }
        }
    }

    fn take_back(&mut self, lane: usize, asked: &[Seq], rows: Rendered) {
        let mut room = self.room_for(rows.ready.len());
        let mut ready = rows.ready.into_iter().peekable();
        let mut handed = Vec::new();
        for seq in asked {
            if rows
                .poison
                .as_ref()
                .is_some_and(|(poisoned, _)| poisoned == seq)
            {
                break;
            }
            let found: Option<Ready> = ready.next_if(|ready| ready.envelope.seq == *seq);
            match found {
                Some(found) => handed.extend(self.intake.take_back(lane, found, &mut room)),
                None => {
                    tracing::error!(
                        pipeline = %self.key, row = seq.id,
                        "a row was deleted from the outbox before it was delivered; it cannot be delivered any more"
                    );
                    self.metrics.row_vanished();
                    self.intake.stashed_row_is_gone(lane, *seq);
                }
            }
        }
        self.hand(handed);
        if let Some((seq, poison)) = rows.poison {
            self.intake.stop_reading();
            self.block(seq, &poison);
        }
    }

    /// Room for rows that have been read already: permits may be overdrawn by
    /// them, since what was read must go somewhere.
    fn room_for(&self, rows: usize) -> Room {
        let tag = &self.tag;
        let free_rows = tag.own.free_rows().min(tag.shared.free_rows());
        Room {
            rows: free_rows.min(rows),
            bytes: tag.own.free_bytes().min(tag.shared.free_bytes()),
        }
    }

    fn learn_weight(&mut self, rows: &[Ready]) {
        let largest = rows.iter().map(|ready| ready.envelope.weight()).max();
        if let Some(largest) = largest {
            self.weight = largest.max(self.weight - self.weight / 8);
        }
    }

    fn hand(&mut self, envelopes: Vec<crate::core::row::Envelope>) {
        if envelopes.is_empty() {
            return;
        }
        let bytes = envelopes.iter().map(|envelope| envelope.weight()).sum();
        self.limiter.charge(envelopes.len(), bytes);
        let tag = &self.tag;
        let rows = envelopes.into_iter().map(|envelope| RoutedRow {
            ticket: Ticket::take(tag, envelope.weight()),
            envelope,
        });
        let batch = Batch {
            tag: Arc::clone(tag),
            rows: rows.collect(),
        };
        if self.router.try_send(batch).is_err() {
            // The dropped tickets have made the flow void: we are about to end.
            tracing::debug!(pipeline = %self.key, "the router is gone");
        }
    }

    // === State ===

    fn is_running(&mut self) {
        let is_blocked = matches!(self.state, PipelineState::Blocked { .. });
        if self.state != PipelineState::Running && !(is_blocked && self.intake.is_held()) {
            self.set_state(PipelineState::Running);
        }
    }

    fn block(&mut self, seq: Seq, poison: &Poison) {
        let reason = poison.to_string();
        let state = PipelineState::Blocked {
            row_id: seq.id,
            reason: reason.clone(),
        };
        if self.state != state {
            tracing::error!(
                pipeline = %self.key, row = seq.id, code = poison.code(), %reason,
                "a row cannot be sent; the pipeline waits before it, nothing is skipped"
            );
            self.metrics.row_blocked();
        }
        self.set_state(state);
    }

    fn set_state(&mut self, state: PipelineState) {
        if self.state == state {
            return;
        }
        match &state {
            PipelineState::Waiting { reason } => {
                tracing::warn!(pipeline = %self.key, %reason, "waiting")
            }
            PipelineState::Running => {
                tracing::info!(pipeline = %self.key, epoch = %self.work.epoch, "running")
            }
            PipelineState::Starting
            | PipelineState::Standby { .. }
            | PipelineState::Blocked { .. }
            | PipelineState::Failed { .. }
            | PipelineState::Stopped
            | PipelineState::Invalid { .. } => {}
        }
        self.metrics.state(&state);
        let epoch = self.work.epoch.0;
        self.board
            .update_pipeline(&self.key.database, &self.key.name, |entry| {
                entry.state = state.clone();
                entry.epoch = Some(epoch);
            });
        self.state = state;
    }

    fn end(&mut self, exit: Exit, context: &mut Context<Self>) {
        self.tag.make_void();
        self.note.write(exit);
        context.stop();
    }

    /// The last acts of a drain: write the position, give the lease back.
    fn release(&mut self, context: &mut Context<Self>) {
        self.releasing = true;
        let position = self.intake.position_to_save(self.now());
        let work = self.work.clone();
        let node = Arc::clone(&self.node);
        let last_acts = async move {
            let (store, pipeline, epoch) = (work.store, work.pipeline, work.epoch);
            store.save_position(&pipeline, epoch, &position).await?;
            store.release(&pipeline, &node, epoch).await
        };
        let last_acts = tokio::spawn(last_acts);
        context.spawn(last_acts.into_actor(self).map(|result, reader, context| {
            if let Ok(Err(error)) = result {
                tracing::warn!(pipeline = %reader.key, %error, "the last position could not be written; some rows will be sent again");
            }
            reader.end(Exit::Drained, context);
        }));
    }

    fn report(&mut self, context: &mut Context<Self>) {
        let unsettled = self.intake.handed() + self.intake.stashed();
        let (in_flight, bytes) = (self.tag.own.rows(), self.tag.own.bytes());
        let (windows, stashed) = (self.intake.open_windows(), self.intake.stashed());
        self.metrics.in_flight(in_flight + stashed, bytes);
        self.metrics.windows_open(windows);
        self.metrics.deferred_rows(stashed);
        self.board
            .update_pipeline(&self.key.database, &self.key.name, |entry| {
                entry.in_flight_rows = unsettled as u64;
                entry.in_flight_bytes = bytes as u64;
                entry.open_windows = windows as u64;
                entry.deferred_rows = stashed as u64;
            });
        if self.reports.is_multiple_of(BACKLOG_EVERY) {
            self.count_backlog(context);
        }
        self.reports = self.reports.wrapping_add(1);
        context.run_later(REPORT_EVERY, Self::report);
    }

    fn count_backlog(&self, context: &mut Context<Self>) {
        let (store, outbox) = (Arc::clone(&self.work.store), self.work.renderer.outbox.id);
        let seen = self.intake.read_up_to();
        let count = tokio::spawn(async move { store.backlog(outbox, &seen, BACKLOG_BOUND).await });
        context.spawn(count.into_actor(self).map(|counted, reader, _| {
            let Ok(Ok(unread)) = counted else {
                return;
            };
            let now = reader.now();
            let known = reader.intake.oldest().and_then(|(_, since)| since);
            let oldest = known.map_or(unread.oldest, |since| now.since(since).max(unread.oldest));
            let rows = unread.rows + (reader.intake.handed() + reader.intake.stashed()) as u64;
            reader.metrics.lag(rows, oldest);
            reader
                .board
                .update_pipeline(&reader.key.database, &reader.key.name, |entry| {
                    entry.lag_rows = rows;
                    entry.lag_at_least = unread.at_least;
                    entry.lag_oldest_seconds = oldest.as_secs_f64();
                });
        }));
    }
}

impl Drop for OutboxReader {
    /// Whatever ends a reader, nothing more of its flow is sent.
    fn drop(&mut self) {
        self.tag.make_void();
        self.metrics
            .rows_returned(self.tag.own.rows() + self.intake.stashed());
        self.metrics.in_flight(0, 0);
    }
}

impl Actor for OutboxReader {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        let tag = Arc::clone(&self.tag);
        let address = context.address();
        let watch = async move {
            tag.until_void().await;
            if address.try_send(FlowBecameVoid).is_err() {
                tracing::debug!("a void flow's reader is gone");
            }
        };
        context.spawn(watch.into_actor(self));
        context.run_later(BLOCKED_RETRY, Self::look_again);
        self.report(context);
        self.go_on(context);
    }
}

impl OutboxReader {
    fn look_again(&mut self, context: &mut Context<Self>) {
        if self.intake.is_held() && !self.draining {
            self.intake.resume_reading();
            self.go_on(context);
        }
        context.run_later(BLOCKED_RETRY, Self::look_again);
    }
}

impl Handler<Outcomes> for OutboxReader {
    type Result = ();

    fn handle(&mut self, outcomes: Outcomes, context: &mut Self::Context) {
        fault::point("outbox_reader.Outcomes");
        let now = self.now();
        for (seq, hash) in &outcomes.stored {
            if let Some(since) = self.intake.settled(*seq, *hash, now) {
                self.metrics.acked(now.since(since));
            }
        }
        let stored = outcomes.stored.len() as u64;
        self.board
            .update_pipeline(&self.key.database, &self.key.name, |entry| {
                entry.delivered_rows += stored;
            });
        if let Some(rejected) = outcomes.rejected {
            tracing::error!(
                pipeline = %self.key, row = rejected.seq.id, reason = %rejected.reason,
                "a row cannot be sent; the pipeline waits before it, nothing is skipped"
            );
            self.metrics.row_blocked();
            let reason = rejected.reason.clone();
            self.set_state(PipelineState::Blocked {
                row_id: rejected.seq.id,
                reason,
            });
            self.end(Exit::Blocked(rejected.reason), context);
            return;
        }
        self.go_on(context);
    }
}

impl Handler<Wake> for OutboxReader {
    type Result = ();

    fn handle(&mut self, _: Wake, context: &mut Self::Context) {
        fault::point("outbox_reader.Wake");
        self.watching = false;
        self.intake.wake();
        self.go_on(context);
    }
}

impl Handler<ProbeReady> for OutboxReader {
    type Result = ();

    fn handle(&mut self, message: ProbeReady, context: &mut Self::Context) {
        fault::point("outbox_reader.ProbeReady");
        self.probe = message.probe;
        self.watching = false;
        self.intake.wake();
        self.go_on(context);
    }
}

impl Handler<NothingNew> for OutboxReader {
    type Result = ();

    fn handle(&mut self, message: NothingNew, _: &mut Self::Context) {
        fault::point("outbox_reader.NothingNew");
        if !self.busy {
            self.intake.advance_head(message.snapshot, message.taken_at);
        }
    }
}

impl Handler<FlowBecameVoid> for OutboxReader {
    type Result = ();

    fn handle(&mut self, _: FlowBecameVoid, context: &mut Self::Context) {
        fault::point("outbox_reader.FlowBecameVoid");
        self.end(Exit::RowsLost, context);
    }
}

impl Handler<Drain> for OutboxReader {
    type Result = ();

    fn handle(&mut self, _: Drain, context: &mut Self::Context) {
        fault::point("outbox_reader.Drain");
        self.draining = true;
        self.intake.stop_reading();
        self.go_on(context);
    }
}

impl Handler<StopNow> for OutboxReader {
    type Result = ();

    fn handle(&mut self, _: StopNow, context: &mut Self::Context) {
        self.end(Exit::Stopped, context);
    }
}
