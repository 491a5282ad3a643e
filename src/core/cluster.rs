//! Which pipelines of a database are whose: worked out by every node for itself,
//! from the same rows, and so alike.
//!
//! ```text
//!   free -- the member it falls to claims it --> held
//!   held -- another member below its target asks, and the owner is above its own -->
//!           drained and given back: free, and the asker's
//! ```
//!
//! Rules:
//! - a *member* is a node whose row runs, that has beaten twice and does not drain.
//!   The first beat shows a node to the others, the second one is after they could
//!   see it: nothing moves for a node that comes and goes;
//! - every member's *target* is the pipelines divided by the members, rounded down or
//!   up: up for those that hold most already. Nobody is asked for what lies within
//!   its target, so what is balanced stays where it is;
//! - a free pipeline falls to the member below its target whose hash with it is the
//!   highest. All nodes find the same one. What a node has claimed already counts as its
//!   own until it hears otherwise, wherever it would fall to by then: or it would get
//!   both, one too many, and one of them would have to move again. The node may be unable to run it (its stream does
//!   not answer there): when the pipeline has been free for a lease, the member next
//!   in line may take it as well, after another lease the next, and so on. Who takes
//!   it in the end keeps it: nobody asks for what it cannot run;
//! - a pipeline moves only to a node that asked for it by name, a few at a time
//!   ([`MOST_ASKS`]). Of what an owner has too much, what it took last is asked for
//!   first: a node that comes back after a restart finds what it had.
//!
//! All of this is advice. Two nodes may see different things for a moment and claim
//! the same pipeline: the lease's row decides.

mod claimable;
mod plan;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::nodes::BeatDone;
use super::ports::PipelineName;
use super::time::Moment;

pub use claimable::Claimable;
pub use plan::{Give, Plan};

/// The most pipelines a node asks for at a time, and the most that it gives away at a
/// time: a joiner moves no more than so many readers at once.
pub const MOST_ASKS: usize = 16;

/// A beat comes at least so often, whatever the lease.
pub const MOST_PACE: Duration = Duration::from_secs(1);

/// How often a node beats while something moves, in a small cluster.
const HURRIED: Duration = Duration::from_millis(250);

/// The same for each node there is: all hurried beats together stay below 80 a second.
const HURRIED_PER_NODE: Duration = Duration::from_micros(12_500);

/// A node that has to stop by then is looked at so much later.
const AFTER_EXPIRY: Duration = Duration::from_millis(20);

/// What nobody gives although it is asked for is no reason to hurry any more.
const HURRIES_FOR: Duration = Duration::from_secs(10);

/// A pipeline that is free for so many leases is one that nobody can run: it does not
/// count in the targets.
const COUNTED_FOR: u32 = 3;

/// A pipeline that this node wants to be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Own {
    /// It could run here: its stream and its database answer.
    pub able: bool,
    /// It runs here, and nothing is in the way of draining it.
    pub gives: bool,
    /// This node has asked for its lease and has not heard whether it got it.
    pub claimed: bool,
}

/// Another node, as far as it matters here.
#[derive(Debug, Clone)]
struct Other {
    node: Arc<str>,
    is_member: bool,
    draining: bool,
    expires_in: Duration,
    asks: Vec<PipelineName>,
}

/// What was heard last.
#[derive(Debug, Clone)]
struct Heard {
    at: Moment,
    beat: u64,
    /// Those that have not surely stopped.
    others: Vec<Other>,
}

/// Who has a pipeline, and since when.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Owner {
    node: Arc<str>,
    taken_at: i64,
}

/// One database's nodes and leases, as one of the nodes knows them.
#[derive(Debug)]
pub struct Cluster {
    me: Arc<str>,
    lease: Duration,
    digest: String,
    heard: Option<Heard>,
    owners: BTreeMap<PipelineName, Owner>,
    /// Wanted here and nobody's: since when, as far as this node knows.
    free: BTreeMap<PipelineName, Moment>,
    asks: Vec<PipelineName>,
    asked_since: Option<Moment>,
    /// Free, and this node may claim them.
    mine: BTreeSet<PipelineName>,
    /// What this node knows better than a beat that was begun before that moment.
    news: BTreeMap<PipelineName, (Moment, Owner)>,
}

impl Cluster {
    /// One that has heard nothing yet.
    #[must_use]
    pub const fn new(me: Arc<str>, lease: Duration) -> Self {
        Self {
            me,
            lease,
            digest: String::new(),
            heard: None,
            owners: BTreeMap::new(),
            free: BTreeMap::new(),
            asks: Vec::new(),
            asked_since: None,
            mine: BTreeSet::new(),
            news: BTreeMap::new(),
        }
    }

    /// What the last beat said of leases.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// What this node asks for.
    #[must_use]
    pub fn asks(&self) -> &[PipelineName] {
        &self.asks
    }

    /// How often a node beats while nothing moves: at a quarter of its lease, so that
    /// two beats may fail before it has to stop.
    #[must_use]
    pub fn pace(lease: Duration) -> Duration {
        (lease / 4).min(MOST_PACE)
    }

    /// What a beat that was begun at this moment has answered.
    pub fn heard(&mut self, done: &BeatDone, at: Moment) {
        let others = done.nodes.iter().filter(|node| !node.expires_in.is_zero());
        let others = others.map(|node| Other {
            node: Arc::clone(&node.node),
            is_member: node.beat >= 2 && !node.draining,
            draining: node.draining,
            expires_in: node.expires_in,
            asks: node.asks.clone(),
        });
        self.heard = Some(Heard {
            at,
            beat: done.beat,
            others: others.collect(),
        });
        if let Some(leases) = &done.leases {
            let owners = leases.iter().map(|lease| {
                let owner = Owner {
                    node: Arc::clone(&lease.owner),
                    taken_at: lease.taken_at,
                };
                (Arc::clone(&lease.pipeline), owner)
            });
            self.owners = owners.collect();
        }
        self.digest.clone_from(&done.digest);
        // What came about while the beat was under way it need not have seen.
        self.news.retain(|_, (since, _)| *since >= at);
        for (pipeline, (_, owner)) in &self.news {
            self.owners.insert(Arc::clone(pipeline), owner.clone());
            self.digest.clear();
        }
    }

    /// This node has the pipeline now.
    pub fn took(&mut self, pipeline: &PipelineName, now: Moment) {
        self.free.remove(pipeline);
        self.is_of(pipeline, Arc::clone(&self.me), now);
    }

    /// Another node has it, or is about to.
    pub fn is_of(&mut self, pipeline: &PipelineName, node: Arc<str>, now: Moment) {
        self.mine.remove(pipeline);
        // Later than anything the database has told: it will say better.
        let taken_at = i64::MAX;
        let owner = Owner { node, taken_at };
        self.owners.insert(Arc::clone(pipeline), owner.clone());
        self.news.insert(Arc::clone(pipeline), (now, owner));
        // The next beat tells all of it anew.
        self.digest.clear();
    }

    /// How many pipelines each node has that has any.
    #[must_use]
    pub fn held_by(&self) -> BTreeMap<&str, usize> {
        let mut held: BTreeMap<&str, usize> = BTreeMap::new();
        for owner in self.owners.values() {
            *held.entry(&owner.node).or_default() += 1;
        }
        held
    }

    /// Whether this node had a pipeline when it was heard of last.
    #[must_use]
    pub fn is_own(&self, pipeline: &PipelineName) -> bool {
        let owner = self.owners.get(pipeline);
        owner.is_some_and(|owner| owner.node == self.me)
    }

    /// Whether this node asked for a pipeline of another one.
    #[must_use]
    pub fn asked_for(&self, pipeline: &PipelineName) -> bool {
        self.asks.contains(pipeline)
    }
}

/// The weight of a node for a pipeline: the highest one has it. The same on every
/// node and in every release: FNV-1a over both names, mixed.
fn weight(node: &str, pipeline: &str) -> u64 {
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let bytes = node.bytes().chain([0xff]).chain(pipeline.bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(PRIME)
    });
    // FNV's high bits hardly depend on the last bytes.
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}
