//! What follows from a beat: free pipelines that fell to this node are claimed, asked-for
//! ones are drained for who asked. Worked out in `core::cluster`, done here.

use std::collections::BTreeMap;
use std::sync::Arc;

use actix::Context;

use super::Supervisor;
use crate::actors::pipeline_slot::{PipelineSlot, Run};
use crate::admin::metrics::{Handover, Nodes};
use crate::admin::status::{ClusterStatus, NodeStatus, PipelineState};
use crate::config::desired::PipelineKey;
use crate::core::cluster::{Claimable, Give, Own, Plan};
use crate::core::nodes::BeatDone;
use crate::core::ports::PipelineName;
use crate::core::time::Moment;

impl Supervisor {
    /// The pipelines of a database that are to run, wherever.
    fn wanted_of(&self, database: &Arc<str>) -> BTreeMap<PipelineName, Own> {
        let now = self.clock.now();
        let own = self.pipelines.iter().filter_map(|(key, slot)| {
            let spec = slot.spec.as_ref()?;
            let is_of_it = key.database == *database && slot.is_wanted();
            if !is_of_it || self.why_paused(spec).is_some() {
                return None;
            }
            let stream = slot.stream.as_ref();
            let stream = stream.and_then(|stream| self.streams.get(stream));
            let is_able = stream.is_some_and(|stream| {
                stream.ready().is_some() && self.shares.may_send_to(&stream.identity, now)
            });
            let own = Own {
                able: is_able,
                gives: matches!(slot.run, Run::Running { .. }) && slot.drain.is_none(),
                claimed: self.claims.contains_key(key),
            };
            Some((Arc::clone(&key.name), own))
        });
        own.collect()
    }

    /// Other pipelines are wanted than before: some of them may fall to this node.
    pub(super) fn plan_anew(&mut self, context: &mut Context<Self>) {
        let names: Vec<Arc<str>> = self.databases.keys().cloned().collect();
        for database in names {
            self.plan(&database);
            self.claim_all_waiting(&database, context);
        }
    }

    fn plan(&mut self, database: &Arc<str>) -> Option<Plan> {
        let now = self.clock.now();
        let wanted = self.wanted_of(database);
        let of_it = self.pipelines.iter();
        let of_it = of_it.filter(|(key, _)| key.database == *database);
        let giving = of_it.filter(|(_, slot)| slot.given_to.is_some()).count();
        let is_draining = self.is_draining();
        let slot = self.databases.get_mut(database)?;
        let is_draining = is_draining || slot.is_ending();
        let cluster = &mut slot.beats.cluster;
        let plan = cluster.plan(&wanted, giving, is_draining, now);
        let last = slot.beats.renewed_at.unwrap_or(now);
        slot.beats.due = last + plan.next_in;
        Some(plan)
    }

    pub(super) fn act(
        &mut self,
        database: &Arc<str>,
        asked_at: Moment,
        context: &mut Context<Self>,
    ) -> Option<Plan> {
        let mut plan = self.plan(database)?;
        if self.is_draining() {
            return Some(plan);
        }
        let until = asked_at + self.settings.limits.drain_grace;
        for Give { pipeline, to } in std::mem::take(&mut plan.give) {
            let key = PipelineKey {
                database: Arc::clone(database),
                name: pipeline,
            };
            let Some(slot) = self.pipelines.get_mut(&key) else {
                continue;
            };
            if slot.drain(until) {
                tracing::info!(pipeline = %key, %to, "the pipeline is given to another node; draining it");
                slot.given_to = Some(to);
            }
        }
        self.claim_all_waiting(database, context);
        Some(plan)
    }

    pub(super) fn show_nodes(&self, database: &Arc<str>, done: &BeatDone, plan: Option<Plan>) {
        let (Some(plan), Some(slot)) = (plan, self.databases.get(database)) else {
            return;
        };
        let cluster = &slot.beats.cluster;
        let held = cluster.held_by();
        let of = |node: &str| held.get(node).copied().unwrap_or_default();
        let state = |beat: u64, draining: bool| match beat {
            _ if draining => "draining",
            0 | 1 => "joining",
            _ => "live",
        };
        let is_draining = self.is_draining() || slot.is_ending();
        let others = done.nodes.iter().filter(|node| !node.expires_in.is_zero());
        let others = others.map(|node| NodeStatus {
            node: Arc::clone(&node.node),
            state: state(node.beat, node.draining),
            silent_seconds: node.silent_for.as_secs_f64(),
            pipelines: of(&node.node),
            asks: node.asks.len(),
        });
        let own = NodeStatus {
            node: Arc::clone(&self.node),
            state: state(done.beat, is_draining),
            silent_seconds: 0.0,
            pipelines: plan.held,
            asks: cluster.asks().len(),
        };
        let mut nodes: Vec<NodeStatus> = others.chain([own]).collect();
        nodes.sort_by(|a, b| a.node.cmp(&b.node));
        let draining = nodes.iter().filter(|node| node.state == "draining");
        let shown = Nodes {
            all: nodes.len(),
            draining: draining.count(),
            held: plan.held,
            target: plan.target,
        };
        self.metrics.nodes(database, shown);
        let cluster = ClusterStatus {
            held: plan.held,
            target: plan.target,
            nodes,
        };
        self.board.set_cluster(database, cluster);
    }

    /// Claims what fell to this node of what waits, and shows who has the rest.
    pub(in crate::actors) fn claim_all_waiting(
        &mut self,
        database: &Arc<str>,
        context: &mut Context<Self>,
    ) {
        let now = self.clock.now();
        let Some(beats) = self.databases.get(database).map(|slot| &slot.beats) else {
            return;
        };
        let is_news = |key: &PipelineKey, slot: &PipelineSlot| match beats
            .cluster
            .claimable(&key.name, now)
        {
            Claimable::Yes | Claimable::Unknown => true,
            Claimable::No(owner) => slot.behind.as_deref() != owner,
        };
        let waiting = self.pipelines.iter().filter(|(key, slot)| {
            key.database == *database
                && matches!(slot.run, Run::Waiting)
                && !self.claims.contains_key(key)
                && is_news(key, slot)
        });
        let waiting: Vec<PipelineKey> = waiting.map(|(key, _)| key.clone()).collect();
        for key in waiting {
            self.claim(&key, context);
        }
    }

    /// How many claims are under way in a database.
    pub(in crate::actors) fn claims_of(&self, database: &Arc<str>) -> usize {
        let claims = self.claims.keys();
        claims.filter(|key| key.database == *database).count()
    }

    /// The pipeline is this node's now.
    pub(in crate::actors) fn has_taken(&mut self, key: &PipelineKey) {
        let now = self.clock.now();
        let Some(slot) = self.databases.get_mut(&key.database) else {
            return;
        };
        let cluster = &mut slot.beats.cluster;
        let is_old = cluster.is_own(&key.name);
        let handover = if cluster.asked_for(&key.name) {
            Handover::Received
        } else {
            Handover::TakenOver
        };
        cluster.took(&key.name, now);
        if !is_old {
            self.metrics.handover(&key.database, handover);
        }
    }

    /// The pipeline was drained for another node.
    pub(in crate::actors) fn has_given(&mut self, key: &PipelineKey, node: Arc<str>) {
        let now = self.clock.now();
        if let Some(slot) = self.databases.get_mut(&key.database) {
            slot.beats.cluster.is_of(&key.name, node, now);
        }
        self.metrics.handover(&key.database, Handover::Given);
    }

    /// The pipeline is another node's: it is claimed when it falls to this one.
    pub(in crate::actors) fn is_held(&mut self, key: &PipelineKey, owner: String) {
        let now = self.clock.now();
        if let Some(database) = self.databases.get_mut(&key.database) {
            let owner = Arc::from(&*owner);
            database.beats.cluster.is_of(&key.name, owner, now);
        }
        if let Some(slot) = self.pipelines.get_mut(key) {
            slot.run = Run::Waiting;
        }
        if let Some(slot) = self.pipelines.get(key) {
            self.show(key, slot, PipelineState::Standby { owner });
        }
    }
}
