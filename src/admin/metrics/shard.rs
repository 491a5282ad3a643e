//! The metrics of one shard's writer.

use std::time::Duration;

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Registry,
};

use super::{counter_value, counters, gauge_value, gauges, histograms, int_gauges, remove_series};

const LABELS: [&str; 2] = ["stream", "shard"];

/// Upper bounds of the time a PutRecords call takes, in seconds: around the 5 to
/// 30 ms of a healthy service, up to more than its time-out is usually set to.
const CALL_SECONDS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// How a PutRecords call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallOutcome {
    /// Every record was stored.
    Stored,
    /// Some records were stored, some were not.
    Partial,
    /// Nothing was stored: too much was asked for.
    Throttled,
    /// It is not known what was stored.
    Unknown,
    /// Nothing was stored: the credentials were not accepted.
    Credentials,
    /// Nothing was stored: the operator must act.
    Operator,
    /// Nothing was stored: a record was not acceptable.
    BadRecord,
}

const CALL_OUTCOMES: [(CallOutcome, &str); 7] = [
    (CallOutcome::Stored, "stored"),
    (CallOutcome::Partial, "partial"),
    (CallOutcome::Throttled, "throttled"),
    (CallOutcome::Unknown, "unknown"),
    (CallOutcome::Credentials, "credentials"),
    (CallOutcome::Operator, "operator"),
    (CallOutcome::BadRecord, "bad_record"),
];

/// The handle of one shard.
#[derive(Debug, Clone)]
pub struct ShardMetrics {
    calls: [(CallOutcome, IntCounter); CALL_OUTCOMES.len()],
    call_seconds: Histogram,
    records_offered: IntCounter,
    bytes_offered: IntCounter,
    records_accepted: IntCounter,
    bytes_accepted: IntCounter,
    records_throttled: IntCounter,
    key_limited: IntCounter,
    records_utilisation: Gauge,
    bytes_utilisation: Gauge,
    budget_factor: Gauge,
    records_share: Gauge,
    bytes_share: Gauge,
    queued_rows: IntGauge,
    queued_bytes: IntGauge,
    sequence_regressions: IntCounter,
}

#[derive(Debug)]
pub(super) struct ShardFamilies {
    calls: IntCounterVec,
    call_seconds: HistogramVec,
    records_offered: IntCounterVec,
    bytes_offered: IntCounterVec,
    records_accepted: IntCounterVec,
    bytes_accepted: IntCounterVec,
    records_throttled: IntCounterVec,
    key_limited: IntCounterVec,
    utilisation: GaugeVec,
    budget_factor: GaugeVec,
    share: GaugeVec,
    queued_rows: IntGaugeVec,
    queued_bytes: IntGaugeVec,
    sequence_regressions: IntCounterVec,
}

// === impl ShardMetrics ===

impl ShardMetrics {
    /// A call ended so, after so long.
    pub fn call(&self, outcome: CallOutcome, took: Duration) {
        for (known, counter) in &self.calls {
            if *known == outcome {
                counter.inc();
            }
        }
        self.call_seconds.observe(took.as_secs_f64());
    }

    /// A call with so much in it was made.
    pub fn offered(&self, records: usize, bytes: usize) {
        self.records_offered.inc_by(counter_value(records));
        self.bytes_offered.inc_by(counter_value(bytes));
    }

    /// So much of a call was stored.
    pub fn accepted(&self, records: usize, bytes: usize) {
        self.records_accepted.inc_by(counter_value(records));
        self.bytes_accepted.inc_by(counter_value(bytes));
    }

    /// So many records of a call were refused because a limit was reached.
    pub fn throttled(&self, records: usize) {
        self.records_throttled.inc_by(counter_value(records));
    }

    /// A call was made, and whether every row that it left waits behind a record of
    /// its own key.
    pub fn key_limited(&self, is_so: bool) {
        self.key_limited.inc_by(is_so.into());
    }

    /// The part of the whole shard's budget that this node used lately, 0 to 1, by
    /// each of its limits.
    pub fn utilisation(&self, records_ratio: f64, bytes_ratio: f64) {
        self.records_utilisation.set(records_ratio);
        self.bytes_utilisation.set(bytes_ratio);
    }

    /// The part of the configured budget in use now: below 1 after throttles.
    pub fn budget_factor(&self, factor: f64) {
        self.budget_factor.set(factor);
    }

    /// This node's part of the shard's budget, 0 to 1, by each of its limits.
    pub fn share(&self, records_ratio: f64, bytes_ratio: f64) {
        self.records_share.set(records_ratio);
        self.bytes_share.set(bytes_ratio);
    }

    /// What waits for the shard.
    pub fn queued(&self, rows: usize, bytes: usize) {
        self.queued_rows.set(gauge_value(rows));
        self.queued_bytes.set(gauge_value(bytes));
    }

    /// A record got a lower sequence number than the one before it of its key.
    pub fn sequence_regressed(&self) {
        self.sequence_regressions.inc();
    }
}

// === impl ShardFamilies ===

impl ShardFamilies {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters = |name, help| counters(registry, name, help, &LABELS);
        let int_gauges = |name, help| int_gauges(registry, name, help, &LABELS);
        let [stream, shard] = LABELS;
        Ok(Self {
            calls: super::counters(
                registry,
                "tidegate_put_calls_total",
                "PutRecords calls by how they ended",
                &[stream, shard, "outcome"],
            )?,
            call_seconds: histograms(
                registry,
                "tidegate_put_call_seconds",
                "How long a PutRecords call took",
                &LABELS,
                &CALL_SECONDS,
            )?,
            records_offered: counters(
                "tidegate_shard_records_offered_total",
                "Records sent to the shard, stored or not",
            )?,
            bytes_offered: counters(
                "tidegate_shard_bytes_offered_total",
                "Bytes of data and keys sent to the shard, stored or not",
            )?,
            records_accepted: counters(
                "tidegate_shard_records_accepted_total",
                "Records the shard stored",
            )?,
            bytes_accepted: counters(
                "tidegate_shard_bytes_accepted_total",
                "Bytes of data and keys the shard stored",
            )?,
            records_throttled: counters(
                "tidegate_shard_records_throttled_total",
                "Records the shard refused because its limit was reached",
            )?,
            key_limited: counters(
                "tidegate_shard_calls_key_limited_total",
                "PutRecords calls that left rows which all wait behind a record of their own key",
            )?,
            utilisation: gauges(
                registry,
                "tidegate_shard_budget_utilisation_ratio",
                "Part of the whole shard's budget that this node used lately",
                &[stream, shard, "resource"],
            )?,
            budget_factor: gauges(
                registry,
                "tidegate_shard_budget_factor_ratio",
                "Part of the configured budget in use, below 1 after throttles",
                &LABELS,
            )?,
            share: gauges(
                registry,
                "tidegate_shard_share_ratio",
                "Part of the shard's budget that is this node's",
                &[stream, shard, "resource"],
            )?,
            queued_rows: int_gauges("tidegate_shard_queued_rows", "Rows that wait for the shard")?,
            queued_bytes: int_gauges(
                "tidegate_shard_queued_bytes",
                "Bytes of the rows that wait for the shard",
            )?,
            sequence_regressions: counters(
                "tidegate_sequence_regressions_total",
                "Records stored under a lower sequence number than the one before of their key",
            )?,
        })
    }

    pub(super) fn handle(&self, labels: [&str; 2]) -> ShardMetrics {
        let [stream, shard] = labels;
        let with = |last| [stream, shard, last];
        ShardMetrics {
            calls: CALL_OUTCOMES
                .map(|(outcome, name)| (outcome, self.calls.with_label_values(&with(name)))),
            call_seconds: self.call_seconds.with_label_values(&labels),
            records_offered: self.records_offered.with_label_values(&labels),
            bytes_offered: self.bytes_offered.with_label_values(&labels),
            records_accepted: self.records_accepted.with_label_values(&labels),
            bytes_accepted: self.bytes_accepted.with_label_values(&labels),
            records_throttled: self.records_throttled.with_label_values(&labels),
            key_limited: self.key_limited.with_label_values(&labels),
            records_utilisation: self.utilisation.with_label_values(&with("records")),
            bytes_utilisation: self.utilisation.with_label_values(&with("bytes")),
            budget_factor: self.budget_factor.with_label_values(&labels),
            records_share: self.share.with_label_values(&with("records")),
            bytes_share: self.share.with_label_values(&with("bytes")),
            queued_rows: self.queued_rows.with_label_values(&labels),
            queued_bytes: self.queued_bytes.with_label_values(&labels),
            sequence_regressions: self.sequence_regressions.with_label_values(&labels),
        }
    }

    pub(super) fn remove(&self, labels: [&str; 2]) {
        remove_series!(
            &labels,
            self.call_seconds,
            self.records_offered,
            self.bytes_offered,
            self.records_accepted,
            self.bytes_accepted,
            self.records_throttled,
            self.key_limited,
            self.budget_factor,
            self.queued_rows,
            self.queued_bytes,
            self.sequence_regressions,
        );
        let [stream, shard] = labels;
        for (_, name) in CALL_OUTCOMES {
            remove_series!(&[stream, shard, name], self.calls);
        }
        for resource in ["records", "bytes"] {
            remove_series!(&[stream, shard, resource], self.utilisation, self.share);
        }
    }
}
