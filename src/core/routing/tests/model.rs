//! A reader, writers with their queues and a service, while shards split, merge
//! and change under their feet, and writers die: the order of every key holds.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::core::aggregation::{Container, Packing};
use crate::core::budget::Cost;
use crate::core::compression::Compression;
use crate::core::send_queue::{CallRules, Flow, FlowId, Parcel, SendQueue, Shares, Sharing, Turn};

const KEYS: u128 = 12;
const ANY_COST: Cost = Cost {
    records: 4,
    bytes: 1 << 20,
};
const RULES: CallRules = CallRules {
    limit: ANY_COST,
    rows: 50,
    sharing: Sharing::AllKeys,
    record_worth: 1048,
};

fn hash_of(key: u128) -> u128 {
    (u128::MAX / KEYS) * key + 5
}

/// Flows of even number aggregate.
fn flow(id: FlowId) -> Flow {
    let packing = Packing {
        container: Container::Kpl,
        compression: Compression::None,
        max_bytes: 70,
    };
    Flow {
        id,
        tenant: "t".into(),
        shares: Arc::new(Shares::new(1, 1, 100)),
        packing: id.is_multiple_of(2).then_some(packing),
    }
}

/// A writer, with what the router has sent to it and it has not looked at.
#[derive(Default)]
struct Writer {
    mailbox: VecDeque<Mail>,
    queue: SendQueue<Row>,
    in_flight: Vec<Parcel<Row>>,
    giving_back: Option<HandoverId>,
}

enum Mail {
    Rows(FlowId, Vec<Row>),
    GiveBack(HandoverId),
}

struct World {
    routing: Routing<FlowId, Row>,
    writers: HashMap<ShardId, Writer>,
    /// Shards whose writer is being started.
    starting: BTreeSet<ShardId>,
    flow: FlowId,
    void: BTreeSet<FlowId>,
    published: HashMap<u128, usize>,
    confirmed: HashMap<u128, usize>,
    /// Serials of a key in the stream, in order.
    stored: HashMap<u128, Vec<usize>>,
    next_id: usize,
    deaths: usize,
}

impl World {
    fn new(flow: FlowId) -> Self {
        let start = map(&[(0, "s0"), (u128::MAX / 2, "s1")]);
        let mut world = Self {
            starting: BTreeSet::new(),
            routing: Routing::new(start),
            writers: HashMap::new(),
            flow,
            void: BTreeSet::new(),
            published: HashMap::new(),
            confirmed: HashMap::new(),
            stored: HashMap::new(),
            next_id: 2,
            deaths: 0,
        };
        world.want_writers();
        world
    }

    /// What the supervisor does when it hears of a map.
    fn want_writers(&mut self) {
        for shard in self.routing.map().shards() {
            if !self.writers.contains_key(&shard.id) {
                self.starting.insert(shard.id.clone());
            }
        }
    }

    fn perform(&mut self, steps: Vec<Step<FlowId, Row>>) {
        for step in steps {
            match step {
                Step::Deliver { shard, tag, rows } => {
                    let writer = self.writers.get_mut(&shard).expect("a writer");
                    assert!(writer.giving_back.is_none(), "fed while it gives back");
                    writer.mailbox.push_back(Mail::Rows(tag, rows));
                }
                Step::AskBack { shard, handover } => {
                    let writer = self.writers.get_mut(&shard).expect("a writer");
                    writer.mailbox.push_back(Mail::GiveBack(handover));
                }
                Step::Retire { shard } => {
                    let writer = self.writers.remove(&shard);
                    let is_empty = writer.is_none_or(|writer| {
                        writer.queue.is_empty()
                            && writer.in_flight.is_empty()
                            && writer.mailbox.is_empty()
                    });
                    assert!(is_empty, "retired with rows");
                    self.starting.remove(&shard);
                }
            }
        }
        self.want_writers();
    }

    fn publish(&mut self, keys: &[u128]) {
        let rows = keys.iter().map(|key| {
            let hash = hash_of(*key);
            let serial = self.published.entry(hash).or_default();
            *serial += 1;
            row(hash, *serial)
        });
        let rows: Vec<Row> = rows.collect();
        let steps = self.routing.route(&self.flow, rows);
        self.perform(steps);
    }

    fn start_writer(&mut self, place: usize) {
        let count = self.starting.len().max(1);
        let Some(shard) = self.starting.iter().nth(place % count).cloned() else {
            return;
        };
        self.starting.remove(&shard);
        self.writers.insert(shard.clone(), Writer::default());
        let steps = self.routing.writer_ready(&shard);
        self.perform(steps);
    }

    fn shard_at(&self, place: usize) -> Option<ShardId> {
        let mut ids: Vec<&ShardId> = self.writers.keys().collect();
        ids.sort();
        ids.get(place % ids.len().max(1)).map(|id| (*id).clone())
    }

    /// A writer looks at its mailbox, and begins a call or gives back.
    fn work(&mut self, place: usize) {
        let Some(shard) = self.shard_at(place) else {
            return;
        };
        let void = self.void.clone();
        let writer = self.writers.get_mut(&shard).expect("known");
        match writer.mailbox.pop_front() {
            Some(Mail::Rows(id, rows)) if !void.contains(&id) => {
                rows.into_iter()
                    .for_each(|row| writer.queue.push(&flow(id), row));
            }
            Some(Mail::GiveBack(handover)) => writer.giving_back = Some(handover),
            Some(Mail::Rows(..)) | None => {}
        }
        for id in void {
            writer.queue.purge(id);
        }
        if !writer.in_flight.is_empty() {
            return;
        }
        if let Some(handover) = writer.giving_back.take() {
            let groups = writer.queue.drain();
            let steps = self.routing.given_back(&shard, handover, groups);
            self.perform(steps);
            return;
        }
        writer.in_flight = writer.queue.take(ANY_COST, RULES);
        let taken: Vec<u128> = writer.in_flight.iter().flat_map(Parcel::hashes).collect();
        let live = |taken: &&Parcel<Row>| taken.flow == self.flow;
        for (id, other) in self.writers.iter().filter(|(id, _)| **id != shard) {
            let of_same_key = other.in_flight.iter().filter(live);
            let there = of_same_key.flat_map(Parcel::hashes);
            let clash = there.filter(|hash| taken.contains(hash));
            assert_eq!(clash.count(), 0, "{shard} and {id} send one key at once");
        }
    }

    fn answer(&mut self, place: usize, fails: usize) {
        let Some(shard) = self.shard_at(place) else {
            return;
        };
        let writer = self.writers.get_mut(&shard).expect("known");
        for (place, taken) in std::mem::take(&mut writer.in_flight)
            .into_iter()
            .enumerate()
        {
            if fails > 0 && place % fails == 0 {
                writer.queue.failed(taken, Turn::Next);
                continue;
            }
            for hash in taken.hashes() {
                writer.queue.confirmed(taken.flow, hash);
            }
            for Row { hash, serial } in taken.into_rows() {
                let confirmed = self.confirmed.entry(hash).or_default();
                let stored = self.stored.entry(hash).or_default();
                if !stored.contains(&serial) {
                    // What was repeated may end before what was there.
                    let highest = stored.iter().max().copied().unwrap_or(0);
                    assert_eq!(highest + 1, serial, "P-ORDER");
                } else {
                    assert!(self.deaths > 0, "a duplicate and nobody died");
                }
                stored.push(serial);
                *confirmed = (*confirmed).max(serial);
            }
        }
    }

    /// A writer dies with what it has; the reader starts again.
    fn kill(&mut self, place: usize) {
        let Some(shard) = self.shard_at(place) else {
            return;
        };
        self.deaths += 1;
        self.writers.remove(&shard);
        self.void.insert(self.flow);
        let void = self.void.clone();
        self.routing.purge(|flow| void.contains(flow));
        let steps = self.routing.writer_gone(&shard);
        self.perform(steps);
        self.flow += 1;
        let mut again = Vec::new();
        for (hash, published) in &self.published {
            let confirmed = self.confirmed.get(hash).copied().unwrap_or(0);
            again.extend((confirmed + 1..=*published).map(|serial| row(*hash, serial)));
        }
        let steps = self.routing.route(&self.flow, again);
        self.perform(steps);
    }

    fn reshard(&mut self, split: bool, place: usize, change: Change) {
        let mut shards = self.routing.newest_map().shards().to_vec();
        let place = place % shards.len();
        self.next_id += 1;
        let fresh = ShardId(format!("s{}", self.next_id).into());
        let shard = shards[place].clone();
        if split {
            let middle = shard.range.first + (shard.range.last - shard.range.first) / 2;
            let left = HashRange {
                last: middle,
                ..shard.range
            };
            let first = middle + 1;
            let right = HashRange {
                first,
                ..shard.range
            };
            // One half keeps the id, as in a map that is learnt.
            shards[place].range = left;
            let (id, parents) = (fresh, Vec::new());
            shards.push(Shard {
                id,
                range: right,
                parents,
            });
        } else if let Some(next) = shards.get(place + 1).cloned() {
            shards.remove(place + 1);
            shards[place].range.last = next.range.last;
            shards[place].id = fresh;
        }
        let map = Arc::new(ShardMap::new(shards).expect("a map"));
        let steps = self.routing.reshard(map, change);
        self.perform(steps);
    }

    fn finish(&mut self) {
        for _ in 0..20_000 {
            let done = self.published.iter().all(|(hash, published)| {
                self.confirmed.get(hash).copied().unwrap_or(0) == *published
            });
            if done && !self.routing.is_handing_over() {
                return;
            }
            self.start_writer(0);
            for place in 0..self.writers.len() {
                self.work(place);
                self.answer(place, 0);
            }
        }
        panic!("never done");
    }
}

#[derive(Debug, Clone)]
enum Act {
    Publish(Vec<u128>),
    StartWriter(usize),
    Work(usize),
    Answer(usize, usize),
    Kill(usize),
    Reshard(bool, usize, bool),
}

fn act(deaths: u32) -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => prop::collection::vec(0..KEYS, 1..8).prop_map(Act::Publish),
        4 => (0usize..8).prop_map(Act::StartWriter),
        14 => (0usize..8).prop_map(Act::Work),
        8 => (0usize..8, 0usize..4).prop_map(|(place, fails)| Act::Answer(place, fails)),
        deaths => (0usize..8).prop_map(Act::Kill),
        2 => (any::<bool>(), 0usize..8, prop::bool::weighted(0.1))
            .prop_map(|(split, place, renewal)| Act::Reshard(split, place, renewal)),
    ]
}

fn run(first_flow: FlowId, acts: Vec<Act>) {
    let mut world = World::new(first_flow);
    for act in acts {
        match act {
            Act::Publish(keys) => world.publish(&keys),
            Act::StartWriter(place) => world.start_writer(place),
            Act::Work(place) => world.work(place),
            Act::Answer(place, fails) => world.answer(place, fails),
            Act::Kill(place) => world.kill(place),
            Act::Reshard(split, place, renewal) => {
                let change = if renewal {
                    Change::Renewal
                } else {
                    Change::Reshard
                };
                world.reshard(split, place, change);
            }
        }
    }
    world.finish();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_row_arrives_once_and_in_order(
        flow in 1u64..3, acts in prop::collection::vec(act(0), 1..300),
    ) {
        run(flow, acts);
    }

    #[test]
    fn order_holds_while_writers_die(
        flow in 1u64..3, acts in prop::collection::vec(act(1), 1..300),
    ) {
        run(flow, acts);
    }
}
