use proptest::prelude::*;

use super::*;

fn at(seconds: u64) -> Moment {
    Moment::from_origin(Duration::from_secs(seconds))
}

fn one(hash: u128) -> HashRange {
    HashRange {
        first: hash,
        last: hash,
    }
}

fn even(count: u128, id: u128) -> ShardMap {
    let shards = (0..count).map(|place| Shard {
        id: ShardId(format!("shardId-{:012}", id + place).into()),
        range: HashRange {
            first: even_cut(place, count),
            last: if place + 1 == count {
                u128::MAX
            } else {
                even_cut(place + 1, count) - 1
            },
        },
        parents: Vec::new(),
    });
    ShardMap::new(shards.collect()).expect("a map")
}

fn shown(learnt: &LearntMap) -> Vec<(String, u128)> {
    let map = learnt.map().expect("a map");
    let shards = map.shards().iter();
    shards
        .map(|shard| (shard.id.to_string(), shard.range.first))
        .collect()
}

#[test]
fn starts_with_one_shard_that_takes_all() {
    let learnt = LearntMap::default();
    assert_eq!(shown(&learnt), [("unknown".to_owned(), 0)]);
}

#[test]
fn an_evenly_cut_stream_is_known_once_each_shard_was_seen() {
    for count in [1, 2, 3, 4, 5, 7, 100] {
        let real = even(count, 0);
        let mut learnt = LearntMap::default();
        for shard in real.shards().iter().rev() {
            let middle = shard.range.first + (shard.range.last - shard.range.first) / 3;
            learnt.observe(&shard.id, one(middle), at(0));
        }
        assert_eq!(learnt.map(), Ok(real), "{count} shards");
    }
}

#[test]
fn a_parent_is_forgotten_when_a_child_is_seen_and_late_answers_are_not_believed() {
    let mut learnt = LearntMap::from_map(&even(2, 0), at(0));
    let quarter = even_cut(1, 4);
    learnt.observe(&"shardId-000000000003".into(), one(quarter + 5), at(1));
    let half = even_cut(1, 2);
    let parent = "shardId-000000000000";
    assert!(shown(&learnt).iter().all(|(id, _)| id != parent));
    learnt.observe(&parent.into(), one(quarter + 5), at(2));
    assert!(shown(&learnt).iter().all(|(id, _)| id != parent), "late");
    learnt.observe(&"shardId-000000000002".into(), one(quarter - 5), at(3));
    let ids = [2, 3, 1].map(|id| format!("shardId-{id:012}"));
    let firsts = [0, quarter, half];
    assert_eq!(
        shown(&learnt),
        ids.into_iter().zip(firsts).collect::<Vec<_>>()
    );
}

#[test]
fn a_stream_that_was_made_again_begins_with_low_ids() {
    let mut learnt = LearntMap::from_map(&even(2, 6), at(0));
    learnt.observe(&"shardId-000000000000".into(), one(7), at(5));
    assert_eq!(shown(&learnt)[0].0, "shardId-000000000006", "maybe late");
    learnt.observe(&"shardId-000000000000".into(), one(7), at(30));
    assert_eq!(shown(&learnt)[0].0, "shardId-000000000000");
}

/// The real stream: splits and merges at places, new shards get rising ids.
struct Real {
    map: ShardMap,
    next_id: u128,
}

impl Real {
    fn change(&mut self, split: bool, place: usize, at_share: u8) {
        let mut shards = self.map.shards().to_vec();
        let place = place % shards.len();
        let HashRange { first, last } = shards[place].range;
        let mut fresh = |range| {
            self.next_id += 1;
            let id = ShardId(format!("shardId-{:012}", self.next_id).into());
            let parents = Vec::new();
            Shard { id, range, parents }
        };
        if split && last - first > 1000 {
            let width = (last - first) / 256;
            let cut = first + 1 + width * u128::from(at_share);
            shards[place] = fresh(HashRange {
                first,
                last: cut - 1,
            });
            shards.push(fresh(HashRange { first: cut, last }));
        } else if place + 1 < shards.len() {
            let last = shards.remove(place + 1).range.last;
            shards[place] = fresh(HashRange { first, last });
        }
        self.map = ShardMap::new(shards).expect("a map");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Whatever happened before, once every key was seen a few times the map says
    /// of each where it goes, and does not change any more.
    #[test]
    fn what_is_seen_is_learnt(
        keys in prop::collection::vec(any::<u128>(), 1..120),
        changes in prop::collection::vec((any::<bool>(), 0usize..8, any::<u8>(), 0usize..150), 0..12),
        shards in 1u128..6,
        rotate in any::<prop::sample::Index>(),
    ) {
        let mut real = Real { map: even(shards, 0), next_id: 100 };
        let mut learnt = LearntMap::default();
        let mut now = 0;
        let mut put = |learnt: &mut LearntMap, real: &Real, key: u128| {
            now += 1;
            learnt.observe(&real.map.shard_of(key).id, one(key), at(now / 50));
            prop_assert!(learnt.map().is_ok());
            Ok(())
        };
        for (split, place, share, puts) in changes {
            for turn in 0..puts {
                put(&mut learnt, &real, keys[(turn * 7 + rotate.index(keys.len())) % keys.len()])?;
            }
            real.change(split, place, share);
        }
        let rounds = 2;
        for _ in 0..rounds {
            for key in &keys {
                put(&mut learnt, &real, *key)?;
            }
        }
        let known = learnt.map().expect("a map");
        for key in &keys {
            prop_assert_eq!(&known.shard_of(*key).id, &real.map.shard_of(*key).id);
        }
        for key in keys.iter().rev() {
            put(&mut learnt, &real, *key)?;
        }
        prop_assert_eq!(learnt.map().expect("a map"), known);
    }
}
