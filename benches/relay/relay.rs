//! The relay as a user runs it, and what it used of the machine.

use std::io::Write;
use std::time::Duration;

use tempfile::NamedTempFile;
use tidegate::demo::relay_process::RelayProcess;
use tokio::time::Instant;

use crate::Failure;
use crate::null_kinesis::{Counts, NullKinesis};
use crate::stage::{Database, Stage, added_configuration, program};
use crate::usage::{most_resident_mib, processor_time, resident_mib};

/// How long anything may take that takes seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often progress is looked at.
const POLL: Duration = Duration::from_millis(50);

/// The configuration of a relay whose shard budget is lifted.
pub(crate) const BUDGET_LIFTED: &str = "[kinesis.shard_budget]
records_per_second = 1000000
bytes_per_second = \"10GiB\"
fraction = 1
";

/// A relay that runs.
#[derive(Debug)]
pub(crate) struct Relay {
    process: RelayProcess,
    /// Removed with this.
    _configuration: NamedTempFile,
}

/// What the relay, PostgreSQL and the sink have used so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Used {
    pub(crate) at: Instant,
    pub(crate) relay: f64,
    pub(crate) postgres: f64,
    pub(crate) sink: f64,
}

/// What a relay did while it was watched.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    /// Rows delivered, by its own count.
    pub(crate) rows: u64,
    /// Those are all that were waited for.
    pub(crate) is_complete: bool,
    /// What the sink counted.
    pub(crate) counts: Counts,
    /// Processor seconds of each.
    pub(crate) relay: f64,
    pub(crate) postgres: f64,
    pub(crate) sink: f64,
    /// The most resident memory of the relay, in MiB.
    pub(crate) resident_mib: f64,
    /// Its resident memory over time, in MiB, at seconds since its start.
    pub(crate) memory: Vec<(f64, f64)>,
}

// === impl Relay ===

impl Relay {
    /// Starts a relay with this configuration and waits until so many pipelines run.
    ///
    /// # Errors
    /// It does not start.
    pub(crate) async fn start(
        database: &Database,
        sink: &NullKinesis,
        configuration: &str,
        pipelines: usize,
    ) -> Result<Self, Failure> {
        let mut file = NamedTempFile::new()?;
        writeln!(file, "{}\n{configuration}", added_configuration())?;
        let environment = [
            ("DATABASE_URL", database.url.clone()),
            ("AWS_ENDPOINT_URL", sink.endpoint()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", "bench".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "bench".to_owned()),
            ("TIDEGATE_CONFIG", file.path().display().to_string()),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value));
        let mut process = RelayProcess::new(program()?, environment.to_vec())?;
        process.start()?;
        process.wait_until_running(pipelines, PATIENCE).await?;
        Ok(Self {
            process,
            _configuration: file,
        })
    }

    /// What everybody has used so far.
    ///
    /// # Errors
    /// One of them has ended.
    pub(crate) fn used(&self, stage: &Stage, sink: &NullKinesis) -> Result<Used, Failure> {
        Ok(Used {
            at: Instant::now(),
            relay: processor_time(self.pid()?)?.own,
            postgres: stage.processor_time()?,
            sink: processor_time(sink.pid()?)?.own,
        })
    }

    /// How many rows it says it has delivered.
    ///
    /// # Errors
    /// It does not answer.
    pub(crate) async fn delivered(&self) -> Result<u64, Failure> {
        self.metric("tidegate_rows_delivered_total").await
    }

    /// The sum of the series of a metric.
    async fn metric(&self, family: &str) -> Result<u64, Failure> {
        let text = self.process.get("/metrics").await?;
        let series = text.lines().filter_map(|line| {
            let rest = line.strip_prefix(family)?;
            rest.starts_with(['{', ' '])
                .then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())?
        });
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a counter of rows"
        )]
        Ok(series.sum::<f64>() as u64)
    }

    /// Its resident memory, in MiB.
    ///
    /// # Errors
    /// It has ended.
    pub(crate) fn resident_mib(&self) -> Result<f64, Failure> {
        Ok(resident_mib(self.pid()?)?)
    }

    /// Ends it in order.
    ///
    /// # Errors
    /// It does not end with success.
    pub(crate) async fn end(mut self) -> Result<(), Failure> {
        let status = self.process.terminate(PATIENCE).await?;
        if !status.success() {
            return Err(
                format!("the relay ended with {status}: {}", self.process.log_tail()).into(),
            );
        }
        Ok(())
    }

    /// Ends it with SIGKILL.
    ///
    /// # Errors
    /// It cannot be signalled.
    pub(crate) fn kill(mut self) -> Result<(), Failure> {
        Ok(self.process.kill()?)
    }

    /// Its process id.
    ///
    /// # Errors
    /// It has ended.
    pub(crate) fn pid(&self) -> Result<u32, Failure> {
        Ok(self.process.pid().ok_or("the relay has ended")?)
    }
}

/// Has a relay deliver `rows` rows and ends it. When it takes longer than `most`, the run
/// is not complete; without `rows` it lasts so long.
///
/// # Errors
/// It does not.
pub(crate) async fn drain(
    stage: &Stage,
    database: &Database,
    sink: &NullKinesis,
    configuration: &str,
    rows: Option<u64>,
    most: Duration,
) -> Result<Run, Failure> {
    sink.reset().await?;
    let (postgres, null) = (stage.processor_time()?, processor_time(sink.pid()?)?.own);
    let mut relay = Relay::start(database, sink, configuration, 0).await?;
    let started = Instant::now();
    let mut memory = Vec::new();
    let mut polls = 0_u32;
    loop {
        // The cheap question first: there are at most as many rows as records when
        // nothing is aggregated, and all metrics are asked for rarely.
        let records = sink.records().await?;
        polls += 1;
        relay.process.check()?;
        if polls.is_multiple_of(4) {
            memory.push((started.elapsed().as_secs_f64(), relay.resident_mib()?));
        }
        if let Some(rows) = rows {
            let may_be_done = records >= rows || polls.is_multiple_of(10);
            if may_be_done && relay.delivered().await? >= rows {
                break;
            }
        }
        if started.elapsed() >= most {
            break;
        }
        tokio::time::sleep(POLL).await;
    }
    let used = relay.used(stage, sink)?;
    let delivered = relay.delivered().await?;
    let run = Run {
        rows: delivered,
        is_complete: rows.is_none_or(|rows| delivered >= rows),
        counts: sink.counts().await?,
        relay: used.relay,
        postgres: used.postgres - postgres,
        sink: used.sink - null,
        resident_mib: most_resident_mib(relay.pid()?)?,
        memory,
    };
    relay.end().await?;
    Ok(run)
}
