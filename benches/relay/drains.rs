//! Draining a backlog: the goals, and the matrix of payload, round trip, shards,
//! outboxes, keys and aggregation.

use std::time::Duration;

use crate::Failure;
use crate::case::{Case, Settings, USUAL};
use crate::figures::{Figures, median, number};
use crate::null_kinesis::{NullKinesis, NullOptions};
use crate::reference::{Kind, ReferenceOptions, ReferenceResult, run_reference};
use crate::relay::{BUDGET_LIFTED, Run, drain};
use crate::report::Report;
use crate::stage::{Backlog, Database, Stage};

/// How often what is compared is measured, one after the other; medians count.
const REPEATS: usize = 3;

/// How long a drain may take that cannot end: one key without aggregation.
const MOST: Duration = Duration::from_secs(20);

const DRAIN: &str = "goal/drain";
const DRAIN_KPL: &str = "goal/drain-kpl";
const FAILING: &str = "failing";

/// A backlog in a database of its own, that is drained again and again.
struct Drained {
    stage: Stage,
    database: Database,
    outbox: i32,
    rows: u64,
    pipelines: u32,
}

pub(crate) async fn run(settings: &Settings, report: &mut Report) -> Result<(), Failure> {
    if settings.wants(DRAIN) || settings.wants(DRAIN_KPL) {
        let done = goals(settings, report).await;
        report.ended(DRAIN, done)?;
    }
    if settings.wants(FAILING) {
        let done = failing(settings, report).await;
        report.ended(FAILING, done)?;
    }
    for case in Case::matrix() {
        if settings.wants(&case.name()) {
            let done = one(settings, report, case).await;
            report.ended(&case.name(), done)?;
        }
    }
    Ok(())
}

async fn goals(settings: &Settings, report: &mut Report) -> Result<(), Failure> {
    let mut drained = Drained::fill(settings.rows, USUAL).await?;
    let sink =
        NullKinesis::start(NullOptions::unlimited(USUAL.shards, USUAL.round_trip_ms)).await?;
    if settings.wants(DRAIN) {
        let (mut to_limit, mut to_naive) = (Vec::new(), Vec::new());
        for _ in 0..REPEATS {
            let limit = drained.reference(DRAIN, Kind::Limit, &sink, report).await?;
            let run = drained.relay(USUAL, &sink).await?;
            let figures = Figures::of_run(DRAIN, &run);
            report.figures(&figures)?;
            let naive = drained.reference(DRAIN, Kind::Naive, &sink, report).await?;
            let rate = figures.rows_per_second.unwrap_or_default();
            to_limit.push(rate / limit.rate());
            to_naive.push(rate / naive.rate());
        }
        let (limit, naive) = (median(to_limit), median(to_naive));
        report.goal(
            DRAIN,
            "rows/s over those of the limit, at least 0.60",
            limit,
            limit >= 0.6,
        )?;
        report.goal(
            DRAIN,
            "rows/s over those of the naive relay, at least 8",
            naive,
            naive >= 8.0,
        )?;
    }
    if settings.wants(DRAIN_KPL) {
        let case = Case {
            aggregation: "kpl",
            ..USUAL
        };
        let mut to_sqlx = Vec::new();
        for _ in 0..REPEATS {
            let read = drained
                .reference(DRAIN_KPL, Kind::Read, &sink, report)
                .await?;
            let run = drained.relay(case, &sink).await?;
            let figures = Figures::of_run(DRAIN_KPL, &run);
            report.figures(&figures)?;
            to_sqlx.push(figures.rows_per_second.unwrap_or_default() / read.rate());
        }
        let sqlx = median(to_sqlx);
        report.goal(
            DRAIN_KPL,
            "rows/s over what sqlx alone reads, at least 0.70",
            sqlx,
            sqlx >= 0.7,
        )?;
    }
    Ok(())
}

/// The usual drain while a part of the records fails by chance and is sent again.
async fn failing(settings: &Settings, report: &mut Report) -> Result<(), Failure> {
    let mut drained = Drained::fill(settings.rows, USUAL).await?;
    for percent in [0_u32, 1, 10] {
        let sink = NullKinesis::start(NullOptions {
            failure_rate: f64::from(percent) / 100.0,
            ..NullOptions::unlimited(USUAL.shards, USUAL.round_trip_ms)
        })
        .await?;
        let run = drained.relay(USUAL, &sink).await?;
        let failed = number(run.counts.failed);
        let figures = Figures::of_run(&format!("{FAILING}/{percent}%"), &run)
            .with("records that failed", failed);
        report.figures(&figures)?;
    }
    Ok(())
}

async fn one(settings: &Settings, report: &mut Report, case: Case) -> Result<(), Failure> {
    // So that every backlog has about as many bytes.
    let rows = (settings.rows * 300 / u64::from(case.payload + 100)).max(20_000);
    let mut drained = Drained::fill(rows, case).await?;
    let sink = NullKinesis::start(NullOptions::unlimited(case.shards, case.round_trip_ms)).await?;
    let run = drained.relay(case, &sink).await?;
    report.figures(&Figures::of_run(&case.name(), &run))
}

// === impl Drained ===

impl Drained {
    async fn fill(rows: u64, case: Case) -> Result<Self, Failure> {
        let stage = Stage::start(false).await?;
        let database = stage.database("app").await?;
        let mut outboxes = Vec::new();
        for index in 0..case.outboxes {
            outboxes.push(database.create_outbox(&outbox_name(index)).await?);
        }
        let backlog = Backlog {
            rows,
            payload: case.payload,
            keys: case.keys,
        };
        database.fill(&outboxes, backlog).await?;
        Ok(Self {
            stage,
            database,
            outbox: outboxes.first().copied().unwrap_or_default(),
            rows: rows / u64::from(case.outboxes) * u64::from(case.outboxes),
            pipelines: 0,
        })
    }

    /// Drains it through the relay.
    async fn relay(&mut self, case: Case, sink: &NullKinesis) -> Result<Run, Failure> {
        let settings = serde_json::json!({"aggregation": case.aggregation});
        for index in 0..case.outboxes {
            self.pipelines += 1;
            let name = format!("drain-{}", self.pipelines);
            self.database
                .create_pipeline(&name, &outbox_name(index), &settings)
                .await?;
        }
        let Self {
            stage, database, ..
        } = self;
        let run = drain(stage, database, sink, BUDGET_LIFTED, Some(self.rows), MOST).await?;
        self.database.delete_pipelines().await?;
        Ok(run)
    }

    /// Drains it through a reference.
    async fn reference(
        &self,
        case: &str,
        kind: Kind,
        sink: &NullKinesis,
        report: &mut Report,
    ) -> Result<ReferenceResult, Failure> {
        sink.reset().await?;
        let before = self.stage.processor_time()?;
        let options = ReferenceOptions {
            kind,
            url: self.database.url.clone(),
            endpoint: sink.endpoint(),
            outbox: self.outbox,
            most_seconds: if kind == Kind::Naive { 4.0 } else { 120.0 },
        };
        let mut result = run_reference(&options).await?;
        if kind != Kind::Read {
            result.seconds = sink.counts().await?.seconds;
        }
        let postgres = self.stage.processor_time()? - before;
        let who = match kind {
            Kind::Read => "sqlx alone",
            Kind::Limit => "the limit",
            Kind::Naive => "naive relay",
        };
        report.figures(&Figures::of_reference(case, who, &result, postgres))?;
        Ok(result)
    }
}

fn outbox_name(index: u32) -> String {
    format!("out{index:03}")
}
