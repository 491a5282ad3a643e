//! What a node does by what it has heard: which free pipelines it claims, which ones
//! it asks for, which ones it gives.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::{
    AFTER_EXPIRY, COUNTED_FOR, Cluster, HURRIED, HURRIED_PER_NODE, HURRIES_FOR, MOST_ASKS,
    MOST_PACE, Own, weight,
};
use crate::core::ports::PipelineName;
use crate::core::time::Moment;

/// The most members that are asked one after the other for a pipeline that is free.
const MOST_RANKS: u32 = 3;

/// A pipeline that another node is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Give {
    /// Which.
    pub pipeline: PipelineName,
    /// Who asked for it.
    pub to: Arc<str>,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Pipelines to drain for others.
    pub give: Vec<Give>,
    /// How many pipelines this node should have.
    pub target: usize,
    /// How many it has.
    pub held: usize,
    /// How long after the last beat the next one is due.
    pub next_in: Duration,
}

/// A member, while a plan is made.
struct Member {
    node: Arc<str>,
    held: usize,
    /// What it holds and what has fallen to it.
    count: usize,
    target: usize,
}

impl Member {
    const fn has_room(&self) -> bool {
        self.count < self.target
    }
}

/// The member with the highest weight for a pipeline among those that qualify.
fn heaviest(
    members: &[Member],
    pipeline: &str,
    qualifies: impl Fn(&Member) -> bool,
) -> Option<usize> {
    let all = members.iter().enumerate();
    let all = all.filter(|(_, member)| qualifies(member));
    let best = all.max_by_key(|(_, member)| (weight(&member.node, pipeline), &member.node));
    best.map(|(place, _)| place)
}

impl Cluster {
    /// Works out what is to be done by what was heard last. `wanted` are the
    /// pipelines of this database that this node wants to be run, wherever.
    /// `giving` are those it drains for others already.
    pub fn plan(
        &mut self,
        wanted: &BTreeMap<PipelineName, Own>,
        giving: usize,
        is_draining: bool,
        now: Moment,
    ) -> Plan {
        self.note_free(wanted, now);
        let mut members = self.members(is_draining, now);
        let askers = self.askers(&members);
        self.share_out_free(wanted, &mut members, &askers, now);
        let surplus = self.surplus(&members);
        let asked = self.ask(wanted, &mut members, &surplus);
        self.note_asks(asked, now);
        let me = members.iter().find(|member| member.node == self.me);
        let held = self.owners.values().filter(|owner| owner.node == self.me);
        let held = held.count();
        let target = me.map_or(0, |me| me.target);
        let wished = self.wished(wanted, &askers);
        let may_give = held.saturating_sub(target).saturating_sub(giving);
        let at_once = MOST_ASKS.saturating_sub(giving);
        let most = if me.is_none() {
            0
        } else {
            may_give.min(at_once)
        };
        let give: Vec<Give> = wished.into_iter().take(most).collect();
        let next_in = self.next_in(giving > 0 || !give.is_empty(), now);
        Plan {
            give,
            target,
            held,
            next_in,
        }
    }

    fn note_free(&mut self, wanted: &BTreeMap<PipelineName, Own>, now: Moment) {
        let owners = &self.owners;
        self.free
            .retain(|name, _| wanted.contains_key(name) && !owners.contains_key(name));
        for name in wanted.keys() {
            if !self.owners.contains_key(name) {
                self.free.entry(Arc::clone(name)).or_insert(now);
            }
        }
    }

    /// The members with their targets.
    fn members(&self, is_draining: bool, now: Moment) -> Vec<Member> {
        let Some(heard) = &self.heard else {
            return Vec::new();
        };
        // Alone, or with nodes that end, it need not wait for anybody to see it.
        let is_alone = heard.others.iter().all(|other| other.draining);
        let am_member = !is_draining && (heard.beat >= 2 || is_alone);
        let others = heard.others.iter().filter(|other| other.is_member);
        let nodes = others.map(|other| Arc::clone(&other.node));
        let nodes = nodes.chain(am_member.then(|| Arc::clone(&self.me)));
        let held = self.held_by();
        let members = nodes.map(|node| {
            let held = held.get(&*node).copied().unwrap_or_default();
            Member {
                node,
                held,
                count: held,
                target: 0,
            }
        });
        let mut members: Vec<Member> = members.collect();
        if members.is_empty() {
            return members;
        }
        // Leases of whoever has no row are none to be divided.
        let of_nodes = heard.others.iter().map(|other| &*other.node);
        let of_nodes = of_nodes.chain([&*self.me]);
        let counted = self.lease * COUNTED_FOR;
        let free = self.free.values();
        let free = free.filter(|since| now.since(**since) < counted).count();
        let all = free + of_nodes.filter_map(|node| held.get(node)).sum::<usize>();
        let (least, more) = (all / members.len(), all % members.len());
        members.sort_by(|a, b| (b.held, &b.node).cmp(&(a.held, &a.node)));
        for (place, member) in members.iter_mut().enumerate() {
            member.target = least + usize::from(place < more);
        }
        members
    }

    /// Which member asks for a pipeline: the one with the highest weight.
    fn askers(&self, members: &[Member]) -> BTreeMap<PipelineName, Arc<str>> {
        let mut askers: BTreeMap<PipelineName, Arc<str>> = BTreeMap::new();
        let others = self.heard.iter().flat_map(|heard| &heard.others);
        let asks = others.map(|other| (&other.node, &other.asks));
        let asks = asks.chain([(&self.me, &self.asks)]);
        for (node, names) in asks {
            if !members.iter().any(|member| member.node == *node) {
                continue;
            }
            for name in names {
                let is_better = askers
                    .get(name)
                    .is_none_or(|known| weight(node, name) > weight(known, name));
                if is_better {
                    askers.insert(Arc::clone(name), Arc::clone(node));
                }
            }
        }
        askers
    }

    /// To whom the free pipelines fall.
    fn share_out_free(
        &mut self,
        wanted: &BTreeMap<PipelineName, Own>,
        members: &mut [Member],
        askers: &BTreeMap<PipelineName, Arc<str>>,
        now: Moment,
    ) {
        self.mine = BTreeSet::new();
        let me = members.iter().position(|member| member.node == self.me);
        if let Some(me) = me {
            let is_claimed = |name: &PipelineName| wanted.get(name).is_some_and(|own| own.claimed);
            let claimed = self.free.keys().filter(|name| is_claimed(name));
            self.mine = claimed.cloned().collect();
            members[me].count += self.mine.len();
        }
        for (name, since) in &self.free {
            if self.mine.contains(name) {
                continue;
            }
            let asker = askers.get(name);
            let chosen = members
                .iter()
                .position(|member| Some(&member.node) == asker)
                .or_else(|| heaviest(members, name, Member::has_room));
            let mut is_mine = false;
            if let Some(chosen) = chosen {
                members[chosen].count += 1;
                is_mine = members[chosen].node == self.me;
            }
            let free_for = now.since(*since);
            let is_able = wanted.get(name).is_some_and(|own| own.able);
            if !is_mine && is_able && free_for >= self.lease {
                is_mine = self
                    .rank(members, name)
                    .is_some_and(|rank| free_for >= self.lease * (rank + 1));
            }
            if is_mine {
                self.mine.insert(Arc::clone(name));
            }
        }
    }

    /// How many members come before this one for a pipeline; `None` if it is no
    /// member.
    fn rank(&self, members: &[Member], pipeline: &str) -> Option<u32> {
        members.iter().find(|member| member.node == self.me)?;
        let own = weight(&self.me, pipeline);
        let before = members
            .iter()
            .filter(|member| weight(&member.node, pipeline) > own);
        let before = u32::try_from(before.count()).unwrap_or(MOST_RANKS);
        Some(before.min(MOST_RANKS))
    }

    /// What members hold above their targets, what they took last first.
    fn surplus(&self, members: &[Member]) -> Vec<PipelineName> {
        let mut of_member: BTreeMap<&str, Vec<(i64, &PipelineName)>> = BTreeMap::new();
        let above = members.iter().filter(|member| member.held > member.target);
        let above: BTreeSet<&str> = above.map(|member| &*member.node).collect();
        for (name, owner) in &self.owners {
            if above.contains(&*owner.node) {
                let list = of_member.entry(&owner.node).or_default();
                list.push((owner.taken_at, name));
            }
        }
        let mut surplus = Vec::new();
        for member in members {
            let Some(list) = of_member.get_mut(&*member.node) else {
                continue;
            };
            list.sort_by(|a, b| b.cmp(a));
            list.truncate(member.held - member.target);
            surplus.extend(list.iter().map(|(_, name)| Arc::clone(name)));
        }
        surplus
    }

    /// What this node asks for: its part of the surplus, as far as it can run it. All
    /// members divide it alike.
    fn ask(
        &self,
        wanted: &BTreeMap<PipelineName, Own>,
        members: &mut [Member],
        surplus: &[PipelineName],
    ) -> Vec<PipelineName> {
        // Given, and not claimed yet.
        let old = self.asks.iter();
        let old = old.filter(|name| self.mine.contains(*name)).cloned();
        let mut asked: Vec<PipelineName> = old.collect();
        for name in surplus {
            let Some(chosen) = heaviest(members, name, Member::has_room) else {
                break;
            };
            members[chosen].count += 1;
            let is_able = wanted.get(name).is_some_and(|own| own.able);
            if members[chosen].node == self.me && is_able && asked.len() < MOST_ASKS {
                asked.push(Arc::clone(name));
            }
        }
        asked
    }

    fn note_asks(&mut self, asked: Vec<PipelineName>, now: Moment) {
        if asked.is_empty() {
            self.asked_since = None;
        } else if asked != self.asks {
            self.asked_since = Some(now);
        }
        self.asks = asked;
    }

    /// What others ask for of what runs here.
    fn wished(
        &self,
        wanted: &BTreeMap<PipelineName, Own>,
        askers: &BTreeMap<PipelineName, Arc<str>>,
    ) -> Vec<Give> {
        let asked = askers.iter().filter(|(name, asker)| {
            let is_own = self.owners.get(*name);
            let is_own = is_own.is_some_and(|owner| owner.node == self.me);
            is_own && **asker != self.me && wanted.get(*name).is_some_and(|own| own.gives)
        });
        let asked = asked.map(|(name, asker)| Give {
            pipeline: Arc::clone(name),
            to: Arc::clone(asker),
        });
        asked.collect()
    }

    fn next_in(&self, gives: bool, now: Moment) -> Duration {
        let Some(heard) = &self.heard else {
            return Self::pace(self.lease);
        };
        let asks = self.asked_since;
        let is_asking = asks.is_some_and(|since| now.since(since) < HURRIES_FOR);
        let is_new = heard.beat < 2 && !heard.others.is_empty();
        let others = &heard.others;
        let moves = gives || is_asking || is_new || others.iter().any(|other| other.draining);
        let nodes = u32::try_from(others.len() + 1).unwrap_or(u32::MAX);
        // With a longer lease many nodes beat more seldom.
        let seldom = MOST_PACE.max(HURRIED_PER_NODE.saturating_mul(nodes));
        let pace = (self.lease / 4).min(seldom);
        let hurried = HURRIED.max(HURRIED_PER_NODE.saturating_mul(nodes));
        let pace = if moves { pace.min(hurried) } else { pace };
        let ends = others.iter().map(|other| other.expires_in + AFTER_EXPIRY);
        ends.fold(pace, Duration::min)
    }
}
