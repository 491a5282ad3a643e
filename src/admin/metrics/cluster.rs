//! This node among the others of each database.

use std::time::Duration;

use prometheus::{GaugeVec, IntCounterVec, IntGaugeVec, Registry};

use super::{Metrics, counters, gauge_value, gauges, int_gauges, remove_series};

/// How a pipeline came to this node, or left it for another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handover {
    /// It was drained for a node that asked for it.
    Given,
    /// It was asked for, and drained by its owner.
    Received,
    /// It was nobody's: new, or of a node that ended or died.
    TakenOver,
}

impl Handover {
    const ALL: [Self; 3] = [Self::Given, Self::Received, Self::TakenOver];

    const fn name(self) -> &'static str {
        match self {
            Self::Given => "given",
            Self::Received => "received",
            Self::TakenOver => "taken_over",
        }
    }
}

#[derive(Debug)]
pub(super) struct ClusterFamilies {
    nodes: IntGaugeVec,
    held: IntGaugeVec,
    target: IntGaugeVec,
    handovers: IntCounterVec,
    coordination_age: GaugeVec,
}

/// The states of nodes, as the label has them.
const STATES: [&str; 2] = ["live", "draining"];

// === impl ClusterFamilies ===

impl ClusterFamilies {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            nodes: int_gauges(
                registry,
                "tidegate_cluster_nodes",
                "Nodes that use the database, this one included, as of its last beat",
                &["database", "state"],
            )?,
            held: int_gauges(
                registry,
                "tidegate_cluster_pipelines_held",
                "Pipelines of the database whose leases this node has",
                &["database"],
            )?,
            target: int_gauges(
                registry,
                "tidegate_cluster_pipelines_target",
                "Pipelines of the database that are this node's part",
                &["database"],
            )?,
            handovers: counters(
                registry,
                "tidegate_cluster_handovers_total",
                "Pipelines that came to this node or were given to another one",
                &["database", "direction"],
            )?,
            coordination_age: gauges(
                registry,
                "tidegate_coordination_age_seconds",
                "Since the last beat in the database where nodes divide the shards' budgets was begun",
                &["database"],
            )?,
        })
    }

    /// Ends the series of a database that is not used any more.
    pub(super) fn remove(&self, database: &str) {
        remove_series!(&[database], self.held, self.target, self.coordination_age);
        for state in STATES {
            remove_series!(&[database, state], self.nodes);
        }
        for handover in Handover::ALL {
            remove_series!(&[database, handover.name()], self.handovers);
        }
    }
}

/// What a node knows of a database's nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nodes {
    /// All of them, this one included.
    pub all: usize,
    /// Those of them that drain.
    pub draining: usize,
    /// Pipelines this node has.
    pub held: usize,
    /// Pipelines that are its part.
    pub target: usize,
}

impl Metrics {
    /// A database's nodes, and this one among them.
    pub fn nodes(&self, database: &str, nodes: Nodes) {
        let families = &self.families.cluster;
        let live = nodes.all.saturating_sub(nodes.draining);
        for (state, count) in STATES.into_iter().zip([live, nodes.draining]) {
            let gauge = families.nodes.with_label_values(&[database, state]);
            gauge.set(gauge_value(count));
        }
        let held = families.held.with_label_values(&[database]);
        held.set(gauge_value(nodes.held));
        let target = families.target.with_label_values(&[database]);
        target.set(gauge_value(nodes.target));
        for handover in Handover::ALL {
            // There from the start, at 0.
            families
                .handovers
                .with_label_values(&[database, handover.name()]);
        }
    }

    /// How old what is known of other nodes' shares is.
    pub fn coordination_age(&self, database: &str, age: Duration) {
        let family = &self.families.cluster.coordination_age;
        family.with_label_values(&[database]).set(age.as_secs_f64());
    }

    /// A pipeline came or went.
    pub fn handover(&self, database: &str, handover: Handover) {
        let labels = [database, handover.name()];
        self.families
            .cluster
            .handovers
            .with_label_values(&labels)
            .inc();
    }
}
