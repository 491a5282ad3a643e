//! One shard's writer without its actor: what to send, when, and what an answer
//! means.
//!
//! States: *idle* (a call may go as soon as the budget allows), *in flight* (one
//! call, never more), *backing off* (the last call failed as a whole). Rows that
//! were not confirmed go back to the head of their keys before anything else
//! happens, so no order can be lost between two calls.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::backoff::Backoff;
use super::budget::{CallNumber, Cost, Grant, ShardBudget, ShardLimits};
use super::invariants::{self, Invariant, Violation, Violations};
use super::ports::{CallFailure, RecordOutcome};
use super::sabotage::{self, Bug};
use super::send_queue::{Flow, FlowId, SendQueue, Sendable, Taken};
use super::shard_map::ShardId;
use super::time::Moment;

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

/// So many records in a row may be blamed without one that was stored. Whoever
/// refuses more does not refuse these records: what is asked for is not accepted
/// at all (a stream's name, a proxy), and giving up on record after record would
/// empty the outbox into the dead letters.
pub const MOST_UNWITNESSED: usize = 10;

/// The budget of a shard, shared by all that write to it.
pub type SharedBudget = Arc<Mutex<ShardBudget>>;

/// What a writer does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Send the rows of [`Dispatch::in_flight`] in one call.
    Call,
    /// Nothing may go before this moment.
    Wait(Moment),
    /// Nothing waits, or a call is in flight.
    Nothing,
}

/// A row that is in the stream.
#[derive(Debug)]
pub struct Stored<T> {
    /// The row.
    pub row: T,
    /// The shard it went to.
    pub shard: ShardId,
    /// Its sequence number there.
    pub sequence: String,
}

/// What became of the rows of a call.
#[derive(Debug)]
pub struct Answer<T> {
    /// In the stream.
    pub stored: Vec<Stored<T>>,
    /// Refused alone in a call: this very record is not acceptable. Nothing of its
    /// key goes before [`Dispatch::pass_over`] or [`Dispatch::take_key`].
    pub rejected: Option<Rejected<T>>,
    /// To be sent again because the shard was over its limit.
    pub throttled: usize,
    /// To be sent again because the service failed on them.
    pub failed: usize,
    /// To be sent again because it is not known whether they were stored.
    pub unknown: usize,
    /// To be sent again because the whole call was refused.
    pub refused: usize,
}

/// A record the service does not take.
#[derive(Debug)]
pub struct Rejected<T> {
    /// Whose it is.
    pub flow: FlowId,
    /// The row.
    pub row: T,
    /// The service's error code.
    pub code: String,
    /// The service's message.
    pub message: String,
}

/// The state of one writer.
#[derive(Debug)]
pub struct Dispatch<T> {
    queue: SendQueue<T>,
    budget: SharedBudget,
    in_flight: Vec<Taken<T>>,
    /// The call in flight, as the budget knows it.
    call: CallNumber,
    passing: Backoff,
    lasting: Backoff,
    not_before: Moment,
    most_records: usize,
    /// Rows of a refused call that may be the one that spoils it.
    suspects: usize,
    /// Records given up since one was stored.
    unwitnessed: usize,
    violations: Violations,
    #[cfg(feature = "demo")]
    was_partial: bool,
}

impl<T: Sendable> Dispatch<T> {
    /// An idle writer with this budget.
    #[must_use]
    pub fn new(budget: SharedBudget, now: Moment) -> Self {
        Self {
            queue: SendQueue::default(),
            budget,
            in_flight: Vec::new(),
            call: 0,
            passing: Backoff::new(SOON.0, SOON.1),
            lasting: Backoff::new(SLOWLY.0, SLOWLY.1),
            not_before: now,
            most_records: most_call_records(),
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

    /// Drops the waiting rows of flows that are void.
    pub fn purge(&mut self, is_void: impl Fn(FlowId) -> bool) -> usize {
        let void: Vec<FlowId> = self.queue.flows().filter(|flow| is_void(*flow)).collect();
        void.into_iter().map(|flow| self.queue.purge(flow)).sum()
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

    /// The rows of the call in flight.
    #[must_use]
    pub fn in_flight(&self) -> &[Taken<T>] {
        &self.in_flight
    }

    /// Rows waiting, those in flight not counted.
    #[must_use]
    pub const fn queued(&self) -> usize {
        self.queue.len()
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
            return Next::Wait(self.not_before);
        }
        let waiting = self.queue.waiting();
        if waiting.all.records == 0 {
            return Next::Nothing;
        }
        // Locked until the call is paid for: others may spend of it as well.
        let budget = Arc::clone(&self.budget);
        let mut budget = budget.lock().unwrap_or_else(PoisonError::into_inner);
        // A reload may change the limits before the call is answered: it is judged by
        // those it was granted under.
        let limits = budget.limits();
        let most = match budget.grant(waiting, now) {
            Grant::At(moment) => return Next::Wait(moment),
            Grant::Now(most) => most,
        };
        let call_limit = Cost {
            records: self.most_records as u64,
            bytes: CALL_LIMIT.bytes,
        };
        let before = self.in_flight.len();
        self.in_flight = self.queue.take(most, call_limit);
        let cost = Cost {
            records: self.in_flight.len() as u64,
            bytes: self
                .in_flight
                .iter()
                .map(|taken| taken.row.weight() as u64)
                .sum(),
        };
        self.call = budget.charge(cost, now);
        let offered = budget.offered_lately();
        drop(budget);
        self.check_call(before, offered, limits);
        Next::Call
    }

    fn check_call(&mut self, before: usize, offered: Cost, limits: ShardLimits) {
        let keys = self
            .in_flight
            .iter()
            .map(|taken| (taken.flow, taken.row.hash()));
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

    /// The call in flight has come back.
    pub fn answered(
        &mut self,
        answer: Result<Vec<RecordOutcome>, CallFailure>,
        now: Moment,
        random: f64,
    ) -> Answer<T> {
        let sent = std::mem::take(&mut self.in_flight);
        self.budget().answered(self.call, now);
        match answer {
            Ok(outcomes) if outcomes.len() == sent.len() => {
                let outcomes = self.mistaken(outcomes);
                self.answered_each(sent, outcomes, now, random)
            }
            Ok(outcomes) => {
                let reason = format!("{} results for {} records", outcomes.len(), sent.len());
                self.answered_none(sent, CallFailure::Unknown { reason }, now, random)
            }
            Err(failure) => self.answered_none(sent, failure, now, random),
        }
    }

    fn answered_each(
        &mut self,
        sent: Vec<Taken<T>>,
        outcomes: Vec<RecordOutcome>,
        now: Moment,
        random: f64,
    ) -> Answer<T> {
        let offered = sent.len();
        #[cfg(feature = "demo")]
        let mut throttled_bytes = 0;
        let mut answer = Answer::nothing();
        for (taken, outcome) in sent.into_iter().zip(outcomes) {
            match outcome {
                RecordOutcome::Stored { shard, sequence } => {
                    self.queue.confirmed(taken.flow, taken.row.hash());
                    answer.stored.push(Stored {
                        row: taken.row,
                        shard,
                        sequence,
                    });
                }
                RecordOutcome::Throttled => {
                    answer.throttled += 1;
                    #[cfg(feature = "demo")]
                    {
                        throttled_bytes += taken.row.weight() as u64;
                    }
                    self.queue.failed(taken.flow, taken.row);
                }
                RecordOutcome::Failed { .. } => {
                    answer.failed += 1;
                    self.queue.failed(taken.flow, taken.row);
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
        self.suspects = self.suspects.saturating_sub(answer.stored.len());
        self.most_records = match self.suspects {
            0 => (self.most_records * 2).min(most_call_records()),
            // The bad record is among the rest: no larger call before it is found.
            rest => rest.div_ceil(2),
        };
        answer
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
        sent: Vec<Taken<T>>,
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

    /// Halves the next call until the record that spoils it is alone. Suspects go
    /// first, and no call grows before they are cleared, so each refusal is of half
    /// the records of the one before: 500 are searched in at most 18 calls.
    fn search_bad_record(
        &mut self,
        mut sent: Vec<Taken<T>>,
        code: String,
        message: String,
    ) -> Answer<T> {
        let mut answer = Answer::nothing();
        if sent.len() == 1
            && let Some(alone) = sent.pop()
        {
            self.suspects = 0;
            self.unwitnessed += 1;
            self.most_records = most_call_records();
            answer.rejected = Some(Rejected {
                flow: alone.flow,
                row: alone.row,
                code,
                message,
            });
            return answer;
        }
        answer.refused = sent.len();
        self.suspects = sent.len();
        self.most_records = (sent.len() / 2).max(1);
        for taken in sent.into_iter().rev() {
            self.queue.failed_first(taken.flow, taken.row);
        }
        answer
    }

    /// No record is blamed any more: single ones are tried in turn, slowly, until
    /// one is stored.
    fn look_for_a_witness(&mut self, sent: Vec<Taken<T>>, now: Moment, random: f64) -> Answer<T> {
        let mut answer = Answer::nothing();
        answer.refused = sent.len();
        self.suspects = 0;
        self.most_records = 1;
        self.not_before = now + self.lasting.after_failure(random);
        for taken in sent {
            self.queue.failed_last(taken.flow, taken.row);
        }
        answer
    }

    fn give_back(&mut self, sent: Vec<Taken<T>>) {
        for taken in sent {
            self.queue.failed(taken.flow, taken.row);
        }
    }
}

impl<T> Answer<T> {
    const fn nothing() -> Self {
        Self {
            stored: Vec::new(),
            rejected: None,
            throttled: 0,
            failed: 0,
            unknown: 0,
            refused: 0,
        }
    }
}

/// What [`Bug::UnknownIsDelivered`] takes for the answer.
fn taken_as_stored(records: usize) -> Vec<RecordOutcome> {
    let stored = RecordOutcome::Stored {
        shard: ShardId::from(""),
        sequence: String::new(),
    };
    vec![stored; records]
}

#[expect(clippy::cast_possible_truncation, reason = "500")]
const fn most_call_records() -> usize {
    CALL_LIMIT.records as usize
}

#[cfg(test)]
mod tests;
