//! The metrics of retention: what was deleted, what is kept, and who holds it.
//!
//! Only the node that sweeps a database shows what its outboxes keep, so that a
//! sum over nodes counts nothing twice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{GaugeVec, IntCounterVec, Registry};

use super::{counters, gauges, remove_series};

/// What one outbox keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptRows<'a> {
    /// The outbox.
    pub outbox: &'a str,
    /// The age of its oldest row; zero when it is empty.
    pub oldest: Duration,
    /// The pipelines that hold rows which have outlived the retention.
    pub held: Vec<HeldRows<'a>>,
}

/// Rows of an outbox that are kept for one pipeline's sake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldRows<'a> {
    /// The pipeline.
    pub pipeline: &'a str,
    /// For how long the oldest of them has outlived the retention.
    pub held_for: Duration,
}

/// An outbox alone, or an outbox and a pipeline that holds rows of it.
type Series = (String, Option<String>);

#[derive(Debug)]
pub(super) struct RetentionFamilies {
    removed: IntCounterVec,
    oldest: GaugeVec,
    held: GaugeVec,
    /// The series shown for each database.
    shown: Mutex<BTreeMap<String, BTreeSet<Series>>>,
}

// === impl RetentionFamilies ===

impl RetentionFamilies {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            removed: counters(
                registry,
                "tidegate_retention_rows_removed_total",
                "Rows deleted after their outbox's retention, settled by every pipeline",
                &["database", "outbox"],
            )?,
            oldest: gauges(
                registry,
                "tidegate_retention_oldest_row_seconds",
                "Age of the oldest row that the outbox keeps, 0 when it has none",
                &["database", "outbox"],
            )?,
            held: gauges(
                registry,
                "tidegate_retention_held_seconds",
                "For how long the oldest row that this pipeline has not settled has outlived the retention",
                &["database", "outbox", "pipeline"],
            )?,
            shown: Mutex::default(),
        })
    }

    pub(super) fn removed(&self, database: &str, outbox: &str, rows: u64) {
        self.removed
            .with_label_values(&[database, outbox])
            .inc_by(rows);
    }

    pub(super) fn show(&self, database: &str, kept: Option<&[KeptRows<'_>]>) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let before = shown.entry(database.to_owned()).or_default();
        let mut now = BTreeSet::new();
        for KeptRows {
            outbox,
            oldest,
            held,
        } in kept.unwrap_or_default()
        {
            let gauge = self.oldest.with_label_values(&[database, outbox]);
            gauge.set(oldest.as_secs_f64());
            now.insert(((*outbox).to_owned(), None));
            for HeldRows { pipeline, held_for } in held {
                let gauge = self.held.with_label_values(&[database, outbox, pipeline]);
                gauge.set(held_for.as_secs_f64());
                now.insert(((*outbox).to_owned(), Some((*pipeline).to_owned())));
            }
        }
        for (outbox, pipeline) in before.difference(&now) {
            if let Some(pipeline) = pipeline {
                remove_series!(&[database, outbox, pipeline], self.held);
                continue;
            }
            remove_series!(&[database, outbox], self.oldest);
            if kept.is_some() {
                // The outbox is gone. (A node that cannot look goes on counting.)
                remove_series!(&[database, outbox], self.removed);
            }
        }
        *before = now;
    }

    /// The database is not looked at any more.
    pub(super) fn remove_database(&self, database: &str) {
        self.show(database, Some(&[]));
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.remove(database);
        // What this node deleted while it was its turn, which may be over.
        for family in self.removed.collect() {
            for series in family.get_metric() {
                let of = |name: &str| {
                    let labels = series.get_label().iter();
                    let mut values = labels.filter(|label| label.name() == name);
                    values.next().map_or("", |label| label.value())
                };
                if of("database") == database {
                    remove_series!(&[database, of("outbox")], self.removed);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::admin::metrics::{HeldRows, KeptRows, Metrics};
    use prometheus::Registry;
    use std::time::Duration;

    #[test]
    fn series_are_those_of_the_last_look() {
        let metrics = Metrics::new(Registry::new()).expect("fresh names");
        let before = metrics.render().expect("text");
        let second = Duration::from_secs(1);
        let held = |pipeline| HeldRows {
            pipeline,
            held_for: 7 * second,
        };
        let kept = |outbox, held| KeptRows {
            outbox,
            oldest: 3 * second,
            held,
        };
        let first = [kept("a", vec![held("p"), held("q")]), kept("b", vec![])];
        metrics.retention("db", Some(&first));
        metrics.rows_removed("db", "a", 5);
        metrics.rows_removed("db", "b", 6);
        let text = metrics.render().expect("text");
        for line in [
            r#"tidegate_retention_held_seconds{database="db",outbox="a",pipeline="q"} 7"#,
            r#"tidegate_retention_oldest_row_seconds{database="db",outbox="b"} 3"#,
            r#"tidegate_retention_rows_removed_total{database="db",outbox="a"} 5"#,
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line}\n{text}");
        }
        metrics.retention("db", Some(&[kept("a", vec![held("p")])]));
        let text = metrics.render().expect("text");
        assert!(!text.contains(r#"pipeline="q""#) && !text.contains(r#"outbox="b""#));
        assert!(
            text.contains(r#"pipeline="p""#) && text.contains(r#"{database="db",outbox="a"} 5"#)
        );
        metrics.retention("db", None);
        let text = metrics.render().expect("text");
        assert!(!text.contains("oldest_row_seconds{") && text.contains("rows_removed_total{"));
        metrics.retention("db", Some(&[kept("a", vec![])]));
        metrics.retention("db", Some(&[]));
        assert_eq!(metrics.render().expect("text"), before);
    }

    #[test]
    fn nothing_is_left_of_a_database_that_is_removed() {
        let metrics = Metrics::new(Registry::new()).expect("fresh names");
        metrics.rows_removed("stays", "a", 1);
        metrics.database_up("stays", true);
        let before = metrics.render().expect("text");
        metrics.rows_removed("db", "a", 5);
        metrics.database_up("db", true);
        let kept = KeptRows {
            outbox: "b",
            oldest: Duration::from_secs(1),
            held: vec![],
        };
        metrics.retention("db", Some(&[kept]));
        metrics.remove_database("db");
        assert_eq!(metrics.render().expect("text"), before);
    }
}
