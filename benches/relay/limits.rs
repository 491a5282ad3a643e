//! Shards at their limit: how much of it is used, and how much is turned away.

use std::time::Duration;

use crate::Failure;
use crate::case::{MANY_KEYS, Settings};
use crate::figures::{Figures, number};
use crate::null_kinesis::{Counts, NullKinesis, NullOptions, SERVICE_LIMIT};
use crate::relay::drain;
use crate::report::Report;
use crate::stage::{Backlog, Stage};

/// What the sink lets through at once in the beginning is not counted, nor is the end.
const SETTLING: f64 = 3.0;

/// A case of saturated shards.
struct Saturated {
    name: &'static str,
    payload: u32,
    keys: u64,
    aggregation: &'static str,
    /// Shards that have keys.
    busy_shards: u32,
    /// Whether records are what limits, or bytes.
    by_records: bool,
    goal: f64,
}

const SHARDS: u32 = 8;

const CASES: [Saturated; 5] = [
    Saturated {
        name: "goal/saturated-records",
        payload: 200,
        keys: MANY_KEYS,
        aggregation: "none",
        busy_shards: SHARDS,
        by_records: true,
        goal: 0.97,
    },
    Saturated {
        name: "goal/saturated-bytes",
        payload: 10_000,
        keys: MANY_KEYS,
        aggregation: "none",
        busy_shards: SHARDS,
        by_records: false,
        goal: 0.97,
    },
    Saturated {
        name: "goal/saturated-kpl-10KB",
        payload: 10_000,
        keys: MANY_KEYS,
        aggregation: "kpl",
        busy_shards: SHARDS,
        by_records: false,
        goal: 0.97,
    },
    Saturated {
        name: "goal/saturated-kpl-200B",
        payload: 200,
        keys: MANY_KEYS,
        aggregation: "kpl",
        busy_shards: SHARDS,
        by_records: false,
        goal: 0.97,
    },
    Saturated {
        name: "goal/hot-key-kpl",
        payload: 200,
        keys: 1,
        aggregation: "kpl",
        busy_shards: 1,
        by_records: false,
        goal: 0.95,
    },
];

pub(crate) async fn run(settings: &Settings, report: &mut Report) -> Result<(), Failure> {
    for case in &CASES {
        if settings.wants(case.name) {
            let done = saturate(settings, report, case).await;
            report.ended(case.name, done)?;
        }
    }
    Ok(())
}

async fn saturate(
    settings: &Settings,
    report: &mut Report,
    case: &Saturated,
) -> Result<(), Failure> {
    let watch = settings.watch + Duration::from_secs_f64(2.0 * SETTLING);
    let limit = f64::from(case.busy_shards)
        * if case.by_records {
            SERVICE_LIMIT.records
        } else {
            SERVICE_LIMIT.bytes
        };
    let stage = Stage::start(false).await?;
    let database = stage.database("app").await?;
    let outbox = database.create_outbox("events").await?;
    let per_row = if case.by_records {
        1.0
    } else {
        f64::from(case.payload + 200)
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a number of rows"
    )]
    let rows = (1.3 * limit * watch.as_secs_f64() / per_row) as u64;
    let backlog = Backlog {
        rows,
        payload: case.payload,
        keys: case.keys,
    };
    database.fill(&[outbox], backlog).await?;
    let sink = NullKinesis::start(NullOptions {
        limit: Some(SERVICE_LIMIT),
        ..NullOptions::unlimited(SHARDS, 15)
    })
    .await?;
    let config = serde_json::json!({"aggregation": case.aggregation});
    database
        .create_pipeline("saturate", "events", &config)
        .await?;
    let run = drain(&stage, &database, &sink, "", None, watch).await?;
    let (records, bytes) = rates(&run.counts);
    let used = if case.by_records { records } else { bytes } / limit;
    let offered = number(run.counts.records + run.counts.throttled).max(1.0);
    let throttled = number(run.counts.throttled) / offered;
    let figures = Figures::of_run(case.name, &run)
        .with("of the limit", used)
        .with("throttled", throttled);
    report.figures(&figures)?;
    let goal = format!("part of the shards' limit, at least {}", case.goal);
    report.goal(case.name, &goal, used, used >= case.goal)?;
    report.goal(
        case.name,
        "part of records throttled, under 0.005",
        throttled,
        throttled < 0.005,
    )
}

/// Records and bytes a second between the beginning's and the end's settling.
fn rates(counts: &Counts) -> (f64, f64) {
    let from = counts.series.iter().find(|moment| moment.at >= SETTLING);
    let to = counts
        .series
        .iter()
        .rev()
        .find(|moment| moment.at <= counts.seconds - 1.0);
    let (Some(from), Some(to)) = (from, to) else {
        return (0.0, 0.0);
    };
    let seconds = to.at - from.at;
    (
        number(to.records - from.records) / seconds,
        number(to.bytes - from.bytes) / seconds,
    )
}
