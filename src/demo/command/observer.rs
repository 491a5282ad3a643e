//! What can be seen from outside of the relay while it runs.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use super::scene::{STREAM, Scene};
use crate::core::shard_map::ShardId;
use crate::demo::consumer::StreamConsumer;
use crate::demo::delivered::{Delivered, EventId};
use crate::demo::tally::{ShardCounts, Tally};

/// The emulator's counters at one moment.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    pub(super) at: Instant,
    pub(super) shards: BTreeMap<ShardId, ShardCounts>,
}

/// What a live line shows.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct LiveState {
    pub(super) elapsed: Duration,
    pub(super) published: u64,
    pub(super) delivered: u64,
    /// The part of its limit that each shard took since the line before, 0 to 1.
    pub(super) utilisation: Vec<f64>,
}

/// Collects what arrives and what the emulator counts.
#[derive(Debug)]
pub(super) struct Observer {
    started: Instant,
    last_line: Instant,
    shards: Vec<ShardId>,
    delivered: Vec<Delivered>,
    first_arrivals: HashMap<EventId, FirstArrival>,
    unreadable: Vec<String>,
    samples: Vec<Sample>,
}

/// When and from which shard a row was read first.
#[derive(Debug, Clone)]
pub(super) struct FirstArrival {
    pub(super) at: Instant,
    pub(super) shard: ShardId,
}

// === impl Observer ===

impl Observer {
    /// Begins to observe, now.
    pub(super) fn new(scene: &Scene) -> Self {
        let now = Instant::now();
        let mut observer = Self {
            started: now,
            last_line: now,
            shards: scene.consumer.ranges().into_keys().collect(),
            delivered: Vec::new(),
            first_arrivals: HashMap::new(),
            unreadable: Vec::new(),
            samples: Vec::new(),
        };
        observer.take_sample(&scene.emulator.tally());
        observer
    }

    /// How long it has observed.
    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Takes what the consumer has read.
    pub(super) fn look(&mut self, consumer: &StreamConsumer) {
        for arrived in consumer.drain() {
            match Delivered::parse(&arrived) {
                Ok(mut delivered) => {
                    // Nobody reads payloads here, and a long demo has many.
                    delivered.payload = String::new();
                    self.first_arrivals
                        .entry(delivered.event())
                        .or_insert_with(|| FirstArrival {
                            at: arrived.received_at,
                            shard: arrived.shard.clone(),
                        });
                    self.delivered.push(delivered);
                }
                Err(error) => self.unreadable.push(error.to_string()),
            }
        }
        for shard in consumer.ranges().into_keys() {
            if !self.shards.contains(&shard) {
                self.shards.push(shard);
            }
        }
    }

    /// Whether it is time for a live line.
    pub(super) fn is_line_due(&mut self, every: Duration) -> bool {
        let is_due = self.last_line.elapsed() >= every;
        if is_due {
            // Lines stay a second apart on average.
            self.last_line += every;
        }
        is_due
    }

    /// Takes a sample of the counters, and says what to show.
    pub(super) fn sample(&mut self, published: u64, tally: &Tally) -> LiveState {
        let before = self.samples.last().cloned();
        let now = self.take_sample(tally);
        let utilisation = |shard: &ShardId| {
            let before = before.as_ref()?;
            Some(utilisation(before, &now, shard))
        };
        LiveState {
            elapsed: self.elapsed(),
            published,
            delivered: self.arrived(),
            utilisation: self
                .shards
                .iter()
                .map(|shard| utilisation(shard).unwrap_or_default())
                .collect(),
        }
    }

    /// How many rows have arrived, each counted once.
    pub(super) fn arrived(&self) -> u64 {
        self.first_arrivals.len() as u64
    }

    /// Every record read, in order.
    pub(super) fn delivered(&self) -> &[Delivered] {
        &self.delivered
    }

    /// When each row arrived first.
    pub(super) const fn first_arrivals(&self) -> &HashMap<EventId, FirstArrival> {
        &self.first_arrivals
    }

    /// Why records could not be read.
    pub(super) fn unreadable(&self) -> &[String] {
        &self.unreadable
    }

    /// The shards, in the order in which they are shown.
    pub(super) fn shards(&self) -> &[ShardId] {
        &self.shards
    }

    /// The samples, oldest first.
    pub(super) fn samples(&self) -> &[Sample] {
        &self.samples
    }

    fn take_sample(&mut self, tally: &Tally) -> Sample {
        let sample = Sample {
            at: Instant::now(),
            shards: tally.shards(STREAM),
        };
        self.samples.push(sample.clone());
        sample
    }
}

/// What a shard took between two samples.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Taken {
    pub(super) seconds: f64,
    pub(super) records: u64,
    pub(super) bytes: u64,
}

impl Taken {
    /// Between two samples.
    pub(super) fn between(before: &Sample, after: &Sample, shard: &ShardId) -> Self {
        let counts = |sample: &Sample| sample.shards.get(shard).copied().unwrap_or_default();
        let (before_counts, after_counts) = (counts(before), counts(after));
        Self {
            seconds: (after.at - before.at).as_secs_f64(),
            records: after_counts.accepted_records - before_counts.accepted_records,
            bytes: after_counts.accepted_bytes - before_counts.accepted_bytes,
        }
    }

    /// The part of a shard's limit, by records or by bytes, whichever is nearer:
    /// 1,000 records and 1 MiB in a second. 0 for no time at all.
    pub(super) fn utilisation(self) -> f64 {
        if self.seconds <= 0.0 {
            return 0.0;
        }
        let by_records = self.records as f64 / 1000.0;
        let by_bytes = self.bytes as f64 / 1_048_576.0;
        by_records.max(by_bytes) / self.seconds
    }
}

fn utilisation(before: &Sample, after: &Sample, shard: &ShardId) -> f64 {
    Taken::between(before, after, shard).utilisation()
}
