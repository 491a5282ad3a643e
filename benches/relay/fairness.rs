//! Ten tenants on one shard: what nine that send a little wait beside one that floods it,
//! against what they wait when the shard is empty.

use std::time::Duration;

use crate::Failure;
use crate::case::{MANY_KEYS, Settings};
use crate::figures::{Figures, number};
use crate::null_kinesis::{NullKinesis, NullOptions, SERVICE_LIMIT};
use crate::relay::Relay;
use crate::report::Report;
use crate::stage::{Backlog, Stage};
use crate::steady::publish;

const CASE: &str = "cluster/fairness";

/// Those that send a little, each on a connection of its own.
const SMALL: [&str; 9] = [
    "small1", "small2", "small3", "small4", "small5", "small6", "small7", "small8", "small9",
];

/// Rows a second of all of them together: a tenth of their shares.
const SMALL_RATE: u64 = 90;

const FLOOD: &str = "flood";

/// The flood's share is a tenth of the shard; it has a hundred times that.
const FLOOD_RATE: u64 = 10_000;

/// What is published last has arrived by then.
const LAST: Duration = Duration::from_secs(2);

pub(crate) async fn run(settings: &Settings, report: &mut Report) -> Result<(), Failure> {
    if settings.wants(CASE) {
        let done = fairness(settings, report).await;
        report.ended(CASE, done)?;
    }
    Ok(())
}

async fn fairness(settings: &Settings, report: &mut Report) -> Result<(), Failure> {
    let stage = Stage::start(false).await?;
    let database = stage.database("app").await?;
    for name in SMALL {
        database.create_outbox(name).await?;
        let config = serde_json::json!({"tenant": name});
        database.create_pipeline(name, name, &config).await?;
    }
    let flood = database.create_outbox(FLOOD).await?;
    let backlog = Backlog {
        rows: FLOOD_RATE * settings.watch.as_secs(),
        payload: 200,
        keys: MANY_KEYS,
    };
    database.fill(&[flood], backlog).await?;
    let sink = NullKinesis::start(NullOptions {
        limit: Some(SERVICE_LIMIT),
        measures_latency: true,
        ..NullOptions::unlimited(1, 15)
    })
    .await?;
    let relay = Relay::start(&database, &sink, "", SMALL.len()).await?;
    // Warm: connections are open, statements are planned.
    publish(&database, &SMALL, SMALL_RATE, Duration::from_secs(3)).await?;
    let mut p99 = Vec::new();
    for who in ["beside nobody", "beside a flood"] {
        tokio::time::sleep(LAST).await;
        sink.reset().await?;
        let delivered_before = relay.delivered().await?;
        let published = publish(&database, &SMALL, SMALL_RATE, settings.watch).await?;
        tokio::time::sleep(LAST).await;
        let counts = sink.counts().await?;
        let latencies = u64::try_from(counts.latencies.len())?;
        if latencies < published {
            return Err(format!("{latencies} of {published} rows arrived in time").into());
        }
        let of_flood = (relay.delivered().await? - delivered_before).saturating_sub(published);
        let passed = settings.watch + LAST;
        let offered = number(counts.records + counts.throttled).max(1.0);
        let figures = Figures::of_rate(CASE, who, published, counts.bytes, passed.as_secs_f64())
            .with_latencies(&counts)
            .with(
                "rows/s of the flood",
                number(of_flood) / passed.as_secs_f64(),
            )
            .with("throttled", number(counts.throttled) / offered);
        report.figures(&figures)?;
        p99.push(figures.p99_ms.unwrap_or(f64::NAN));
        if p99.len() == 1 {
            let config = serde_json::json!({"tenant": FLOOD});
            database.create_pipeline(FLOOD, FLOOD, &config).await?;
            let started = relay.delivered().await?;
            while relay.delivered().await? < started + 2_000 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    let ratio = p99[1] / p99[0];
    report.goal(
        CASE,
        "p99 beside a flood over p99 beside nobody, under 2",
        ratio,
        ratio < 2.0,
    )?;
    relay.end().await
}
