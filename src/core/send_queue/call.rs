//! Which rows go in the next call: first those that go again, then fresh ones in
//! turns.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::{FlowId, FlowQueue, SendQueue, Sendable, Taken};
use crate::core::budget::Cost;
use crate::core::fair_ring::FairRing;
use crate::core::sabotage::{self, Bug};

/// The least a record counts in a turn, in bytes: a record takes a thousandth of
/// a shard's record limit, which is worth a thousandth of its byte limit.
const LEAST_TURN_BYTES: usize = 1048;

/// A call in the making.
pub(super) struct CallInMaking<T> {
    most_records: u64,
    most_bytes: u64,
    pub(super) taken: Vec<Taken<T>>,
    bytes: u64,
    per_flow: HashMap<FlowId, usize>,
}

impl<T> CallInMaking<T> {
    pub(super) fn new(most: Cost, call_limit: Cost) -> Self {
        Self {
            most_records: most.records.min(call_limit.records),
            most_bytes: most.bytes.min(call_limit.bytes),
            taken: Vec::new(),
            bytes: 0,
            per_flow: HashMap::new(),
        }
    }

    fn has_room_for(&self, weight: usize) -> bool {
        let is_first = self.taken.is_empty();
        let one_more = self.taken.len() as u64 + 1;
        is_first || (one_more <= self.most_records && self.bytes + weight as u64 <= self.most_bytes)
    }

    fn flow_may_go_on(&self, flow: FlowId, flows: &BTreeMap<FlowId, FlowQueue<T>>) -> bool {
        let sent = self.per_flow.get(&flow).copied().unwrap_or(0);
        flows
            .get(&flow)
            .is_some_and(|queue| sent < queue.flow.shares.batch_size())
    }
}

impl<T: Sendable> SendQueue<T> {
    pub(super) fn take_retries(&mut self, call: &mut CallInMaking<T>) {
        let mut left_over = VecDeque::new();
        while let Some((flow, hash)) = self.retry.pop_front() {
            let fits = self.first_weight(flow, hash).is_some_and(|weight| {
                call.has_room_for(weight) && call.flow_may_go_on(flow, &self.flows)
            });
            if !fits {
                left_over.push_back((flow, hash));
                continue;
            }
            self.move_first(flow, hash, call);
        }
        self.retry = left_over;
    }

    pub(super) fn take_fresh(&mut self, call: &mut CallInMaking<T>) {
        let mut flows_aside = Vec::new();
        let mut tenants_aside = Vec::new();
        while let Some((flow, hash)) = self.next_fresh() {
            if !call.flow_may_go_on(flow, &self.flows) {
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
                continue;
            }
            let Some(weight) = self.first_weight(flow, hash) else {
                break;
            };
            if !call.has_room_for(weight) {
                break;
            }
            self.move_first(flow, hash, call);
            self.spend_turn(flow, weight.max(LEAST_TURN_BYTES));
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

    fn spend_turn(&mut self, flow: FlowId, bytes: usize) {
        let Some(queue) = self.flows.get_mut(&flow) else {
            return;
        };
        queue.fresh.pop_front();
        let has_more = !queue.fresh.is_empty();
        let flow = queue.flow.clone();
        self.tenants.weigh_front(flow.shares.tenant_weight());
        self.tenants.charge_front(bytes);
        if let Some(members) = self.members.get_mut(&flow.tenant) {
            members.weigh_front(flow.shares.weight());
            members.charge_front(bytes);
        }
        if !has_more {
            self.leave_ring(&flow, FairRing::leave);
        }
    }

    fn move_first(&mut self, flow: FlowId, hash: u128, call: &mut CallInMaking<T>) {
        let Some(queue) = self.flows.get_mut(&flow) else {
            return;
        };
        let Some(key) = queue.keys.get_mut(&hash) else {
            return;
        };
        let Some(row) = key.rows.pop_front() else {
            return;
        };
        key.in_flight = true;
        let is_bad = sabotage::is(Bug::TwoOfAKeyInACall);
        let second = is_bad.then(|| key.rows.pop_front()).flatten();
        let weight = row.weight();
        queue.rows -= 1 + usize::from(second.is_some());
        queue.bytes -= weight + second.as_ref().map_or(0, Sendable::weight);
        self.rows -= 1;
        self.bytes -= weight;
        self.uncount_ready(weight);
        call.bytes += weight as u64;
        *call.per_flow.entry(flow).or_default() += 1;
        call.taken.push(Taken { flow, row });
        if let Some(second) = second {
            self.rows -= 1;
            self.bytes -= second.weight();
            call.bytes += second.weight() as u64;
            call.taken.push(Taken { flow, row: second });
        }
    }
}
