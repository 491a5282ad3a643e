//! Which shard a partition key goes to.
//!
//! Kinesis hashes a key with MD5 and looks the result up in the shards' hash
//! ranges. The map is only for budgets and queues: records carry the plain key,
//! so the service always routes them right.

use std::fmt;
use std::sync::Arc;

use md5::{Digest, Md5};

/// The id of a shard, such as `shardId-000000000003`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub Arc<str>);

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<&str> for ShardId {
    fn from(id: &str) -> Self {
        Self(id.into())
    }
}

/// A closed range of hash keys, both ends included, as the service gives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HashRange {
    /// The lowest hash key.
    pub first: u128,
    /// The highest hash key.
    pub last: u128,
}

impl HashRange {
    /// The whole hash space.
    pub const ALL: Self = Self {
        first: 0,
        last: u128::MAX,
    };

    /// Whether the hash key lies in the range.
    #[must_use]
    pub const fn contains(&self, hash: u128) -> bool {
        self.first <= hash && hash <= self.last
    }

    /// Whether some hash key lies in both ranges.
    #[must_use]
    pub const fn overlaps(&self, other: &Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// An open shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    /// Its id.
    pub id: ShardId,
    /// The keys it takes.
    pub range: HashRange,
    /// The shards it was made from by a split (one) or a merge (two), as far as
    /// the service names them.
    pub parents: Vec<ShardId>,
}

/// Why a list of shards is not a map.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShardMapError {
    /// There is no open shard.
    #[error("the stream has no open shard")]
    Empty,
    /// Some hash key belongs to no shard.
    #[error("no open shard takes hash key {hash}")]
    Gap {
        /// The lowest such key.
        hash: u128,
    },
    /// Some hash key belongs to two shards.
    #[error("shards {first} and {second} overlap")]
    Overlap {
        /// The shard that begins lower.
        first: ShardId,
        /// The shard that begins inside it.
        second: ShardId,
    },
}

/// The open shards of a stream: every hash key belongs to exactly one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardMap {
    shards: Vec<Shard>,
}

/// MD5 of a partition key's UTF-8 bytes as a big-endian number: its hash key.
#[must_use]
pub fn hash_key(partition_key: &str) -> u128 {
    u128::from_be_bytes(Md5::digest(partition_key.as_bytes()).into())
}

impl ShardMap {
    /// Builds the map.
    ///
    /// # Errors
    /// Says which hash key no shard, or more than one shard, takes. ListShards
    /// shows such states for moments while a stream is resharded.
    pub fn new(mut shards: Vec<Shard>) -> Result<Self, ShardMapError> {
        shards.sort_by_key(|shard| shard.range);
        let Some(lowest) = shards.first() else {
            return Err(ShardMapError::Empty);
        };
        if lowest.range.first != 0 {
            return Err(ShardMapError::Gap { hash: 0 });
        }
        for pair in shards.windows(2) {
            let (left, right) = (&pair[0], &pair[1]);
            if right.range.first <= left.range.last {
                return Err(ShardMapError::Overlap {
                    first: left.id.clone(),
                    second: right.id.clone(),
                });
            }
            if right.range.first != left.range.last + 1 {
                return Err(ShardMapError::Gap {
                    hash: left.range.last + 1,
                });
            }
        }
        match shards.last() {
            Some(highest) if highest.range.last != u128::MAX => Err(ShardMapError::Gap {
                hash: highest.range.last + 1,
            }),
            _ => Ok(Self { shards }),
        }
    }

    /// The shards, by rising hash range.
    #[must_use]
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// The place in [`Self::shards`] of the shard that takes the hash key.
    #[must_use]
    pub fn index_of(&self, hash: u128) -> usize {
        self.shards.partition_point(|shard| shard.range.last < hash)
    }

    /// The shard that takes the hash key.
    #[must_use]
    pub fn shard_of(&self, hash: u128) -> &Shard {
        &self.shards[self.index_of(hash)]
    }

    /// The shard with this id.
    #[must_use]
    pub fn find(&self, id: &ShardId) -> Option<&Shard> {
        self.shards.iter().find(|shard| shard.id == *id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn map_with_cuts(cuts: &std::collections::BTreeSet<u128>) -> Vec<Shard> {
        let mut first = 0;
        let mut shards = Vec::new();
        let ends = cuts
            .iter()
            .copied()
            .filter(|cut| *cut < u128::MAX)
            .chain([u128::MAX]);
        for (index, last) in ends.enumerate() {
            shards.push(Shard {
                id: ShardId(format!("shardId-{index:012}").into()),
                range: HashRange { first, last },
                parents: Vec::new(),
            });
            first = last.wrapping_add(1);
        }
        shards
    }

    #[test]
    fn hashes_like_the_service() {
        // As `printf abc | md5sum` prints it.
        assert_eq!(
            format!("{:032x}", hash_key("")),
            "d41d8cd98f00b204e9800998ecf8427e"
        );
        assert_eq!(
            format!("{:032x}", hash_key("abc")),
            "900150983cd24fb0d6963f7d28e17f72"
        );
    }

    #[test]
    fn refuses_gaps_and_overlaps() {
        let mut shards = map_with_cuts(&[99, 199].into());
        assert_eq!(ShardMap::new(Vec::new()), Err(ShardMapError::Empty));
        let removed = shards.remove(1);
        assert_eq!(
            ShardMap::new(shards.clone()),
            Err(ShardMapError::Gap { hash: 100 })
        );
        shards.push(removed.clone());
        shards.push(Shard {
            id: "twin".into(),
            ..removed
        });
        assert!(matches!(
            ShardMap::new(shards),
            Err(ShardMapError::Overlap { .. })
        ));
    }

    proptest! {
        #[test]
        fn every_hash_has_exactly_one_shard(
            cuts in prop::collection::btree_set(any::<u128>(), 0..40), hash in any::<u128>(),
        ) {
            let shards = map_with_cuts(&cuts);
            let map = ShardMap::new(shards.iter().rev().cloned().collect()).expect("a map");
            for probe in cuts.iter().copied().chain(cuts.iter().map(|cut| cut.wrapping_add(1))).chain([hash, 0, u128::MAX]) {
                let takers = shards.iter().filter(|shard| shard.range.contains(probe)).count();
                prop_assert_eq!(takers, 1);
                prop_assert!(map.shard_of(probe).range.contains(probe));
            }
        }
    }
}
