//! What must not change the cost of a row: the backlog's length, the history kept, a
//! transaction that stays open, the number of shards.

use std::time::Duration;

use sqlx::Executor;
use tokio::time::Instant;

use crate::Failure;
use crate::case::{MANY_KEYS, Settings, USUAL};
use crate::figures::{Figures, number};
use crate::null_kinesis::{Moment, NullKinesis, NullOptions, micros_since_epoch};
use crate::plot::{Curve, Plot};
use crate::relay::{BUDGET_LIFTED, Relay, drain};
use crate::report::Report;
use crate::stage::{Backlog, Stage};
use crate::steady::{all_delivered, watch};

const BACKLOG: &str = "goal/backlog";
const HISTORY: &str = "flat/history";
const OPEN: &str = "flat/open-transaction";
const SHARDS: &str = "flat/shards";

/// What costs more than this many times what it cost in the beginning is not flat.
const FLAT: f64 = 1.25;

/// Rows of the goal for a long backlog.
const LONG_BACKLOG: u64 = 5_000_000;

/// How long a drain of millions of rows may take.
const LONG: Duration = Duration::from_secs(900);

pub(crate) async fn run(settings: &Settings, report: &mut Report) -> Result<(), Failure> {
    if settings.wants(BACKLOG) {
        let done = backlog(settings, report).await;
        report.ended(BACKLOG, done)?;
    }
    if settings.wants(HISTORY) {
        let done = history(settings, report).await;
        report.ended(HISTORY, done)?;
    }
    if settings.wants(OPEN) {
        let done = open_transaction(settings, report).await;
        report.ended(OPEN, done)?;
    }
    if settings.wants(SHARDS) {
        let done = shards(settings, report).await;
        report.ended(SHARDS, done)?;
    }
    Ok(())
}

/// Whether the most of some costs is no higher than the first.
fn judge(report: &mut Report, case: &str, goal: &str, costs: &[f64]) -> Result<(), Failure> {
    let Some(first) = costs.first() else {
        return Ok(());
    };
    // What is not a number is nobody's most, and no flat cost either.
    let most = costs.iter().copied().max_by(f64::total_cmp);
    let ratio = most.unwrap_or(f64::NAN) / first;
    let goal = format!("{goal}, at most {FLAT}");
    report.goal(case, &goal, ratio, ratio <= FLAT)
}

/// What a million rows cost the relay and PostgreSQL together, in processor seconds.
fn cost_of(figures: &Figures) -> f64 {
    let (relay, postgres) = (
        figures.relay_cpu_per_million,
        figures.postgres_cpu_per_million,
    );
    relay.unwrap_or(f64::NAN) + postgres.unwrap_or(f64::NAN)
}

fn rows_of_200_bytes(rows: u64) -> Backlog {
    Backlog {
        rows,
        payload: USUAL.payload,
        keys: MANY_KEYS,
    }
}

async fn backlog(settings: &Settings, report: &mut Report) -> Result<(), Failure> {
    let stage = Stage::start(false).await?;
    let database = stage.database("app").await?;
    let outbox = database.create_outbox("events").await?;
    let rows = LONG_BACKLOG.min(settings.history);
    database.fill(&[outbox], rows_of_200_bytes(rows)).await?;
    let config = serde_json::json!({});
    database
        .create_pipeline("backlog", "events", &config)
        .await?;
    let sink =
        NullKinesis::start(NullOptions::unlimited(USUAL.shards, USUAL.round_trip_ms)).await?;
    let run = drain(&stage, &database, &sink, BUDGET_LIFTED, Some(rows), LONG).await?;
    let fifth = rows / 5;
    let series = &run.counts.series;
    // Without the first moments, when the process warms up.
    let first = rate_between(series, rows / 100, fifth);
    let last = rate_between(series, rows - fifth, rows - rows / 100);
    let ratio = last / first;
    let [memory_first, memory_last] = fifths(&run.memory);
    let figures = Figures::of_run(BACKLOG, &run)
        .with("rows/s in the first fifth", first)
        .with("in the last", last)
        .with("MiB in the first fifth", memory_first)
        .with("in the last", memory_last);
    report.figures(&figures)?;
    report.goal(
        BACKLOG,
        "rows/s at the end over those at the start, at least 0.95",
        ratio,
        ratio >= 0.95,
    )?;
    report.goal(
        BACKLOG,
        "RSS in MiB, under 200",
        run.resident_mib,
        run.resident_mib < 200.0,
    )?;
    let ratio = memory_last / memory_first;
    report.goal(
        BACKLOG,
        &format!("RSS in the last fifth over that in the first, at most {FLAT}"),
        ratio,
        ratio <= FLAT,
    )?;
    let rates = series.chunks(20).filter_map(|chunk| {
        let (from, to) = (chunk.first()?, chunk.last()?);
        let seconds = to.at - from.at;
        (seconds > 1.0).then(|| {
            let rate = number(to.records - from.records) / seconds;
            (number(to.records) / 1e6, rate / 1e3)
        })
    });
    Plot {
        title: "A backlog of 200-byte rows",
        x: "million rows delivered",
        y: "thousand rows per second",
        curves: &[Curve::of("rows/s", rates.collect())],
    }
    .write(&settings.plots, "backlog-rate.svg")?;
    Plot {
        title: "Memory while a backlog is delivered",
        x: "seconds",
        y: "MiB resident",
        curves: &[Curve::of("relay", run.memory.clone())],
    }
    .write(&settings.plots, "backlog-memory.svg")
}

/// The mean in the first fifth of the time and in the last.
fn fifths(series: &[(f64, f64)]) -> [f64; 2] {
    let end = series.last().map_or(0.0, |point| point.0);
    let mean = |from: f64, to: f64| {
        let inside = series.iter().filter(|point| (from..=to).contains(&point.0));
        let (sum, count) = inside.fold((0.0, 0.0), |(sum, count), point| {
            (sum + point.1, count + 1.0)
        });
        sum / count
    };
    [mean(0.0, 0.2 * end), mean(0.8 * end, end)]
}

/// Records a second between two numbers of them.
fn rate_between(series: &[Moment], from: u64, to: u64) -> f64 {
    let reached = |records| series.iter().find(|moment| moment.records >= records);
    match (reached(from), reached(to)) {
        (Some(from), Some(to)) => number(to.records - from.records) / (to.at - from.at),
        _ => f64::NAN,
    }
}

/// Rows that are delivered stay as long as their outbox keeps them: what does the
/// next row cost?
async fn history(settings: &Settings, report: &mut Report) -> Result<(), Failure> {
    let stage = Stage::start(false).await?;
    let database = stage.database("app").await?;
    let outbox = database.create_outbox("events").await?;
    let config = serde_json::json!({});
    database
        .create_pipeline("history", "events", &config)
        .await?;
    let sink =
        NullKinesis::start(NullOptions::unlimited(USUAL.shards, USUAL.round_trip_ms)).await?;
    let mut curves = [Curve::new("relay"), Curve::new("PostgreSQL")];
    let (mut kept, mut costs) = (0, Vec::new());
    for millions in [0, 1, 2, 5, 10] {
        let wanted = millions * 1_000_000;
        if wanted > settings.history {
            break;
        }
        if wanted > kept {
            let rows = wanted - kept;
            database.fill(&[outbox], rows_of_200_bytes(rows)).await?;
            let run = drain(&stage, &database, &sink, BUDGET_LIFTED, Some(rows), LONG).await?;
            if !run.is_complete {
                return Err(format!("{rows} rows of history took more than {LONG:?}").into());
            }
            kept = wanted;
        }
        database
            .fill(&[outbox], rows_of_200_bytes(settings.rows))
            .await?;
        let run = drain(
            &stage,
            &database,
            &sink,
            BUDGET_LIFTED,
            Some(settings.rows),
            LONG,
        )
        .await?;
        let figures = Figures::of_run(&format!("{HISTORY}-{millions}M"), &run);
        report.figures(&figures)?;
        costs.push(cost_of(&figures));
        curves[0].add(
            number(kept) / 1e6,
            figures.relay_cpu_per_million.unwrap_or_default(),
        );
        curves[1].add(
            number(kept) / 1e6,
            figures.postgres_cpu_per_million.unwrap_or_default(),
        );
        kept += settings.rows;
    }
    judge(
        report,
        HISTORY,
        "most that a row costs over that without",
        &costs,
    )?;
    Plot {
        title: "Rows kept after delivery",
        x: "million rows of history",
        y: "CPU seconds per million rows",
        curves: &curves,
    }
    .write(&settings.plots, "history.svg")
}

/// A transaction that has written stays open, and nothing it might commit may be
/// stepped over: what does a row cost meanwhile?
async fn open_transaction(settings: &Settings, report: &mut Report) -> Result<(), Failure> {
    const PART: Duration = Duration::from_secs(30);
    let stage = Stage::start(false).await?;
    let database = stage.database("app").await?;
    database.create_outbox("events").await?;
    let config = serde_json::json!({});
    database.create_pipeline("open", "events", &config).await?;
    let sink = NullKinesis::start(NullOptions {
        measures_latency: true,
        ..NullOptions::unlimited(8, 15)
    })
    .await?;
    let relay = Relay::start(&database, &sink, "", 1).await?;
    let before = watch(&stage, &database, &sink, &relay, 2000, PART).await?;
    let before = Figures::of_run(&format!("{OPEN}/before"), &before).with_latencies(&before.counts);
    report.figures(&before)?;
    let mut writer = database.connect().await?;
    writer.execute("BEGIN").await?;
    sqlx::query("SELECT tide.outbox_publish('events', $1::text::jsonb, '{}', 'late')")
        .bind(format!("{{\"at\": {}}}", micros_since_epoch()))
        .execute(&mut writer)
        .await?;
    let opened = Instant::now();
    let mut curves = [Curve::new("relay"), Curve::new("PostgreSQL")];
    let mut latency = Curve::new("p99");
    let mut costs = vec![cost_of(&before)];
    let mut minutes = 0.0;
    let add = |curves: &mut [Curve; 2], latency: &mut Curve, minutes, figures: &Figures| {
        curves[0].add(minutes, figures.relay_cpu_per_million.unwrap_or_default());
        curves[1].add(
            minutes,
            figures.postgres_cpu_per_million.unwrap_or_default(),
        );
        latency.add(minutes, figures.p99_ms.unwrap_or_default());
    };
    add(&mut curves, &mut latency, minutes, &before);
    while minutes * 60.0 < settings.open.as_secs_f64() {
        let run = watch(&stage, &database, &sink, &relay, 2000, PART).await?;
        // Publishing to warm up is part of the time it is open.
        minutes += (PART.as_secs_f64() + 2.0) / 60.0;
        let figures =
            Figures::of_run(&format!("{OPEN}/{minutes:.1}min"), &run).with_latencies(&run.counts);
        report.figures(&figures)?;
        costs.push(cost_of(&figures));
        add(&mut curves, &mut latency, minutes, &figures);
    }
    judge(
        report,
        OPEN,
        "most that a row costs over that before",
        &costs,
    )?;
    let delivered = relay.delivered().await?;
    sink.reset().await?;
    let open = opened.elapsed();
    writer.execute("COMMIT").await?;
    let committed = Instant::now();
    all_delivered(&relay, delivered + 1).await?;
    let arrived = committed.elapsed();
    let late = sink.counts().await?.latencies;
    // It alone has come, and it is as old as the transaction.
    if late.len() != 1 || late[0] < u64::try_from(open.as_micros())? {
        return Err(format!(
            "of a transaction open for {open:?} came rows as old as {late:?} microseconds"
        )
        .into());
    }
    let figures = Figures {
        case: format!("{OPEN}/committed"),
        who: "the late row".to_owned(),
        ..Figures::default()
    };
    let figures = figures
        .with(
            "minutes from its publishing to its commit",
            open.as_secs_f64() / 60.0,
        )
        .with("seconds from there to its delivery", arrived.as_secs_f64());
    report.figures(&figures)?;
    relay.end().await?;
    Plot {
        title: "While a transaction stays open, 2,000 rows/s",
        x: "minutes it has been open",
        y: "CPU seconds per million rows",
        curves: &curves,
    }
    .write(&settings.plots, "open-transaction.svg")?;
    Plot {
        title: "Latency while a transaction stays open, 2,000 rows/s",
        x: "minutes it has been open",
        y: "ms from commit to acknowledgement",
        curves: &[latency],
    }
    .write(&settings.plots, "open-transaction-latency.svg")
}

/// The same rows into streams of more and more shards.
async fn shards(settings: &Settings, report: &mut Report) -> Result<(), Failure> {
    let stage = Stage::start(false).await?;
    let database = stage.database("app").await?;
    let outbox = database.create_outbox("events").await?;
    database
        .fill(&[outbox], rows_of_200_bytes(settings.rows))
        .await?;
    let mut curves = [Curve::new("relay"), Curve::new("PostgreSQL")];
    let mut costs = Vec::new();
    for shards in [8, 64, 128, 250, 500] {
        let name = format!("{SHARDS}-{shards}");
        database
            .create_pipeline(&name, "events", &serde_json::json!({}))
            .await?;
        let sink = NullKinesis::start(NullOptions::unlimited(shards, USUAL.round_trip_ms)).await?;
        let run = drain(
            &stage,
            &database,
            &sink,
            BUDGET_LIFTED,
            Some(settings.rows),
            LONG,
        )
        .await?;
        database.delete_pipelines().await?;
        let counts = &run.counts;
        let figures = Figures::of_run(&name, &run).with(
            "records per call",
            number(counts.records) / number(counts.calls),
        );
        report.figures(&figures)?;
        costs.push(cost_of(&figures));
        curves[0].add(
            f64::from(shards),
            figures.relay_cpu_per_million.unwrap_or_default(),
        );
        curves[1].add(
            f64::from(shards),
            figures.postgres_cpu_per_million.unwrap_or_default(),
        );
    }
    judge(
        report,
        SHARDS,
        "most that a row costs over that at 8",
        &costs,
    )?;
    Plot {
        title: "Shards of the stream",
        x: "shards",
        y: "CPU seconds per million rows",
        curves: &curves,
    }
    .write(&settings.plots, "shards.svg")
}
