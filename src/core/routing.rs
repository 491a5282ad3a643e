//! Which writer a stream's rows go to, also while its shards change.
//!
//! A row goes to the writer of the shard that takes its hash key. When the shards
//! change, the rows that wait in the writers of shards that are gone (*parents*)
//! are moved to the writers of the new ones (*children*):
//!
//! *steady* -> (a new map) -> *handing over* -> (all parents have given back) ->
//! *steady*
//!
//! Rules (P-ORDER, kinesis-facts "Reshard"):
//! - a parent is asked to give its queue back; it does so when its call in flight
//!   has ended, in order for each flow and key;
//! - a child is fed when all its parents (the old shards that share hash keys with
//!   it) have given back: first what they gave back, then what was routed to it
//!   meanwhile, then what comes;
//! - shards that have not changed are not touched;
//! - a parent whose writer is not there, or dies before it gave back, has nothing
//!   to give: what its writer lost has made the flows of those rows void;
//! - a shard that is gone is retired when it has given back; one that stays under
//!   its id with another range gives back, and is a child itself;
//! - a map that comes during a hand-over waits for its end; the newest one counts.
//!   A hand-over is short: a call in flight always ends within its time-out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::sabotage::{self, Bug};
use super::send_queue::Sendable;
use super::shard_map::{Shard, ShardId, ShardMap};

/// The number of a hand-over; an answer to an earlier one counts no more.
pub type HandoverId = u64;

/// What is to be done now, in this order.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<G, T> {
    /// Rows go to a shard's writer.
    Deliver {
        /// The shard.
        shard: ShardId,
        /// Whose rows they are.
        tag: G,
        /// The rows, in order.
        rows: Vec<T>,
    },
    /// A shard's writer is to give its queue back.
    AskBack {
        /// The shard.
        shard: ShardId,
        /// For which hand-over.
        handover: HandoverId,
    },
    /// A shard is gone and has given back: its writer can end.
    Retire {
        /// The shard.
        shard: ShardId,
    },
}

/// Which shards of a new map are other ones than before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Those whose id or range is new.
    Reshard,
    /// All of them, even under the same id: the stream was made again.
    Renewal,
}

#[derive(Debug)]
struct Slot<G, T> {
    has_writer: bool,
    awaits: BTreeSet<ShardId>,
    returned: Vec<(G, Vec<T>)>,
    waiting: Vec<(G, Vec<T>)>,
}

impl<G, T> Slot<G, T> {
    const fn new() -> Self {
        Self {
            has_writer: false,
            awaits: BTreeSet::new(),
            returned: Vec::new(),
            waiting: Vec::new(),
        }
    }

    fn may_be_fed(&self) -> bool {
        self.has_writer && self.awaits.is_empty()
    }

    fn take_waiting(&mut self) -> Vec<(G, Vec<T>)> {
        let mut all = std::mem::take(&mut self.returned);
        all.append(&mut self.waiting);
        all
    }
}

/// What becomes of a parent once it has given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Retires,
    Stays,
}

/// The rows of a stream on their way to its writers.
#[derive(Debug)]
pub struct Routing<G, T> {
    map: Arc<ShardMap>,
    slots: BTreeMap<ShardId, Slot<G, T>>,
    /// The parents that have not given back.
    parents: BTreeMap<ShardId, Then>,
    handover: HandoverId,
    next: Option<(Arc<ShardMap>, Change)>,
}

impl<G: Clone, T: Sendable> Routing<G, T> {
    /// The routing of a stream with these shards, none of which has a writer yet.
    #[must_use]
    pub fn new(map: Arc<ShardMap>) -> Self {
        let ids = map.shards().iter().map(|shard| shard.id.clone());
        Self {
            slots: ids.map(|id| (id, Slot::new())).collect(),
            map,
            parents: BTreeMap::new(),
            handover: 0,
            next: None,
        }
    }

    /// The shards rows are routed by.
    #[must_use]
    pub const fn map(&self) -> &Arc<ShardMap> {
        &self.map
    }

    /// The map that rows will be routed by: the present one unless a newer one
    /// waits for the end of a hand-over.
    #[must_use]
    pub fn newest_map(&self) -> &Arc<ShardMap> {
        self.next.as_ref().map_or(&self.map, |(map, _)| map)
    }

    /// Whether some parent has not given back.
    #[must_use]
    pub fn is_handing_over(&self) -> bool {
        !self.parents.is_empty()
    }

    /// Whether rows wait for a writer that is not there.
    #[must_use]
    pub fn waits_for_writer(&self) -> bool {
        let mut lack = self.slots.values().filter(|slot| !slot.has_writer);
        lack.any(|slot| slot.waiting.len() + slot.returned.len() > 0)
    }

    /// Rows of one flow have come, in order.
    pub fn route(&mut self, tag: &G, rows: Vec<T>) -> Vec<Step<G, T>> {
        let mut steps = Vec::new();
        for (shard, rows) in by_shard(&self.map, rows) {
            let Some(slot) = self.slots.get_mut(&shard) else {
                continue;
            };
            let tag = tag.clone();
            if slot.may_be_fed() {
                steps.push(Step::Deliver { shard, tag, rows });
            } else {
                slot.waiting.push((tag, rows));
            }
        }
        steps
    }

    /// A shard's writer is there.
    pub fn writer_ready(&mut self, shard: &ShardId) -> Vec<Step<G, T>> {
        if let Some(slot) = self.slots.get_mut(shard) {
            slot.has_writer = true;
        }
        let mut steps = Vec::new();
        self.feed(shard, &mut steps);
        steps
    }

    /// A shard's writer has ended, and its rows with it.
    pub fn writer_gone(&mut self, shard: &ShardId) -> Vec<Step<G, T>> {
        match self.parents.get(shard) {
            Some(Then::Stays) | None => {
                if let Some(slot) = self.slots.get_mut(shard) {
                    slot.has_writer = false;
                }
            }
            Some(Then::Retires) => {}
        }
        let mut steps = Vec::new();
        self.parent_is_done(shard, Vec::new(), &mut steps);
        steps
    }

    /// The stream has other shards now.
    pub fn reshard(&mut self, map: Arc<ShardMap>, change: Change) -> Vec<Step<G, T>> {
        let mut steps = Vec::new();
        if self.is_handing_over() {
            let was_renewed = matches!(self.next, Some((_, Change::Renewal)));
            let change = if was_renewed { Change::Renewal } else { change };
            self.next = Some((map, change));
        } else {
            self.begin(map, change, &mut steps);
        }
        steps
    }

    /// A parent's writer has given its queue back. What belongs to no hand-over
    /// that is under way is dropped.
    pub fn given_back(
        &mut self,
        shard: &ShardId,
        handover: HandoverId,
        groups: Vec<(G, Vec<T>)>,
    ) -> Vec<Step<G, T>> {
        let mut steps = Vec::new();
        if handover == self.handover {
            self.parent_is_done(shard, groups, &mut steps);
        }
        steps
    }

    /// Drops the rows of void flows.
    pub fn purge(&mut self, is_void: impl Fn(&G) -> bool) {
        for slot in self.slots.values_mut() {
            slot.returned.retain(|(tag, _)| !is_void(tag));
            slot.waiting.retain(|(tag, _)| !is_void(tag));
        }
    }

    /// Takes out the rows of some flows that wait for a writer or for a hand-over:
    /// those that are certainly not in the stream.
    pub fn recall(&mut self, is_recalled: impl Fn(&G) -> bool) -> Vec<(G, Vec<T>)> {
        let mut recalled = Vec::new();
        for slot in self.slots.values_mut() {
            for groups in [&mut slot.returned, &mut slot.waiting] {
                for (tag, rows) in groups.iter_mut().filter(|(tag, _)| is_recalled(tag)) {
                    let (stay, go): (Vec<T>, Vec<T>) = std::mem::take(rows)
                        .into_iter()
                        .partition(Sendable::is_in_doubt);
                    *rows = stay;
                    if !go.is_empty() {
                        recalled.push((tag.clone(), go));
                    }
                }
                groups.retain(|(_, rows)| !rows.is_empty());
            }
        }
        recalled
    }

    fn begin(&mut self, map: Arc<ShardMap>, change: Change, steps: &mut Vec<Step<G, T>>) {
        let old = std::mem::replace(&mut self.map, map);
        let is_same =
            |a: &Shard, b: &Shard| change == Change::Reshard && a.id == b.id && a.range == b.range;
        let has_left = |shard: &&Shard| {
            !self
                .map
                .find(&shard.id)
                .is_some_and(|new| is_same(shard, new))
        };
        let parents: Vec<&Shard> = old.shards().iter().filter(has_left).collect();
        self.handover += 1;
        let mut leaving: Vec<(ShardId, Slot<G, T>, Then)> = Vec::new();
        for parent in &parents {
            let Some(slot) = self.slots.remove(&parent.id) else {
                continue;
            };
            let stays = change == Change::Reshard && self.map.find(&parent.id).is_some();
            let then = if stays { Then::Stays } else { Then::Retires };
            leaving.push((parent.id.clone(), slot, then));
        }
        for shard in self.map.shards() {
            let slot = self.slots.entry(shard.id.clone()).or_insert_with(Slot::new);
            let overlapping = parents.iter().filter(|parent| {
                parent.range.overlaps(&shard.range) && !sabotage::is(Bug::ParentAndChildTogether)
            });
            slot.awaits = overlapping.map(|parent| parent.id.clone()).collect();
        }
        for (shard, slot, then) in &leaving {
            self.parents.insert(shard.clone(), *then);
            if let (Then::Stays, Some(child)) = (then, self.slots.get_mut(shard)) {
                child.has_writer = slot.has_writer;
            }
        }
        let handover = self.handover;
        for (shard, mut slot, _) in leaving {
            if slot.has_writer {
                steps.push(Step::AskBack { shard, handover });
            } else {
                self.parent_is_done(&shard, slot.take_waiting(), steps);
            }
        }
    }

    fn parent_is_done(
        &mut self,
        parent: &ShardId,
        groups: Vec<(G, Vec<T>)>,
        steps: &mut Vec<Step<G, T>>,
    ) {
        let Some(then) = self.parents.remove(parent) else {
            return;
        };
        for (tag, rows) in groups {
            for (shard, rows) in by_shard(&self.map, rows) {
                if let Some(slot) = self.slots.get_mut(&shard) {
                    slot.returned.push((tag.clone(), rows));
                }
            }
        }
        if then == Then::Retires {
            let shard = parent.clone();
            steps.push(Step::Retire { shard });
        }
        let map = Arc::clone(&self.map);
        for shard in map.shards() {
            let slot = self.slots.get_mut(&shard.id);
            if slot.is_some_and(|slot| slot.awaits.remove(parent)) {
                self.feed(&shard.id, steps);
            }
        }
        if self.parents.is_empty()
            && let Some((map, change)) = self.next.take()
        {
            self.begin(map, change, steps);
        }
    }

    fn feed(&mut self, shard: &ShardId, steps: &mut Vec<Step<G, T>>) {
        let Some(slot) = self.slots.get_mut(shard).filter(|slot| slot.may_be_fed()) else {
            return;
        };
        for (tag, rows) in slot.take_waiting() {
            let shard = shard.clone();
            steps.push(Step::Deliver { shard, tag, rows });
        }
    }
}

/// Rows by the shard that takes them, each shard's in order.
fn by_shard<T: Sendable>(map: &ShardMap, rows: Vec<T>) -> impl Iterator<Item = (ShardId, Vec<T>)> {
    let mut per_shard: BTreeMap<usize, Vec<T>> = BTreeMap::new();
    for row in rows {
        let place = map.index_of(row.hash());
        per_shard.entry(place).or_default().push(row);
    }
    let id = |place: usize| map.shards()[place].id.clone();
    let named: Vec<_> = per_shard
        .into_iter()
        .map(|(place, rows)| (id(place), rows))
        .collect();
    named.into_iter()
}

#[cfg(test)]
mod tests;
