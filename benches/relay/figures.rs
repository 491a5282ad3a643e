//! What was measured, as lines of JSON and as tables.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;

use serde::Serialize;

use crate::Failure;
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
    /// What else a case measures.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) more: Vec<(String, f64)>,
}

/// A goal and what was reached.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Goal {
    pub(crate) case: String,
    pub(crate) goal: String,
    pub(crate) reached: f64,
    pub(crate) is_met: bool,
}

/// Where results go: the terminal and a file.
#[derive(Debug)]
pub(crate) struct Report {
    file: File,
    path: PathBuf,
    goals: Vec<Goal>,
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
            records_per_call: Some(number(counts.records) / number(counts.calls).max(1.0)),
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

    fn line(&self) -> String {
        let cell = |value: Option<f64>, width: usize, digits: usize| {
            value.map_or_else(
                || format!("{:>width$}", "-"),
                |value| format!("{value:>width$.digits$}"),
            )
        };
        let more: Vec<String> = self
            .more
            .iter()
            .map(|(name, figure)| format!("{name} {figure:.3}"))
            .collect();
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

// === impl Report ===

impl Report {
    /// Into a file in the target directory, with the head of the table.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn begin() -> Result<Self, Failure> {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        fs::create_dir_all(&folder)?;
        let path = folder.join("bench.jsonl");
        println!(
            "{:<34} {:<14} {:>9} {:>7} {:>7} {:>7} {:>7} {:>6} {:>6} {:>6} {:>6}",
            "case",
            "who",
            "rows/s",
            "MB/s",
            "cpu/M",
            "pg/M",
            "sink/M",
            "p50",
            "p99",
            "p99.9",
            "MiB"
        );
        Ok(Self {
            file: File::create(&path)?,
            path,
            goals: Vec::new(),
        })
    }

    /// Notes figures.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn figures(&mut self, figures: &Figures) -> Result<(), Failure> {
        println!("{}", figures.line());
        writeln!(self.file, "{}", serde_json::to_string(figures)?)?;
        Ok(())
    }

    /// Notes what was reached of a goal: at least `least`, or below it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn goal(
        &mut self,
        case: &str,
        goal: &str,
        reached: f64,
        is_met: bool,
    ) -> Result<(), Failure> {
        let goal = Goal {
            case: case.to_owned(),
            goal: goal.to_owned(),
            reached,
            is_met,
        };
        writeln!(self.file, "{}", serde_json::to_string(&goal)?)?;
        self.goals.push(goal);
        Ok(())
    }

    /// Prints what was reached of the goals.
    pub(crate) fn end(self) {
        println!();
        for goal in &self.goals {
            println!(
                "{:<24} {:<58} {:>8.3} {}",
                goal.case,
                goal.goal,
                goal.reached,
                if goal.is_met { "met" } else { "MISSED" }
            );
        }
        println!("lines of JSON: {}", self.path.display());
    }
}

/// The middle one of some figures; of none, not a number.
pub(crate) fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}
