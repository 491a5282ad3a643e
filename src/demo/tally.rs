//! What the emulator saw: per shard what was offered and what became of it, and
//! optionally the last calls word by word. Tests check budgets and the shape of
//! calls here, from the service's side.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::faults::{Operation, THROTTLED};
use crate::core::shard_map::ShardId;

/// Offers kept per shard to find its busiest second: at 40 calls a second they
/// last 40 minutes.
const OFFERS_KEPT: usize = 100_000;

/// The width of the window budgets are checked over.
const SECOND: Duration = Duration::from_secs(1);

/// The records of one call that hash to one shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// When the call came in, counted from the emulator's start.
    pub at: Duration,
    /// How many records.
    pub records: u64,
    /// Their data and partition keys, in bytes.
    pub bytes: u64,
    /// The same, rounded up to the next KiB: how the service counts a call.
    pub rounded_bytes: u64,
}

/// A shard's sums since the emulator's start. Bytes count data and keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ShardCounts {
    /// Calls with at least one record of the shard.
    pub calls: u64,
    /// Records that came in.
    pub offered_records: u64,
    /// Their bytes.
    pub offered_bytes: u64,
    /// Records that were stored, whatever the client was told.
    pub accepted_records: u64,
    /// Their bytes.
    pub accepted_bytes: u64,
    /// Records answered with [`THROTTLED`].
    pub throttled_records: u64,
    /// Records answered with another code.
    pub failed_records: u64,
}

/// A shard's busiest second, by records and by bytes (maybe not the same second).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BusiestSecond {
    /// The most records offered in any second.
    pub records: u64,
    /// The most bytes (each call rounded up to a KiB) offered in any second.
    pub rounded_bytes: u64,
}

/// A record of a logged call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedRecord {
    /// The shard its key hashes to, when the stream is known.
    pub shard: Option<ShardId>,
    /// Its partition key.
    pub key: String,
    /// Its data, when the log keeps data.
    pub data: Option<Bytes>,
    /// The error code it was answered with; `None` when it was stored, or when
    /// the call was not applied (yet).
    pub code: Option<String>,
}

/// A call as it came in and what was done with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedCall {
    /// Its number in the log, rising from 0.
    pub number: u64,
    /// When it came in, counted from the emulator's start.
    pub at: Duration,
    /// What it was.
    pub operation: Operation,
    /// The stream it names.
    pub stream: Option<String>,
    /// Its records, if it is a put.
    pub records: Vec<LoggedRecord>,
    /// Whether it was applied.
    pub applied: bool,
    /// Whether the client got the answer that belongs to it.
    pub answered: bool,
}

#[derive(Debug, Default)]
struct ShardTally {
    counts: ShardCounts,
    offers: VecDeque<Offer>,
}

#[derive(Debug, Default)]
struct State {
    shards: BTreeMap<(String, ShardId), ShardTally>,
    calls: BTreeMap<&'static str, u64>,
    log: VecDeque<LoggedCall>,
    logged: u64,
    log_capacity: usize,
    log_data: bool,
}

/// The counters of one emulator.
#[derive(Debug)]
pub struct Tally {
    started: Instant,
    state: Mutex<State>,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            state: Mutex::default(),
        }
    }
}

impl Tally {
    /// Keeps the last `capacity` calls, with the records' data if asked for. Zero
    /// stops logging.
    pub fn log_calls(&self, capacity: usize, with_data: bool) {
        let mut state = self.state();
        state.log_capacity = capacity;
        state.log_data = with_data;
        state.log.clear();
    }

    /// The calls logged so far, oldest first.
    #[must_use]
    pub fn logged_calls(&self) -> Vec<LoggedCall> {
        self.state().log.iter().cloned().collect()
    }

    /// How many calls of an operation came in.
    #[must_use]
    pub fn calls(&self, operation: Operation) -> u64 {
        self.state()
            .calls
            .get(name_of(operation))
            .copied()
            .unwrap_or_default()
    }

    /// The counts of every shard of a stream that was offered a record.
    #[must_use]
    pub fn shards(&self, stream: &str) -> BTreeMap<ShardId, ShardCounts> {
        let state = self.state();
        let of_stream = state.shards.iter().filter(|((name, _), _)| name == stream);
        of_stream
            .map(|((_, shard), tally)| (shard.clone(), tally.counts))
            .collect()
    }

    /// The counts of all shards of a stream together.
    #[must_use]
    pub fn total(&self, stream: &str) -> ShardCounts {
        let mut total = ShardCounts::default();
        for counts in self.shards(stream).values() {
            total.calls += counts.calls;
            total.offered_records += counts.offered_records;
            total.offered_bytes += counts.offered_bytes;
            total.accepted_records += counts.accepted_records;
            total.accepted_bytes += counts.accepted_bytes;
            total.throttled_records += counts.throttled_records;
            total.failed_records += counts.failed_records;
        }
        total
    }

    /// The offers to a shard, oldest first; the last 100,000.
    #[must_use]
    pub fn offers(&self, stream: &str, shard: &ShardId) -> Vec<Offer> {
        let state = self.state();
        let tally = state.shards.get(&(stream.to_owned(), shard.clone()));
        tally
            .map(|tally| tally.offers.iter().copied().collect())
            .unwrap_or_default()
    }

    /// The busiest second of a shard, over every window of one second.
    #[must_use]
    pub fn busiest_second(&self, stream: &str, shard: &ShardId) -> BusiestSecond {
        busiest_second(&self.offers(stream, shard))
    }

    /// Time since the emulator's start.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Whether calls are logged, and with their data.
    pub(crate) fn logs(&self) -> (bool, bool) {
        let state = self.state();
        (state.log_capacity > 0, state.log_data)
    }

    /// Counts a call that came in.
    pub(crate) fn called(&self, operation: Operation) {
        *self.state().calls.entry(name_of(operation)).or_default() += 1;
    }

    /// Counts what a put offers to each shard.
    pub(crate) fn offered(&self, stream: &str, sizes: impl Iterator<Item = (ShardId, u64)>) {
        let at = self.now();
        let mut per_shard: BTreeMap<ShardId, (u64, u64)> = BTreeMap::new();
        for (shard, bytes) in sizes {
            let (records, sum) = per_shard.entry(shard).or_default();
            *records += 1;
            *sum += bytes;
        }
        let mut state = self.state();
        for (shard, (records, bytes)) in per_shard {
            let tally = state.shards.entry((stream.to_owned(), shard)).or_default();
            tally.counts.calls += 1;
            tally.counts.offered_records += records;
            tally.counts.offered_bytes += bytes;
            if tally.offers.len() == OFFERS_KEPT {
                tally.offers.pop_front();
            }
            tally.offers.push_back(Offer {
                at,
                records,
                bytes,
                rounded_bytes: bytes.next_multiple_of(1024),
            });
        }
    }

    /// Counts what became of one record.
    pub(crate) fn settled(&self, stream: &str, shard: &ShardId, bytes: u64, code: Option<&str>) {
        let mut state = self.state();
        let tally = state
            .shards
            .entry((stream.to_owned(), shard.clone()))
            .or_default();
        match code {
            None => {
                tally.counts.accepted_records += 1;
                tally.counts.accepted_bytes += bytes;
            }
            Some(THROTTLED) => tally.counts.throttled_records += 1,
            Some(_) => tally.counts.failed_records += 1,
        }
    }

    /// Logs a call under the next number, if calls are logged.
    pub(crate) fn log(&self, mut call: LoggedCall) -> Option<u64> {
        let mut state = self.state();
        if state.log_capacity == 0 {
            return None;
        }
        while state.log.len() >= state.log_capacity {
            state.log.pop_front();
        }
        call.number = state.logged;
        state.logged += 1;
        let number = call.number;
        state.log.push_back(call);
        Some(number)
    }

    /// Adds to a logged call what its records were answered with.
    pub(crate) fn log_codes(&self, number: u64, codes: Vec<Option<String>>) {
        let mut state = self.state();
        let Some(call) = state
            .log
            .iter_mut()
            .rev()
            .find(|call| call.number == number)
        else {
            return;
        };
        for (record, code) in call.records.iter_mut().zip(codes) {
            record.code = code;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const fn name_of(operation: Operation) -> &'static str {
    match operation {
        Operation::Any => "Any",
        Operation::PutRecords => "PutRecords",
        Operation::DescribeStreamSummary => "DescribeStreamSummary",
        Operation::ListShards => "ListShards",
        Operation::GetShardIterator => "GetShardIterator",
        Operation::GetRecords => "GetRecords",
        Operation::Other => "Other",
    }
}

/// The busiest second among offers that rise in time.
fn busiest_second(offers: &[Offer]) -> BusiestSecond {
    let mut busiest = BusiestSecond::default();
    let (mut records, mut rounded_bytes, mut first) = (0, 0, 0);
    for offer in offers {
        records += offer.records;
        rounded_bytes += offer.rounded_bytes;
        while offer.at.saturating_sub(offers[first].at) >= SECOND {
            records -= offers[first].records;
            rounded_bytes -= offers[first].rounded_bytes;
            first += 1;
        }
        busiest.records = busiest.records.max(records);
        busiest.rounded_bytes = busiest.rounded_bytes.max(rounded_bytes);
    }
    busiest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_second_slides() {
        let offer = |millis, records| Offer {
            at: Duration::from_millis(millis),
            records,
            bytes: 100 * records,
            rounded_bytes: 1024,
        };
        // 600 just before a full second and 600 just after it are one second's.
        let offers = [
            offer(0, 10),
            offer(900, 600),
            offer(1100, 600),
            offer(2000, 50),
        ];
        let busiest = busiest_second(&offers);
        assert_eq!((busiest.records, busiest.rounded_bytes), (1200, 2048));
        assert_eq!(busiest_second(&[]), BusiestSecond::default());
    }

    #[test]
    fn counts_per_shard_and_keeps_the_last_calls() {
        let tally = Tally::default();
        let (a, b) = (ShardId::from("a"), ShardId::from("b"));
        tally.offered(
            "s",
            [(a.clone(), 100), (b.clone(), 2000), (a.clone(), 50)].into_iter(),
        );
        tally.settled("s", &a, 100, None);
        tally.settled("s", &a, 50, Some(THROTTLED));
        tally.settled("s", &b, 2000, Some("InternalFailure"));
        let shards = tally.shards("s");
        assert_eq!(
            (shards[&a].offered_records, shards[&a].offered_bytes),
            (2, 150)
        );
        assert_eq!(
            (shards[&a].accepted_records, shards[&a].throttled_records),
            (1, 1)
        );
        assert_eq!((shards[&b].failed_records, shards[&b].calls), (1, 1));
        assert_eq!(tally.total("s").offered_bytes, 2150);
        assert_eq!(tally.offers("s", &b)[0].rounded_bytes, 2048);
        assert!(tally.shards("t").is_empty());

        let call = |at| LoggedCall {
            number: 0,
            at: Duration::from_secs(at),
            operation: Operation::PutRecords,
            stream: None,
            records: Vec::new(),
            applied: true,
            answered: true,
        };
        tally.log(call(0));
        assert!(tally.logged_calls().is_empty());
        tally.log_calls(2, false);
        let numbers: Vec<_> = (1..=3).map(|at| tally.log(call(at))).collect();
        assert_eq!(numbers, [Some(0), Some(1), Some(2)]);
        let kept: Vec<_> = tally
            .logged_calls()
            .iter()
            .map(|call| call.at.as_secs())
            .collect();
        assert_eq!(kept, [2, 3]);
    }
}
