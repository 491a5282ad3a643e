//! A steady load: how long a row takes from its publishing to its acknowledgement.

use std::time::Duration;

use sqlx::Connection;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use crate::Failure;
use crate::case::{MANY_KEYS, Settings};
use crate::figures::{Figures, Report, number};
use crate::null_kinesis::{NullKinesis, NullOptions, micros_since_epoch};
use crate::relay::{Relay, Run};
use crate::stage::{Database, Stage};
use crate::usage::most_resident_mib;

/// Publishers, each on a connection of its own, one row a transaction, and the outbox of
/// each.
const PUBLISHERS: [&str; 8] = ["events"; 8];

const GOAL: &str = "goal/steady";

pub(crate) async fn run(settings: &Settings, report: &mut Report) -> Result<(), Failure> {
    let usual = [
        (GOAL, 0, "none"),
        ("steady/15ms", 15, "none"),
        ("steady/50ms", 50, "none"),
        ("steady/15ms/kpl", 15, "kpl"),
    ];
    for (name, round_trip_ms, aggregation) in usual {
        if !settings.wants(name) {
            continue;
        }
        let figures = steady(settings, name, round_trip_ms, aggregation).await?;
        report.figures(&figures)?;
        if name == GOAL {
            let (p50, p99) = (figures.p50_ms, figures.p99_ms);
            let (p50, p99) = (p50.unwrap_or(f64::NAN), p99.unwrap_or(f64::NAN));
            report.goal(
                GOAL,
                "commit to acknowledgement p50, under 10 ms",
                p50,
                p50 < 10.0,
            )?;
            report.goal(
                GOAL,
                "commit to acknowledgement p99, under 40 ms",
                p99,
                p99 < 40.0,
            )?;
        }
    }
    Ok(())
}

async fn steady(
    settings: &Settings,
    name: &str,
    round_trip_ms: u64,
    aggregation: &str,
) -> Result<Figures, Failure> {
    let stage = Stage::start(false).await?;
    let database = stage.database("app").await?;
    database.create_outbox("events").await?;
    let config = serde_json::json!({"aggregation": aggregation});
    database
        .create_pipeline("steady", "events", &config)
        .await?;
    let sink = NullKinesis::start(NullOptions {
        measures_latency: true,
        ..NullOptions::unlimited(8, round_trip_ms)
    })
    .await?;
    let relay = Relay::start(&database, &sink, "", 1).await?;
    let run = watch(&stage, &database, &sink, &relay, 2000, settings.watch).await?;
    relay.end().await?;
    Ok(Figures::of_run(name, &run).with_latencies(&run.counts))
}

/// Publishes at a rate for a time, and gives what was delivered meanwhile.
///
/// # Errors
/// A publisher fails, or the relay.
pub(crate) async fn watch(
    stage: &Stage,
    database: &Database,
    sink: &NullKinesis,
    relay: &Relay,
    rows_per_second: u64,
    time: Duration,
) -> Result<Run, Failure> {
    // Warm: connections are open, statements are planned.
    publish(
        database,
        &PUBLISHERS,
        rows_per_second,
        Duration::from_secs(2),
    )
    .await?;
    sink.reset().await?;
    let before = relay.used(stage, sink)?;
    let delivered_before = relay.delivered().await?;
    let published = publish(database, &PUBLISHERS, rows_per_second, time).await?;
    let used = relay.used(stage, sink)?;
    let counts = sink.counts().await?;
    let wanted = number(rows_per_second) * time.as_secs_f64();
    if number(published) < 0.9 * wanted {
        return Err(format!("only {published} of {wanted} rows were published in time").into());
    }
    Ok(Run {
        rows: relay.delivered().await? - delivered_before,
        counts,
        relay: used.relay - before.relay,
        postgres: used.postgres - before.postgres,
        sink: used.sink - before.sink,
        resident_mib: most_resident_mib(relay.pid()?)?,
        memory: Vec::new(),
    })
}

/// Publishes rows at a rate, evenly, one publisher into each of these outboxes, and gives
/// how many.
///
/// # Errors
/// A publisher fails.
pub(crate) async fn publish(
    database: &Database,
    outboxes: &[&'static str],
    rows_per_second: u64,
    time: Duration,
) -> Result<u64, Failure> {
    let mut publishers = JoinSet::new();
    let until = Instant::now() + time;
    let parts = number(u64::try_from(outboxes.len())?);
    let period = Duration::from_secs_f64(parts / number(rows_per_second));
    for (place, outbox) in (0..).zip(outboxes.iter().copied()) {
        let mut connection = database.connect().await?;
        publishers.spawn(async move {
            let mut rows = 0;
            let first = Instant::now() + period.mul_f64(number(place) / parts);
            let mut ticks = tokio::time::interval_at(first, period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            while ticks.tick().await < until {
                let payload = format!(
                    "{{\"at\": {}, \"n\": {rows}, \"fill\": \"{:0150}\"}}",
                    micros_since_epoch(),
                    rows
                );
                sqlx::query("SELECT tide.outbox_publish($3, $1::text::jsonb, '{}', $2)")
                    .bind(payload)
                    .bind(format!("key-{}", fastrand::u64(0..MANY_KEYS)))
                    .bind(outbox)
                    .execute(&mut connection)
                    .await?;
                rows += 1;
            }
            connection.close().await?;
            Ok::<u64, Failure>(rows)
        });
    }
    let mut published = 0;
    while let Some(rows) = publishers.join_next().await {
        published += rows??;
    }
    Ok(published)
}
