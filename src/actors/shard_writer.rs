//! The actor that sends to one shard, for all pipelines of its stream.
//!
//! It holds a [`Dispatch`] and does what that decides: one call in flight, sent
//! from a task of its own so that the actor stays free; a timer when the budget
//! or a pause says "not before". Rows are kept here while their call is in
//! flight: if this actor dies, their tickets tell their readers.

mod handing_over;
mod limits;
mod orders;
mod recalling;
mod records;
mod settling;
mod showing;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, ActorFutureExt, Addr, AsyncContext, Context, Handler, SpawnHandle, WrapFuture};
use tokio::runtime::Handle;

use super::child::{Exit, ExitNote};
use super::clock::Clock;
use super::fault;
use super::messages::{
    Batch, Orders, Outcomes, PurgeVoid, Purpose, RoutedRow, StopNow, UnexpectedShard,
};
use super::permits::FlowTag;
use super::pulse::Pulse;
use super::stream_router::{StreamKey, StreamRouter};
use super::violations;
use crate::admin::metrics::{CallOutcome, Metrics, ShardMetrics};
use crate::admin::status::{StatusBoard, WaitStatus};
use crate::core::dispatch::{Answer, Delay, Dispatch, Next, SharedBudget};
use crate::core::hot_keys::{HotKeys, WATCHED};
use crate::core::ports::{CallFailure, RecordOutcome, StreamService};
use crate::core::routing::HandoverId;
use crate::core::send_queue::{FlowId, Parcel};
use crate::core::shard_map::ShardId;
use crate::core::time::Moment;
use limits::WaitingTenants;
use records::{Made, Making};

/// What a writer is made of.
#[derive(Clone)]
pub struct WriterParts {
    /// The stream it belongs to.
    pub stream: StreamKey,
    /// Its shard.
    pub shard: ShardId,
    /// Where it sends.
    pub service: Arc<dyn StreamService>,
    /// What the shard takes.
    pub budget: SharedBudget,
    /// Whom to tell of surprises.
    pub router: Addr<StreamRouter>,
    /// Its metrics.
    pub metrics: ShardMetrics,
    /// The metrics of the process.
    pub all_metrics: Metrics,
    /// Where its state is shown.
    pub board: Arc<StatusBoard>,
    /// The clock.
    pub clock: Clock,
    /// Its signs of life.
    pub pulse: Pulse,
    /// Where what takes time is spawned.
    pub workers: Handle,
}

/// The writer of one shard.
pub struct ShardWriter {
    parts: WriterParts,
    note: ExitNote,
    dispatch: Dispatch<RoutedRow>,
    /// When the call in flight began.
    called_at: Moment,
    tags: BTreeMap<FlowId, Arc<FlowTag>>,
    timer: Option<(Moment, SpawnHandle)>,
    /// What it decided to wait for last.
    delay: Option<Delay>,
    last_sequence: String,
    trouble: Option<String>,
    /// Its queue is to go back to the router when the call in flight has ended.
    giving_back: Option<HandoverId>,
    orders: Orders,
    waits: Option<WaitStatus>,
    hot_keys: HotKeys,
    limits: WaitingTenants,
}

struct CallDone {
    made: Made,
    took: Duration,
}

impl ShardWriter {
    /// An idle writer.
    #[must_use]
    pub fn new(parts: WriterParts, note: ExitNote) -> Self {
        let now = parts.clock.now();
        let dispatch = Dispatch::new(parts.shard.clone(), Arc::clone(&parts.budget), now);
        Self {
            called_at: now,
            parts,
            note,
            dispatch,
            tags: BTreeMap::new(),
            timer: None,
            delay: None,
            last_sequence: String::new(),
            trouble: None,
            giving_back: None,
            orders: Orders::default(),
            waits: None,
            hot_keys: HotKeys::new(WATCHED, now),
            limits: WaitingTenants::new(now),
        }
    }

    fn go_on(&mut self, context: &mut Context<Self>) {
        self.purge_void();
        self.give_back_recalled();
        if let Some(handover) = self.giving_back {
            self.give_back(handover);
            return;
        }
        if self.orders.hold {
            return;
        }
        self.delay = None;
        match self.dispatch.next(self.parts.clock.now()) {
            Next::Call => self.send(context),
            Next::Wait(until, delay) => {
                self.delay = Some(delay);
                self.wake_at(until, context);
            }
            Next::Nothing => {}
        }
        self.note_limits();
        let found = self.dispatch.take_violations();
        violations::report(&self.parts.all_metrics, &self.parts.shard, found);
    }

    fn purge_void(&mut self) {
        if !self.tags.values().any(|tag| tag.is_void()) {
            return;
        }
        let tags = &self.tags;
        self.dispatch
            .purge(|flow| tags.get(&flow).is_none_or(|tag| tag.is_void()));
        self.tags.retain(|_, tag| !tag.is_void());
    }

    fn wake_at(&mut self, until: Moment, context: &mut Context<Self>) {
        if let Some((set_for, handle)) = self.timer.take() {
            if set_for == until {
                self.timer = Some((set_for, handle));
                return;
            }
            context.cancel_future(handle);
        }
        if fault::forgets("shard_writer.timer") {
            return;
        }
        let pause = until.since(self.parts.clock.now());
        let handle = context.run_later(pause, |writer, context| {
            writer.timer = None;
            writer.go_on(context);
        });
        self.timer = Some((until, handle));
    }

    fn send(&mut self, context: &mut Context<Self>) {
        let is_key_limited = self.dispatch.is_key_limited();
        self.parts.metrics.key_limited(is_key_limited);
        let in_flight = self.dispatch.in_flight();
        let records: Vec<Making> = in_flight.iter().map(Making::of).collect();
        let service = Arc::clone(&self.parts.service);
        let began = self.parts.clock.now();
        self.called_at = began;
        let call = self.parts.workers.spawn(records::put(service, records));
        let clock = self.parts.clock;
        let done = async move {
            let made = call.await.unwrap_or_else(|error| {
                let reason = format!("the call's task ended: {error}");
                Made {
                    weights: Vec::new(),
                    answer: Err(CallFailure::Unknown { reason }),
                }
            });
            let took = clock.now().since(began);
            CallDone { made, took }
        };
        context.spawn(done.into_actor(self).map(|done, writer, context| {
            writer.call_done(done, context);
        }));
    }

    fn call_done(&mut self, done: CallDone, context: &mut Context<Self>) {
        fault::point("shard_writer.CallDone");
        fault::strike("shard_writer", self.parts.stream.name());
        let Made { weights, answer } = done.made;
        self.dispatch.weighed(&weights);
        let in_flight = self.dispatch.in_flight();
        let bytes: usize = in_flight.iter().map(Parcel::weight).sum();
        self.parts.metrics.offered(in_flight.len(), bytes);
        self.note_trouble(&answer);
        self.count_records(&answer);
        self.tell_of_refusal(&answer);
        let offered = self.dispatch.in_flight().len();
        let outcome = call_outcome(&answer);
        let random = fastrand::f64();
        let answer = self
            .dispatch
            .answered(answer, self.parts.clock.now(), random);
        self.parts.metrics.call(outcome, done.took);
        self.report_call(&answer, offered);
        self.say_where(&answer);
        self.settle(answer);
        self.go_on(context);
    }

    /// Says once that calls fail, and once that they succeed again. Being
    /// throttled is no trouble: the budget deals with it.
    fn note_trouble(&mut self, answer: &Result<Vec<RecordOutcome>, CallFailure>) {
        let now = match answer {
            Ok(_) => None,
            Err(CallFailure::Throttled { .. }) => return,
            Err(failure) => Some(failure.shown()),
        };
        let (stream, shard) = (&self.parts.stream, &self.parts.shard);
        match (&self.trouble, &now) {
            (None, Some(failure)) => {
                tracing::warn!(%stream, %shard, %failure, "calls fail; trying again");
            }
            (Some(_), None) => tracing::info!(%stream, %shard, "calls succeed again"),
            (None, None) | (Some(_), Some(_)) => {}
        }
        if self.trouble != now {
            self.trouble = now;
            self.show();
        }
    }

    fn report_call(&mut self, answer: &Answer<RoutedRow>, offered: usize) {
        let bytes: usize = answer
            .stored
            .iter()
            .map(|stored| stored.parcel.weight())
            .sum();
        self.parts.metrics.accepted(answer.stored.len(), bytes);
        if answer.throttled > 0 {
            self.parts.metrics.throttled(answer.throttled);
            tracing::debug!(shard = %self.parts.shard, throttled = answer.throttled, offered, "throttled");
        }
        if let Some(shard) = &answer.surprise {
            let message = UnexpectedShard {
                shard: shard.clone(),
            };
            if self.parts.router.try_send(message).is_err() {
                tracing::debug!(shard = %self.parts.shard, "the router is gone");
            }
        }
        let highest = answer.stored.iter().map(|stored| &stored.sequence);
        let highest = highest.max_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
        let Some(highest) = highest.filter(|_| answer.surprise.is_none()) else {
            return;
        };
        let (new, old) = (
            (highest.len(), highest),
            (self.last_sequence.len(), &self.last_sequence),
        );
        if new < old {
            self.parts.metrics.sequence_regressed();
        } else {
            self.last_sequence.clone_from(highest);
        }
    }
}

/// What of these rows may be sent: rows of rejected keys go back to their reader.
fn without_rejected(tag: &Arc<FlowTag>, rows: Vec<RoutedRow>) -> Vec<RoutedRow> {
    if tag.rejected_keys.is_empty() {
        return rows;
    }
    let is_unsent = |row: &RoutedRow| tag.rejected_keys.contains(row.envelope.hash);
    let (unsent, rows): (Vec<_>, Vec<_>) = rows.into_iter().partition(is_unsent);
    if !unsent.is_empty() {
        let outcomes = Outcomes {
            unsent,
            ..Outcomes::default()
        };
        tell(tag, outcomes);
    }
    rows
}

fn tell(tag: &Arc<FlowTag>, mut outcomes: Outcomes) {
    if fault::forgets("shard_writer.tell") {
        return;
    }
    let rejected = outcomes.rejected.iter_mut().map(|one| &mut one.row);
    let back = outcomes.unsent.iter_mut().chain(&mut outcomes.recalled);
    for row in rejected.chain(back) {
        row.ticket.leave();
    }
    if tag.reader.try_send(outcomes).is_err() {
        tracing::debug!(pipeline = %tag.pipeline, "outcomes of a reader that is gone");
    }
}

fn call_outcome(answer: &Result<Vec<RecordOutcome>, CallFailure>) -> CallOutcome {
    match answer {
        Ok(outcomes) => {
            let all = outcomes
                .iter()
                .all(|outcome| matches!(outcome, RecordOutcome::Stored { .. }));
            if all {
                CallOutcome::Stored
            } else {
                CallOutcome::Partial
            }
        }
        Err(CallFailure::Throttled { .. }) => CallOutcome::Throttled,
        Err(CallFailure::Unknown { .. }) => CallOutcome::Unknown,
        Err(CallFailure::Credentials { .. }) => CallOutcome::Credentials,
        Err(CallFailure::Operator { .. }) => CallOutcome::Operator,
        Err(CallFailure::BadRecord { .. }) => CallOutcome::BadRecord,
    }
}

impl Actor for ShardWriter {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        self.report(context);
    }
}

impl Handler<Batch> for ShardWriter {
    type Result = ();

    fn handle(&mut self, batch: Batch, context: &mut Self::Context) {
        fault::point("shard_writer.Batch");
        if batch.tag.is_void() {
            return;
        }
        let rows = without_rejected(&batch.tag, batch.rows);
        let is_live = rows.iter().all(|row| row.purpose == Purpose::Live);
        let patience = if is_live {
            batch.tag.patience.get()
        } else {
            Duration::ZERO
        };
        self.dispatch.may_wait(patience);
        for row in rows {
            self.dispatch.push(&batch.tag.flow, row);
        }
        self.tags.entry(batch.tag.flow.id).or_insert(batch.tag);
        self.go_on(context);
    }
}

impl Handler<PurgeVoid> for ShardWriter {
    type Result = ();

    fn handle(&mut self, _: PurgeVoid, context: &mut Self::Context) {
        fault::point("shard_writer.PurgeVoid");
        self.go_on(context);
    }
}

impl Handler<StopNow> for ShardWriter {
    type Result = ();

    fn handle(&mut self, _: StopNow, context: &mut Self::Context) {
        self.note.write(Exit::Stopped);
        actix::ActorContext::stop(context);
    }
}
