//! The shards of every stream: equal parts of all hash keys, each with its limit.

use tokio::time::Instant;

use super::ShardLimit;

/// What the service counts bytes in.
const COUNTED_IN: u64 = 1024;

/// Tokens that come back at a rate and are kept for a second at most.
#[derive(Debug)]
struct Bucket {
    rate: f64,
    tokens: f64,
}

impl Bucket {
    /// Full.
    const fn new(rate: f64) -> Self {
        Self { rate, tokens: rate }
    }

    fn refill(&mut self, seconds: f64) {
        self.tokens = self.rate.min(self.tokens + seconds * self.rate);
    }
}

/// One shard.
#[derive(Debug)]
pub(super) struct Shard {
    /// Its name.
    pub(super) id: String,
    /// Its first hash key.
    pub(super) first: u128,
    /// Its last hash key.
    pub(super) last: u128,
    next_sequence: u64,
    limit: Option<(Bucket, Bucket)>,
    refilled: Instant,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Shards {
    shards: Vec<Shard>,
    width: u128,
}

// === impl Shards ===

impl Shards {
    pub(super) fn new(count: u32, limit: Option<ShardLimit>) -> Self {
        let count = u128::from(count.max(1));
        // One more than fits, over the count: the last range takes what is left.
        let width = u128::MAX / count + u128::from(count.is_power_of_two() && count > 1);
        let shard = |index: u128| Shard {
            id: format!("shardId-{index:012}"),
            first: index * width,
            last: if index + 1 == count {
                u128::MAX
            } else {
                (index + 1) * width - 1
            },
            next_sequence: 0,
            limit: limit.map(|limit| (Bucket::new(limit.records), Bucket::new(limit.bytes))),
            refilled: Instant::now(),
        };
        Self {
            shards: (0..count).map(shard).collect(),
            width,
        }
    }

    pub(super) fn all(&self) -> &[Shard] {
        &self.shards
    }

    /// The place of the shard that has this hash key.
    pub(super) fn place(&self, hash: u128) -> usize {
        let place = usize::try_from(hash / self.width).unwrap_or(usize::MAX);
        place.min(self.shards.len() - 1)
    }

    pub(super) fn at(&mut self, place: usize) -> &mut Shard {
        &mut self.shards[place]
    }
}

// === impl Shard ===

impl Shard {
    /// Takes a record, or turns it away. The service rounds the bytes of a call up
    /// to whole KB as they add up: `before` are those of the call's records before
    /// this one.
    pub(super) fn takes(&mut self, now: Instant, before: u64, bytes: u64) -> bool {
        let Some((records, capacity)) = &mut self.limit else {
            return true;
        };
        let seconds = now.duration_since(self.refilled).as_secs_f64();
        self.refilled = now;
        records.refill(seconds);
        capacity.refill(seconds);
        let counted =
            ((before + bytes).div_ceil(COUNTED_IN) - before.div_ceil(COUNTED_IN)) * COUNTED_IN;
        #[expect(clippy::cast_precision_loss, reason = "at most 10 MiB")]
        let counted = counted as f64;
        if records.tokens < 1.0 || capacity.tokens < counted {
            return false;
        }
        records.tokens -= 1.0;
        capacity.tokens -= counted;
        true
    }

    /// Writes the next sequence number: a number of 56 digits, like the service's.
    pub(super) fn write_sequence(&mut self, out: &mut String) {
        use std::fmt::Write;
        self.next_sequence += 1;
        // A String never refuses a write.
        let written = write!(out, "49{:054}", self.next_sequence);
        debug_assert!(written.is_ok());
    }
}
