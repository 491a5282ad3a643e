//! The rows of the coordination database: what its statements do with them, and how
//! many bytes they take and give.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidegate::core::nodes::{BeatDone, LeaseSeen, NodeSeen, Renewal, TOLD_OF_FOR};
use tidegate::core::ports::PipelineName;
use tidegate::core::shares::ShareWrite;
use tidegate::core::shares::model::ShareTable;
use tidegate::core::time::Moment;

use crate::counts::Counts;

pub(crate) struct LeaseRow {
    pub(crate) owner: Arc<str>,
    pub(crate) taken_at: i64,
    pub(crate) expires_at: Moment,
}

struct NodeRow {
    beat: u64,
    beat_at: Moment,
    expires_at: Moment,
    demand: String,
    /// When what it says changed last.
    noted_at: Moment,
    asks: Vec<PipelineName>,
}

#[derive(Default)]
pub(crate) struct Rows {
    nodes: BTreeMap<Arc<str>, NodeRow>,
    pub(crate) leases: BTreeMap<PipelineName, LeaseRow>,
    pub(crate) shares: ShareTable,
    /// Changes with every change of an owner.
    version: u64,
}

impl Rows {
    pub(crate) fn lives(&self, node: &str, now: Moment) -> bool {
        self.nodes.get(node).is_some_and(|row| row.expires_at > now)
    }

    pub(crate) fn take(
        &mut self,
        pipeline: &PipelineName,
        owner: &Arc<str>,
        expires_at: Moment,
        now: Moment,
    ) -> bool {
        let held = self.leases.get(pipeline);
        if held.is_some_and(|held| held.owner != *owner && held.expires_at > now) {
            return false;
        }
        let lease = LeaseRow {
            owner: Arc::clone(owner),
            taken_at: i64::try_from(now.since_origin().as_micros()).expect("short"),
            expires_at,
        };
        self.leases.insert(Arc::clone(pipeline), lease);
        self.version += 1;
        true
    }

    pub(crate) fn release(&mut self, pipeline: &PipelineName) {
        self.leases.remove(pipeline);
        self.version += 1;
    }

    /// The rows that `tide.relay_write_shares` is to write and to read for these
    /// writes: the node's own of each shard, and all of a shard that is raised.
    pub(crate) fn count_shares(&self, writes: &[ShareWrite], counts: &mut Counts) {
        for write in writes {
            counts.share_rows_written += 1;
            if write.wants != write.uses {
                counts.share_rows_read += self.shares.rows_of(&write.shard) as u64;
            }
        }
    }

    /// A beat; `last` is when the node's last one was: it knows the notes of then.
    #[expect(clippy::too_many_arguments, reason = "as the statement has")]
    pub(crate) fn beat(
        &mut self,
        node: &Arc<str>,
        lease: Duration,
        demand: &str,
        asks: &[PipelineName],
        held: &[PipelineName],
        known: &str,
        last: Option<Moment>,
        now: Moment,
        counts: &mut Counts,
    ) -> BeatDone {
        counts.beats += 1;
        counts.bytes_asked += (demand.len() + 64) as u64;
        counts.bytes_asked += held.iter().map(|name| name.len() as u64 + 8).sum::<u64>();
        for name in held {
            if let Some(row) = self.leases.get_mut(name) {
                row.expires_at = now + lease;
            }
        }
        let told = self
            .nodes
            .iter()
            .filter(|(name, row)| *name != node && row.expires_at + TOLD_OF_FOR > now);
        let mut nodes = Vec::new();
        for (name, row) in told {
            counts.node_rows += 1;
            let asks: usize = row.asks.iter().map(|name| name.len() + 3).sum();
            counts.bytes_answered += (name.len() + asks + 95) as u64;
            if last.is_none_or(|last| row.noted_at >= last) {
                counts.bytes_answered += row.demand.len() as u64;
            }
            nodes.push(NodeSeen {
                node: Arc::clone(name),
                beat: row.beat,
                runs_since: 0,
                silent_for: now.since(row.beat_at),
                expires_in: row.expires_at.since(now),
                expired_for: now.since(row.expires_at),
                draining: false,
                asks: row.asks.clone(),
                demand: row.demand.clone(),
                shares: String::new(),
            });
        }
        let expired = self
            .leases
            .values()
            .filter(|row| row.expires_at <= now)
            .count();
        let digest = format!("{}:{expired}", self.version);
        let leases = (known != digest).then(|| {
            let runs = self.leases.iter().filter(|(_, row)| row.expires_at > now);
            let seen: Vec<LeaseSeen> = runs
                .map(|(pipeline, row)| LeaseSeen {
                    pipeline: Arc::clone(pipeline),
                    owner: Arc::clone(&row.owner),
                    taken_at: row.taken_at,
                })
                .collect();
            let bytes = |lease: &LeaseSeen| (lease.pipeline.len() + lease.owner.len() + 26) as u64;
            counts.bytes_answered += seen.iter().map(bytes).sum::<u64>();
            seen
        });
        let before = self.nodes.get(node);
        let noted_at = match before {
            Some(row) if row.demand == demand => row.noted_at,
            Some(_) | None => now,
        };
        let beat = before.map_or(1, |row| row.beat + 1);
        let row = NodeRow {
            beat,
            beat_at: now,
            expires_at: now + lease,
            demand: demand.to_owned(),
            noted_at,
            asks: asks.to_vec(),
        };
        self.nodes.insert(Arc::clone(node), row);
        BeatDone {
            beat,
            runs_since: 0,
            held: vec![Renewal::Renewed; held.len()],
            nodes,
            digest,
            leases,
        }
    }
}
