//! The metrics of one pipeline.

use std::time::Duration;

use prometheus::local::LocalHistogram;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Registry,
};

use super::stored_records::StoredRecords;
use super::tenant::{TenantFamilies, TenantMetrics};
use super::{counter_value, counters, gauge_value, gauges, histograms, int_gauges, remove_series};
use crate::admin::status::PipelineState;
use crate::config::pipeline::PipelineSpec;
use crate::core::dead_letter::LetterReason;

/// Names of pipelines are unique in their database only.
const LABELS: [&str; 4] = ["database", "pipeline", "tenant", "stream"];

/// Upper bounds of the time from commit to confirmation, in seconds: 1 ms to 5
/// minutes.
const LATENCY_SECONDS: [f64; 17] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    120.0, 300.0,
];

/// Why records are sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryReason {
    /// The shard, or the service, was asked for too much.
    Throttled,
    /// The service failed on the record.
    Failed,
    /// It is not known whether the record was stored.
    Unknown,
    /// The credentials were not accepted.
    Credentials,
    /// The operator must act first.
    Operator,
    /// Its record of many rows went to another shard than it was gathered for.
    Misplaced,
}

const RETRY_REASONS: [(RetryReason, &str); 6] = [
    (RetryReason::Throttled, "throttled"),
    (RetryReason::Failed, "failed"),
    (RetryReason::Unknown, "unknown"),
    (RetryReason::Credentials, "credentials"),
    (RetryReason::Operator, "operator"),
    (RetryReason::Misplaced, "misplaced"),
];

/// Why rows are sent again, as metrics name it.
const SOURCES: [(ResentSource, &str); 2] = [
    (ResentSource::Replay, "replay"),
    (ResentSource::Letter, "letter"),
];

/// Why a row was sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResentSource {
    /// It is of a replay.
    Replay,
    /// It is of a dead letter that a person wants delivered.
    Letter,
}

/// The handle of one pipeline.
#[derive(Debug, Clone)]
pub struct PipelineMetrics {
    rows_read: IntCounter,
    bytes_read: IntCounter,
    rows_delivered: IntCounter,
    bytes_delivered: IntCounter,
    records_stored: IntCounter,
    bytes_stored: IntCounter,
    put_units: IntCounter,
    retried: [(RetryReason, IntCounter); RETRY_REASONS.len()],
    throttled: IntCounter,
    blocked: IntCounter,
    returned: IntCounter,
    resent: [(ResentSource, IntCounter); SOURCES.len()],
    parked: [(LetterReason, IntCounter); LetterReason::ALL.len()],
    letters_open: IntGauge,
    vanished: IntCounter,
    commit_to_ack: Histogram,
    lag_rows: IntGauge,
    lag_oldest: Gauge,
    in_flight_rows: IntGauge,
    in_flight_bytes: IntGauge,
    windows_open: IntGauge,
    deferred_rows: IntGauge,
    states: [(&'static str, IntGauge); PipelineState::NAMES.len()],
    tenant: TenantMetrics,
}

#[derive(Debug)]
pub(super) struct PipelineFamilies {
    rows_read: IntCounterVec,
    bytes_read: IntCounterVec,
    rows_delivered: IntCounterVec,
    bytes_delivered: IntCounterVec,
    records_stored: IntCounterVec,
    bytes_stored: IntCounterVec,
    put_units: IntCounterVec,
    retried: IntCounterVec,
    throttled: IntCounterVec,
    blocked: IntCounterVec,
    returned: IntCounterVec,
    resent: IntCounterVec,
    parked: IntCounterVec,
    letters_open: IntGaugeVec,
    vanished: IntCounterVec,
    commit_to_ack: HistogramVec,
    lag_rows: IntGaugeVec,
    lag_oldest: GaugeVec,
    in_flight_rows: IntGaugeVec,
    in_flight_bytes: IntGaugeVec,
    windows_open: IntGaugeVec,
    deferred_rows: IntGaugeVec,
    state: IntGaugeVec,
}

/// What tells the series of a pipeline from those of others: its database, its name,
/// its tenant and its stream.
#[must_use]
pub fn labels_of(spec: &PipelineSpec) -> [&str; 4] {
    [&spec.database, &spec.name, &spec.tenant, spec.stream.name()]
}

// === impl PipelineMetrics ===

impl PipelineMetrics {
    /// Rows were read; `bytes` counts data and keys of all that was looked at.
    pub fn rows_read(&self, rows: usize, bytes: usize) {
        self.rows_read.inc_by(counter_value(rows));
        self.bytes_read.inc_by(counter_value(bytes));
    }

    /// Rows were confirmed by the stream; `bytes` counts data and keys.
    pub fn delivered(&self, rows: usize, bytes: usize) {
        self.rows_delivered.inc_by(counter_value(rows));
        self.bytes_delivered.inc_by(counter_value(bytes));
        self.tenant.delivered(rows, bytes);
    }

    /// Records of its rows were stored.
    pub fn records_stored(&self, stored: StoredRecords) {
        self.records_stored.inc_by(counter_value(stored.records));
        self.bytes_stored.inc_by(counter_value(stored.bytes));
        self.put_units.inc_by(counter_value(stored.put_units));
    }

    /// Records will be sent again.
    pub fn retried(&self, records: usize, reason: RetryReason) {
        for (known, counter) in &self.retried {
            if *known == reason {
                counter.inc_by(counter_value(records));
            }
        }
    }

    /// Records were refused because a limit of the service was reached.
    pub fn throttled(&self, records: usize) {
        self.throttled.inc_by(counter_value(records));
    }

    /// A row that can never be sent was met; the pipeline holds there.
    pub fn row_blocked(&self) {
        self.blocked.inc();
    }

    /// Rows were read and given up unsettled, since their reader ended.
    pub fn rows_returned(&self, rows: usize) {
        self.returned.inc_by(counter_value(rows));
    }

    /// A row that was sent again was confirmed. It counts as read and as delivered too.
    pub fn resent(&self, source: ResentSource) {
        for (known, counter) in &self.resent {
            if *known == source {
                counter.inc();
            }
        }
    }

    /// A row became a dead letter.
    pub fn parked(&self, reason: LetterReason) {
        for (known, counter) in &self.parked {
            if *known == reason {
                counter.inc();
            }
        }
    }

    /// So many dead letters wait for a person (counted up to 10,000).
    pub fn letters_open(&self, letters: u64) {
        self.letters_open
            .set(i64::try_from(letters).unwrap_or(i64::MAX));
    }

    /// A row was deleted from the outbox before it was delivered.
    pub fn row_vanished(&self) {
        self.vanished.inc();
    }

    /// Rows are about to be confirmed: what is observed here is how many seconds after
    /// it was committed each was (measured from its insert, which comes before). It
    /// counts when it is dropped.
    #[must_use]
    pub fn acks(&self) -> LocalHistogram {
        self.commit_to_ack.local()
    }

    /// What is read and not settled.
    pub fn in_flight(&self, rows: usize, bytes: usize) {
        self.in_flight_rows.set(gauge_value(rows));
        self.in_flight_bytes.set(gauge_value(bytes));
    }

    /// What is committed and not settled: how many rows, and the age of the
    /// oldest.
    pub fn lag(&self, rows: u64, oldest: Duration) {
        self.lag_rows.set(i64::try_from(rows).unwrap_or(i64::MAX));
        self.lag_oldest.set(oldest.as_secs_f64());
    }

    /// Windows that are begun and not settled.
    pub fn windows_open(&self, windows: usize) {
        self.windows_open.set(gauge_value(windows));
    }

    /// Rows of full shards that are remembered by id alone.
    pub fn deferred_rows(&self, rows: usize) {
        self.deferred_rows.set(gauge_value(rows));
    }

    /// The pipeline's state: its series is 1, those of all other states are 0.
    pub fn state(&self, state: &PipelineState) {
        for (name, gauge) in &self.states {
            gauge.set((*name == state.name()).into());
        }
    }
}

// === impl PipelineFamilies ===

impl PipelineFamilies {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters = |name, help| counters(registry, name, help, &LABELS);
        let int_gauges = |name, help| int_gauges(registry, name, help, &LABELS);
        let [database, pipeline, tenant, stream] = LABELS;
        Ok(Self {
            rows_read: counters("tidegate_rows_read_total", "Rows read from the outbox")?,
            bytes_read: counters(
                "tidegate_bytes_read_total",
                "Bytes of data and keys made from what was read from the outbox",
            )?,
            rows_delivered: counters(
                "tidegate_rows_delivered_total",
                "Rows confirmed by the stream",
            )?,
            bytes_delivered: counters(
                "tidegate_bytes_delivered_total",
                "Bytes of data and keys confirmed by the stream",
            )?,
            records_stored: counters(
                "tidegate_records_stored_total",
                "Kinesis records of one row or many that were stored, repeats included",
            )?,
            bytes_stored: counters(
                "tidegate_bytes_stored_total",
                "Bytes of data and keys of the records stored, as they were sent",
            )?,
            put_units: counters(
                "tidegate_put_units_total",
                "PUT payload units of 25,000 bytes of the records stored",
            )?,
            retried: super::counters(
                registry,
                "tidegate_records_retried_total",
                "Records that had to be sent again",
                &[database, pipeline, tenant, stream, "reason"],
            )?,
            throttled: counters(
                "tidegate_records_throttled_total",
                "Records refused because a limit of the service was reached",
            )?,
            blocked: counters(
                "tidegate_rows_blocked_total",
                "Rows that can never be sent and hold their pipeline",
            )?,
            returned: counters(
                "tidegate_rows_returned_total",
                "Rows read and given up unsettled when a reader ended: they are read again",
            )?,
            resent: super::counters(
                registry,
                "tidegate_rows_resent_total",
                "Rows confirmed that were asked for again; counted as read and as delivered too",
                &[database, pipeline, tenant, stream, "source"],
            )?,
            parked: super::counters(
                registry,
                "tidegate_rows_parked_total",
                "Rows that became dead letters instead of being delivered",
                &[database, pipeline, tenant, stream, "reason"],
            )?,
            letters_open: int_gauges(
                "tidegate_dead_letters_open",
                "Dead letters that wait for a person, counted up to 10,000",
            )?,
            vanished: counters(
                "tidegate_rows_vanished_total",
                "Rows that were deleted from the outbox before they were delivered",
            )?,
            commit_to_ack: histograms(
                registry,
                "tidegate_commit_to_ack_seconds",
                "Time from the insert of a committed row to its confirmation",
                &LABELS,
                &LATENCY_SECONDS,
            )?,
            lag_rows: int_gauges("tidegate_lag_rows", "Rows committed and not settled")?,
            lag_oldest: gauges(
                registry,
                "tidegate_lag_oldest_seconds",
                "Age of the oldest row that is not settled",
                &LABELS,
            )?,
            in_flight_rows: int_gauges("tidegate_in_flight_rows", "Rows read and not settled")?,
            in_flight_bytes: int_gauges(
                "tidegate_in_flight_bytes",
                "Bytes of the rows read and not settled",
            )?,
            windows_open: int_gauges(
                "tidegate_windows_open",
                "Windows of the outbox begun and not settled",
            )?,
            deferred_rows: int_gauges(
                "tidegate_deferred_rows",
                "Rows of full shards that are remembered by id alone",
            )?,
            state: super::int_gauges(
                registry,
                "tidegate_pipeline_state",
                "1 for the state the pipeline is in, 0 for the others",
                &[database, pipeline, tenant, stream, "state"],
            )?,
        })
    }

    pub(super) fn handle(&self, labels: [&str; 4], tenants: &TenantFamilies) -> PipelineMetrics {
        let [database, pipeline, tenant, stream] = labels;
        let with = |last| [database, pipeline, tenant, stream, last];
        PipelineMetrics {
            rows_read: self.rows_read.with_label_values(&labels),
            bytes_read: self.bytes_read.with_label_values(&labels),
            rows_delivered: self.rows_delivered.with_label_values(&labels),
            bytes_delivered: self.bytes_delivered.with_label_values(&labels),
            records_stored: self.records_stored.with_label_values(&labels),
            bytes_stored: self.bytes_stored.with_label_values(&labels),
            put_units: self.put_units.with_label_values(&labels),
            retried: RETRY_REASONS
                .map(|(reason, name)| (reason, self.retried.with_label_values(&with(name)))),
            throttled: self.throttled.with_label_values(&labels),
            blocked: self.blocked.with_label_values(&labels),
            returned: self.returned.with_label_values(&labels),
            resent: SOURCES
                .map(|(source, name)| (source, self.resent.with_label_values(&with(name)))),
            parked: LetterReason::ALL.map(|reason| {
                let labels = with(reason.code());
                (reason, self.parked.with_label_values(&labels))
            }),
            letters_open: self.letters_open.with_label_values(&labels),
            vanished: self.vanished.with_label_values(&labels),
            commit_to_ack: self.commit_to_ack.with_label_values(&labels),
            lag_rows: self.lag_rows.with_label_values(&labels),
            lag_oldest: self.lag_oldest.with_label_values(&labels),
            in_flight_rows: self.in_flight_rows.with_label_values(&labels),
            in_flight_bytes: self.in_flight_bytes.with_label_values(&labels),
            windows_open: self.windows_open.with_label_values(&labels),
            deferred_rows: self.deferred_rows.with_label_values(&labels),
            states: PipelineState::NAMES
                .map(|name| (name, self.state.with_label_values(&with(name)))),
            tenant: tenants.handle(tenant),
        }
    }

    /// Ends what only the owner of a pipeline knows: its backlog.
    pub(super) fn remove_backlog(&self, labels: [&str; 4]) {
        remove_series!(
            &labels,
            self.lag_rows,
            self.lag_oldest,
            self.letters_open,
            self.windows_open,
            self.deferred_rows,
        );
    }

    pub(super) fn remove(&self, labels: [&str; 4]) {
        remove_series!(
            &labels,
            self.rows_read,
            self.bytes_read,
            self.rows_delivered,
            self.bytes_delivered,
            self.records_stored,
            self.bytes_stored,
            self.put_units,
            self.throttled,
            self.blocked,
            self.returned,
            self.letters_open,
            self.vanished,
            self.commit_to_ack,
            self.lag_rows,
            self.lag_oldest,
            self.in_flight_rows,
            self.in_flight_bytes,
            self.windows_open,
            self.deferred_rows,
        );
        let [database, pipeline, tenant, stream] = labels;
        let with = |last| [database, pipeline, tenant, stream, last];
        for (_, name) in RETRY_REASONS {
            remove_series!(&with(name), self.retried);
        }
        for (_, name) in SOURCES {
            remove_series!(&with(name), self.resent);
        }
        for reason in LetterReason::ALL {
            remove_series!(&with(reason.code()), self.parked);
        }
        for name in PipelineState::NAMES {
            remove_series!(&with(name), self.state);
        }
    }
}
