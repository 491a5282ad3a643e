//! What coordination costs as a cluster grows: statements on the database, counted in
//! a simulation of the nodes' beats. `docs/scaling.md` has the figures.
//!
//! `cargo test --release --features demo --lib core::cluster::growth -- --ignored --nocapture`

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::*;
use crate::core::nodes::{LeaseSeen, NodeSeen};

const LEASE: Duration = Duration::from_secs(4);
const PIPELINES: usize = 10_000;

struct Node {
    cluster: Cluster,
    name: Arc<str>,
    beat: u64,
    said: Vec<PipelineName>,
    giving: Vec<PipelineName>,
    knows: u64,
}

#[derive(Default)]
struct Counts {
    beats: u64,
    claims: u64,
    releases: u64,
    /// Bytes of the lists of owners that beats answered, as JSON would have them.
    list_bytes: u64,
}

struct World {
    now: Moment,
    owners: BTreeMap<PipelineName, (Arc<str>, i64)>,
    version: u64,
    nodes: Vec<Node>,
    due: BinaryHeap<Reverse<(Moment, usize)>>,
    counts: Counts,
}

impl World {
    /// So many nodes that have their parts.
    fn new(nodes: usize) -> Self {
        let name = |place: usize| -> Arc<str> { format!("relay-{place:04}-17-0a1b2c3d").into() };
        let owners = (0..PIPELINES).map(|place| {
            let pipeline: PipelineName = format!("tenant-{place:05}-events").into();
            (pipeline, (name(place % nodes), 0))
        });
        let mut world = Self {
            now: Moment::ORIGIN,
            owners: owners.collect(),
            version: 1,
            nodes: Vec::new(),
            due: BinaryHeap::new(),
            counts: Counts::default(),
        };
        for place in 0..nodes {
            world.join(name(place), 5);
        }
        world
    }

    fn join(&mut self, name: Arc<str>, beat: u64) {
        let place = self.nodes.len();
        self.nodes.push(Node {
            cluster: Cluster::new(Arc::clone(&name), LEASE),
            name,
            beat,
            said: Vec::new(),
            giving: Vec::new(),
            knows: 0,
        });
        // Their beats are spread over the second.
        let after = Duration::from_micros((place as u64 * 7_919) % 1_000_000);
        self.due.push(Reverse((self.now + after, place)));
    }

    fn run_for(&mut self, time: Duration, until: impl Fn(&Self) -> bool) -> Duration {
        let (began, end) = (self.now, self.now + time);
        while let Some(Reverse((due, place))) = self.due.pop() {
            if due >= end || until(self) {
                self.due.push(Reverse((due, place)));
                break;
            }
            self.now = due;
            let next_in = self.beat(place);
            self.due.push(Reverse((due + next_in, place)));
        }
        self.now.since(began)
    }

    fn told(&mut self, place: usize) -> BeatDone {
        let knows_all = self.nodes[place].knows == self.version
            && !self.nodes[place].cluster.digest().is_empty();
        self.nodes[place].knows = self.version;
        let others = self.nodes.iter().enumerate();
        let others = others.filter(|(other, node)| *other != place && node.beat > 0);
        let nodes = others.map(|(_, node)| NodeSeen {
            node: Arc::clone(&node.name),
            beat: node.beat,
            runs_since: 0,
            silent_for: Duration::ZERO,
            expires_in: LEASE,
            expired_for: Duration::ZERO,
            draining: false,
            asks: node.said.clone(),
            demand: String::new(),
            shares: String::new(),
        });
        let leases = (!knows_all).then(|| {
            let leases = self
                .owners
                .iter()
                .map(|(pipeline, (owner, taken_at))| LeaseSeen {
                    pipeline: Arc::clone(pipeline),
                    owner: Arc::clone(owner),
                    taken_at: *taken_at,
                });
            leases.collect::<Vec<_>>()
        });
        let bytes = leases.iter().flatten();
        let bytes = bytes.map(|lease| lease.pipeline.len() + lease.owner.len() + 26);
        self.counts.list_bytes += bytes.sum::<usize>() as u64;
        BeatDone {
            beat: self.nodes[place].beat,
            runs_since: 0,
            held: Vec::new(),
            nodes: nodes.collect(),
            digest: self.version.to_string(),
            leases,
        }
    }

    fn beat(&mut self, place: usize) -> Duration {
        let now = self.now;
        self.counts.beats += 1;
        let node = &mut self.nodes[place];
        node.beat += 1;
        node.said = node.cluster.asks().to_vec();
        for name in std::mem::take(&mut node.giving) {
            self.owners.remove(&name);
            self.version += 1;
            self.counts.releases += 1;
        }
        let told = self.told(place);
        let node = &mut self.nodes[place];
        node.cluster.heard(&told, now);
        let wanted = self.owners.iter().map(|(name, (owner, _))| {
            let gives = *owner == node.name;
            let own = Own {
                able: true,
                gives,
                claimed: false,
            };
            (Arc::clone(name), own)
        });
        let mut wanted: BTreeMap<_, _> = wanted.collect();
        for name in node.cluster.asks() {
            wanted.entry(Arc::clone(name)).or_insert(Own {
                able: true,
                gives: false,
                claimed: false,
            });
        }
        let plan = node.cluster.plan(&wanted, 0, false, now);
        node.giving = plan.give.into_iter().map(|give| give.pipeline).collect();
        let free = wanted
            .keys()
            .filter(|name| !self.owners.contains_key(*name));
        let free: Vec<PipelineName> = free.cloned().collect();
        for name in free {
            if node.cluster.claimable(&name, now) == Claimable::Yes {
                self.version += 1;
                self.counts.claims += 1;
                let taken_at = i64::try_from(self.version).unwrap_or(i64::MAX);
                self.owners
                    .insert(Arc::clone(&name), (Arc::clone(&node.name), taken_at));
                node.cluster.took(&name, now);
            }
        }
        plan.next_in
    }

    fn held(&self, name: &str) -> usize {
        let held = self.owners.values().filter(|(owner, _)| **owner == *name);
        held.count()
    }
}

#[test]
#[ignore = "minutes: it counts what docs/scaling.md says"]
fn statements_of_growing_clusters() {
    for nodes in [10, 100, 1_000] {
        let mut world = World::new(nodes);
        world.run_for(Duration::from_secs(2), |_| false);
        world.counts = Counts::default();
        let seconds = world
            .run_for(Duration::from_secs(5), |_| false)
            .as_secs_f64();
        let steady = world.counts.beats as f64 / seconds;
        world.counts = Counts::default();
        let part = PIPELINES / (nodes + 1);
        world.join("relay-joiner-17-0a1b2c3d".into(), 0);
        let took = world.run_for(Duration::from_secs(300), |world| {
            world.held("relay-joiner-17-0a1b2c3d") >= part
        });
        let Counts {
            beats,
            claims,
            releases,
            list_bytes,
        } = world.counts;
        println!(
            "{nodes} nodes, {PIPELINES} pipelines: {steady:.0} beats/s at rest; a joiner has its {part} after {took:.1?}: {:.0} beats/s, {claims} claims, {releases} releases, {:.0} KiB/s of owners meanwhile",
            beats as f64 / took.as_secs_f64(),
            list_bytes as f64 / took.as_secs_f64() / 1024.0,
        );
        let on_their_way = PIPELINES - world.owners.len();
        assert!(on_their_way <= MOST_ASKS, "{on_their_way} are nobody's");
    }
}
