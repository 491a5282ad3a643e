//! The actor of one pipeline: reads its outbox and hands rows to the router.
//!
//! It holds an [`Intake`] and does what that wishes, one thing at a time, each in
//! a task of its own. It starts under a fresh epoch from the durable position and
//! never trusts anything an earlier incarnation knew. It ends when it was told
//! to, when another node owns its pipeline, when rows of it were lost with
//! another actor, or when the service refuses one of its rows; the supervisor
//! decides what follows.

mod changing;
mod ending;
mod leaving;
mod letters;
mod limits;
mod news;
mod parking;
mod parts;
mod rendering;
mod resend;
mod resharding;
mod resting;
mod room;
mod showing;
mod taking;
mod waiting;
mod work;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};
use std::time::Duration;

use actix::{Actor, ActorFutureExt, Addr, AsyncContext, Context, SpawnHandle, WrapFuture};
use tokio::runtime::Handle;

use super::child::{Exit, ExitNote};
use super::fault;
use super::messages::{FlowBecameVoid, RejectedRow, Retune, ShardsChanged};
use super::permits::{AlonePass, FlowTag, Patience, Pool, RejectedKeys};
use super::pipeline_rate::PipelineRate;
use super::probe::Probe;
use super::pulse::Pulse;
use super::rest::Heard;
use super::stream_router::StreamRouter;
use super::stream_watch::StreamWatch;
use super::tenants::QuotaSeat;
use super::violations;
use crate::admin::metrics::{Metrics, PipelineMetrics, labels_of};
use crate::admin::status::{PipelineState, StatusBoard};
use crate::config::desired::PipelineKey;
use crate::core::backoff::Backoff;
use crate::core::intake::{Intake, IntakeLimits, Room, Wish};
use crate::core::ports::StoreError;
use crate::core::position::WindowNumber;
use crate::core::render::Renderer;
use crate::core::resend::{LetterResend, Resend};
use crate::core::send_queue::{Flow, Shares};
use crate::core::tenant::Limit;
use crate::core::time::Moment;
pub(super) use changing::rate_limits;
use parking::ComingBack;
use resend::Again;
use resting::Rounds;
use room::{Reading, ReadingRoom};
use work::{Done, Fetched, Work};

pub use parts::ReaderParts;

/// First and longest pause after the database failed.
const DATABASE_PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How often a row that cannot be sent is looked at again: somebody may have
/// mended it, or raised the stream's record limit.
pub const BLOCKED_RETRY: Duration = Duration::from_secs(15);

/// When permits of the whole process are used up, nobody says when they are free
/// again: look that often.
const PERMIT_RETRY: Duration = Duration::from_millis(20);

/// With more windows open, those that can be are merged.
const MERGE_ABOVE: usize = 64;

/// The part of a pipeline's permits that rows sent again may use: the live flow
/// keeps three quarters.
const RESENT_SHARE: usize = 4;

/// What a row is taken to weigh before one has been seen, in bytes.
const UNKNOWN_WEIGHT: usize = 16 * 1024;

/// The reader of one pipeline.
pub struct OutboxReader {
    key: PipelineKey,
    node: Arc<str>,
    note: ExitNote,
    work: Work,
    intake: Intake,
    limiter: PipelineRate,
    quota: QuotaSeat,
    /// What keeps it from reading rows that are there, and since when.
    limited: Option<(Limit, Moment)>,
    tag: Arc<FlowTag>,
    router: Addr<StreamRouter>,
    stream: Arc<StreamWatch>,
    probe: Addr<Probe>,
    all_metrics: Metrics,
    metrics: PipelineMetrics,
    board: Arc<StatusBoard>,
    state: PipelineState,
    busy: bool,
    /// Since when, or since when it writes its last words down.
    busy_since: Moment,
    /// Rows of a window that is being written down.
    opened: Option<(WindowNumber, Fetched)>,
    /// Rows sent again beside the live flow.
    resend: Resend,
    /// Dead letters that are sent again.
    letters: LetterResend,
    /// They are read before anything else is done.
    letters_next: bool,
    /// Rows sent again whose window number is being written down.
    opened_again: Option<Again>,
    /// They had their turn.
    live_first: bool,
    last_number: WindowNumber,
    floor: Option<Moment>,
    weight: usize,
    reading_room: ReadingRoom,
    /// The row that is about to be handed goes alone.
    pass: Option<AlonePass>,
    watching: bool,
    /// Where the probe says that there is nothing new.
    heard: Arc<Heard>,
    /// Held by whoever is to tell of news.
    watch_pledge: Weak<()>,
    draining: bool,
    /// Rows that came back unsent, for the next owner.
    left: usize,
    /// The drain is cut off.
    giving_up: bool,
    releasing: bool,
    /// A row the service does not take.
    rejected: Option<RejectedRow>,
    /// What the stream has become, to be followed when nothing is under way.
    changed: Option<ShardsChanged>,
    /// What its limits have become, likewise.
    retuned: Option<Retune>,
    /// Why the stream must not be written to.
    stopped: Option<String>,
    coming_back: Vec<ComingBack>,
    /// Whether it has looked up the letters of its pipeline.
    knows_letters: bool,
    has_letters: bool,
    letters_due: bool,
    backoff: Backoff,
    paused_until: Option<Moment>,
    timer: Option<(Moment, SpawnHandle)>,
    rounds: Rounds,
    pulse: Pulse,
    workers: Handle,
}

impl OutboxReader {
    /// A reader that goes on from a position.
    pub fn new(parts: ReaderParts, note: ExitNote, context: &mut Context<Self>) -> Self {
        let now = parts.clock.now();
        let spec = &parts.spec;
        let metrics = parts.metrics.pipeline(labels_of(spec));
        let flow = Flow {
            id: parts.flow,
            tenant: Arc::clone(&spec.tenant),
            shares: Arc::new(Shares::new(
                parts.tenant.weight(),
                spec.weight,
                spec.batch_size,
            )),
            packing: spec.packing(),
        };
        let tag = Arc::new(FlowTag {
            pipeline: Arc::clone(&spec.name),
            epoch: parts.epoch,
            flow,
            reader: context.address().recipient(),
            metrics: metrics.clone(),
            own: Pool::new(parts.most_rows, parts.most_bytes),
            shared: parts.shared.join(&spec.tenant),
            tenant: Arc::clone(&parts.tenant),
            void: parts.void,
            on_poison: spec.on_poison,
            rejected_keys: RejectedKeys::default(),
            patience: Patience::default(),
            recalled: AtomicBool::new(false),
        });
        let limits = IntakeLimits {
            rows: parts.most_rows,
            stashed: parts.most_stashed,
            merge_above: MERGE_ABOVE,
        };
        let ranges: Vec<_> = parts.map.shards().iter().map(|shard| shard.range).collect();
        let mut keyed_by = format!("{} {}", spec.tenant, spec.partition_key);
        if let Some(default) = &spec.on_missing {
            keyed_by.push(' ');
            keyed_by.push_str(default);
        }
        let renderer = Renderer {
            template: spec.partition_key.clone(),
            format: spec.format,
            aggregation: spec.aggregation,
            compression: spec.compression,
            outbox: parts.outbox,
            tenant: Arc::clone(&spec.tenant),
            on_missing: spec.on_missing.clone(),
            max_record_bytes: parts.max_record_bytes,
        };
        let work = Work {
            server: parts.store.server().map(|server| server.generation),
            store: parts.store,
            renderer: Arc::new(renderer),
            pipeline: Arc::clone(&spec.name),
            epoch: parts.epoch,
            clock: parts.clock,
            on_poison: spec.on_poison,
            highest_lettered: 0,
        };
        Self {
            key: parts.key,
            node: parts.node,
            note,
            work,
            last_number: parts.position.last_number,
            intake: Intake::new(parts.position, &keyed_by, &ranges, limits, now)
                .with_policy(spec.on_poison),
            limiter: parts.rate,
            quota: QuotaSeat::take(&parts.tenant, spec.weight),
            limited: None,
            tag,
            router: parts.router,
            stream: parts.stream,
            probe: parts.probe,
            all_metrics: parts.metrics,
            metrics,
            board: parts.board,
            state: PipelineState::Starting,
            busy: false,
            busy_since: now,
            opened: None,
            resend: Resend::new((parts.most_rows / RESENT_SHARE).max(1), now),
            letters: LetterResend::default(),
            letters_next: false,
            opened_again: None,
            live_first: false,
            floor: None,
            weight: UNKNOWN_WEIGHT,
            reading_room: ReadingRoom::default(),
            pass: None,
            watching: false,
            heard: Arc::default(),
            watch_pledge: Weak::new(),
            draining: false,
            left: 0,
            giving_up: false,
            releasing: false,
            rejected: None,
            changed: None,
            retuned: None,
            stopped: None,
            coming_back: Vec::new(),
            knows_letters: false,
            has_letters: false,
            letters_due: true,
            backoff: Backoff::new(DATABASE_PAUSES.0, DATABASE_PAUSES.1),
            paused_until: None,
            timer: None,
            rounds: Rounds::new(now),
            pulse: parts.pulse,
            workers: parts.workers,
        }
    }

    fn now(&self) -> Moment {
        self.work.clock.now()
    }

    // === Deciding what to do ===

    fn go_on(&mut self, context: &mut Context<Self>) {
        self.stir(context);
        if self.busy || self.releasing {
            return;
        }
        if self.giving_up {
            self.give_up(context);
            return;
        }
        self.hear();
        self.follow_shards();
        self.follow_retune();
        let now = self.now();
        if let Some(until) = self.paused_until.filter(|until| *until > now) {
            self.wake_at(until, context);
            return;
        }
        self.paused_until = None;
        let handed_again = self.resend.handed() + self.letters.handed();
        if self.draining && self.intake.under_way() + handed_again == 0 {
            if self.intake.letters() > 0 {
                self.save(context);
            } else if self.letters.has_outcomes() {
                self.save_letters(context);
            } else {
                self.release(context);
            }
            return;
        }
        if self.read_letters_next(now, context) {
            return;
        }
        if self.letters_due {
            self.look_up_letters(context);
            return;
        }
        if self.resend(now, context) {
            return;
        }
        let room = self.room(Reading::Live, now);
        match self.intake.next_wish(room, now) {
            Wish::Save => self.save(context),
            Wish::Wait { until } => {
                if !self.resend(now, context) {
                    self.wait(until, room, now, context);
                }
            }
            wish @ (Wish::Open { .. }
            | Wish::Reopen { .. }
            | Wish::Page { .. }
            | Wish::Refill { .. }) => self.read(wish, now, context),
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
        let retry = self.retry_at(room, now);
        if let Some(until) = until.into_iter().chain(retry).min() {
            self.wake_at(until, context);
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
        if fault::forgets("outbox_reader.timer") {
            return;
        }
        let handle = context.run_later(until.since(self.now()), |reader, context| {
            reader.timer = None;
            reader.go_on(context);
        });
        self.timer = Some((until, handle));
    }

    // === Having it done ===

    fn read(&mut self, wish: Wish, now: Moment, context: &mut Context<Self>) {
        if matches!(wish, Wish::Open { .. }) {
            self.floor = self.intake.head_taken_at();
        }
        self.note_read(wish.rows(), now);
        let Some(bytes) = self.reserve(Reading::Live, wish.rows()) else {
            self.wake_at(now + PERMIT_RETRY, context);
            return;
        };
        let number = self.last_number.next();
        let task = self.work.clone().read(wish, bytes, number, self.floor);
        self.start(task, context);
    }

    fn save(&mut self, context: &mut Context<Self>) {
        let (position, letters) = self.intake.to_save(self.now());
        self.report_violations();
        let task = self.work.clone().save(position, letters);
        self.start(task, context);
    }

    fn report_violations(&mut self) {
        let found = self.intake.take_violations();
        violations::report(&self.all_metrics, &self.key, found);
    }

    fn start(
        &mut self,
        task: impl Future<Output = Result<Option<Done>, StoreError>> + Send + 'static,
        context: &mut Context<Self>,
    ) {
        self.busy = true;
        self.busy_since = self.now();
        let task = self.workers.spawn(task);
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
        self.take_result(result, context);
        if self.opened.is_none() && self.opened_again.is_none() {
            // What was read has been handed, stashed or dropped.
            self.end_reservation();
            self.pass = None;
        }
        self.go_on(context);
    }

    fn take_result(
        &mut self,
        result: Result<Option<Done>, StoreError>,
        context: &mut Context<Self>,
    ) {
        match result {
            Ok(done) => {
                self.backoff.reset();
                if let Some(done) = done {
                    self.take(done, context);
                }
            }
            Err(StoreError::Unavailable(reason)) => {
                self.opened = None;
                self.opened_again = None;
                self.intake.not_saved();
                self.note_limit(None, self.now());
                let pause = self.backoff.after_failure(fastrand::f64());
                self.paused_until = Some(self.now() + pause);
                self.set_state(PipelineState::Waiting {
                    reason: format!("database: {reason}"),
                });
            }
            Err(StoreError::Refused(reason)) => {
                self.end(Exit::Refused(reason), context);
            }
        }
    }
}

impl Drop for OutboxReader {
    /// Whatever ends a reader, nothing more of its flow is sent.
    fn drop(&mut self) {
        self.tag.make_void();
        self.tag.shared.leave();
        // Rows on their way are counted when their tickets are dropped: some may
        // still be confirmed.
        self.metrics
            .rows_returned(self.intake.stashed() + self.intake.letters());
        self.metrics.in_flight(0, 0);
        self.board
            .update_pipeline(&self.key.database, &self.key.name, |entry| {
                entry.in_flight_rows = 0;
                entry.in_flight_bytes = 0;
                entry.open_windows = 0;
                entry.deferred_rows = 0;
                entry.shows_wait(None, false);
            });
    }
}

impl Actor for OutboxReader {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        let tag = Arc::clone(&self.tag);
        let address = context.address();
        let watch = async move {
            tag.void.until_void().await;
            if address.try_send(FlowBecameVoid).is_err() {
                tracing::debug!("a void flow's reader is gone");
            }
        };
        context.spawn(watch.into_actor(self));
        self.go_round(context);
        self.go_on(context);
    }
}
