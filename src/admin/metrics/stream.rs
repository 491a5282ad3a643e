//! What happens to one stream.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use super::{counters, int_gauges, remove_series};
use crate::core::trouble::TroubleKind;

const LABELS: [&str; 2] = ["stream", "kind"];

#[derive(Debug)]
pub(super) struct StreamFamilies {
    trouble: IntGaugeVec,
    failures: IntCounterVec,
}

/// The series of one stream.
#[derive(Debug, Clone)]
pub struct StreamMetrics {
    kinds: [(TroubleKind, IntGauge, IntCounter); TroubleKind::ALL.len()],
}

// === impl StreamMetrics ===

impl StreamMetrics {
    /// A trouble has begun or is over. Two clients of one stream (two sets of
    /// credentials) may be in the same trouble: it is there until both are out.
    pub fn trouble(&self, kind: TroubleKind, is_there: bool) {
        for (_, gauge, _) in self.kinds.iter().filter(|(one, _, _)| *one == kind) {
            if is_there {
                gauge.inc();
            } else {
                gauge.dec();
            }
        }
    }

    /// A call failed.
    pub fn call_failed(&self, kind: TroubleKind) {
        for (_, _, counter) in self.kinds.iter().filter(|(one, _, _)| *one == kind) {
            counter.inc();
        }
    }
}

// === impl StreamFamilies ===

impl StreamFamilies {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            trouble: int_gauges(
                registry,
                "tidegate_stream_trouble",
                "Whether the stream is in this kind of trouble; counts the sets of credentials that are",
                &LABELS,
            )?,
            failures: counters(
                registry,
                "tidegate_stream_call_failures_total",
                "Calls about the stream that failed as a whole",
                &LABELS,
            )?,
        })
    }

    pub(super) fn handle(&self, stream: &str) -> StreamMetrics {
        let kinds = TroubleKind::ALL.map(|kind| {
            let labels = [stream, kind.name()];
            (
                kind,
                self.trouble.with_label_values(&labels),
                self.failures.with_label_values(&labels),
            )
        });
        StreamMetrics { kinds }
    }

    pub(super) fn remove(&self, stream: &str) {
        for kind in TroubleKind::ALL {
            remove_series!(&[stream, kind.name()], self.trouble, self.failures);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::admin::metrics::Metrics;
    use crate::core::trouble::TroubleKind;
    use prometheus::Registry;

    #[test]
    fn trouble_is_there_until_all_are_out_of_it_and_ends_with_the_stream() {
        let metrics = Metrics::new(Registry::new()).expect("fresh names");
        let before = metrics.render().expect("text");
        let (one, other) = (metrics.stream("s"), metrics.stream("s"));
        let shows = |line: &str| {
            let text = metrics.render().expect("text");
            text.lines().any(|shown| shown == line)
        };
        let trouble = |count: u8| {
            format!(r#"tidegate_stream_trouble{{kind="access_denied",stream="s"}} {count}"#)
        };
        assert!(shows(&trouble(0)));
        one.trouble(TroubleKind::AccessDenied, true);
        other.trouble(TroubleKind::AccessDenied, true);
        assert!(shows(&trouble(2)));
        one.trouble(TroubleKind::AccessDenied, false);
        other.trouble(TroubleKind::AccessDenied, false);
        assert!(shows(&trouble(0)));
        one.call_failed(TroubleKind::Network);
        assert!(shows(
            r#"tidegate_stream_call_failures_total{kind="network",stream="s"} 1"#
        ));
        metrics.remove_stream("s");
        assert_eq!(metrics.render().expect("text"), before);
    }
}
