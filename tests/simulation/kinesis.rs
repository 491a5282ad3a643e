//! A small Kinesis: shards with limits, calls whose outcome nobody knows, calls
//! that are applied late, reshards, a control plane that fails.

use std::sync::Arc;

use tidegate::core::ports::{CallFailure, PutRecord, RecordOutcome, StreamDescription};
use tidegate::core::shard_map::{HashRange, Shard, ShardId};
use tidegate::core::time::Moment;

use crate::dice::Dice;
use crate::limits::{Limiter, Model};
use crate::packed::hash_of;

pub(crate) struct ShardState {
    pub(crate) shard: Shard,
    pub(crate) is_open: bool,
    limiter: Limiter,
    /// Refuses everything until then, as throttled or as failed.
    pub(crate) stuck_until: Option<(Moment, bool)>,
}

/// What each shard of a stream takes in a second.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Takes {
    pub(crate) model: Model,
    pub(crate) records: f64,
    pub(crate) bytes: f64,
}

pub(crate) struct Stream {
    pub(crate) name: Arc<str>,
    pub(crate) shards: Vec<ShardState>,
    pub(crate) ignores_keys: bool,
    pub(crate) max_record_bytes: usize,
    takes: Takes,
    sequence: u64,
}

/// A record that is in the stream.
pub(crate) struct InStream {
    pub(crate) shard: ShardId,
    pub(crate) range: HashRange,
    pub(crate) record: PutRecord,
}

fn shard_id(number: usize) -> ShardId {
    ShardId(format!("shardId-{number:012}").into())
}

impl Stream {
    pub(crate) fn new(name: &str, shards: usize, takes: Takes, now: Moment) -> Self {
        let width = u128::MAX / shards as u128;
        let range = |place: usize| HashRange {
            first: place as u128 * width,
            last: if place + 1 == shards {
                u128::MAX
            } else {
                (place as u128 + 1) * width - 1
            },
        };
        let mut stream = Self {
            name: name.into(),
            shards: Vec::new(),
            ignores_keys: false,
            max_record_bytes: 1 << 20,
            takes,
            sequence: 0,
        };
        for place in 0..shards {
            stream.add(range(place), Vec::new(), now);
        }
        stream
    }

    fn add(&mut self, range: HashRange, parents: Vec<ShardId>, now: Moment) {
        let shard = Shard {
            id: shard_id(self.shards.len()),
            range,
            parents,
        };
        self.shards.push(ShardState {
            shard,
            is_open: true,
            limiter: Limiter::new(self.takes.model, self.takes.records, self.takes.bytes, now),
            stuck_until: None,
        });
    }

    pub(crate) fn open_shards(&self) -> Vec<Shard> {
        let open = self.shards.iter().filter(|state| state.is_open);
        open.map(|state| state.shard.clone()).collect()
    }

    pub(crate) fn describe(&self) -> StreamDescription {
        StreamDescription {
            arn: format!(
                "arn:aws:kinesis:us-east-1:000000000000:stream/{}",
                self.name
            ),
            created_at_ms: Some(0),
            writable: true,
            status: "ACTIVE".to_owned(),
            max_record_bytes: self.max_record_bytes,
            ignores_keys: self.ignores_keys,
        }
    }

    /// The open shard that takes a hash key now.
    pub(crate) fn shard_of(&self, hash: u128) -> usize {
        let takes = |state: &ShardState| state.is_open && state.shard.range.contains(hash);
        self.shards
            .iter()
            .position(takes)
            .expect("the open shards cover all keys")
    }

    // === Reshards ===

    pub(crate) fn split(&mut self, dice: &mut Dice, now: Moment) {
        let open: Vec<usize> = (0..self.shards.len())
            .filter(|place| self.shards[*place].is_open)
            .collect();
        let place = *dice.pick(&open);
        let range = self.shards[place].shard.range;
        if range.last - range.first < 1 << 64 {
            return;
        }
        // Not always in the middle.
        let part = (range.last - range.first) / 16 * u128::from(dice.range(2, 14));
        let middle = range.first + part;
        let parent = self.shards[place].shard.id.clone();
        self.shards[place].is_open = false;
        let (left, right) = (
            HashRange {
                first: range.first,
                last: middle,
            },
            HashRange {
                first: middle + 1,
                last: range.last,
            },
        );
        self.add(left, vec![parent.clone()], now);
        self.add(right, vec![parent], now);
    }

    pub(crate) fn merge(&mut self, dice: &mut Dice, now: Moment) {
        let mut open: Vec<usize> = (0..self.shards.len())
            .filter(|place| self.shards[*place].is_open)
            .collect();
        open.sort_by_key(|place| self.shards[*place].shard.range);
        if open.len() < 2 {
            return;
        }
        let left = dice.below(open.len() - 1);
        let (left, right) = (open[left], open[left + 1]);
        let range = HashRange {
            first: self.shards[left].shard.range.first,
            last: self.shards[right].shard.range.last,
        };
        let parents = [left, right].map(|place| self.shards[place].shard.id.clone());
        for place in [left, right] {
            self.shards[place].is_open = false;
        }
        self.add(range, parents.to_vec(), now);
    }

    // === Calls ===

    /// A call arrives. What is stored is added to `stored`.
    pub(crate) fn apply(
        &mut self,
        records: &[PutRecord],
        fails_one_in: f64,
        dice: &mut Dice,
        now: Moment,
        stored: &mut Vec<InStream>,
    ) -> Result<Vec<RecordOutcome>, CallFailure> {
        let bytes: usize = records
            .iter()
            .map(|record| record.data.len() + record.key.len())
            .sum();
        if records.is_empty() || records.len() > 500 || bytes > 10 << 20 {
            return Err(CallFailure::BadRecord {
                code: "ValidationException".to_owned(),
                message: format!("{} records, {bytes} bytes", records.len()),
            });
        }
        // Whether a throttle refuses a suffix is not documented: any part it is.
        let mut order: Vec<usize> = (0..records.len()).collect();
        if dice.chance(0.7) {
            dice.shuffle(&mut order);
        }
        let mut outcomes = vec![RecordOutcome::Throttled; records.len()];
        let mut kept = Vec::new();
        for place in order {
            let record = &records[place];
            let shard = if self.ignores_keys {
                let open: Vec<usize> = (0..self.shards.len())
                    .filter(|place| self.shards[*place].is_open)
                    .collect();
                *dice.pick(&open)
            } else {
                self.shard_of(hash_of(record))
            };
            let state = &mut self.shards[shard];
            let failed = RecordOutcome::Failed {
                code: "InternalFailure".to_owned(),
                message: "Internal service failure.".to_owned(),
            };
            match state.stuck_until {
                Some((until, as_throttled)) if now < until => {
                    if !as_throttled {
                        outcomes[place] = failed;
                    }
                    continue;
                }
                Some(_) | None => {}
            }
            if dice.chance(fails_one_in) {
                outcomes[place] = failed;
                continue;
            }
            if !state
                .limiter
                .admits(record.data.len() + record.key.len(), now)
            {
                continue;
            }
            self.sequence += 1;
            outcomes[place] = RecordOutcome::Stored {
                shard: state.shard.id.clone(),
                sequence: format!("{:056}", self.sequence),
            };
            kept.push((place, state.shard.id.clone(), state.shard.range));
        }
        // Of one key a call has one record: the order within it is nobody's.
        kept.sort_unstable_by_key(|(place, ..)| *place);
        stored.extend(kept.into_iter().map(|(place, shard, range)| InStream {
            shard,
            range,
            record: records[place].clone(),
        }));
        Ok(outcomes)
    }
}
