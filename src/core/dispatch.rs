//! One shard's writer without its actor: what to send, when, and what an answer
//! means.
//!
//! States: *idle* (a call may go as soon as the budget allows), *in flight* (one
//! call, never more), *backing off* (the last call failed as a whole). Rows that
//! were not confirmed go back to the head of their keys before anything else
//! happens, so no order can be lost between two calls.
//!
//! A record of several rows was gathered for the hash keys of this shard. When the
//! service put it into another one (the stream was resharded, or it does not go by
//! keys), consumers may leave out what does not belong there: such a record is
//! *misplaced*, its rows go again, and for a while each row is a record of its own,
//! which is right wherever it goes.

mod answer;
mod next;
mod search;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::backoff::Backoff;
use super::budget::{CallNumber, Cost, Grant, ShardBudget, ShardLimits};
use super::company::Company;
use super::invariants::{self, Invariant, Violation, Violations};
use super::ports::{CallFailure, RecordOutcome};
use super::sabotage::{self, Bug};
use super::send_queue::{CallRules, Flow, FlowId, Parcel, SendQueue, Sendable, Sharing, Turn};
use super::shard_map::ShardId;
use super::tenant::Limit;
use super::time::Moment;

pub use answer::{Answer, Rejected, Stored};
pub use next::{Delay, Next};

/// The most a PutRecords call takes: 500 records and 10 MiB with partition keys
/// (`docs.aws.amazon.com/kinesis/latest/APIReference/API_PutRecords.html`).
pub const CALL_LIMIT: Cost = Cost {
    records: 500,
    bytes: 10 * 1024 * 1024,
};

/// Something passing went wrong: try again soon.
const SOON: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// Somebody must act: try slowly.
const SLOWLY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// After a record was misplaced no rows share one for so long: the shard is gone, and
/// the router will have heard of it by then.
const ROWS_APART_FOR: Duration = Duration::from_secs(60);

/// No call has more rows, in records of many: a bound for what one answer settles.
const MOST_ROWS: usize = 100_000;

/// So many records in a row may be blamed without one that was stored. Whoever
/// refuses more does not refuse these records: what is asked for is not accepted
/// at all (a stream's name, a proxy), and giving up on record after record would
/// empty the outbox into the dead letters.
pub const MOST_UNWITNESSED: usize = 10;

/// The budget of a shard, shared by all that write to it.
pub type SharedBudget = Arc<Mutex<ShardBudget>>;

/// The state of one writer.
#[derive(Debug)]
pub struct Dispatch<T> {
    queue: SendQueue<T>,
    shard: ShardId,
    budget: SharedBudget,
    in_flight: Vec<Parcel<T>>,
    /// The call in flight, as the budget knows it.
    call: CallNumber,
    passing: Backoff,
    lasting: Backoff,
    not_before: Moment,
    company: Company,
    most_rows: usize,
    /// Told that it is not sure what hash keys the shard takes.
    is_guessed: bool,
    rows_apart_until: Option<Moment>,
    /// Rows of a refused call that may be the one that spoils it.
    suspects: usize,
    /// Rows given up since one was stored.
    unwitnessed: usize,
    violations: Violations,
    #[cfg(feature = "demo")]
    was_partial: bool,
}

impl<T: Sendable> Dispatch<T> {
    /// An idle writer of a shard with this budget.
    #[must_use]
    pub fn new(shard: ShardId, budget: SharedBudget, now: Moment) -> Self {
        Self {
            queue: SendQueue::default(),
            shard,
            budget,
            in_flight: Vec::new(),
            call: 0,
            passing: Backoff::new(SOON.0, SOON.1),
            lasting: Backoff::new(SLOWLY.0, SLOWLY.1),
            not_before: now,
            company: Company::new(),
            most_rows: MOST_ROWS,
            is_guessed: false,
            rows_apart_until: None,
            suspects: 0,
            unwitnessed: 0,
            violations: Violations::default(),
            #[cfg(feature = "demo")]
            was_partial: false,
        }
    }

    /// Adds a row behind the earlier ones of its key.
    pub fn push(&mut self, flow: &Flow, row: T) {
        self.queue.push(flow, row);
    }

    /// Rows are about to be added that may wait so long for more.
    pub fn may_wait(&mut self, patience: Duration) {
        self.company.joined(patience);
    }

    /// Drops the waiting rows of flows that are void.
    pub fn purge(&mut self, is_void: impl Fn(FlowId) -> bool) -> usize {
        let void: Vec<FlowId> = self.queue.flows().filter(|flow| is_void(*flow)).collect();
        void.into_iter().map(|flow| self.queue.purge(flow)).sum()
    }

    /// Takes the rows of a flow out that are certainly not in the stream, see
    /// [`SendQueue::recall`].
    pub fn recall(&mut self, flow: FlowId) -> Vec<T> {
        self.queue.recall(flow)
    }

    /// Takes everything out that waits, of each flow in order for each key; `None`
    /// while a call is in flight: what becomes of its rows is not known yet.
    pub fn hand_over(&mut self) -> Option<Vec<(FlowId, Vec<T>)>> {
        self.in_flight.is_empty().then(|| self.queue.drain())
    }

    /// What calls failed of has been mended: the next one need not wait.
    pub const fn try_now(&mut self, now: Moment) {
        self.not_before = now;
        self.lasting.reset();
    }

    /// Whether the hash keys of the shard are guessed: then no record holds rows of
    /// two, and which shard took it says nothing.
    pub const fn guesses_range(&mut self, is_guessed: bool) {
        self.is_guessed = is_guessed;
    }

    /// The records of the call in flight.
    #[must_use]
    pub fn in_flight(&self) -> &[Parcel<T>] {
        &self.in_flight
    }

    /// Rows waiting, those in flight not counted.
    #[must_use]
    pub const fn queued(&self) -> usize {
        self.queue.len()
    }

    /// The flows whose rows wait, and what for.
    pub fn waiting_flows(&self) -> impl Iterator<Item = (FlowId, Limit)> + '_ {
        self.queue.waiting_flows()
    }

    /// Bytes waiting, those in flight not counted.
    #[must_use]
    pub const fn queued_bytes(&self) -> usize {
        self.queue.bytes()
    }

    /// The budget, locked. A panic while it was locked leaves plain numbers.
    pub fn budget(&self) -> MutexGuard<'_, ShardBudget> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides what to do now; with [`Next::Call`] the call counts as begun.
    pub fn next(&mut self, now: Moment) -> Next {
        if !self.in_flight.is_empty() || self.queue.is_empty() {
            return Next::Nothing;
        }
        if now < self.not_before {
            return Next::Wait(self.not_before, Delay::Shard);
        }
        let waiting = self.queue.waiting();
        if waiting.all.records == 0 {
            return Next::Nothing;
        }
        let (rows, bytes) = (self.queue.len(), self.queue.bytes());
        let until = self.company.until(rows, bytes, now);
        // What a call failed of has waited enough, and a full record gets no fuller.
        let goes = || self.queue.has_failed_rows() || self.queue.fills_a_record();
        if let Some(until) = until.filter(|_| !goes()) {
            return Next::Wait(until, Delay::Company);
        }
        // Locked until the call is paid for: others may spend of it as well.
        let budget = Arc::clone(&self.budget);
        let mut budget = budget.lock().unwrap_or_else(PoisonError::into_inner);
        // A reload may change the limits before the call is answered: it is judged by
        // those it was granted under.
        let limits = budget.window(now);
        let most = match budget.grant(waiting, now) {
            Grant::At(moment) => return Next::Wait(moment, Delay::Shard),
            Grant::Now(most) => most,
        };
        let rules = CallRules {
            limit: CALL_LIMIT,
            rows: self.most_rows,
            sharing: match self.rows_apart_until {
                Some(until) if now < until => Sharing::Nothing,
                Some(_) | None if self.is_guessed => Sharing::OneKey,
                Some(_) | None => Sharing::AllKeys,
            },
            record_worth: record_worth(limits),
        };
        let before = self.in_flight.len();
        self.in_flight = self.queue.take(most, rules);
        let taken = rows - self.queue.len();
        self.company.called(now, taken, self.queue.len());
        let cost = Cost {
            records: self.in_flight.len() as u64,
            bytes: self
                .in_flight
                .iter()
                .map(|parcel| parcel.weight() as u64)
                .sum(),
        };
        self.call = budget.charge(cost, now);
        let offered = budget.offered_lately();
        drop(budget);
        self.check_call(before, offered, limits);
        Next::Call
    }

    fn check_call(&mut self, before: usize, offered: Cost, limits: ShardLimits) {
        let keys = self.in_flight.iter().flat_map(|parcel| {
            let flow = parcel.flow;
            parcel.hashes().map(move |hash| (flow, hash))
        });
        let is_one_per_key = invariants::one_per_key(keys);
        let found = &mut self.violations;
        found.check(
            Invariant::OrderOneCall,
            invariants::one_call(before),
            || format!("a call begins while {before} records are in flight"),
        );
        found.check(Invariant::OrderOnePerKey, is_one_per_key, || {
            "a call carries two records of one key".to_owned()
        });
        found.check(
            Invariant::Budget,
            invariants::within_budget(offered, limits),
            || format!("{offered:?} offered within a second of {limits:?}"),
        );
    }

    /// Whether rows wait, and all of them behind a record of their key that is in
    /// flight: a call cannot take more, whatever the budget.
    pub fn is_key_limited(&mut self) -> bool {
        !self.in_flight.is_empty()
            && !self.queue.is_empty()
            && self.queue.waiting().all.records == 0
    }

    /// Invariants that did not hold since this was asked last.
    pub fn take_violations(&mut self) -> Vec<Violation> {
        self.violations.take()
    }

    /// The records of the call in flight were made and weigh so much, each at most
    /// what it was taken for: the budget gets the rest back.
    pub fn weighed(&mut self, weights: &[usize]) {
        let mut saved = 0;
        for (parcel, weight) in self.in_flight.iter_mut().zip(weights) {
            saved += parcel.weight().saturating_sub(*weight);
            parcel.weighed(*weight);
        }
        if saved > 0 {
            let bytes = self.in_flight.iter().map(|parcel| parcel.weight() as u64);
            let bytes = bytes.sum();
            self.budget().was_lighter(self.call, bytes);
        }
    }

    /// The call in flight has come back.
    pub fn answered(
        &mut self,
        answer: Result<Vec<RecordOutcome>, CallFailure>,
        now: Moment,
        random: f64,
    ) -> Answer<T> {
        let mut sent = std::mem::take(&mut self.in_flight);
        self.budget().answered(self.call, now);
        match answer {
            Ok(outcomes) if outcomes.len() == sent.len() => {
                let outcomes = self.mistaken(outcomes);
                self.answered_each(sent, outcomes, now, random)
            }
            Ok(outcomes) => {
                let reason = format!("{} results for {} records", outcomes.len(), sent.len());
                sent.iter_mut().for_each(Parcel::doubt);
                self.answered_none(sent, CallFailure::Unknown { reason }, now, random)
            }
            Err(failure) => {
                if matches!(failure, CallFailure::Unknown { .. }) {
                    sent.iter_mut().for_each(Parcel::doubt);
                }
                self.answered_none(sent, failure, now, random)
            }
        }
    }

    fn answered_each(
        &mut self,
        sent: Vec<Parcel<T>>,
        outcomes: Vec<RecordOutcome>,
        now: Moment,
        random: f64,
    ) -> Answer<T> {
        let offered = sent.len();
        #[cfg(feature = "demo")]
        let mut throttled_bytes = 0;
        let mut answer = Answer::nothing();
        let mut stored_rows = 0;
        for (mut parcel, outcome) in sent.into_iter().zip(outcomes) {
            match outcome {
                RecordOutcome::Stored { shard, sequence } => {
                    if shard != self.shard {
                        answer.surprise = Some(shard.clone());
                    }
                    if self.is_misplaced(&parcel, &shard) {
                        parcel.doubt();
                        answer.misplaced += parcel.len();
                        self.rows_apart_until = Some(now + ROWS_APART_FOR);
                        self.queue.failed(parcel, Turn::Next);
                        continue;
                    }
                    for hash in parcel.hashes() {
                        self.queue.confirmed(parcel.flow, hash);
                    }
                    stored_rows += parcel.len();
                    answer.stored.push(Stored {
                        parcel,
                        shard,
                        sequence,
                    });
                }
                RecordOutcome::Throttled => {
                    answer.throttled += 1;
                    #[cfg(feature = "demo")]
                    {
                        throttled_bytes += parcel.weight() as u64;
                    }
                    self.queue.failed(parcel, Turn::Next);
                }
                RecordOutcome::Failed { .. } => {
                    answer.failed += 1;
                    self.queue.failed(parcel, Turn::Next);
                }
            }
        }
        self.budget().refused(answer.throttled, offered, now);
        #[cfg(feature = "demo")]
        if sabotage::is(Bug::RefundThrottled) {
            self.budget().refund(Cost {
                records: answer.throttled as u64,
                bytes: throttled_bytes,
            });
        }
        if answer.stored.is_empty() && answer.failed > 0 {
            self.not_before = now + self.passing.after_failure(random);
        } else {
            self.passing.reset();
            self.lasting.reset();
        }
        if !answer.stored.is_empty() {
            self.unwitnessed = 0;
        }
        self.suspects = self.suspects.saturating_sub(stored_rows);
        self.most_rows = match self.suspects {
            0 => (self.most_rows * 2).min(MOST_ROWS),
            // The bad row is among the rest: no larger call before it is found.
            rest => rest.div_ceil(2),
        };
        answer
    }

    /// Whether a record is in a shard where consumers may leave rows of it out.
    #[must_use]
    pub fn is_misplaced(&self, parcel: &Parcel<T>, shard: &ShardId) -> bool {
        let is_guess = self.is_guessed && parcel.has_one_key();
        let is_right = parcel.len() == 1 || *shard == self.shard || is_guess;
        !is_right && !sabotage::is(Bug::MisplacedIsDelivered)
    }

    /// A rejected row is given up alone: the next of its key may go.
    pub fn pass_over(&mut self, flow: FlowId, hash: u128) {
        self.queue.confirmed(flow, hash);
    }

    /// A rejected row is given up with all that waits behind it of its key.
    pub fn take_key(&mut self, flow: FlowId, hash: u128) -> Vec<T> {
        self.queue.take_key(flow, hash)
    }

    fn answered_none(
        &mut self,
        sent: Vec<Parcel<T>>,
        failure: CallFailure,
        now: Moment,
        random: f64,
    ) -> Answer<T> {
        let mut answer = Answer::nothing();
        let offered = sent.len();
        let pause = match failure {
            CallFailure::Throttled { .. } => {
                self.budget().refused(offered, offered, now);
                answer.throttled = offered;
                self.passing.after_failure(random)
            }
            CallFailure::Unknown { .. } if sabotage::is(Bug::UnknownIsDelivered) => {
                return self.answered_each(sent, taken_as_stored(offered), now, random);
            }
            CallFailure::Unknown { .. } => {
                answer.unknown = offered;
                self.passing.after_failure(random)
            }
            CallFailure::Credentials { .. } | CallFailure::Operator { .. } => {
                answer.refused = offered;
                self.lasting.after_failure(random)
            }
            CallFailure::BadRecord { code, message } => {
                if self.unwitnessed >= MOST_UNWITNESSED {
                    return self.look_for_a_witness(sent, now, random);
                }
                return self.search_bad_record(sent, code, message);
            }
        };
        self.not_before = now + pause;
        self.give_back(sent);
        answer
    }

    /// The outcomes, unless a mistake is to be made with them.
    #[cfg(feature = "demo")]
    fn mistaken(&mut self, mut outcomes: Vec<RecordOutcome>) -> Vec<RecordOutcome> {
        let is_stored = |outcome: &RecordOutcome| matches!(outcome, RecordOutcome::Stored { .. });
        let is_partial = !outcomes.iter().all(is_stored);
        if is_partial && self.was_partial && sabotage::is(Bug::WrongIndexOnRetry) {
            outcomes.rotate_left(1);
        }
        if is_partial && sabotage::is(Bug::ResendWholeBatch) {
            outcomes.fill(RecordOutcome::Throttled);
        }
        self.was_partial = is_partial;
        outcomes
    }

    #[cfg(not(feature = "demo"))]
    const fn mistaken(&self, outcomes: Vec<RecordOutcome>) -> Vec<RecordOutcome> {
        outcomes
    }

    fn give_back(&mut self, sent: Vec<Parcel<T>>) {
        for parcel in sent {
            self.queue.failed(parcel, Turn::Next);
        }
    }
}

/// What a record is of a shard's records, in bytes of a shard's bytes.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "from 1 to 2^20"
)]
fn record_worth(limits: ShardLimits) -> usize {
    let bytes = limits.bytes_per_second / limits.records_per_second;
    bytes.clamp(1.0, 1_048_576.0) as usize
}

/// What [`Bug::UnknownIsDelivered`] takes for the answer.
fn taken_as_stored(records: usize) -> Vec<RecordOutcome> {
    let stored = RecordOutcome::Stored {
        shard: ShardId::from(""),
        sequence: String::new(),
    };
    vec![stored; records]
}

#[cfg(test)]
mod tests;
