//! What the relay asks of each database, and what it meets there.

use std::time::Duration;

use prometheus::{GaugeVec, HistogramVec, IntCounterVec, IntGaugeVec, Registry};

use super::{counters, gauges, histograms, int_gauges};

/// Upper bounds of the time a call to a database takes, in seconds: from a probe
/// that finds nothing to six times the time-out of 10 s, which the bounds of a large
/// window may take.
const QUERY_SECONDS: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0, 30.0, 60.0,
];

#[derive(Debug)]
pub(super) struct DatabaseFamilies {
    up: IntGaugeVec,
    query_seconds: HistogramVec,
    query_failures: IntCounterVec,
    horizon_held: GaugeVec,
}

// === impl DatabaseFamilies ===

impl DatabaseFamilies {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            up: int_gauges(
                registry,
                "tidegate_database_up",
                "Whether the database answered last",
                &["database"],
            )?,
            query_seconds: histograms(
                registry,
                "tidegate_database_query_seconds",
                "How long a call to the database took, answered or not, waiting for a connection included",
                &["database", "query"],
                &QUERY_SECONDS,
            )?,
            query_failures: counters(
                registry,
                "tidegate_database_query_failures_total",
                "Calls to the database that were not answered, or refused",
                &["database", "query"],
            )?,
            horizon_held: gauges(
                registry,
                "tidegate_database_horizon_held_seconds",
                "For how long the same transaction has been the oldest that runs, as probes see it",
                &["database"],
            )?,
        })
    }

    pub(super) fn is_up(&self, database: &str, up: bool) {
        self.up.with_label_values(&[database]).set(up.into());
    }

    pub(super) fn query(&self, database: &str, query: &str, took: Duration, answered: bool) {
        let labels = [database, query];
        let seconds = self.query_seconds.with_label_values(&labels);
        seconds.observe(took.as_secs_f64());
        let failures = self.query_failures.with_label_values(&labels);
        failures.inc_by((!answered).into());
    }

    pub(super) fn horizon_held(&self, database: &str, held: Duration) {
        let gauge = self.horizon_held.with_label_values(&[database]);
        gauge.set(held.as_secs_f64());
    }
}
