//! What the emulator does wrong, on demand: every way a call to Kinesis can end
//! that an emulator never shows by itself.
//!
//! Everything is switched while the emulator runs, from any thread; chance comes
//! from a seed. Rules are tried in the order they were added and the first that
//! strikes is the call's fate. [`Faults::heal`] ends them all.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;

use super::account::Account;
use super::poison::Poison;
use crate::core::shard_map::{HashRange, ShardId};

/// The error code of a shard that is over its limit.
pub const THROTTLED: &str = "ProvisionedThroughputExceededException";

/// The calls that faults tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// As a rule's operation: every call. Never the operation of a call.
    Any,
    /// `PutRecords`.
    PutRecords,
    /// `DescribeStreamSummary`.
    DescribeStreamSummary,
    /// `ListShards`.
    ListShards,
    /// `GetShardIterator`.
    GetShardIterator,
    /// `GetRecords`.
    GetRecords,
    /// Every other call.
    Other,
}

impl Operation {
    /// The operation an `X-Amz-Target` header names.
    #[must_use]
    pub fn of_target(target: &str) -> Self {
        let name = target.rsplit('.').next().unwrap_or(target);
        match name {
            "PutRecords" => Self::PutRecords,
            "DescribeStreamSummary" => Self::DescribeStreamSummary,
            "ListShards" => Self::ListShards,
            "GetShardIterator" => Self::GetShardIterator,
            "GetRecords" => Self::GetRecords,
            _ => Self::Other,
        }
    }
}

/// Whether the emulator does what a faulty call asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// No.
    Never,
    /// Yes, before the fault shows.
    First,
    /// Yes, but so long after the call came in: the client may have given up.
    Late(Duration),
}

/// How a call ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallFault {
    /// With an error of the service.
    Refuse {
        /// The HTTP status.
        status: u16,
        /// The error code.
        code: String,
        /// Whether the call took effect all the same.
        applied: Applied,
    },
    /// With no answer; the connection is reset after `hold`.
    Hang {
        /// How long the client is kept waiting.
        hold: Duration,
        /// Whether the call took effect.
        applied: Applied,
    },
    /// With a connection reset in place of an answer.
    Reset {
        /// Whether the call took effect.
        applied: Applied,
    },
    /// With HTTP 200 and a body that is not JSON.
    Garble {
        /// Whether the call took effect.
        applied: Applied,
    },
}

impl CallFault {
    /// HTTP 500 `InternalFailure`.
    #[must_use]
    pub fn internal_failure(applied: Applied) -> Self {
        Self::Refuse {
            status: 500,
            code: "InternalFailure".to_owned(),
            applied,
        }
    }

    /// HTTP 400 with a code; the call takes no effect.
    #[must_use]
    pub fn code(code: &str) -> Self {
        Self::Refuse {
            status: 400,
            code: code.to_owned(),
            applied: Applied::Never,
        }
    }

    /// Whether the call takes effect.
    #[must_use]
    pub const fn applied(&self) -> Applied {
        match self {
            Self::Refuse { applied, .. }
            | Self::Hang { applied, .. }
            | Self::Reset { applied }
            | Self::Garble { applied } => *applied,
        }
    }
}

/// How often a rule strikes, among the calls or records it looks at.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Often {
    /// The next so many.
    Next(u64),
    /// Every so many-th, counted from when the rule was added. Zero is never.
    EveryNth(u64),
    /// With this probability, 0 to 1.
    Share(f64),
    /// Each one.
    Always,
}

/// Decides about one record by its partition key and its place in the call: the
/// error code it gets, or `None` to let it pass.
pub type RecordRule = Arc<dyn Fn(&str, usize) -> Option<String> + Send + Sync>;

/// Which records a shard refuses, all of them with [`THROTTLED`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// Those of a shard.
    Shard(ShardId),
    /// Those whose key hashes into a range.
    Range(HashRange),
}

/// What is to become of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallPlan {
    /// How long it waits before anything is done.
    pub delay: Duration,
    /// How it ends; `None` for well.
    pub fault: Option<CallFault>,
}

struct Rule<T> {
    often: Often,
    looked_at: u64,
    does: T,
}

struct CallRule {
    operation: Operation,
    fault: CallFault,
}

enum RecordFault {
    Code(String),
    Decide(RecordRule),
}

#[derive(Default)]
struct State {
    random: fastrand::Rng,
    least_latency: Duration,
    most_latency: Duration,
    calls: Vec<Rule<CallRule>>,
    records: Vec<Rule<RecordFault>>,
    refused: Vec<Refused>,
    hidden_streams: HashSet<String>,
    connections_refused: bool,
    described: Vec<(String, Value)>,
}

/// The faults of one emulator.
#[derive(Default)]
pub struct Faults {
    state: Mutex<State>,
    account: Account,
    poison: Poison,
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("Faults")
            .field("call_rules", &state.calls.len())
            .field("record_rules", &state.records.len())
            .field("refused", &state.refused)
            .field("connections_refused", &state.connections_refused)
            .finish_non_exhaustive()
    }
}

// === impl Faults: what tests switch ===

impl Faults {
    /// No faults; chance comes from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let state = State {
            random: fastrand::Rng::with_seed(seed),
            ..State::default()
        };
        Self {
            state: Mutex::new(state),
            account: Account::default(),
            poison: Poison::default(),
        }
    }

    /// The account behind the emulator: keys, permissions, clock.
    #[must_use]
    pub const fn account(&self) -> &Account {
        &self.account
    }

    /// Rows that are not taken.
    #[must_use]
    pub const fn poison(&self) -> &Poison {
        &self.poison
    }

    /// Lets every call wait between `least` and `most` before it is looked at.
    pub fn set_latency(&self, least: Duration, most: Duration) {
        let mut state = self.state();
        state.least_latency = least;
        state.most_latency = most.max(least);
    }

    /// Lets calls of an operation end badly.
    pub fn inject(&self, operation: Operation, often: Often, fault: CallFault) {
        self.state().calls.push(Rule {
            often,
            looked_at: 0,
            does: CallRule { operation, fault },
        });
    }

    /// Lets single records fail with a code inside a call that is answered 200.
    pub fn fail_records(&self, often: Often, code: &str) {
        self.state().records.push(Rule {
            often,
            looked_at: 0,
            does: RecordFault::Code(code.to_owned()),
        });
    }

    /// Lets a function decide which records fail and with what code.
    pub fn fail_records_where(&self, rule: RecordRule) {
        self.state().records.push(Rule {
            often: Often::Always,
            looked_at: 0,
            does: RecordFault::Decide(rule),
        });
    }

    /// Lets a shard, or a part of the hash space, refuse everything.
    pub fn refuse(&self, refused: Refused) {
        self.state().refused.push(refused);
    }

    /// Lets what was refused pass again.
    pub fn admit_all(&self) {
        self.state().refused.clear();
    }

    /// Answers every call about a stream as if there was none of that name.
    pub fn hide_stream(&self, stream: &str) {
        self.state().hidden_streams.insert(stream.to_owned());
    }

    /// Shows a hidden stream again, with all it held.
    pub fn show_stream(&self, stream: &str) {
        self.state().hidden_streams.remove(stream);
    }

    /// Resets every connection, new and open ones, until it is set to false: an
    /// outage that keeps the data.
    pub fn refuse_connections(&self, refuse: bool) {
        self.state().connections_refused = refuse;
    }

    /// Puts a field into every answer to `DescribeStreamSummary`, such as
    /// `MaxRecordSizeInKiB` or `RecordDistributionStrategy`.
    pub fn describe_as(&self, field: &str, value: Value) {
        self.state().described.push((field.to_owned(), value));
    }

    /// Ends every fault, latency and refused connections included. Descriptions
    /// stay.
    pub fn heal(&self) {
        let mut state = self.state();
        state.least_latency = Duration::ZERO;
        state.most_latency = Duration::ZERO;
        state.calls.clear();
        state.records.clear();
        state.refused.clear();
        state.hidden_streams.clear();
        state.connections_refused = false;
        drop(state);
        self.account.heal();
        self.poison.heal();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Faults: what the emulator asks ===

impl Faults {
    /// Decides about a call that has come in.
    #[must_use]
    pub fn plan_call(&self, operation: Operation, stream: Option<&str>) -> CallPlan {
        let mut guard = self.state();
        let state = &mut *guard;
        let spread = state.most_latency.saturating_sub(state.least_latency);
        let delay = state.least_latency + spread.mul_f64(state.random.f64());
        if stream.is_some_and(|name| state.hidden_streams.contains(name)) {
            let fault = Some(CallFault::code("ResourceNotFoundException"));
            return CallPlan { delay, fault };
        }
        let random = &mut state.random;
        let mut looks_at = state.calls.iter_mut().filter(|rule| {
            rule.does.operation == Operation::Any || rule.does.operation == operation
        });
        let struck = looks_at.find_map(|rule| {
            strikes(rule.often, &mut rule.looked_at, random).then(|| rule.does.fault.clone())
        });
        CallPlan {
            delay,
            fault: struck,
        }
    }

    /// Decides about a record: the code it fails with, or `None`.
    #[must_use]
    pub fn plan_record(
        &self,
        shard: Option<&ShardId>,
        hash: u128,
        key: &str,
        index: usize,
    ) -> Option<String> {
        let mut guard = self.state();
        let state = &mut *guard;
        let is_refused = state.refused.iter().any(|refused| match refused {
            Refused::Shard(id) => shard == Some(id),
            Refused::Range(range) => range.contains(hash),
        });
        if is_refused {
            return Some(THROTTLED.to_owned());
        }
        for rule in &mut state.records {
            if !strikes(rule.often, &mut rule.looked_at, &mut state.random) {
                continue;
            }
            let code = match &rule.does {
                RecordFault::Code(code) => Some(code.clone()),
                RecordFault::Decide(decide) => decide(key, index),
            };
            if code.is_some() {
                return code;
            }
        }
        None
    }

    /// Whether connections are reset.
    #[must_use]
    pub fn connections_refused(&self) -> bool {
        self.state().connections_refused
    }

    /// The fields to put into descriptions.
    #[must_use]
    pub fn described(&self) -> Vec<(String, Value)> {
        self.state().described.clone()
    }
}

fn strikes(often: Often, looked_at: &mut u64, random: &mut fastrand::Rng) -> bool {
    *looked_at += 1;
    match often {
        Often::Next(count) => *looked_at <= count,
        Often::EveryNth(0) => false,
        Often::EveryNth(nth) => (*looked_at).is_multiple_of(nth),
        Often::Share(share) => random.f64() < share,
        Often::Always => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fates(faults: &Faults, calls: usize) -> Vec<bool> {
        let plan = |_| {
            faults
                .plan_call(Operation::PutRecords, Some("s"))
                .fault
                .is_some()
        };
        (0..calls).map(plan).collect()
    }

    #[test]
    fn rules_strike_as_often_as_they_say() {
        let fault = || CallFault::internal_failure(Applied::Never);
        let faults = Faults::new(7);
        faults.inject(Operation::PutRecords, Often::Next(2), fault());
        assert_eq!(fates(&faults, 4), [true, true, false, false]);
        faults.heal();
        faults.inject(Operation::Any, Often::EveryNth(3), fault());
        assert_eq!(fates(&faults, 6), [false, false, true, false, false, true]);
        faults.heal();
        faults.inject(Operation::ListShards, Often::Always, fault());
        assert_eq!(fates(&faults, 2), [false, false]);
        faults.heal();
        faults.inject(Operation::Any, Often::Share(0.5), fault());
        let struck = fates(&faults, 1000)
            .into_iter()
            .filter(|struck| *struck)
            .count();
        assert!((400..600).contains(&struck), "{struck} of 1000");
    }

    #[test]
    fn a_seed_repeats_its_chances() {
        let fates_of = |seed| {
            let faults = Faults::new(seed);
            faults.inject(Operation::Any, Often::Share(0.5), CallFault::code("X"));
            fates(&faults, 64)
        };
        assert_eq!(fates_of(1), fates_of(1));
        assert_ne!(fates_of(1), fates_of(2));
    }

    #[test]
    fn records_are_refused_by_shard_range_and_rule() {
        let faults = Faults::new(7);
        let shard = ShardId::from("shardId-000000000001");
        let other = ShardId::from("shardId-000000000002");
        faults.refuse(Refused::Shard(shard.clone()));
        assert_eq!(
            faults.plan_record(Some(&shard), 5, "k", 0).as_deref(),
            Some(THROTTLED)
        );
        assert_eq!(faults.plan_record(Some(&other), 5, "k", 0), None);
        faults.admit_all();
        faults.refuse(Refused::Range(HashRange { first: 0, last: 9 }));
        assert_eq!(
            faults.plan_record(Some(&shard), 5, "k", 0).as_deref(),
            Some(THROTTLED)
        );
        assert_eq!(faults.plan_record(Some(&shard), 10, "k", 0), None);
        faults.admit_all();
        faults.fail_records(Often::EveryNth(3), "InternalFailure");
        faults.fail_records_where(Arc::new(|key, index| {
            (key == "bad" && index == 1).then(|| "Odd".to_owned())
        }));
        let codes: Vec<_> = (0..3)
            .map(|index| faults.plan_record(None, 0, "bad", index))
            .collect();
        let codes: Vec<_> = codes.iter().map(Option::as_deref).collect();
        assert_eq!(codes, [None, Some("Odd"), Some("InternalFailure")]);
    }
}
