//! The actor that deletes rows of one database which have outlived their outbox's
//! retention.
//!
//! It looks at the outboxes every few seconds. If it has the turn (one node a
//! database has), it deletes batch after batch, one outbox after the other, until
//! a round finds nothing more. Between two batches it pauses at least as long as
//! the last one took: it never takes more than half of one connection's time.
//!
//! What may be deleted is decided in `core::retention`, under a lock; nothing here
//! needs to be right for that. An actor that is started again looks anew.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, SpawnHandle, WrapFuture,
};
use tokio::runtime::Handle;

use super::child::{Exit, ExitNote};
use super::clock::Clock;
use super::fault;
use super::messages::{StopNow, SweepBy};
use super::pulse::Pulse;
use crate::admin::metrics::{HeldRows, KeptRows, Metrics};
use crate::admin::status::{HoldStatus, KeptStatus, RetentionStatus, StatusBoard, SweepStatus};
use crate::config::settings::RetentionSettings;
use crate::core::backoff::Backoff;
use crate::core::ports::{OutboxId, PipelineName, StoreError};
use crate::core::retention::{BatchDone, FileReader, KeptOutbox, RetentionStore, Survey};
use crate::core::sweeping::Sweeping;
use crate::core::time::Moment;
use crate::core::wait::{Doing, Wait, judge_timer};

/// How often it gives a sign of life.
const BEAT_EVERY: Duration = Duration::from_secs(1);

/// First and longest pause after the database failed.
const DATABASE_PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// How long a turn lasts, in intervals between looks: it is kept by looking.
const TURN_INTERVALS: u32 = 3;

/// The shortest turn.
const LEAST_TURN: Duration = Duration::from_secs(5);

/// What it is made of.
#[derive(Clone)]
pub struct RetentionParts {
    /// The database's name.
    pub database: Arc<str>,
    /// The database.
    pub store: Arc<dyn RetentionStore>,
    /// What this node is called.
    pub node: Arc<str>,
    /// How to go about it.
    pub settings: RetentionSettings,
    /// The pipelines of the file that read from this database.
    pub of_file: Arc<[FileReader]>,
    /// The metrics of the process.
    pub metrics: Metrics,
    /// Where the state is shown.
    pub board: Arc<StatusBoard>,
    /// The clock.
    pub clock: Clock,
    /// Its signs of life.
    pub pulse: Pulse,
    /// Where what takes time is spawned.
    pub workers: Handle,
}

/// What goes on.
#[derive(Debug, Clone, Copy)]
enum Waits {
    Asks { since: Moment },
    Pauses { until: Moment },
}

/// The sweeper of one database.
pub struct Retention {
    parts: RetentionParts,
    note: ExitNote,
    /// Outboxes that may have more to delete, the next one first.
    due: VecDeque<KeptOutbox>,
    /// The outboxes of which one batch was not enough.
    sweeping: BTreeMap<OutboxId, Sweeping>,
    /// When it looked last, and so what it knows of outboxes is from.
    looked_at: Moment,
    /// When it has to look again, to keep its turn and see what has changed.
    look_at: Moment,
    backoff: Backoff,
    /// The task that is under way or the timer that is set, and since or till when.
    waits: Option<Waits>,
    /// The timer, if one is set.
    timer: Option<SpawnHandle>,
}

impl Retention {
    /// A sweeper that has not looked yet.
    #[must_use]
    pub fn new(parts: RetentionParts, note: ExitNote) -> Self {
        let now = parts.clock.now();
        Self {
            looked_at: now,
            look_at: now,
            parts,
            note,
            due: VecDeque::new(),
            sweeping: BTreeMap::new(),
            backoff: Backoff::new(DATABASE_PAUSES.0, DATABASE_PAUSES.1),
            waits: None,
            timer: None,
        }
    }

    fn turn(&self) -> Duration {
        (self.parts.settings.interval * TURN_INTERVALS).max(LEAST_TURN)
    }

    fn beat(&mut self, context: &mut Context<Self>) {
        let now = self.parts.clock.now();
        let doing = match self.waits {
            Some(Waits::Asks { since }) => {
                let patience = self.parts.pulse.patience();
                patience.judge(Wait::Database, since, now)
            }
            Some(Waits::Pauses { until }) if self.backoff.failures() > 0 => {
                judge_timer(Wait::Database, until, now)
            }
            Some(Waits::Pauses { until }) => judge_timer(Wait::Time, until, now),
            None => Doing::Stalled("nothing is under way"),
        };
        self.parts.pulse.says(doing, now);
        context.run_later(BEAT_EVERY, Self::beat);
    }

    fn go_on(&mut self, context: &mut Context<Self>) {
        self.waits = None;
        self.timer = None;
        let now = self.parts.clock.now();
        if now >= self.look_at {
            self.look(now, context);
        } else if let Some(outbox) = self.due.pop_front() {
            self.remove(outbox, now, context);
        } else {
            self.go_on_in(self.look_at.since(now), context);
        }
    }

    fn go_on_in(&mut self, pause: Duration, context: &mut Context<Self>) {
        if fault::forgets("retention.timer") {
            return;
        }
        let until = self.parts.clock.now() + pause;
        self.waits = Some(Waits::Pauses { until });
        self.timer = Some(context.run_later(pause, Self::go_on));
    }

    // === Looking ===

    fn look(&mut self, now: Moment, context: &mut Context<Self>) {
        self.waits = Some(Waits::Asks { since: now });
        self.look_at = now + self.parts.settings.interval;
        let (store, node) = (Arc::clone(&self.parts.store), Arc::clone(&self.parts.node));
        let (turn, of_file) = (self.turn(), Arc::clone(&self.parts.of_file));
        let look = self
            .parts
            .workers
            .spawn(async move { store.survey(&node, turn, &of_file).await });
        context.spawn(
            look.into_actor(self)
                .map(move |answer, retention, context| {
                    let answer = answer.unwrap_or_else(|error| Err(task_ended(&error)));
                    retention.looked(answer, context);
                }),
        );
    }

    fn looked(&mut self, answer: Result<Survey, StoreError>, context: &mut Context<Self>) {
        fault::point("retention.Looked");
        self.waits = None;
        match answer {
            Ok(Survey::Ours(outboxes)) => {
                self.works();
                self.follow(&outboxes);
                self.show(true, None, &outboxes);
                let due = outboxes.into_iter().filter(KeptOutbox::is_due);
                self.due = due.collect();
            }
            Ok(Survey::NotOurs) => {
                self.works();
                self.sweeping.clear();
                self.show(false, None, &[]);
                self.due.clear();
            }
            Err(error) => return self.failed(&error, context),
        }
        self.go_on(context);
    }

    /// How far the sweeps that are under way have come by this look.
    fn follow(&mut self, outboxes: &[KeptOutbox]) {
        let now = self.parts.clock.now();
        self.looked_at = now;
        let mut before = std::mem::take(&mut self.sweeping);
        for outbox in outboxes.iter().filter(|outbox| outbox.is_due()) {
            if let Some(mut sweeping) = before.remove(&outbox.id) {
                sweeping.looked(outbox, now);
                self.sweeping.insert(outbox.id, sweeping);
            }
        }
    }

    /// How far the sweep of an outbox has come, if one is under way.
    fn sweep_of(&self, outbox: OutboxId) -> Option<SweepStatus> {
        let sweeping = self.sweeping.get(&outbox)?;
        let now = self.parts.clock.now();
        Some(SweepStatus {
            deleted_rows: sweeping.rows(),
            seconds: sweeping.lasts(now).as_secs_f64(),
            part: sweeping.part(),
            left_seconds: sweeping.remains(now).map(|left| left.as_secs_f64()),
        })
    }

    fn show(&self, sweeps: bool, problem: Option<String>, outboxes: &[KeptOutbox]) {
        let held = |outbox: &KeptOutbox| -> Vec<HoldStatus> {
            let holds = outbox.holds.iter().map(|hold| HoldStatus {
                pipeline: Arc::clone(&hold.pipeline),
                disabled: hold.disabled,
                held_seconds: hold.held_for.as_secs_f64(),
            });
            holds.collect()
        };
        let shown = outboxes.iter().map(|outbox| KeptStatus {
            outbox: Arc::clone(&outbox.name),
            retention_hours: outbox.retention.map(|most| most.as_secs() / 3600),
            oldest_row_seconds: outbox.oldest.map(|age| age.as_secs_f64()),
            held_by: held(outbox),
            sweep: self.sweep_of(outbox.id),
        });
        self.parts.board.set_retention(RetentionStatus {
            database: Arc::clone(&self.parts.database),
            sweeps,
            problem,
            outboxes: shown.collect(),
        });
        let kept = outboxes.iter().map(|outbox| KeptRows {
            outbox: &outbox.name,
            oldest: outbox.oldest.unwrap_or_default(),
            held: outbox
                .holds
                .iter()
                .map(|hold| HeldRows {
                    pipeline: &hold.pipeline,
                    held_for: hold.held_for,
                })
                .collect(),
        });
        let kept: Vec<KeptRows<'_>> = kept.collect();
        let kept = sweeps.then_some(&*kept);
        self.parts.metrics.retention(&self.parts.database, kept);
    }

    // === Deleting ===

    fn remove(&mut self, outbox: KeptOutbox, now: Moment, context: &mut Context<Self>) {
        self.waits = Some(Waits::Asks { since: now });
        let readers = self.parts.of_file.iter();
        let of_file: Vec<PipelineName> = readers
            .filter(|reader| reader.outbox == outbox.name)
            .map(|reader| Arc::clone(&reader.pipeline))
            .collect();
        let (store, rows) = (
            Arc::clone(&self.parts.store),
            self.parts.settings.batch_rows,
        );
        let id = outbox.id;
        let batch = self
            .parts
            .workers
            .spawn(async move { store.remove_batch(id, &of_file, rows).await });
        context.spawn(
            batch
                .into_actor(self)
                .map(move |answer, retention, context| {
                    let answer = answer.unwrap_or_else(|error| Err(task_ended(&error)));
                    retention.removed(outbox, answer, now, context);
                }),
        );
    }

    fn removed(
        &mut self,
        outbox: KeptOutbox,
        answer: Result<BatchDone, StoreError>,
        asked_at: Moment,
        context: &mut Context<Self>,
    ) {
        fault::point("retention.Removed");
        self.waits = None;
        let took = self.parts.clock.now().since(asked_at);
        let done = match answer {
            Ok(done) => done,
            Err(error) => return self.failed(&error, context),
        };
        self.works();
        if done.rows > 0 {
            let database = &self.parts.database;
            self.parts
                .metrics
                .rows_removed(database, &outbox.name, done.rows);
            tracing::debug!(%database, outbox = %outbox.name, rows = done.rows, ?took, "rows were removed after their retention");
        }
        self.count(&outbox, done);
        if done.more {
            // Behind the others: an outbox with much to delete delays none.
            self.due.push_back(outbox);
        }
        self.go_on_in(self.parts.settings.pause.max(took), context);
    }

    /// Counts what a batch has done for those who wait for the sweep's end.
    fn count(&mut self, outbox: &KeptOutbox, done: BatchDone) {
        if done.more {
            let begun = || Sweeping::begin(outbox, self.looked_at);
            let sweeping = self.sweeping.entry(outbox.id).or_insert_with(begun);
            sweeping.deleted(done.rows);
        } else if self.sweeping.remove(&outbox.id).is_none() {
            return;
        }
        let sweep = self.sweep_of(outbox.id);
        let (board, database) = (&self.parts.board, &self.parts.database);
        board.set_sweep(database, &outbox.name, sweep);
    }

    fn works(&mut self) {
        if self.backoff.failures() > 0 {
            tracing::info!(database = %self.parts.database, "retention works again");
        }
        self.backoff.reset();
        self.parts.pulse.progress();
    }

    fn failed(&mut self, error: &StoreError, context: &mut Context<Self>) {
        if self.backoff.failures() == 0 {
            tracing::warn!(
                database = %self.parts.database, %error,
                "rows that have outlived their retention cannot be removed; trying again"
            );
        }
        self.due.clear();
        self.sweeping.clear();
        self.show(false, Some(error.to_string()), &[]);
        let pause = self.backoff.after_failure(fastrand::f64());
        self.look_at = self.parts.clock.now() + pause;
        self.go_on_in(pause, context);
    }
}

fn task_ended(error: &tokio::task::JoinError) -> StoreError {
    StoreError::Unavailable(format!("the task ended: {error}"))
}

impl Actor for Retention {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        self.beat(context);
        self.go_on(context);
    }
}

impl Handler<SweepBy> for Retention {
    type Result = ();

    fn handle(&mut self, message: SweepBy, context: &mut Self::Context) {
        fault::point("retention.SweepBy");
        self.parts.settings = message.settings;
        self.parts.of_file = message.of_file;
        self.look_at = self.parts.clock.now();
        if let Some(timer) = self.timer.take() {
            context.cancel_future(timer);
            self.go_on(context);
        }
    }
}

impl Handler<StopNow> for Retention {
    type Result = ();

    fn handle(&mut self, _: StopNow, context: &mut Self::Context) {
        self.note.write(Exit::Stopped);
        context.stop();
    }
}
