//! The actor that looks for news in one database, for all readers of it.
//!
//! One query asks for all outboxes whose readers wait. An outbox that was busy a
//! moment ago is asked for every few milliseconds, one that stays quiet ever more
//! seldom. No NOTIFY is needed, which would serialise the publishers' commits.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorContext, ActorFutureExt, Addr, AsyncContext, Context, Handler, SpawnHandle,
    WrapFuture,
};
use tokio::runtime::Handle;

use super::child::{Exit, ExitNote};
use super::clock::Clock;
use super::fault;
use super::messages::{NothingNew, ProbeAtPace, StopNow, Wake, Watch};
use super::outbox_reader::OutboxReader;
use super::pulse::Pulse;
use super::rest::Heard;
use crate::admin::metrics::Metrics;
use crate::admin::status::StatusBoard;
use crate::core::backoff::Backoff;
use crate::core::horizon::Horizon;
use crate::core::ports::{
    OutboxId, OutboxStore, PipelineName, ProbeReport, ProbeTarget, StoreError,
};
use crate::core::snapshot::Snapshot;
use crate::core::time::Moment;
use crate::core::wait::{Doing, Wait, judge_timer};

/// A quiet outbox is asked for this much later each time.
const SLOW_DOWN: f64 = 1.25;

/// The part of its pause by which an outbox may be asked for too early. Half of it: the
/// dues of two groups are never further apart, so that they become one.
const SOON: u32 = 2;

/// How often the probe gives a sign of life.
const BEAT_EVERY: Duration = Duration::from_secs(1);

/// How often a reader is told that there is nothing new, so that its position
/// does not grow old.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// First and longest pause after the database failed.
const DATABASE_PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// What a probe is made of.
#[derive(Clone)]
pub struct ProbeParts {
    /// The database's name.
    pub database: Arc<str>,
    /// The database.
    pub store: Arc<dyn OutboxStore>,
    /// The pause while there are news.
    pub least_pause: Duration,
    /// The longest pause while there are none.
    pub most_pause: Duration,
    /// The metrics of the process.
    pub metrics: Metrics,
    /// Where the database's state is shown.
    pub board: Arc<StatusBoard>,
    /// The clock.
    pub clock: Clock,
    /// Its signs of life.
    pub pulse: Pulse,
    /// Where what takes time is spawned.
    pub workers: Handle,
}

struct Watched {
    _pledge: Arc<()>,
    heard: Arc<Heard>,
    pipeline: PipelineName,
    outbox: OutboxId,
    seen: Snapshot,
    reader: Addr<OutboxReader>,
    pause: Duration,
    due: Moment,
    told_at: Moment,
}

/// The probe of one database.
pub struct Probe {
    parts: ProbeParts,
    note: ExitNote,
    /// By the number of each watch, which no later one has.
    watched: BTreeMap<u64, Watched>,
    numbers: HashMap<PipelineName, u64>,
    last_number: u64,
    asking: bool,
    asked_at: Moment,
    timer: Option<(Moment, SpawnHandle)>,
    backoff: Backoff,
    paused_until: Option<Moment>,
    horizon: Horizon,
}

impl Probe {
    /// A probe that watches nothing yet.
    #[must_use]
    pub fn new(parts: ProbeParts, note: ExitNote) -> Self {
        Self {
            asked_at: parts.clock.now(),
            parts,
            note,
            watched: BTreeMap::new(),
            numbers: HashMap::new(),
            last_number: 0,
            asking: false,
            timer: None,
            backoff: Backoff::new(DATABASE_PAUSES.0, DATABASE_PAUSES.1),
            paused_until: None,
            horizon: Horizon::default(),
        }
    }

    fn beat(&mut self, context: &mut Context<Self>) {
        let now = self.parts.clock.now();
        self.parts.pulse.says(self.doing(now), now);
        context.run_later(BEAT_EVERY, Self::beat);
    }

    /// What it finds itself doing, see [`crate::core::wait`].
    fn doing(&self, now: Moment) -> Doing {
        if self.asking {
            let patience = self.parts.pulse.patience();
            return patience.judge(Wait::Database, self.asked_at, now);
        }
        match &self.timer {
            Some((due, _)) if self.paused_until.is_some() => judge_timer(Wait::Database, *due, now),
            Some((due, _)) => judge_timer(Wait::Time, *due, now),
            None if self.watched.is_empty() => Doing::Waits(Wait::Work),
            None => Doing::Stalled("readers wait for news and nothing is under way"),
        }
    }

    fn go_on(&mut self, context: &mut Context<Self>) {
        if self.asking {
            return;
        }
        let now = self.parts.clock.now();
        let Some(first_due) = self.watched.values().map(|watched| watched.due).min() else {
            // Nobody looks: what was seen last may be over.
            let database = &self.parts.database;
            self.parts.metrics.horizon_held(database, Duration::ZERO);
            return;
        };
        let due = self
            .paused_until
            .map_or(first_due, |until| until.max(first_due));
        if due > now {
            self.ask_at(due, context);
            return;
        }
        self.ask(now, context);
    }

    fn ask_at(&mut self, due: Moment, context: &mut Context<Self>) {
        if let Some((set_for, handle)) = self.timer.take() {
            if set_for == due {
                self.timer = Some((set_for, handle));
                return;
            }
            context.cancel_future(handle);
        }
        if fault::forgets("probe.timer") {
            return;
        }
        let handle = context.run_later(due.since(self.parts.clock.now()), |probe, context| {
            probe.timer = None;
            probe.go_on(context);
        });
        self.timer = Some((due, handle));
    }

    /// Asks for all that is due, and what soon will be: fewer queries. Outboxes that are
    /// asked for equally often come together so, in one question for all.
    fn ask(&mut self, now: Moment, context: &mut Context<Self>) {
        self.asking = true;
        self.asked_at = now;
        let mut asked = Vec::new();
        let mut targets = Vec::new();
        for (number, watched) in &self.watched {
            if watched.due <= now + watched.pause / SOON {
                asked.push(*number);
                targets.push(ProbeTarget {
                    outbox: watched.outbox,
                    seen: watched.seen.clone(),
                });
            }
        }
        let store = Arc::clone(&self.parts.store);
        let question = self
            .parts
            .workers
            .spawn(async move { store.probe(&targets).await });
        context.spawn(
            question
                .into_actor(self)
                .map(move |answer, probe, context| {
                    let answer = answer.unwrap_or_else(|error| {
                        Err(StoreError::Unavailable(format!("the task ended: {error}")))
                    });
                    probe.asking = false;
                    probe.answered(&asked, now, answer);
                    probe.go_on(context);
                }),
        );
    }

    fn answered(
        &mut self,
        asked: &[u64],
        taken_at: Moment,
        answer: Result<ProbeReport, StoreError>,
    ) {
        fault::point("probe.Answered");
        let database = &self.parts.database;
        let report = match answer {
            Ok(report) => {
                if self.backoff.failures() > 0 {
                    tracing::info!(%database, "the database answers again");
                }
                self.backoff.reset();
                self.parts.pulse.progress();
                self.paused_until = None;
                self.parts.metrics.database_up(database, true);
                self.parts.board.set_database(database, None);
                let held = self.horizon.seen(&report.snapshot, taken_at);
                self.parts.metrics.horizon_held(database, held);
                report
            }
            Err(error) => {
                if self.backoff.failures() == 0 {
                    tracing::warn!(%database, %error, "the database does not answer; trying again");
                }
                let pause = self.backoff.after_failure(fastrand::f64());
                self.paused_until = Some(self.parts.clock.now() + pause);
                self.parts.metrics.database_up(database, false);
                self.parts
                    .board
                    .set_database(database, Some(error.to_string()));
                return;
            }
        };
        let now = self.parts.clock.now();
        // An answer to an earlier watch says nothing of a later one, which has another
        // number.
        for (number, has_news) in asked.iter().zip(report.news) {
            if has_news {
                self.wake(*number);
            } else {
                let seen = report.looked.then_some(&report.snapshot);
                self.nothing_new(*number, seen, taken_at, now);
            }
        }
    }

    fn wake(&mut self, number: u64) {
        if let Some(watched) = self.forget(number)
            && watched.reader.try_send(Wake).is_err()
        {
            let pipeline = watched.pipeline;
            tracing::debug!(%pipeline, "news for a reader that is gone");
        }
    }

    fn forget(&mut self, number: u64) -> Option<Watched> {
        let watched = self.watched.remove(&number)?;
        self.numbers.remove(&watched.pipeline);
        Some(watched)
    }

    fn nothing_new(&mut self, number: u64, seen: Option<&Snapshot>, taken_at: Moment, now: Moment) {
        let Some(watched) = self.watched.get_mut(&number) else {
            return;
        };
        if let Some(seen) = seen.filter(|seen| seen.covers(&watched.seen)) {
            watched.seen = seen.clone();
        }
        watched.pause = watched.pause.mul_f64(SLOW_DOWN).min(self.parts.most_pause);
        watched.due = now + watched.pause;
        if now.since(watched.told_at) < TELL_EVERY {
            return;
        }
        watched.told_at = now;
        let is_first = watched.heard.nothing_new(watched.seen.clone(), taken_at);
        let is_gone = if is_first {
            watched.reader.try_send(NothingNew).is_err()
        } else {
            !watched.reader.connected()
        };
        if is_gone {
            self.forget(number);
        }
    }
}

impl Actor for Probe {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        self.beat(context);
    }
}

impl Handler<Watch> for Probe {
    type Result = ();

    fn handle(&mut self, watch: Watch, context: &mut Self::Context) {
        fault::point("probe.Watch");
        let now = self.parts.clock.now();
        self.last_number += 1;
        if fault::forgets("probe.watched") {
            return;
        }
        let watched = Watched {
            _pledge: watch.pledge,
            heard: watch.heard,
            pipeline: watch.pipeline,
            outbox: watch.outbox,
            seen: watch.seen,
            reader: watch.reader,
            pause: self.parts.least_pause,
            due: now + self.parts.least_pause,
            told_at: now,
        };
        let pipeline = Arc::clone(&watched.pipeline);
        if let Some(earlier) = self.numbers.insert(pipeline, self.last_number) {
            self.watched.remove(&earlier);
        }
        self.watched.insert(self.last_number, watched);
        self.go_on(context);
    }
}

impl Handler<ProbeAtPace> for Probe {
    type Result = ();

    fn handle(&mut self, pace: ProbeAtPace, context: &mut Context<Self>) {
        fault::point("probe.ProbeAtPace");
        self.parts.least_pause = pace.least_pause;
        self.parts.most_pause = pace.most_pause;
        let now = self.parts.clock.now();
        for watched in self.watched.values_mut() {
            watched.pause = watched.pause.clamp(pace.least_pause, pace.most_pause);
            watched.due = watched.due.min(now + watched.pause);
        }
        self.go_on(context);
    }
}

impl Handler<StopNow> for Probe {
    type Result = ();

    fn handle(&mut self, _: StopNow, context: &mut Self::Context) {
        self.note.write(Exit::Stopped);
        context.stop();
    }
}
