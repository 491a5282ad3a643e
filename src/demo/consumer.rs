//! Reads a stream to its end and beyond, as a consumer would: every shard from its
//! first record, parents of a reshard before their children, through the real SDK.
//!
//! A shard is read until it is closed and empty. `MillisBehindLatest = 0` ends
//! nothing: emulators say it too early. What arrives is kept in the order it was
//! read, so that for each key it is the stream's order; [`StreamConsumer::drain`]
//! takes it out, [`StreamConsumer::received`] counts it while it comes. Records of many
//! rows are taken apart (see [`deaggregate`]), and each row counts as one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::error::DisplayErrorContext;
use aws_sdk_kinesis::types::{Record, ShardIteratorType};
use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::deaggregate;
use crate::core::shard_map::{HashRange, ShardId};

/// How often the list of shards is read, and a failed call tried again.
const LIST_EVERY: Duration = Duration::from_millis(300);

/// The most records GetRecords gives.
const RECORDS_PER_CALL: i32 = 10_000;

/// How often a waiting caller looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A record as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrived {
    /// The shard it was read from.
    pub shard: ShardId,
    /// Its sequence number there.
    pub sequence: String,
    /// Its partition key.
    pub partition_key: String,
    /// Its data.
    pub data: Bytes,
    /// When the service says it came, in milliseconds since 1970. Emulators give
    /// whole seconds.
    pub arrived_unix_ms: Option<i64>,
    /// When it was read here.
    pub received_at: Instant,
}

#[derive(Debug, Default)]
struct Shared {
    arrived: Mutex<Vec<Arrived>>,
    ranges: Mutex<BTreeMap<ShardId, HashRange>>,
    received: AtomicU64,
    is_raw: bool,
    stopping: AtomicBool,
}

impl Shared {
    fn arrived(&self) -> MutexGuard<'_, Vec<Arrived>> {
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }
}

/// A consumer that reads until it is stopped or dropped.
#[derive(Debug)]
pub struct StreamConsumer {
    shared: Arc<Shared>,
    reading: tokio::task::JoinHandle<()>,
}

/// A shard as ListShards shows it.
#[derive(Debug, Clone)]
struct Listed {
    id: ShardId,
    range: HashRange,
    parents: Vec<ShardId>,
    is_closed: bool,
}

impl StreamConsumer {
    /// Begins to read `stream` on the caller's runtime, asking each shard every
    /// `poll_every` once it has nothing more. Waits for a stream that is not there
    /// yet.
    #[must_use]
    pub fn start(client: Client, stream: &str, poll_every: Duration) -> Self {
        Self::start_with(client, stream, poll_every, false)
    }

    /// The same, without taking records of many rows apart.
    #[must_use]
    pub fn start_raw(client: Client, stream: &str, poll_every: Duration) -> Self {
        Self::start_with(client, stream, poll_every, true)
    }

    fn start_with(client: Client, stream: &str, poll_every: Duration, is_raw: bool) -> Self {
        let shared = Arc::new(Shared {
            is_raw,
            ..Shared::default()
        });
        let reader = Reader {
            client,
            stream: stream.to_owned(),
            poll_every,
            shared: Arc::clone(&shared),
        };
        let reading = tokio::spawn(reader.read_stream());
        Self { shared, reading }
    }

    /// How many records were read so far, repeated ones included.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.shared.received.load(Ordering::Acquire)
    }

    /// Takes out what was read since the last time, in the order it was read.
    #[must_use]
    pub fn drain(&self) -> Vec<Arrived> {
        std::mem::take(&mut *self.shared.arrived())
    }

    /// The hash ranges of all shards seen so far, closed ones included.
    #[must_use]
    pub fn ranges(&self) -> BTreeMap<ShardId, HashRange> {
        self.shared
            .ranges
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Waits until at least `expected` records were read and then none for `quiet`.
    /// Answers whether that was so before `patience` was over.
    pub async fn wait_until_quiet(
        &self,
        expected: u64,
        quiet: Duration,
        patience: Duration,
    ) -> bool {
        let deadline = Instant::now() + patience;
        let (mut last_count, mut last_change) = (self.received(), Instant::now());
        loop {
            let count = self.received();
            if count != last_count {
                (last_count, last_change) = (count, Instant::now());
            }
            if count >= expected && last_change.elapsed() >= quiet {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Stops reading and gives what was not taken out.
    pub async fn stop(mut self) -> Vec<Arrived> {
        self.shared.stopping.store(true, Ordering::Release);
        if let Err(error) = (&mut self.reading).await {
            tracing::error!(%error, "the consumer ended early");
        }
        self.drain()
    }
}

impl Drop for StreamConsumer {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        self.reading.abort();
    }
}

#[derive(Debug, Clone)]
struct Reader {
    client: Client,
    stream: String,
    poll_every: Duration,
    shared: Arc<Shared>,
}

impl Reader {
    /// Starts a task for every shard whose parents were read to their end.
    async fn read_stream(self) {
        let mut readers: JoinSet<ShardId> = JoinSet::new();
        let mut started = BTreeSet::new();
        let mut ended = BTreeSet::new();
        while !self.shared.is_stopping() {
            while let Some(finished) = readers.try_join_next() {
                match finished {
                    Ok(shard) => {
                        ended.insert(shard);
                    }
                    Err(error) => tracing::error!(%error, "a shard's reader ended early"),
                }
            }
            let shards = match self.list_shards().await {
                Ok(shards) => shards,
                Err(reason) => {
                    tracing::debug!(stream = self.stream, reason, "cannot list the shards yet");
                    Vec::new()
                }
            };
            self.note_ranges(&shards);
            for shard in &shards {
                let waits = ancestors_of(shard, &shards).any(|parent| !ended.contains(parent));
                if !waits && started.insert(shard.id.clone()) {
                    readers.spawn(self.clone().read_shard(shard.clone()));
                }
            }
            tokio::time::sleep(LIST_EVERY.min(self.poll_every.max(LOOK_EVERY))).await;
        }
        while readers.join_next().await.is_some() {}
    }

    fn note_ranges(&self, shards: &[Listed]) {
        let mut ranges = self
            .shared
            .ranges
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for shard in shards {
            ranges.insert(shard.id.clone(), shard.range);
        }
    }

    async fn list_shards(&self) -> Result<Vec<Listed>, String> {
        let mut shards: Vec<Listed> = Vec::new();
        loop {
            let last = shards.last().map(|shard| shard.id.to_string());
            let request = self.client.list_shards().stream_name(&self.stream);
            let answer = request.set_exclusive_start_shard_id(last).send().await;
            let answer = answer.map_err(|error| DisplayErrorContext(error).to_string())?;
            for shard in answer.shards() {
                let bounds = shard.hash_key_range.as_ref().and_then(|range| {
                    let first = range.starting_hash_key.parse().ok()?;
                    let last = range.ending_hash_key.parse().ok()?;
                    Some(HashRange { first, last })
                });
                let Some(range) = bounds else {
                    return Err(format!("shard {} has no hash range", shard.shard_id));
                };
                let parents = [&shard.parent_shard_id, &shard.adjacent_parent_shard_id];
                let ending = shard.sequence_number_range.as_ref();
                shards.push(Listed {
                    id: ShardId::from(shard.shard_id.as_str()),
                    range,
                    parents: parents
                        .into_iter()
                        .flatten()
                        .map(|id| id.as_str().into())
                        .collect(),
                    is_closed: ending.is_some_and(|range| range.ending_sequence_number.is_some()),
                });
            }
            if answer.next_token.is_none() {
                return Ok(shards);
            }
        }
    }

    /// Reads a shard to its end: open ones until the consumer stops.
    async fn read_shard(self, listed: Listed) -> ShardId {
        let shard = listed.id;
        let mut last_sequence: Option<String> = None;
        let mut iterator: Option<String> = None;
        while !self.shared.is_stopping() {
            let Some(current) = iterator.take() else {
                iterator = self.iterator(&shard, last_sequence.as_deref()).await;
                if iterator.is_none() {
                    tokio::time::sleep(LIST_EVERY).await;
                }
                continue;
            };
            let request = self.client.get_records().shard_iterator(current);
            let answer = match request.limit(RECORDS_PER_CALL).send().await {
                Ok(answer) => answer,
                Err(error) => {
                    // The next iterator begins after the last record read.
                    tracing::debug!(%shard, error = %DisplayErrorContext(error), "cannot read");
                    tokio::time::sleep(LIST_EVERY).await;
                    continue;
                }
            };
            let is_empty = answer.records.is_empty();
            if let Some(last) = answer.records.last() {
                last_sequence = Some(last.sequence_number.clone());
            }
            self.keep(&shard, listed.range, answer.records);
            iterator = answer.next_shard_iterator;
            if iterator.is_none() {
                return shard;
            }
            if is_empty {
                tokio::time::sleep(self.poll_every).await;
            }
        }
        shard
    }

    async fn iterator(&self, shard: &ShardId, after: Option<&str>) -> Option<String> {
        let kind = match after {
            Some(_) => ShardIteratorType::AfterSequenceNumber,
            None => ShardIteratorType::TrimHorizon,
        };
        let request = self
            .client
            .get_shard_iterator()
            .stream_name(&self.stream)
            .shard_id(&*shard.0)
            .shard_iterator_type(kind)
            .set_starting_sequence_number(after.map(str::to_owned));
        match request.send().await {
            Ok(answer) => answer.shard_iterator,
            Err(error) => {
                tracing::debug!(%shard, error = %DisplayErrorContext(error), "no iterator");
                None
            }
        }
    }

    fn keep(&self, shard: &ShardId, range: HashRange, records: Vec<Record>) {
        let received_at = Instant::now();
        let arrived = records.into_iter().flat_map(|record| {
            let key = record.partition_key.unwrap_or_default();
            let data = Bytes::from(record.data.into_inner());
            let rows = if self.shared.is_raw {
                vec![(key, data)]
            } else {
                deaggregate::rows(&key, &data, range)
            };
            let arrived_unix_ms = record
                .approximate_arrival_timestamp
                .and_then(|at| at.to_millis().ok());
            let sequence = record.sequence_number;
            rows.into_iter().map(move |(partition_key, data)| Arrived {
                shard: shard.clone(),
                sequence: sequence.clone(),
                partition_key,
                data,
                arrived_unix_ms,
                received_at,
            })
        });
        let arrived: Vec<Arrived> = arrived.collect();
        let count = arrived.len() as u64;
        self.shared.arrived().extend(arrived);
        self.shared.received.fetch_add(count, Ordering::AcqRel);
    }
}

/// The shards that must be read before `shard`: its named parents as far as they
/// are still listed, and older closed shards that share hash keys with it, for
/// services that do not name the parents.
fn ancestors_of<'a>(shard: &'a Listed, shards: &'a [Listed]) -> impl Iterator<Item = &'a ShardId> {
    let older_of_same_keys = |other: &&Listed| {
        let overlaps =
            other.range.first <= shard.range.last && shard.range.first <= other.range.last;
        let is_named = shard.parents.contains(&other.id);
        is_named || (other.is_closed && other.id < shard.id && overlaps)
    };
    shards
        .iter()
        .filter(older_of_same_keys)
        .map(|other| &other.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(id: &str, range: (u128, u128), is_closed: bool) -> Listed {
        Listed {
            id: id.into(),
            range: HashRange {
                first: range.0,
                last: range.1,
            },
            parents: Vec::new(),
            is_closed,
        }
    }

    #[test]
    fn parents_come_first_even_when_nobody_names_them() {
        let mut shards = vec![
            listed("s0", (0, 99), true),
            listed("s1", (100, 199), false),
            listed("s2", (0, 49), false),
            listed("s3", (50, 99), false),
        ];
        let ancestors = |of: usize, shards: &[Listed]| {
            ancestors_of(&shards[of], shards)
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        assert!(ancestors(0, &shards).is_empty());
        assert!(ancestors(1, &shards).is_empty());
        assert_eq!(ancestors(2, &shards), ["s0"]);
        shards[3].parents = vec!["s1".into(), "gone".into()];
        assert_eq!(ancestors(3, &shards), ["s0", "s1"]);
    }
}
