//! Which keys use most of a shard: a space-saving sketch (Metwally, Agrawal and El
//! Abbadi, 2005), bounded in memory however many keys there are.
//!
//! It watches at most `capacity` keys. A key that is not watched takes the place of the
//! lightest one and inherits its weight as possible error. With `total` the weight of
//! everything:
//! - no key is underrated: its estimate is at least its true weight;
//! - an estimate is too high by at most its own error, which is at most
//!   `total / capacity`;
//! - every key that weighs more than `total / capacity` is watched.
//!
//! Weights are halved every [`HALF_LIFE`], which keeps all three: so it shows the last
//! minutes. A key weighs what its records take of a shard, in seconds of it: the larger
//! of its part of 1,000 records and of 1 MiB.
//!
//! Keys may be secrets of the application: they are given to whoever asks the admin port
//! for them, and appear neither in metrics nor in logs.

use std::sync::Arc;
use std::time::Duration;

use super::time::Moment;

/// How many keys of a shard are watched: a key with 1/32 of the shard or more is found.
/// With `MOST_SHOWN` that takes about 5 KiB a shard, 13 KiB at most.
pub const WATCHED: usize = 32;

/// A longer key is shown by its first so many characters: 256 of 4 bytes each, for
/// thousands of shards, would be felt.
const MOST_SHOWN: usize = 64;

/// After so long what was seen counts half.
pub const HALF_LIFE: Duration = Duration::from_secs(60);

/// A key with a smaller part of its shard is not hot.
const HOT: f64 = 0.01;

/// What a shard takes in a second.
const RECORDS_PER_SECOND: f64 = 1_000.0;
const BYTES_PER_SECOND: f64 = 1_048_576.0;

/// A hot key.
#[derive(Debug, Clone, PartialEq)]
pub struct HotKey {
    /// The partition key, cut if it is long.
    pub key: Arc<str>,
    /// Its part of what the shard took lately: at most so much.
    pub share: f64,
    /// At least so much.
    pub share_at_least: f64,
}

#[derive(Debug, Clone)]
struct Watched {
    hash: u128,
    key: Arc<str>,
    weight: f64,
    error: f64,
}

/// The sketch of one shard.
#[derive(Debug, Clone)]
pub struct HotKeys {
    capacity: usize,
    /// Few enough that looking at each is cheaper than hashing.
    watched: Vec<Watched>,
    total: f64,
    halved_at: Moment,
}

// === impl HotKeys ===

impl HotKeys {
    /// Nothing seen yet; watches `capacity` keys, one at least.
    #[must_use]
    pub fn new(capacity: usize, now: Moment) -> Self {
        Self {
            capacity: capacity.max(1),
            watched: Vec::new(),
            total: 0.0,
            halved_at: now,
        }
    }

    /// A record of this key went in: `bytes` of data and key.
    pub fn sent(&mut self, hash: u128, key: &Arc<str>, bytes: usize) {
        self.add(hash, key, cost(bytes));
    }

    /// Time passes: what was seen counts less.
    pub fn tick(&mut self, now: Moment) {
        let halvings = now.since(self.halved_at).as_secs() / HALF_LIFE.as_secs();
        if halvings == 0 {
            return;
        }
        self.halved_at = now;
        let factor = 0.5_f64.powi(i32::try_from(halvings).unwrap_or(i32::MAX));
        self.total *= factor;
        for one in &mut self.watched {
            one.weight *= factor;
            one.error *= factor;
        }
        if self.total < cost(0) {
            // Less than a record is left of it all.
            self.watched.clear();
            self.total = 0.0;
        }
    }

    /// The hottest keys, at most `most` of them, hottest first.
    #[must_use]
    pub fn hottest(&self, most: usize) -> Vec<HotKey> {
        let hot = |one: &Watched| HotKey {
            key: Arc::clone(&one.key),
            share: one.weight / self.total,
            share_at_least: (one.weight - one.error) / self.total,
        };
        let mut keys: Vec<HotKey> = self.watched.iter().map(hot).collect();
        keys.retain(|key| key.share_at_least >= HOT);
        let by_share = |a: &HotKey, b: &HotKey| {
            let shares = b.share_at_least.total_cmp(&a.share_at_least);
            shares.then_with(|| a.key.cmp(&b.key))
        };
        keys.sort_by(by_share);
        keys.truncate(most);
        keys
    }

    fn add(&mut self, hash: u128, key: &Arc<str>, weight: f64) {
        self.total += weight;
        let is_full = self.watched.len() >= self.capacity;
        let mut lightest: Option<&mut Watched> = None;
        for one in &mut self.watched {
            if one.hash == hash {
                one.weight += weight;
                return;
            }
            if lightest
                .as_ref()
                .is_none_or(|least| one.weight < least.weight)
            {
                lightest = Some(one);
            }
        }
        let new = |error: f64| Watched {
            hash,
            key: shown(key),
            weight: error + weight,
            error,
        };
        match lightest {
            Some(lightest) if is_full => *lightest = new(lightest.weight),
            Some(_) | None => self.watched.push(new(0.0)),
        }
    }
}

/// The key as it is shown.
fn shown(key: &Arc<str>) -> Arc<str> {
    // A character has at least one byte: most keys need no count.
    if key.len() <= MOST_SHOWN {
        return Arc::clone(key);
    }
    match key.char_indices().nth(MOST_SHOWN) {
        None => Arc::clone(key),
        Some((end, _)) => format!("{}...", &key[..end]).into(),
    }
}

/// What a record takes of a shard, in seconds of it.
fn cost(bytes: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a record has some MiB at most")]
    let by_bytes = bytes as f64 / BYTES_PER_SECOND;
    by_bytes.max(1.0 / RECORDS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use proptest::prelude::*;

    fn at(seconds: u64) -> Moment {
        Moment::from_origin(Duration::from_secs(seconds))
    }

    fn key(number: u8) -> Arc<str> {
        format!("k-{number}").into()
    }

    /// What can be off by rounding, at the totals of these tests.
    const ROUNDING: f64 = 1e-6;

    #[derive(Debug, Clone)]
    enum Step {
        Sent(u8, u32),
        Minute,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        // Few keys are frequent and many are rare, as in life.
        let any_key = prop_oneof![3 => 0_u8..4, 2 => 0_u8..40];
        let sent = (any_key, 0_u32..3_000_000).prop_map(|(key, bytes)| Step::Sent(key, bytes));
        prop::collection::vec(prop_oneof![20 => sent, 1 => Just(Step::Minute)], 0..400)
    }

    proptest! {
        #[test]
        fn estimates_hold_their_bounds(steps in steps(), capacity in 1_usize..20) {
            let mut sketch = HotKeys::new(capacity, at(0));
            let mut truth: BTreeMap<u8, f64> = BTreeMap::new();
            let mut minutes = 0;
            for step in steps {
                match step {
                    Step::Sent(number, bytes) => {
                        sketch.sent(u128::from(number), &key(number), bytes as usize);
                        *truth.entry(number).or_default() += cost(bytes as usize);
                    }
                    Step::Minute => {
                        minutes += 1;
                        sketch.tick(at(60 * minutes));
                        truth.values_mut().for_each(|weight| *weight /= 2.0);
                    }
                }
                if sketch.total == 0.0 {
                    // What was forgotten is less than a record.
                    truth.clear();
                }
                prop_assert!(sketch.watched.len() <= capacity);
                let total: f64 = truth.values().sum();
                prop_assert!((sketch.total - total).abs() < ROUNDING);
                let bound = total / capacity as f64 + ROUNDING;
                for (number, weight) in &truth {
                    let mut watched = sketch.watched.iter();
                    match watched.find(|one| one.hash == u128::from(*number)) {
                        Some(one) => {
                            prop_assert!(one.weight + ROUNDING >= *weight, "underrated");
                            prop_assert!(one.weight - one.error <= weight + ROUNDING, "overrated");
                            prop_assert!(one.error <= bound, "an error of {}", one.error);
                            prop_assert_eq!(&one.key, &key(*number));
                        }
                        None => prop_assert!(*weight <= bound, "a heavy key is not watched"),
                    }
                }
                for hot in sketch.hottest(usize::MAX) {
                    prop_assert!(hot.share_at_least >= HOT && hot.share >= hot.share_at_least);
                    prop_assert!(hot.share <= 1.0 + ROUNDING);
                }
            }
        }
    }

    #[test]
    fn a_hot_key_among_many_is_found_first() {
        let mut sketch = HotKeys::new(WATCHED, at(0));
        for round in 0..20_000_u32 {
            let rare: Arc<str> = format!("rare-{round}").into();
            sketch.sent(u128::from(round) + 1, &rare, 100);
            if round % 4 == 0 {
                sketch.sent(0, &"hot".into(), 100);
            }
        }
        let hottest = sketch.hottest(3);
        assert_eq!(
            hottest.len(),
            1,
            "no other key has a hundredth: {hottest:?}"
        );
        assert_eq!(&*hottest[0].key, "hot");
        assert!(hottest[0].share_at_least <= 0.2 + ROUNDING);
        assert!(hottest[0].share >= 0.2 - ROUNDING);
        assert!(hottest[0].share - hottest[0].share_at_least <= 1.0 / 32.0);
    }

    #[test]
    fn long_keys_are_cut_and_told_apart() {
        let mut sketch = HotKeys::new(WATCHED, at(0));
        let long = "\u{e9}".repeat(256);
        sketch.sent(1, &long.as_str().into(), 10);
        sketch.sent(2, &long.as_str().into(), 10);
        sketch.sent(3, &"\u{e9}".repeat(64).into(), 10);
        let keys = sketch.hottest(9);
        let characters = keys.iter().map(|key| key.key.chars().count());
        assert_eq!(characters.collect::<Vec<_>>(), [64, 67, 67]);
    }

    #[test]
    fn a_record_weighs_by_what_is_scarce() {
        assert!((cost(10) - 0.001).abs() < 1e-12);
        assert!((cost(524_288) - 0.5).abs() < 1e-12);
    }

    #[test]
    fn the_past_fades() {
        let mut sketch = HotKeys::new(4, at(0));
        for _ in 0..100 {
            sketch.sent(1, &key(1), 10);
        }
        sketch.tick(at(59));
        assert!((sketch.total - 0.1).abs() < 1e-9);
        sketch.tick(at(121));
        assert!((sketch.total - 0.025).abs() < 1e-9, "two halvings");
        for _ in 0..75 {
            sketch.sent(2, &key(2), 10);
        }
        let shares: Vec<f64> = sketch.hottest(9).iter().map(|key| key.share).collect();
        assert!((shares[0] - 0.75).abs() < 1e-6 && (shares[1] - 0.25).abs() < 1e-6);
        sketch.tick(at(3_600));
        assert_eq!(sketch.hottest(9), [], "and is forgotten in the end");
        assert_eq!(sketch.watched.len(), 0);
    }
}
