//! What waits to be sent to one shard, and what may go in the next call.
//!
//! Rules (P-ORDER, kinesis-facts "Order"):
//! - a call takes at most one record of each (flow, key);
//! - a record that was sent stays first of its key until it is confirmed, and
//!   keys whose first record failed or has an unknown outcome go before fresh
//!   ones in the next call;
//! - fresh records are taken in turns: tenants by weight, in each tenant its
//!   flows by weight, in each flow its keys one after the other (P-FAIR);
//! - a flow gets at most its own `batch_size` records into a call.
//!
//! A flow is one incarnation of a pipeline's reader. When it becomes void (its
//! reader died, or rows of it were lost on the way) nothing of it is sent any
//! more: what is left of a key might follow a row that was lost.

mod call;
mod shares;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use super::budget::{Cost, Waiting};
use super::fair_ring::FairRing;
use super::sabotage::{self, Bug};
use call::CallInMaking;
pub use shares::Shares;

/// One incarnation of a pipeline's reader; never used twice in a process.
pub type FlowId = u64;

/// A row on its way.
pub trait Sendable {
    /// The hash key of its partition key. Two keys with one hash are treated as
    /// one key, which only makes them wait for each other.
    fn hash(&self) -> u128;
    /// Data plus partition key, in bytes.
    fn weight(&self) -> usize;
}

/// Whose rows they are.
#[derive(Debug, Clone)]
pub struct Flow {
    /// The incarnation.
    pub id: FlowId,
    /// Its tenant.
    pub tenant: Arc<str>,
    /// What it gets; everybody who has the flow sees a change.
    pub shares: Arc<Shares>,
}

/// A row that goes in a call.
#[derive(Debug)]
pub struct Taken<T> {
    /// Whose it is.
    pub flow: FlowId,
    /// The row.
    pub row: T,
}

/// The hash keys are MD5 already: hashing them again would be waste.
#[derive(Default)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 ^= u64::from_le_bytes(word);
        }
    }
}

#[derive(Debug)]
struct KeyQueue<T> {
    rows: VecDeque<T>,
    in_flight: bool,
}

#[derive(Debug)]
struct FlowQueue<T> {
    flow: Flow,
    keys: HashMap<u128, KeyQueue<T>, BuildHasherDefault<KeyHasher>>,
    fresh: VecDeque<u128>,
    rows: usize,
    bytes: usize,
}

/// The queue of one shard.
#[derive(Debug)]
pub struct SendQueue<T> {
    flows: BTreeMap<FlowId, FlowQueue<T>>,
    tenants: FairRing<Arc<str>>,
    members: HashMap<Arc<str>, FairRing<FlowId>>,
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
            members: HashMap::new(),
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

    /// The flows that have rows waiting or in flight.
    pub fn flows(&self) -> impl Iterator<Item = FlowId> + '_ {
        self.flows.keys().copied()
    }

    /// Adds a row behind the earlier ones of its key.
    pub fn push(&mut self, flow: &Flow, row: T) {
        let hash = row.hash();
        let weight = row.weight();
        let queue = self.flows.entry(flow.id).or_insert_with(|| FlowQueue {
            flow: flow.clone(),
            keys: HashMap::default(),
            fresh: VecDeque::new(),
            rows: 0,
            bytes: 0,
        });
        queue.rows += 1;
        queue.bytes += weight;
        self.rows += 1;
        self.bytes += weight;
        let key = queue.keys.entry(hash).or_insert_with(|| KeyQueue {
            rows: VecDeque::new(),
            in_flight: false,
        });
        let is_first = key.rows.is_empty() && !key.in_flight;
        key.rows.push_back(row);
        if is_first {
            self.make_ready(flow.id, hash, weight);
        }
    }

    /// What one call could take: of each key its first record.
    pub fn waiting(&mut self) -> Waiting {
        Waiting {
            all: self.ready,
            next_bytes: self.next_weight() as u64,
        }
    }

    /// Takes the rows of the next call: at most `most` (but always one when
    /// there is any), at most `call_limit`.
    pub fn take(&mut self, most: Cost, call_limit: Cost) -> Vec<Taken<T>> {
        let mut call = CallInMaking::new(most, call_limit);
        self.take_retries(&mut call);
        self.take_fresh(&mut call);
        call.taken
    }

    /// The record of this key is in the stream: the next one may go.
    pub fn confirmed(&mut self, flow: FlowId, hash: u128) {
        let Some(queue) = self.flows.get_mut(&flow) else {
            return;
        };
        let Some(key) = queue.keys.get_mut(&hash) else {
            return;
        };
        key.in_flight = false;
        match key.rows.front() {
            Some(next) => {
                let weight = next.weight();
                self.make_ready(flow, hash, weight);
            }
            None => {
                queue.keys.remove(&hash);
                self.forget_flow_if_done(flow);
            }
        }
    }

    /// The row was not stored, or it is not known whether it was: it goes again
    /// before anything newer of its key, in the next call. The row of a flow
    /// that was purged meanwhile is dropped.
    pub fn failed(&mut self, flow: FlowId, row: T) {
        if let Some((hash, weight)) = self.put_back(flow, row) {
            self.retry.push_back((flow, hash));
            self.count_ready(weight);
        }
    }

    /// The row was certainly not stored: it goes again before anything newer of its
    /// key, after other keys have had their turn.
    pub fn failed_last(&mut self, flow: FlowId, row: T) {
        if let Some((hash, weight)) = self.put_back(flow, row) {
            self.make_ready(flow, hash, weight);
        }
    }

    /// Puts the row in flight of a key back; answers the key and the weight of its
    /// first row.
    fn put_back(&mut self, flow: FlowId, row: T) -> Option<(u128, usize)> {
        let hash = row.hash();
        let weight = row.weight();
        let queue = self.flows.get_mut(&flow)?;
        let key = queue.keys.get_mut(&hash)?;
        key.in_flight = false;
        if sabotage::is(Bug::FailedBehindItsKey) {
            key.rows.push_back(row);
        } else {
            key.rows.push_front(row);
        }
        queue.rows += 1;
        queue.bytes += weight;
        self.rows += 1;
        self.bytes += weight;
        Some((hash, key.rows.front().map_or(weight, Sendable::weight)))
    }

    /// Like [`Self::failed`], for rows that must be first in the next call.
    pub fn failed_first(&mut self, flow: FlowId, row: T) {
        let queued = self.retry.len();
        self.failed(flow, row);
        if self.retry.len() > queued
            && let Some(last) = self.retry.pop_back()
        {
            self.retry.push_front(last);
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
            .map_or_else(Vec::new, |key| key.rows.into());
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
        for key in queue.keys.values().filter(|key| !key.in_flight) {
            if let Some(first) = key.rows.front() {
                let weight = first.weight();
                self.uncount_ready(weight);
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

    fn count_ready(&mut self, weight: usize) {
        self.ready.records += 1;
        self.ready.bytes += weight as u64;
    }

    fn uncount_ready(&mut self, weight: usize) {
        self.ready.records -= 1;
        self.ready.bytes -= weight as u64;
    }

    fn make_ready(&mut self, flow: FlowId, hash: u128, weight: usize) {
        self.count_ready(weight);
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

    fn next_weight(&mut self) -> usize {
        let next = match self.retry.front() {
            Some((flow, hash)) => Some((*flow, *hash)),
            None => self.next_fresh(),
        };
        next.and_then(|(flow, hash)| self.first_weight(flow, hash))
            .unwrap_or(0)
    }

    fn first_weight(&self, flow: FlowId, hash: u128) -> Option<usize> {
        let key = self.flows.get(&flow)?.keys.get(&hash)?;
        key.rows.front().map(Sendable::weight)
    }

    fn next_fresh(&mut self) -> Option<(FlowId, u128)> {
        let tenant = self.tenants.front()?;
        let flow = *self.members.get_mut(tenant)?.front()?;
        let hash = *self.flows.get(&flow)?.fresh.front()?;
        Some((flow, hash))
    }
}

#[cfg(test)]
mod tests;
