//! Several nodes over one table of leases: what each is told is what the table has.

use super::*;
use crate::core::nodes::{LeaseSeen, NodeSeen};

const LEASE: Duration = Duration::from_secs(4);

/// A row of a lease that runs.
struct Row {
    owner: Arc<str>,
    taken_at: i64,
}

struct Node {
    cluster: Cluster,
    name: Arc<str>,
    beat: u64,
    alive: bool,
    draining: bool,
    expires_at: Moment,
    said: Vec<PipelineName>,
    unable: Vec<PipelineName>,
    giving: Vec<PipelineName>,
    /// Asked for, and not answered yet.
    claimed: Vec<PipelineName>,
}

/// A database and its nodes; every step is a beat of each node, in turn.
struct Model {
    now: Moment,
    pipelines: Vec<PipelineName>,
    leases: BTreeMap<PipelineName, Row>,
    nodes: Vec<Node>,
    clock: i64,
    moves: BTreeMap<PipelineName, usize>,
    /// Claims are answered after the next beat, as that beat need not see them.
    slow_claims: bool,
}

impl Model {
    fn new(pipelines: usize) -> Self {
        Self {
            now: Moment::ORIGIN + Duration::from_secs(100),
            pipelines: (0..pipelines).map(|n| format!("p{n}").into()).collect(),
            leases: BTreeMap::new(),
            nodes: Vec::new(),
            clock: 0,
            moves: BTreeMap::new(),
            slow_claims: false,
        }
    }

    fn join(&mut self, name: &str) -> usize {
        let name: Arc<str> = name.into();
        self.nodes.push(Node {
            cluster: Cluster::new(Arc::clone(&name), LEASE),
            name,
            beat: 0,
            alive: true,
            draining: false,
            expires_at: self.now,
            said: Vec::new(),
            unable: Vec::new(),
            giving: Vec::new(),
            claimed: Vec::new(),
        });
        self.nodes.len() - 1
    }

    fn kill(&mut self, place: usize) {
        self.nodes[place].alive = false;
    }

    /// It drains, gives all back, and leaves.
    fn leave(&mut self, place: usize) {
        self.nodes[place].draining = true;
        self.steps(1);
        let name = Arc::clone(&self.nodes[place].name);
        self.leases.retain(|_, row| row.owner != name);
        self.nodes[place].alive = false;
        self.nodes[place].expires_at = Moment::ORIGIN;
    }

    fn held(&self, place: usize) -> usize {
        let name = &self.nodes[place].name;
        let held = self.leases.values().filter(|row| row.owner == *name);
        held.count()
    }

    fn steps(&mut self, steps: usize) {
        for _ in 0..steps {
            for place in 0..self.nodes.len() {
                self.now = self.now + Duration::from_millis(300);
                let gone: Vec<Arc<str>> = self
                    .nodes
                    .iter()
                    .filter(|node| !node.alive && node.expires_at <= self.now)
                    .map(|node| Arc::clone(&node.name))
                    .collect();
                self.leases.retain(|_, row| !gone.contains(&row.owner));
                if self.nodes[place].alive {
                    self.beat(place);
                }
            }
        }
    }

    fn told(&self, place: usize) -> BeatDone {
        let others = self.nodes.iter().enumerate();
        let others = others.filter(|(other, node)| *other != place && node.beat > 0);
        let nodes = others.map(|(_, node)| NodeSeen {
            node: Arc::clone(&node.name),
            beat: node.beat,
            runs_since: 0,
            silent_for: Duration::ZERO,
            expires_in: node.expires_at.since(self.now),
            expired_for: self.now.since(node.expires_at),
            draining: node.draining,
            asks: node.said.clone(),
            demand: String::new(),
            shares: String::new(),
        });
        let leases = self.leases.iter().map(|(pipeline, row)| LeaseSeen {
            pipeline: Arc::clone(pipeline),
            owner: Arc::clone(&row.owner),
            taken_at: row.taken_at,
        });
        BeatDone {
            beat: self.nodes[place].beat,
            runs_since: 0,
            held: Vec::new(),
            nodes: nodes.collect(),
            digest: String::new(),
            leases: Some(leases.collect()),
        }
    }

    fn beat(&mut self, place: usize) {
        let now = self.now;
        let node = &mut self.nodes[place];
        node.beat += 1;
        node.expires_at = now + LEASE;
        node.said = node.cluster.asks().to_vec();
        // What it was asked to drain has drained since the last beat.
        for name in std::mem::take(&mut node.giving) {
            self.leases.remove(&name);
        }
        let told = self.told(place);
        let node = &mut self.nodes[place];
        node.cluster.heard(&told, now);
        let wanted = self.pipelines.iter().map(|name| {
            let is_own = self.leases.get(name);
            let own = Own {
                able: !node.unable.contains(name),
                gives: is_own.is_some_and(|row| row.owner == node.name),
                claimed: node.claimed.contains(name),
            };
            (Arc::clone(name), own)
        });
        let wanted: BTreeMap<_, _> = wanted.collect();
        let plan = node.cluster.plan(&wanted, 0, node.draining, now);
        node.giving = plan.give.into_iter().map(|give| give.pipeline).collect();
        let earlier = std::mem::take(&mut node.claimed);
        let may = |name: &PipelineName| {
            let is_free = !self.leases.contains_key(name) && !node.unable.contains(name);
            is_free && node.cluster.claimable(name, now) == Claimable::Yes
        };
        let claims = self.pipelines.iter().filter(|name| may(name));
        let claims: Vec<PipelineName> = claims.cloned().collect();
        let granted = if self.slow_claims {
            node.claimed = claims;
            node.claimed.retain(|name| !earlier.contains(name));
            earlier
        } else {
            claims
        };
        for name in granted {
            self.grant(place, name);
        }
    }

    fn grant(&mut self, place: usize, name: PipelineName) {
        let node = &mut self.nodes[place];
        if let Some(row) = self.leases.get(&name) {
            if row.owner != node.name {
                node.cluster.is_of(&name, Arc::clone(&row.owner), self.now);
            }
            return;
        }
        self.clock += 1;
        let row = Row {
            owner: Arc::clone(&node.name),
            taken_at: self.clock,
        };
        self.leases.insert(Arc::clone(&name), row);
        node.cluster.took(&name, self.now);
        *self.moves.entry(name).or_default() += 1;
    }
}

#[test]
fn a_lone_node_takes_all_with_its_first_beat() {
    let mut model = Model::new(300);
    let first = model.join("a");
    model.steps(1);
    assert_eq!(model.held(first), 300);
}

#[test]
fn a_joiner_takes_its_part_and_no_more_moves() {
    let mut model = Model::new(300);
    model.join("a");
    model.steps(1);
    model.join("b");
    model.steps(60);
    assert_eq!([model.held(0), model.held(1)], [150, 150]);
    model.moves.clear();
    let third = model.join("c");
    model.steps(60);
    assert_eq!([model.held(0), model.held(1), model.held(third)], [100; 3]);
    assert_eq!(model.moves.len(), 100, "each moves once");
    assert!(model.moves.values().all(|moves| *moves == 1));
    model.moves.clear();
    model.steps(20);
    assert!(model.moves.is_empty(), "what is balanced stays");
}

#[test]
fn one_pipeline_stays_where_it_is() {
    let mut model = Model::new(1);
    model.join("b");
    model.steps(1);
    model.join("a");
    model.join("c");
    model.steps(20);
    assert_eq!(model.held(0), 1);
    assert_eq!(model.moves.values().sum::<usize>(), 1);
}

#[test]
fn a_dead_nodes_pipelines_are_divided_among_the_others() {
    let mut model = Model::new(300);
    for name in ["a", "b", "c"] {
        model.join(name);
        model.steps(60);
    }
    model.moves.clear();
    model.kill(1);
    model.steps(8);
    assert_eq!([model.held(0), model.held(1), model.held(2)], [150, 0, 150]);
    assert_eq!(model.moves.len(), 100, "only those of the dead one");
}

/// Every pipeline moves as often as its owner went, and at most once more.
#[test]
fn a_rolling_restart_moves_each_at_most_once_more_than_needed() {
    let mut model = Model::new(300);
    for name in ["a", "b", "c"] {
        model.join(name);
        model.steps(60);
    }
    model.moves.clear();
    let mut needed: BTreeMap<PipelineName, usize> = BTreeMap::new();
    for place in 0..3 {
        let name = Arc::clone(&model.nodes[place].name);
        for (pipeline, row) in &model.leases {
            if row.owner == name {
                *needed.entry(Arc::clone(pipeline)).or_default() += 1;
            }
        }
        model.leave(place);
        model.steps(4);
        model.join(&format!("{name}2"));
        model.steps(60);
    }
    assert_eq!([model.held(3), model.held(4), model.held(5)], [100; 3]);
    for (pipeline, moves) in &model.moves {
        let needed = needed.get(pipeline).copied().unwrap_or_default();
        assert!(
            *moves <= needed + 1,
            "{pipeline}: {moves} moves, {needed} needed"
        );
    }
}

/// The pipelines of a node that leaves become free a few at a time, in any order, while
/// others are being claimed: each falls to one node and stays there.
#[test]
fn what_becomes_free_little_by_little_moves_once() {
    for seed in 0..40 {
        let mut chance = fastrand::Rng::with_seed(seed);
        let mut model = Model::new(24);
        // Other names have other weights.
        for name in ["a", "b", "c"] {
            model.join(&format!("{name}{seed}"));
            model.steps(20);
        }
        let leaver = Arc::clone(&model.nodes[0].name);
        model.slow_claims = true;
        model.moves.clear();
        model.nodes[0].draining = true;
        let of_it = model.leases.iter().filter(|(_, row)| row.owner == leaver);
        let mut of_it: Vec<PipelineName> = of_it.map(|(name, _)| Arc::clone(name)).collect();
        assert_eq!(of_it.len(), 8);
        chance.shuffle(&mut of_it);
        for name in of_it {
            model.leases.remove(&name);
            model.steps(chance.usize(0..3));
        }
        model.kill(0);
        model.steps(30);
        assert_eq!([model.held(1), model.held(2)], [12, 12], "seed {seed}");
        assert_eq!(model.moves.len(), 8, "seed {seed}");
        assert_eq!(model.moves.values().sum::<usize>(), 8, "seed {seed}");
    }
}

/// The node a pipeline falls to cannot run it: the next one does, and keeps it.
#[test]
fn what_a_node_cannot_run_is_run_by_another_and_stays_there() {
    let mut model = Model::new(12);
    let all = model.pipelines.clone();
    for name in ["a", "b", "c"] {
        let place = model.join(name);
        model.nodes[place].unable = if name == "a" {
            all.clone()
        } else {
            all[..6].to_vec()
        };
    }
    model.nodes[2].unable.clear();
    model.steps(100);
    assert_eq!(model.leases.len(), 12, "all run");
    assert_eq!(model.held(0), 0);
    model.moves.clear();
    model.steps(100);
    assert!(model.moves.is_empty(), "{:?}", model.moves);
}

#[test]
fn a_node_that_nobody_has_seen_twice_moves_nothing() {
    let mut model = Model::new(10);
    model.join("a");
    model.steps(3);
    let joiner = model.join("b");
    model.steps(1);
    assert_eq!(model.nodes[joiner].beat, 1);
    assert!(model.nodes[0].giving.is_empty());
    model.kill(joiner);
    model.moves.clear();
    model.steps(10);
    assert!(model.moves.is_empty());
    assert_eq!(model.held(0), 10);
}

/// What a node gives while a beat is under way is not its own again because that beat
/// saw it before.
#[test]
fn an_old_answer_does_not_undo_what_is_known_since() {
    let mut model = Model::new(2);
    model.join("a");
    model.steps(2);
    let (begun, told) = (model.now, model.told(0));
    let given = begun + Duration::from_millis(3);
    let cluster = &mut model.nodes[0].cluster;
    let name: PipelineName = "p1".into();
    cluster.is_of(&name, "b".into(), given);
    cluster.heard(&told, begun);
    assert_eq!(cluster.claimable(&name, given), Claimable::No(Some("b")));
    assert_eq!(cluster.digest(), "", "it is asked again");
    cluster.heard(&told, given + Duration::from_millis(1));
    assert_eq!(
        cluster.claimable(&name, given),
        Claimable::Yes,
        "told later, it counts"
    );
}

#[test]
fn weights_are_spread_evenly_and_stay_as_they_are() {
    let mut counts = BTreeMap::new();
    for pipeline in 0..3_000 {
        let pipeline = format!("pipeline-{pipeline}");
        let best = ["node-1", "node-2", "node-3"]
            .into_iter()
            .max_by_key(|node| weight(node, &pipeline));
        *counts.entry(best).or_insert(0) += 1;
    }
    assert!(
        counts.values().all(|count| (850..1150).contains(count)),
        "{counts:?}"
    );
    assert_eq!(weight("a", "b"), weight("a", "b"));
    assert_ne!(weight("a", "b"), weight("ab", ""));
}

#[test]
fn the_next_beat_is_when_a_silent_node_must_have_stopped() {
    let mut model = Model::new(1);
    model.join("a");
    model.join("b");
    model.steps(4);
    let mut told = model.told(0);
    told.nodes[0].expires_in = Duration::from_millis(150);
    let cluster = &mut model.nodes[0].cluster;
    cluster.heard(&told, model.now);
    let plan = cluster.plan(&BTreeMap::new(), 0, false, model.now);
    assert_eq!(plan.next_in, Duration::from_millis(170));
}
