//! The shards of a stream as the answers to puts show them.
//!
//! Without permission to list the shards, all there is to know is which shard a
//! record with a hash key went to. Shards take contiguous ranges, so what was seen
//! of a shard (its *hull*, from its lowest to its highest hash key) belongs to it
//! as a whole, and hulls of shards that are open at one time do not overlap.
//!
//! Rules:
//! - the map covers all hash keys: between two hulls lies a cut. It is put where a
//!   stream is usually cut: at the multiple of an even share, for as many shards as
//!   are known; where no such one lies between the hulls it stays where it is, until
//!   a hull grows over it, or goes to the roundest number;
//! - hulls that overlap contradict each other: a reshard has taken place, and the
//!   shard with the lower id is gone. It is forgotten, and its hash keys are its
//!   neighbours' until its children are seen;
//! - an answer may come late, from before the reshard: what contradicts a newer
//!   shard that was seen lately is not believed. A newer shard that was not seen
//!   for longer than a call can take belongs to a stream that was made again;
//! - nothing seen: one shard that takes all, with the budget of one.

use std::collections::BTreeSet;
use std::time::Duration;

use super::shard_map::{HashRange, Shard, ShardId, ShardMap, ShardMapError};
use super::time::Moment;

/// The name of the shard that stands for all while none is known.
pub const UNKNOWN_SHARD: &str = "unknown";

/// Longer than an answer can be late: a call's time-out is seconds.
const LATE: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    id: ShardId,
    hull: HashRange,
    last_at: Moment,
}

/// What has been seen of a stream's shards.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LearntMap {
    /// By hull, which do not overlap.
    seen: Vec<Seen>,
    cuts: BTreeSet<u128>,
}

impl LearntMap {
    /// Goes on from a map that was right until now.
    #[must_use]
    pub fn from_map(map: &ShardMap, now: Moment) -> Self {
        let seen = map.shards().iter().map(|shard| Seen {
            id: shard.id.clone(),
            hull: shard.range,
            last_at: now,
        });
        let firsts = map.shards().iter().map(|shard| shard.range.first);
        Self {
            seen: seen.filter(|seen| &*seen.id.0 != UNKNOWN_SHARD).collect(),
            cuts: firsts.filter(|first| *first > 0).collect(),
        }
    }

    /// Records with hash keys from the first to the last of a range, and maybe
    /// between, went to a shard.
    pub fn observe(&mut self, shard: &ShardId, range: HashRange, now: Moment) {
        let known = self.seen.iter().find(|seen| seen.id == *shard);
        let hull = known.map_or(range, |seen| HashRange {
            first: seen.hull.first.min(range.first),
            last: seen.hull.last.max(range.last),
        });
        let others = self.seen.iter().filter(|seen| seen.id != *shard);
        let contradicts = |seen: &&Seen| seen.hull.overlaps(&hull);
        let is_late = others
            .filter(contradicts)
            .any(|seen| is_newer(&seen.id, shard) && now.since(seen.last_at) < LATE);
        self.seen
            .retain(|seen| seen.id != *shard && (is_late || !seen.hull.overlaps(&hull)));
        if !is_late {
            let seen = Seen {
                id: shard.clone(),
                hull,
                last_at: now,
            };
            let place = self.seen.partition_point(|other| other.hull < hull);
            self.seen.insert(place, seen);
        }
        self.place_cuts();
    }

    /// The map these observations make.
    ///
    /// # Errors
    /// Never in fact: cuts lie between hulls.
    pub fn map(&self) -> Result<ShardMap, ShardMapError> {
        let unknown = || Shard {
            id: UNKNOWN_SHARD.into(),
            range: HashRange::ALL,
            parents: Vec::new(),
        };
        if self.seen.is_empty() {
            return ShardMap::new(vec![unknown()]);
        }
        let mut firsts = self.cuts.iter().copied();
        let mut shards = Vec::with_capacity(self.seen.len());
        let mut first = 0;
        for seen in &self.seen {
            let next = firsts.next();
            let last = next.map_or(u128::MAX, |next| next - 1);
            shards.push(Shard {
                id: seen.id.clone(),
                range: HashRange { first, last },
                parents: Vec::new(),
            });
            first = next.unwrap_or(0);
        }
        ShardMap::new(shards)
    }

    /// One cut between every two neighbours.
    fn place_cuts(&mut self) {
        let count = self.seen.len() as u128;
        let mut cuts = BTreeSet::new();
        for (place, pair) in (1..).zip(self.seen.windows(2)) {
            let [left, right] = pair else {
                continue;
            };
            let (above, up_to) = (left.hull.last, right.hull.first);
            let there = self.cuts.range(above + 1..=up_to).next().copied();
            let even = Some(even_cut(place, count)).filter(|cut| above < *cut && *cut <= up_to);
            cuts.insert(even.or(there).unwrap_or_else(|| roundest(above, up_to)));
        }
        self.cuts = cuts;
    }
}

/// Whether a shard was made after another one: ids rise.
fn is_newer(one: &ShardId, other: &ShardId) -> bool {
    (one.0.len(), &one.0) > (other.0.len(), &other.0)
}

/// Where the shard at a place begins when `count` shards share the hash keys
/// evenly.
const fn even_cut(place: u128, count: u128) -> u128 {
    // 2^128 / count, whose remainder is spread.
    let (share, rest) = (u128::MAX / count, u128::MAX % count + 1);
    place * share + place * rest / count
}

/// The number above `above` and up to `up_to` that most often halves evenly.
fn roundest(above: u128, up_to: u128) -> u128 {
    let rounded = (0..u128::BITS).rev().map(|bits| up_to >> bits << bits);
    rounded
        .into_iter()
        .find(|cut| *cut > above)
        .unwrap_or(up_to)
}

#[cfg(test)]
mod tests;
