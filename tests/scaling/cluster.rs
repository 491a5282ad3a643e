//! Nodes with the relay's own `Cluster` and `ShareBook` on one table of rows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tidegate::core::budget::share::Ratios;
use tidegate::core::budget::{Cost, ShardLimits};
use tidegate::core::cluster::{Claimable, Cluster, Own};
use tidegate::core::ports::PipelineName;
use tidegate::core::shard_map::ShardId;
use tidegate::core::shares::book::ShareBook;
use tidegate::core::shares::meter::Counted;
use tidegate::core::shares::missing::Missing;
use tidegate::core::shares::{ShardName, WHOLE};
use tidegate::core::time::Moment;

use crate::counts::Counts;
use crate::rows::Rows;

/// Pipelines of one stream, and its shards.
const PIPELINES_OF_A_STREAM: usize = 10;
const SHARDS: usize = 2;

/// Records a second of a pipeline, over all shards.
const RATE: u64 = 20;

const STEP: Duration = Duration::from_millis(50);

/// How large a cluster.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) nodes: usize,
    pub(crate) pipelines: usize,
    pub(crate) lease: Duration,
    /// The pipelines are of another database than the one where nodes see each other:
    /// a node that is gone may keep its shares until it is seen nowhere.
    pub(crate) elsewhere: bool,
}

struct Node {
    name: Arc<str>,
    cluster: Cluster,
    book: ShareBook,
    missing: Missing,
    held: BTreeSet<PipelineName>,
    entered: BTreeSet<ShardName>,
    due: Moment,
    beat_at: Option<Moment>,
    counted: BTreeMap<ShardName, Counted>,
    target: usize,
    lives: bool,
}

pub(crate) struct Simulated {
    size: Size,
    now: Moment,
    rows: Rows,
    nodes: Vec<Node>,
    wanted: BTreeMap<PipelineName, Own>,
    pub(crate) counts: Counts,
    /// The most pipelines that were nobody's at a time since this was set to zero.
    pub(crate) most_free: usize,
}

fn pipeline(number: usize) -> PipelineName {
    format!("pipeline-{number:05}").as_str().into()
}

fn shards_of(pipeline: &str) -> impl Iterator<Item = ShardName> + use<> {
    let number: usize = pipeline[9..].parse().expect("a number");
    let stream = number / PIPELINES_OF_A_STREAM;
    (0..SHARDS).map(move |shard| ShardName {
        stream: format!("arn:aws:kinesis:us-east-1:123456789012:stream/events-{stream:04} of Some(1790000000000)").into(),
        shard: ShardId::from(&*format!("shardId-{shard:012}")),
    })
}

impl Size {
    pub(crate) const fn of(nodes: usize, lease: Duration) -> Self {
        Self {
            nodes,
            pipelines: 10_000,
            lease,
            elsewhere: false,
        }
    }

    /// How often a node beats, at least.
    pub(crate) fn pace(&self) -> Duration {
        self.lease / 4
    }
}

impl Node {
    fn new(number: usize, lease: Duration, now: Moment) -> Self {
        let name: Arc<str> = format!("relay-7d9f8b6c5-{number:05}-1-a1b2c3").into();
        Self {
            cluster: Cluster::new(Arc::clone(&name), lease),
            book: ShareBook::new(Arc::clone(&name), now),
            missing: Missing::default(),
            name,
            held: BTreeSet::new(),
            entered: BTreeSet::new(),
            due: now,
            beat_at: None,
            counted: BTreeMap::new(),
            target: 0,
            lives: true,
        }
    }

    /// Its pipelines have sent since the last beat.
    fn measure(&mut self, passed: Duration, elsewhere: bool, now: Moment) {
        let mut wanted: BTreeMap<ShardName, u64> = BTreeMap::new();
        for name in &self.held {
            for shard in shards_of(name) {
                *wanted.entry(shard).or_default() += 1;
            }
        }
        for shard in wanted.keys().filter(|shard| !self.entered.contains(*shard)) {
            self.book.enter(shard, now);
        }
        for shard in self
            .entered
            .iter()
            .filter(|shard| !wanted.contains_key(*shard))
        {
            self.book.leave(shard);
        }
        self.entered = wanted.keys().cloned().collect();
        let streams = self.entered.iter().map(|shard| Arc::clone(&shard.stream));
        self.book.writes_to(&streams.collect(), elsewhere);
        for (shard, pipelines) in wanted {
            let counted = self.counted.entry(shard.clone()).or_default();
            let millis = u64::try_from(passed.as_millis()).expect("short");
            let records = pipelines * RATE * millis / 1000 / SHARDS as u64;
            counted.used = Cost {
                records: counted.used.records + records,
                bytes: counted.used.bytes + records * 500,
            };
            counted.calls += 1;
            let (counted, limits) = (*counted, ShardLimits::default());
            self.book
                .counted(&shard, counted, limits, Ratios::WHOLE, now);
        }
    }
}

impl Simulated {
    /// A cluster that has been at rest for a while.
    pub(crate) fn balanced(size: Size) -> Self {
        let now = Moment::from_origin(Duration::from_secs(10));
        let own = Own {
            able: true,
            gives: true,
            claimed: false,
        };
        let mut cluster = Self {
            size,
            now,
            rows: Rows::default(),
            nodes: (0..size.nodes)
                .map(|number| Node::new(number, size.lease, now))
                .collect(),
            wanted: (0..size.pipelines)
                .map(|number| (pipeline(number), own))
                .collect(),
            counts: Counts::default(),
            most_free: 0,
        };
        for number in 0..size.pipelines {
            let place = number * size.nodes / size.pipelines;
            let node = &mut cluster.nodes[place];
            cluster
                .rows
                .take(&pipeline(number), &node.name, now + size.lease * 2, now);
            node.held.insert(pipeline(number));
        }
        let nodes = u32::try_from(size.nodes).expect("few");
        for (place, node) in (0_u32..).zip(&mut cluster.nodes) {
            node.due = now + size.pace() / nodes * place;
        }
        cluster.pass(5 * size.pace() + Duration::from_secs(4));
        cluster
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.step();
        }
    }

    pub(crate) fn until(&mut self, holds: impl Fn(&Self) -> bool) -> Duration {
        let began = self.now;
        while !holds(self) {
            self.step();
            assert!(
                self.now.since(began) < Duration::from_secs(300),
                "it does not settle"
            );
        }
        self.now.since(began)
    }

    pub(crate) fn join(&mut self) -> usize {
        let node = Node::new(self.nodes.len(), self.size.lease, self.now);
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    pub(crate) fn kill(&mut self, place: usize) {
        self.nodes[place].lives = false;
    }

    pub(crate) fn has_its_part(&self, place: usize) -> bool {
        let node = &self.nodes[place];
        node.target > 0 && node.held.len() >= node.target && self.is_served(node)
    }

    pub(crate) fn all_is_owned(&self) -> bool {
        let living: BTreeSet<&Arc<str>> = self
            .nodes
            .iter()
            .filter(|node| node.lives)
            .map(|node| &node.name)
            .collect();
        self.rows.leases.len() == self.size.pipelines
            && self
                .rows
                .leases
                .values()
                .all(|row| living.contains(&row.owner))
    }

    /// Every node has a share of each shard that it writes to, and wants no more.
    pub(crate) fn shares_are_whole(&self) -> bool {
        self.nodes
            .iter()
            .filter(|node| node.lives)
            .all(|node| self.is_served(node))
    }

    fn is_served(&self, node: &Node) -> bool {
        let shards: BTreeSet<ShardName> =
            node.held.iter().flat_map(|name| shards_of(name)).collect();
        !node.book.is_short()
            && shards.iter().all(|shard| {
                let share = node.book.share(shard);
                share.is_some_and(|(nodes, share)| share.records * nodes * 50 >= WHOLE)
            })
    }

    fn step(&mut self) {
        self.now = self.now + STEP;
        for place in 0..self.nodes.len() {
            if !self.nodes[place].lives {
                continue;
            }
            if self.now >= self.nodes[place].due {
                self.beat(place);
            }
            self.write_shares(place);
        }
        let free = self.size.pipelines - self.rows.leases.len();
        self.most_free = self.most_free.max(free);
    }

    fn beat(&mut self, place: usize) {
        let (now, lease) = (self.now, self.size.lease);
        let node = &mut self.nodes[place];
        let passed = node.beat_at.map_or(Duration::ZERO, |at| now.since(at));
        node.measure(passed, self.size.elsewhere, now);
        let demand = node.book.say();
        let held: Vec<PipelineName> = node.held.iter().cloned().collect();
        let (asks, known) = (
            node.cluster.asks().to_vec(),
            node.cluster.digest().to_owned(),
        );
        let done = self.rows.beat(
            &node.name,
            lease,
            &demand,
            &asks,
            &held,
            &known,
            node.beat_at,
            now,
            &mut self.counts,
        );
        node.beat_at = Some(now);
        node.cluster.heard(&done, now);
        let others = done
            .nodes
            .iter()
            .filter(|other| !other.expires_in.is_zero());
        let others = others.map(|other| (&other.node, other.demand.as_str()));
        node.book.heard(now + lease * 3 / 4, others, now);
        if self.size.elsewhere {
            // The beat of the other database, at the same moment.
            self.counts.beats += 1;
            let elsewhere: Arc<str> = "elsewhere".into();
            let lives = |name: &str| self.rows.lives(name, now);
            node.missing.heard(&elsewhere, now, lives);
            let gone = node.missing.gone(&[elsewhere]);
            self.counts.share_forgets += u64::from(!gone.is_empty());
            for one in gone {
                self.rows.shares.forget(&one);
            }
        }
        let plan = node.cluster.plan(&self.wanted, 0, false, now);
        node.due = now + plan.next_in.max(STEP);
        node.target = plan.target;
        for give in plan.give {
            node.held.remove(&give.pipeline);
            self.counts.releases += 1;
            self.rows.release(&give.pipeline);
            node.cluster.is_of(&give.pipeline, give.to, now);
        }
        let claimable: Vec<PipelineName> = self
            .wanted
            .keys()
            .filter(|name| {
                !node.held.contains(*name)
                    && matches!(node.cluster.claimable(name, now), Claimable::Yes)
            })
            .cloned()
            .collect();
        for name in claimable {
            self.counts.claims += 1;
            if self.rows.take(&name, &node.name, now + lease, now) {
                node.cluster.took(&name, now);
                node.held.insert(name);
            }
        }
    }

    fn write_shares(&mut self, place: usize) {
        let now = self.now;
        let node = &mut self.nodes[place];
        node.book.tick(now);
        let Some((number, writes)) = node.book.next_write(now) else {
            return;
        };
        self.counts.share_writes += 1;
        self.rows.count_shares(&writes, &mut self.counts);
        // Who lives is asked while the table is changed.
        let mut shares = std::mem::take(&mut self.rows.shares);
        let written = shares.write(&node.name, number, &writes, |name| {
            self.rows.lives(name, now)
        });
        self.rows.shares = shares;
        node.missing.look_for(&written.keepers, now);
        node.book.written(number, Some(&written.granted), now);
    }
}
