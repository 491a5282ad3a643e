//! What the relay asks of each database, and what it meets there.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{GaugeVec, HistogramVec, IntCounterVec, IntGaugeVec, Registry};

use super::{counters, gauges, histograms, int_gauges, remove_series};

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

    /// Ends the series of a database that is not used any more.
    pub(super) fn remove(&self, database: &str) {
        remove_series!(&[database], self.up, self.horizon_held);
        // Whatever it was asked.
        for family in self.query_failures.collect() {
            for series in family.get_metric() {
                let value_of = |name: &str| {
                    let mut labels = series.get_label().iter();
                    let label = labels.find(|label| label.name() == name);
                    label.map_or("", |label| label.value())
                };
                if value_of("database") == database {
                    let labels = [database, value_of("query")];
                    remove_series!(&labels, self.query_seconds, self.query_failures);
                }
            }
        }
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

#[cfg(test)]
mod tests {
    use crate::admin::metrics::Metrics;
    use prometheus::Registry;
    use std::time::Duration;

    #[test]
    fn nothing_is_left_of_a_database_that_is_not_used_any_more() {
        let metrics = Metrics::new(Registry::new()).expect("fresh names");
        let use_it = |database| {
            metrics.database_up(database, true);
            metrics.horizon_held(database, Duration::ZERO);
            metrics.database_query(database, "probe", Duration::ZERO, true);
            metrics.database_query(database, "claim", Duration::ZERO, false);
        };
        use_it("stays");
        let before = metrics.render().expect("text");
        use_it("goes");
        assert_ne!(metrics.render().expect("text"), before);
        metrics.remove_database("goes");
        assert_eq!(metrics.render().expect("text"), before);
    }
}
