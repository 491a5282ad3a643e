//! What waits to be sent to one shard, and what may go in the next call.
//!
//! Rules (P-ORDER, kinesis-facts "Order"):
//! - each (flow, key) is in at most one record of a call: with one row, or, where
//!   its flow aggregates, with as many of its first rows as the record has place
//!   for: they are stored together or not at all;
//! - a row that was sent stays first of its key until it is confirmed, and keys
//!   whose first rows failed or have an unknown outcome go before fresh ones in the
//!   next call;
//! - fresh rows are taken in turns: tenants by weight, in each tenant its flows by
//!   weight, in each flow its keys one after the other (P-FAIR);
//! - a flow gets at most its own `batch_size` records into a call.
//!
//! A flow is one incarnation of a pipeline's reader. When it becomes void (its
//! reader died, or rows of it were lost on the way) nothing of it is sent any
//! more: what is left of a key might follow a row that was lost.

mod call;
mod going_back;
mod key_queue;
mod parcel;
mod recall;
mod sendable;
mod shares;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use super::aggregation::Packing;
use super::budget::{Cost, Waiting};
use super::fair_ring::FairRing;
use super::tenant::Limit;
use call::CallInMaking;
use key_queue::{KeyHash, KeyQueue};

pub use going_back::Turn;
pub use parcel::Parcel;
pub use sendable::Sendable;
pub use shares::Shares;

/// One incarnation of a pipeline's reader; never used twice in a process.
pub type FlowId = u64;

/// Whose rows they are.
#[derive(Debug, Clone)]
pub struct Flow {
    /// The incarnation.
    pub id: FlowId,
    /// Its tenant.
    pub tenant: Arc<str>,
    /// What it gets; everybody who has the flow sees a change.
    pub shares: Arc<Shares>,
    /// How its rows share records, if they do.
    pub packing: Option<Packing>,
}

/// What a call may take, beside what the budget grants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallRules {
    /// The limits of the service.
    pub limit: Cost,
    /// The most rows.
    pub rows: usize,
    /// Which rows may share a record.
    pub sharing: Sharing,
    /// The least a record counts in a turn, in bytes: the part of the byte limit that
    /// it is of the record limit, so that turns are by records where those are scarce.
    pub record_worth: usize,
}

/// Which rows of a flow that aggregates may share a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Those of all keys.
    AllKeys,
    /// Those of one hash key: it is not sure what else the shard takes.
    OneKey,
    /// None.
    Nothing,
}

/// Room for so many keys is kept though there are fewer.
const MOST_SPARE_KEYS: usize = 2_048;

#[derive(Debug)]
struct FlowQueue<T> {
    flow: Flow,
    keys: HashMap<u128, KeyQueue<T>, KeyHash>,
    fresh: VecDeque<u128>,
    /// While a call is made: keys in the open record that have more rows.
    second: VecDeque<u128>,
    rows: usize,
    bytes: usize,
    /// Of a flow that aggregates: keys that may go, and all their rows' bytes.
    ready_keys: usize,
    ready_bytes: usize,
}

impl<T> FlowQueue<T> {
    /// The key whose row goes next: those that are not in the open record first,
    /// unless each key has a record of its own.
    fn next(&self, sharing: Sharing) -> Option<u128> {
        let (one, other) = if sharing == Sharing::OneKey {
            (&self.second, &self.fresh)
        } else {
            (&self.fresh, &self.second)
        };
        one.front().or_else(|| other.front()).copied()
    }

    fn pop_next(&mut self, sharing: Sharing) {
        let takes_second = if sharing == Sharing::OneKey {
            !self.second.is_empty()
        } else {
            self.fresh.is_empty()
        };
        if takes_second {
            self.second.pop_front();
        } else {
            self.fresh.pop_front();
        }
    }
}

/// The queue of one shard.
#[derive(Debug)]
pub struct SendQueue<T> {
    flows: BTreeMap<FlowId, FlowQueue<T>>,
    tenants: FairRing<Arc<str>>,
    members: BTreeMap<Arc<str>, FairRing<FlowId>>,
    retry: VecDeque<(FlowId, u128)>,
    ready: Cost,
    rows: usize,
    bytes: usize,
}

impl<T> Default for SendQueue<T> {
    fn default() -> Self {
        Self {
            flows: BTreeMap::new(),
            tenants: FairRing::default(),
            members: BTreeMap::new(),
            retry: VecDeque::new(),
            ready: Cost::default(),
            rows: 0,
            bytes: 0,
        }
    }
}

impl<T: Sendable> SendQueue<T> {
    /// Rows waiting, those in flight not counted.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.rows
    }

    /// Bytes waiting, those in flight not counted.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing waits.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Whether rows wait that a call has failed of.
    #[must_use]
    pub fn has_failed_rows(&self) -> bool {
        !self.retry.is_empty()
    }

    /// The flows that have rows waiting or in flight.
    pub fn flows(&self) -> impl Iterator<Item = FlowId> + '_ {
        self.flows.keys().copied()
    }

    /// The flows whose rows wait, and what for: the shard, or rows of the same keys that
    /// are in flight.
    pub fn waiting_flows(&self) -> impl Iterator<Item = (FlowId, Limit)> + '_ {
        let waiting = self.flows.iter().filter(|(_, queue)| queue.rows > 0);
        waiting.map(|(flow, queue)| {
            let goes_again = || self.retry.iter().any(|(other, _)| other == flow);
            let may_go = !queue.fresh.is_empty() || goes_again();
            let by = if may_go {
                Limit::Shard
            } else {
                Limit::KeyOrder
            };
            (*flow, by)
        })
    }

    /// Adds a row behind the earlier ones of its key.
    pub fn push(&mut self, flow: &Flow, row: T) {
        let hash = row.hash();
        let weight = row.weight();
        let queue = self.flows.entry(flow.id).or_insert_with(|| FlowQueue {
            flow: flow.clone(),
            keys: HashMap::default(),
            fresh: VecDeque::new(),
            second: VecDeque::new(),
            rows: 0,
            bytes: 0,
            ready_keys: 0,
            ready_bytes: 0,
        });
        queue.rows += 1;
        queue.bytes += weight;
        self.rows += 1;
        self.bytes += weight;
        let key = queue.keys.entry(hash).or_insert_with(KeyQueue::new);
        let is_first = key.rows.is_empty() && !key.in_flight;
        key.rows.push_back(row);
        key.bytes += weight;
        if is_first {
            self.make_ready(flow.id, hash);
        } else if queue.flow.packing.is_some() && !key.in_flight {
            queue.ready_bytes += weight;
            self.ready.bytes += weight as u64;
        }
    }

    /// What one call could take: of each key its first row, or of a flow that
    /// aggregates all rows.
    pub fn waiting(&mut self) -> Waiting {
        let next = match self.retry.front() {
            Some((flow, hash)) => Some((*flow, *hash)),
            None => self.next_fresh(Sharing::AllKeys),
        };
        let first = next.and_then(|(flow, hash)| {
            let queue = self.flows.get(&flow)?;
            // With what compression may add: the budget must have room for it.
            let row = queue.keys.get(&hash)?.rows.front()?;
            let next = parcel::weight_alone(queue.flow.packing, row);
            let record = queue.flow.packing.map_or(next, |packing| {
                queue.ready_bytes.min(packing.max_bytes).max(next)
            });
            Some((next, record))
        });
        let (next_bytes, record_bytes) = first.unwrap_or_default();
        Waiting {
            all: self.ready,
            next_bytes: next_bytes as u64,
            record_bytes: record_bytes as u64,
        }
    }

    /// Takes the records of the next call: at most `most` (but always one when
    /// there is any), within the rules.
    pub fn take(&mut self, most: Cost, rules: CallRules) -> Vec<Parcel<T>> {
        let mut call = CallInMaking::new(most, rules);
        self.take_retries(&mut call);
        self.take_fresh(&mut call);
        call.taken
    }

    /// The rows of this key that were in flight are in the stream: the next ones may
    /// go.
    pub fn confirmed(&mut self, flow: FlowId, hash: u128) {
        let Some(queue) = self.flows.get_mut(&flow) else {
            return;
        };
        let Some(key) = queue.keys.get_mut(&hash).filter(|key| key.in_flight) else {
            return;
        };
        key.in_flight = false;
        if key.rows.is_empty() {
            queue.keys.remove(&hash);
            // Its room is nobody's permit: what a crowd of keys took is not kept.
            if queue.keys.capacity() > MOST_SPARE_KEYS.max(8 * queue.keys.len()) {
                queue.keys.shrink_to(2 * queue.keys.len());
            }
            self.forget_flow_if_done(flow);
        } else if key.again > 0 {
            self.retry.push_front((flow, hash));
            self.count_ready(flow, hash);
        } else {
            self.make_ready(flow, hash);
        }
    }

    /// Takes out every row that waits behind the record in flight of this key:
    /// they are not to be sent. The key is then free.
    pub fn take_key(&mut self, flow: FlowId, hash: u128) -> Vec<T> {
        let Some(queue) = self.flows.get_mut(&flow) else {
            return Vec::new();
        };
        if !queue.keys.get(&hash).is_some_and(|key| key.in_flight) {
            return Vec::new();
        }
        let rows: Vec<T> = queue
            .keys
            .remove(&hash)
            .map_or_else(Vec::new, |key| key.rows.into_iter().collect());
        let bytes: usize = rows.iter().map(Sendable::weight).sum();
        queue.rows -= rows.len();
        queue.bytes -= bytes;
        self.rows -= rows.len();
        self.bytes -= bytes;
        self.forget_flow_if_done(flow);
        rows
    }

    /// Drops everything of a flow; answers how many rows that were.
    pub fn purge(&mut self, flow: FlowId) -> usize {
        let Some(queue) = self.flows.remove(&flow) else {
            return 0;
        };
        self.rows -= queue.rows;
        self.bytes -= queue.bytes;
        self.retry.retain(|(id, _)| *id != flow);
        self.leave_ring(&queue.flow, FairRing::forget);
        if queue.flow.packing.is_some() {
            self.ready.records -= u64::from(queue.ready_keys > 0);
            self.ready.bytes -= queue.ready_bytes as u64;
        } else {
            for key in queue.keys.values().filter(|key| !key.in_flight) {
                self.ready.records -= 1;
                self.ready.bytes -= key.first_weight() as u64;
            }
        }
        queue.rows
    }

    /// Takes everything out, of each flow in order for each key, those keys first
    /// that were to go again. Nothing may be in flight.
    pub fn drain(&mut self) -> Vec<(FlowId, Vec<T>)> {
        let drained = std::mem::take(self);
        let mut again: HashMap<FlowId, Vec<u128>> = HashMap::new();
        for (flow, hash) in drained.retry {
            again.entry(flow).or_default().push(hash);
        }
        let mut all = Vec::with_capacity(drained.flows.len());
        for (flow, mut queue) in drained.flows {
            let retried = again.remove(&flow).unwrap_or_default();
            let mut rows = Vec::with_capacity(queue.rows);
            for hash in retried.into_iter().chain(queue.fresh) {
                let key = queue.keys.remove(&hash);
                rows.extend(key.into_iter().flat_map(|key| key.rows));
            }
            all.push((flow, rows));
        }
        all
    }

    /// A key may go.
    fn count_ready(&mut self, flow: FlowId, hash: u128) {
        let Some(queue) = self.flows.get_mut(&flow) else {
            return;
        };
        let Some(key) = queue.keys.get(&hash) else {
            return;
        };
        if queue.flow.packing.is_some() {
            self.ready.records += u64::from(queue.ready_keys == 0);
            self.ready.bytes += key.bytes as u64;
            queue.ready_keys += 1;
            queue.ready_bytes += key.bytes;
        } else {
            self.ready.records += 1;
            self.ready.bytes += key.first_weight() as u64;
        }
    }

    /// A key that might have gone is in flight now. Asked before a row is taken.
    fn uncount_ready(&mut self, flow: FlowId, hash: u128) {
        let Some(queue) = self.flows.get_mut(&flow) else {
            return;
        };
        let Some(key) = queue.keys.get(&hash) else {
            return;
        };
        if queue.flow.packing.is_some() {
            queue.ready_keys -= 1;
            queue.ready_bytes -= key.bytes;
            self.ready.records -= u64::from(queue.ready_keys == 0);
            self.ready.bytes -= key.bytes as u64;
        } else {
            self.ready.records -= 1;
            self.ready.bytes -= key.first_weight() as u64;
        }
    }

    fn make_ready(&mut self, flow: FlowId, hash: u128) {
        self.count_ready(flow, hash);
        let Some(queue) = self.flows.get_mut(&flow) else {
            return;
        };
        queue.fresh.push_back(hash);
        if queue.fresh.len() > 1 {
            return;
        }
        let Flow { tenant, shares, .. } = &queue.flow;
        let members = self.members.entry(tenant.clone()).or_default();
        if members.front().is_none() {
            self.tenants.join(tenant.clone(), shares.tenant_weight());
        }
        members.join(flow, shares.weight());
    }

    /// `leave` says whether what the flow owes is remembered.
    fn leave_ring(&mut self, flow: &Flow, leave: fn(&mut FairRing<FlowId>, &FlowId)) {
        if let Some(members) = self.members.get_mut(&flow.tenant) {
            leave(members, &flow.id);
            if members.front().is_none() {
                self.tenants.leave(&flow.tenant);
            }
            if members.is_empty() {
                self.members.remove(&flow.tenant);
            }
        }
        self.forget_debts_if_idle();
    }

    fn forget_flow_if_done(&mut self, flow: FlowId) {
        if self
            .flows
            .get(&flow)
            .is_some_and(|queue| queue.keys.is_empty())
        {
            self.flows.remove(&flow);
            self.forget_debts_if_idle();
        }
    }

    /// Nothing waits and nothing is in flight: nobody was kept waiting.
    fn forget_debts_if_idle(&mut self) {
        if self.flows.is_empty() {
            self.tenants = FairRing::default();
            self.members.clear();
        }
    }

    fn next_fresh(&mut self, sharing: Sharing) -> Option<(FlowId, u128)> {
        let tenant = self.tenants.front()?;
        let flow = *self.members.get_mut(tenant)?.front()?;
        let hash = self.flows.get(&flow)?.next(sharing)?;
        Some((flow, hash))
    }
}

#[cfg(test)]
mod tests;
