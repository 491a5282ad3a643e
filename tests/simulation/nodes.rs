//! The rows of nodes: the rules of `postgres::nodes`.

use std::sync::Arc;
use std::time::Duration;

use tidegate::core::nodes::{BeatDone, LeaseSeen, NodeSeen, TOLD_OF_FOR};
use tidegate::core::ports::{Epoch, PipelineName};
use tidegate::core::shares::{ShareWrite, Written};
use tidegate::core::time::Moment;

use super::Database;

/// A node, as it said last.
#[derive(Debug, Clone)]
pub(super) struct NodeRow {
    beat: u64,
    beat_at: Moment,
    runs_since: Moment,
    expires_at: Moment,
    said: Said,
}

/// What a beat says, on its way through the network.
#[derive(Debug, Clone)]
pub(crate) struct Said {
    pub(crate) draining: bool,
    pub(crate) held: Vec<(PipelineName, Epoch)>,
    pub(crate) asks: Vec<PipelineName>,
    pub(crate) demand: String,
    pub(crate) shares: String,
    pub(crate) known: String,
}

impl Database {
    pub(crate) fn beat(
        &mut self,
        node: &str,
        said: Said,
        lease: Duration,
        now: Moment,
    ) -> BeatDone {
        // The statement sees nodes and leases as they were when it began.
        let nodes = self
            .nodes
            .iter()
            .filter(|(name, row)| ***name != *node && row.expires_at + TOLD_OF_FOR > now);
        let nodes: Vec<NodeSeen> = nodes.map(|(name, row)| seen(name, row, now)).collect();
        let runs = self
            .leases
            .iter()
            .filter(|(_, lease)| lease.expires_at > now);
        let leases: Vec<LeaseSeen> = runs
            .map(|(pipeline, lease)| LeaseSeen {
                pipeline: pipeline.as_str().into(),
                owner: lease.owner.as_str().into(),
                taken_at: microseconds(lease.taken_at),
            })
            .collect();
        let epochs: i64 = self.leases.values().map(|lease| lease.epoch.0).sum();
        let names: Vec<&str> = leases.iter().map(|lease| &*lease.pipeline).collect();
        let digest = format!("{epochs}:{}", names.join(","));
        let held = self.renew(node, &said.held, lease, now);
        let beat = self.nodes.get(node).map_or(1, |row| row.beat + 1);
        let before = self.nodes.get(node);
        let before = before.filter(|row| row.expires_at > now);
        let runs_since = before.map_or(now, |row| row.runs_since);
        let is_known = said.known == digest;
        let row = NodeRow {
            beat,
            beat_at: now,
            runs_since,
            expires_at: now + lease,
            said,
        };
        self.nodes.insert(node.into(), row);
        BeatDone {
            beat,
            runs_since: microseconds(runs_since),
            held,
            nodes,
            digest,
            leases: (!is_known).then_some(leases),
        }
    }

    pub(crate) fn leave(&mut self, node: &str) {
        self.nodes.remove(node);
    }

    pub(crate) fn write_shares(
        &mut self,
        node: &Arc<str>,
        number: i64,
        writes: &[ShareWrite],
        now: Moment,
    ) -> Written {
        let nodes = &self.nodes;
        let lives = |node: &str| nodes.get(node).is_some_and(|row| row.expires_at > now);
        self.shares.write(node, number, writes, lives)
    }

    pub(crate) fn forget_shares(&mut self, nodes: &[Arc<str>], now: Moment) {
        for node in nodes {
            let row = self.nodes.get(node);
            if row.is_none_or(|row| row.expires_at <= now) {
                self.shares.forget(node);
            }
        }
    }
}

fn microseconds(moment: Moment) -> i64 {
    i64::try_from(moment.since_origin().as_micros()).unwrap_or(i64::MAX)
}

fn seen(name: &Arc<str>, row: &NodeRow, now: Moment) -> NodeSeen {
    NodeSeen {
        node: Arc::clone(name),
        beat: row.beat,
        runs_since: microseconds(row.runs_since),
        silent_for: now.since(row.beat_at),
        expires_in: row.expires_at.since(now),
        expired_for: now.since(row.expires_at),
        draining: row.said.draining,
        asks: row.said.asks.clone(),
        demand: row.said.demand.clone(),
        shares: row.said.shares.clone(),
    }
}
