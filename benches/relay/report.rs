//! Where results go: a table on the terminal and lines of JSON.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;

use serde::Serialize;
use tidegate::core::timestamp::Timestamp;
use tokio::time::Instant;

use crate::Failure;
use crate::figures::Figures;
use crate::null_kinesis::micros_since_epoch;

/// A goal and what was reached.
#[derive(Debug, Clone, Serialize)]
struct Goal {
    case: String,
    goal: String,
    reached: f64,
    is_met: bool,
}

/// How a case ended.
#[derive(Debug, Clone, Serialize)]
struct Ending {
    case: String,
    /// From the end of the one before, in seconds.
    took_seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<String>,
}

/// What was measured, and on what.
#[derive(Debug, Clone, Serialize)]
struct Beginning {
    relay: String,
    load_average: String,
}

/// A line of the file: whose it is, beside what it says.
#[derive(Debug, Serialize)]
struct Line<'a, T> {
    /// When the run began: its name.
    run: &'a str,
    #[serde(flatten)]
    line: &'a T,
}

/// Where results go. The file is added to, so that figures of earlier runs stay.
#[derive(Debug)]
pub(crate) struct Report {
    file: File,
    path: PathBuf,
    run: String,
    goals: Vec<Goal>,
    failures: Vec<String>,
    began: Instant,
    last_ended: Instant,
}

// === impl Report ===

impl Report {
    /// Into a file in the target directory, with the head of the table. `relay`: what
    /// is measured.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn begin(relay: &str) -> Result<Self, Failure> {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        fs::create_dir_all(&folder)?;
        let path = folder.join("bench.jsonl");
        let now = i64::try_from(micros_since_epoch())?;
        let mut report = Self {
            file: File::options().create(true).append(true).open(&path)?,
            path,
            run: Timestamp::from_unix_micros(now).to_string(),
            goals: Vec::new(),
            failures: Vec::new(),
            began: Instant::now(),
            last_ended: Instant::now(),
        };
        let beginning = Beginning {
            relay: relay.to_owned(),
            load_average: fs::read_to_string("/proc/loadavg")?.trim_end().to_owned(),
        };
        report.write(&beginning)?;
        println!(
            "run {} of {relay}, load average {}",
            report.run, beginning.load_average
        );
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
        Ok(report)
    }

    fn write(&mut self, line: &impl Serialize) -> Result<(), Failure> {
        let line = Line {
            run: &self.run,
            line,
        };
        writeln!(self.file, "{}", serde_json::to_string(&line)?)?;
        Ok(())
    }

    /// Notes figures.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn figures(&mut self, figures: &Figures) -> Result<(), Failure> {
        println!("{}", figures.line());
        self.write(figures)
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
        self.write(&goal)?;
        self.goals.push(goal);
        Ok(())
    }

    /// Notes how a case ended. The others are run all the same.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn ended(&mut self, case: &str, done: Result<(), Failure>) -> Result<(), Failure> {
        let ending = Ending {
            case: case.to_owned(),
            took_seconds: self.last_ended.elapsed().as_secs_f64(),
            failure: done.err().map(|error| error.to_string()),
        };
        self.last_ended = Instant::now();
        if let Some(failure) = &ending.failure {
            println!("{case:<34} FAILED: {failure}");
            self.failures.push(format!("{case}: {failure}"));
        }
        self.write(&ending)
    }

    /// Prints what was reached of the goals, and which cases failed.
    ///
    /// # Errors
    /// One has.
    pub(crate) fn end(self) -> Result<(), Failure> {
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
        let minutes = self.began.elapsed().as_secs_f64() / 60.0;
        println!(
            "{minutes:.1} minutes; lines of JSON: {}, run {}",
            self.path.display(),
            self.run
        );
        if self.failures.is_empty() {
            return Ok(());
        }
        let failures = self.failures.join("\n  ");
        Err(format!("{} cases failed:\n  {failures}", self.failures.len()).into())
    }
}
