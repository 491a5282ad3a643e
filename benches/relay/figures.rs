//! What was measured.

use serde::Serialize;

use crate::null_kinesis::Counts;
use crate::reference::ReferenceResult;
use crate::relay::Run;

/// One line of the results.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Figures {
    /// The case.
    pub(crate) case: String,
    /// Who: `relay`, `limit`, `naive`, `sqlx`, or what a case compares.
    pub(crate) who: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rows: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rows_per_second: Option<f64>,
    /// Data and partition keys, in 10^6 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mb_per_second: Option<f64>,
    /// Processor seconds for a million rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) relay_cpu_per_million: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) postgres_cpu_per_million: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sink_cpu_per_million: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) p50_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) p99_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) p999_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) resident_mib: Option<f64>,
    /// Records of the service for each call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) records_per_call: Option<f64>,
    /// Rows for each record of the service: above 1 where they are aggregated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rows_per_record: Option<f64>,
    /// Time was up before all rows were delivered: what follows from the others is of
    /// those that were.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) is_incomplete: bool,
    /// What else a case measures.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) more: Vec<(String, f64)>,
}

#[expect(clippy::cast_precision_loss, reason = "counts of rows and bytes")]
pub(crate) const fn number(count: u64) -> f64 {
    count as f64
}

// === impl Figures ===

impl Figures {
    /// Of a relay's run.
    pub(crate) fn of_run(case: &str, run: &Run) -> Self {
        let millions = number(run.rows).max(1.0) / 1e6;
        let counts = &run.counts;
        Self {
            relay_cpu_per_million: Some(run.relay / millions),
            postgres_cpu_per_million: Some(run.postgres / millions),
            sink_cpu_per_million: Some(run.sink / millions),
            resident_mib: Some(run.resident_mib),
            is_incomplete: !run.is_complete,
            records_per_call: Some(number(counts.records) / number(counts.calls).max(1.0)),
            rows_per_record: Some(number(run.rows) / number(counts.records).max(1.0)),
            ..Self::of_rate(case, "relay", run.rows, counts.bytes, counts.seconds)
        }
    }

    /// Of a reference.
    pub(crate) fn of_reference(
        case: &str,
        who: &str,
        result: &ReferenceResult,
        postgres: f64,
    ) -> Self {
        let millions = number(result.rows).max(1.0) / 1e6;
        Self {
            relay_cpu_per_million: Some(result.processor_seconds / millions),
            postgres_cpu_per_million: Some(postgres / millions),
            resident_mib: Some(result.resident_mib),
            ..Self::of_rate(case, who, result.rows, result.bytes, result.seconds)
        }
    }

    /// Of rows in a time.
    pub(crate) fn of_rate(case: &str, who: &str, rows: u64, bytes: u64, seconds: f64) -> Self {
        Self {
            case: case.to_owned(),
            who: who.to_owned(),
            rows: Some(rows),
            seconds: Some(seconds),
            rows_per_second: Some(number(rows) / seconds),
            mb_per_second: Some(number(bytes) / seconds / 1e6),
            ..Self::default()
        }
    }

    /// With the latencies that a sink measured.
    pub(crate) fn with_latencies(mut self, counts: &Counts) -> Self {
        self.p50_ms = counts.latency_ms(0.5);
        self.p99_ms = counts.latency_ms(0.99);
        self.p999_ms = counts.latency_ms(0.999);
        self
    }

    /// With one more figure.
    pub(crate) fn with(mut self, name: &str, figure: f64) -> Self {
        self.more.push((name.to_owned(), figure));
        self
    }

    /// The line of the table.
    pub(crate) fn line(&self) -> String {
        let cell = |value: Option<f64>, width: usize, digits: usize| {
            value.map_or_else(
                || format!("{:>width$}", "-"),
                |value| format!("{value:>width$.digits$}"),
            )
        };
        let mut more: Vec<String> = self
            .more
            .iter()
            .map(|(name, figure)| format!("{name} {figure:.3}"))
            .collect();
        if self.is_incomplete {
            let rows = self.rows.unwrap_or_default();
            more.push(format!("INCOMPLETE: time was up after {rows} rows"));
        }
        format!(
            "{:<34} {:<14} {} {} {} {} {} {} {} {} {}  {}",
            self.case,
            self.who,
            cell(self.rows_per_second, 9, 0),
            cell(self.mb_per_second, 7, 1),
            cell(self.relay_cpu_per_million, 7, 2),
            cell(self.postgres_cpu_per_million, 7, 2),
            cell(self.sink_cpu_per_million, 7, 2),
            cell(self.p50_ms, 6, 1),
            cell(self.p99_ms, 6, 1),
            cell(self.p999_ms, 6, 1),
            cell(self.resident_mib, 6, 0),
            more.join(", "),
        )
    }
}

/// The middle one of some figures; of none, not a number.
pub(crate) fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}
