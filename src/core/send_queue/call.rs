//! Which rows go in the next call: first those that go again, then fresh ones in
//! turns. A turn is one row, also where rows share a record: the record of a flow
//! that aggregates stays open while others have their turns.

use std::collections::{BTreeMap, VecDeque};

use super::parcel::{OpenParcel, weight_alone};
use super::{CallRules, Flow, FlowId, FlowQueue, Parcel, SendQueue, Sendable, Sharing};
use crate::core::aggregation::Measure;
use crate::core::budget::Cost;
use crate::core::fair_ring::FairRing;
use crate::core::sabotage::{self, Bug};

/// A call in the making.
pub(super) struct CallInMaking<T> {
    most_records: u64,
    most_bytes: u64,
    most_rows: usize,
    sharing: Sharing,
    record_worth: usize,
    pub(super) taken: Vec<Parcel<T>>,
    /// Of each flow that aggregates, the record that is being filled.
    open: BTreeMap<FlowId, OpenParcel<T>>,
    bytes: u64,
    rows: usize,
    per_flow: BTreeMap<FlowId, usize>,
}

/// Whether the first row of a key has a place in the call.
enum Place {
    /// In a record of its own, or as the first row of a new one, of this weight.
    NewRecord(usize),
    /// In the open record of its flow, which then measures so much.
    InOpen(Measure),
    /// The open record of its flow has to be closed first.
    OpenIsFull,
    /// Its flow may have no more records in this call.
    FlowIsDone,
    CallIsFull,
}

impl<T: Sendable> CallInMaking<T> {
    pub(super) fn new(most: Cost, rules: CallRules) -> Self {
        Self {
            most_records: most.records.min(rules.limit.records),
            most_bytes: most.bytes.min(rules.limit.bytes),
            most_rows: rules.rows,
            sharing: rules.sharing,
            record_worth: rules.record_worth,
            taken: Vec::new(),
            open: BTreeMap::new(),
            bytes: 0,
            rows: 0,
            per_flow: BTreeMap::new(),
        }
    }

    fn records(&self) -> u64 {
        (self.taken.len() + self.open.len()) as u64
    }

    fn has_bytes(&self, before: usize, after: usize) -> bool {
        self.bytes + (after as u64) <= self.most_bytes + before as u64
    }

    fn place_of(&self, queue: &FlowQueue<T>, row: &T) -> Place {
        if let Some(open) = self.open.get(&queue.flow.id) {
            let Some(measure) = open.with(row, self.sharing) else {
                return Place::OpenIsFull;
            };
            let has_room = self.has_bytes(open.weight(), measure.weight());
            return if has_room && self.rows < self.most_rows {
                Place::InOpen(measure)
            } else {
                Place::CallIsFull
            };
        }
        let sent = self.per_flow.get(&queue.flow.id).copied().unwrap_or(0);
        if sent >= queue.flow.shares.batch_size() {
            return Place::FlowIsDone;
        }
        let is_first = self.records() == 0;
        let has_room = self.records() < self.most_records && self.rows < self.most_rows;
        let weight = weight_alone(queue.flow.packing, row);
        if is_first || (has_room && self.has_bytes(0, weight)) {
            Place::NewRecord(weight)
        } else {
            Place::CallIsFull
        }
    }

    fn add_to_open(&mut self, flow: FlowId, row: T, measure: Measure) -> usize {
        let Some(open) = self.open.get_mut(&flow) else {
            return 0;
        };
        let (before, after) = (open.weight(), measure.weight());
        open.add(row, measure);
        self.rows += 1;
        self.bytes = (self.bytes + after as u64).saturating_sub(before as u64);
        after.saturating_sub(before)
    }

    fn begin_record(&mut self, flow: &Flow, row: T, weight: usize) -> usize {
        self.rows += 1;
        self.bytes += weight as u64;
        *self.per_flow.entry(flow.id).or_default() += 1;
        match flow.packing {
            None => self.taken.push(Parcel::of_one(flow.id, row)),
            Some(packing) => {
                self.open.insert(flow.id, OpenParcel::begin(packing, row));
            }
        }
        weight.max(self.record_worth)
    }
}

impl<T: Sendable> SendQueue<T> {
    pub(super) fn take_retries(&mut self, call: &mut CallInMaking<T>) {
        let mut left_over = VecDeque::new();
        while let Some((flow, hash)) = self.retry.pop_front() {
            if !self.take_again(flow, hash, call) {
                left_over.push_back((flow, hash));
            }
        }
        self.retry = left_over;
    }

    /// Takes the rows of a key that go again, as many as there is room for; `false`
    /// when there is none.
    fn take_again(&mut self, flow: FlowId, hash: u128, call: &mut CallInMaking<T>) -> bool {
        let mut has_taken = false;
        loop {
            let Some(queue) = self.flows.get(&flow) else {
                return has_taken;
            };
            let Some(key) = queue.keys.get(&hash) else {
                return has_taken;
            };
            let is_enough = has_taken && (queue.flow.packing.is_none() || key.again == 0);
            let Some(row) = key.rows.front().filter(|_| !is_enough) else {
                return has_taken;
            };
            match call.place_of(queue, row) {
                place @ (Place::NewRecord(_) | Place::InOpen(_)) => {
                    self.move_first(flow, hash, call, &place);
                    has_taken = true;
                }
                // What follows of a key that is in it must wait for its outcome.
                Place::OpenIsFull if has_taken => return true,
                Place::OpenIsFull => self.close(flow, call),
                Place::FlowIsDone | Place::CallIsFull => return has_taken,
            }
        }
    }

    pub(super) fn take_fresh(&mut self, call: &mut CallInMaking<T>) {
        let mut flows_aside = Vec::new();
        let mut tenants_aside = Vec::new();
        while let Some((flow, hash)) = self.next_fresh(call.sharing) {
            let Some(queue) = self.flows.get(&flow) else {
                break;
            };
            let first = queue.keys.get(&hash).and_then(|key| key.rows.front());
            let Some(row) = first else {
                break;
            };
            match call.place_of(queue, row) {
                Place::CallIsFull => break,
                Place::OpenIsFull => self.close(flow, call),
                Place::FlowIsDone => {
                    let Some(tenant) = self.tenants.front().cloned() else {
                        break;
                    };
                    let Some(members) = self.members.get_mut(&tenant) else {
                        break;
                    };
                    let member = members.set_aside(&flow);
                    if members.front().is_none() {
                        tenants_aside.extend(self.tenants.set_aside(&tenant));
                    }
                    flows_aside.extend(member.map(|member| (flow, tenant, member)));
                }
                place @ (Place::NewRecord(_) | Place::InOpen(_)) => {
                    let bytes = self.move_first(flow, hash, call, &place);
                    self.spend_turn(flow, hash, bytes, call.sharing);
                }
            }
        }
        let open: Vec<FlowId> = call.open.keys().copied().collect();
        for flow in open {
            self.close(flow, call);
        }
        for tenant in tenants_aside {
            self.tenants.rejoin(tenant);
        }
        for (flow, tenant, member) in flows_aside {
            let weight = self
                .flows
                .get(&flow)
                .map_or(1, |queue| queue.flow.shares.tenant_weight());
            // Its other flows may have run dry in this call and taken it along.
            if !self.tenants.contains(&tenant) {
                self.tenants.join(tenant.clone(), weight);
            }
            self.members.entry(tenant).or_default().rejoin(member);
        }
    }

    /// The record of a flow is complete: its keys wait for its outcome.
    fn close(&mut self, flow: FlowId, call: &mut CallInMaking<T>) {
        let open = call.open.remove(&flow);
        call.taken.extend(open.and_then(|open| open.close(flow)));
        let Some(queue) = self.flows.get_mut(&flow) else {
            return;
        };
        let had_more = !std::mem::take(&mut queue.second).is_empty();
        if had_more && queue.fresh.is_empty() {
            let flow = queue.flow.clone();
            self.leave_ring(&flow, FairRing::leave);
        }
    }

    fn spend_turn(&mut self, flow: FlowId, hash: u128, bytes: usize, sharing: Sharing) {
        let Some(queue) = self.flows.get_mut(&flow) else {
            return;
        };
        queue.pop_next(sharing);
        let goes_on = queue.flow.packing.is_some()
            && queue
                .keys
                .get(&hash)
                .is_some_and(|key| !key.rows.is_empty());
        if goes_on {
            queue.second.push_back(hash);
        }
        let is_done = queue.next(sharing).is_none();
        let flow = &queue.flow;
        self.tenants.weigh_front(flow.shares.tenant_weight());
        self.tenants.charge_front(bytes);
        if let Some(members) = self.members.get_mut(&flow.tenant) {
            members.weigh_front(flow.shares.weight());
            members.charge_front(bytes);
        }
        if is_done {
            let flow = flow.clone();
            self.leave_ring(&flow, FairRing::leave);
        }
    }

    /// Moves the first row of a key into the call; answers what that counts in a
    /// turn.
    fn move_first(
        &mut self,
        flow: FlowId,
        hash: u128,
        call: &mut CallInMaking<T>,
        place: &Place,
    ) -> usize {
        let was_ready = self
            .flows
            .get(&flow)
            .and_then(|queue| queue.keys.get(&hash));
        if was_ready.is_some_and(|key| !key.in_flight) {
            self.uncount_ready(flow, hash);
        }
        let Some(queue) = self.flows.get_mut(&flow) else {
            return 0;
        };
        let Some(key) = queue.keys.get_mut(&hash) else {
            return 0;
        };
        key.in_flight = true;
        let Some(row) = key.pop() else {
            return 0;
        };
        let is_bad = sabotage::is(Bug::TwoOfAKeyInACall) && queue.flow.packing.is_none();
        let second = is_bad.then(|| key.pop()).flatten();
        for row in std::iter::once(&row).chain(&second) {
            queue.rows -= 1;
            queue.bytes -= row.weight();
            self.rows -= 1;
            self.bytes -= row.weight();
        }
        let grown = match place {
            Place::InOpen(measure) => call.add_to_open(flow, row, *measure),
            Place::NewRecord(weight) => call.begin_record(&queue.flow, row, *weight),
            Place::OpenIsFull | Place::FlowIsDone | Place::CallIsFull => 0,
        };
        if let Some(second) = second {
            let weight = second.weight();
            call.begin_record(&queue.flow, second, weight);
        }
        grown
    }
}
