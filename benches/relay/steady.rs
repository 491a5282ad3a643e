//! A steady load: how long a row takes from its publishing to its acknowledgement.

use std::time::Duration;

use sqlx::Connection;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use crate::Failure;
use crate::case::{MANY_KEYS, Settings};
use crate::figures::{Figures, number};
use crate::null_kinesis::{NullKinesis, NullOptions, micros_since_epoch};
use crate::relay::{Relay, Run};
use crate::report::Report;
use crate::stage::{Database, Stage};
use crate::usage::most_resident_mib;

/// Publishers, each on a connection of its own, one row a transaction, and the outbox of
/// each.
const PUBLISHERS: [&str; 8] = ["events"; 8];

/// How long the last rows may take.
const TAIL: Duration = Duration::from_secs(30);

const GOAL: &str = "goal/steady";

pub(crate) async fn run(settings: &Settings, report: &mut Report) -> Result<(), Failure> {
    let usual = [
        (GOAL, 0, "none", false),
        // PostgreSQL syncs its log at each commit.
        ("steady/0ms/synced", 0, "none", true),
        ("steady/15ms", 15, "none", false),
        ("steady/50ms", 50, "none", false),
        ("steady/15ms/kpl", 15, "kpl", false),
    ];
    for (name, round_trip_ms, aggregation, is_durable) in usual {
        if !settings.wants(name) {
            continue;
        }
        let how = (round_trip_ms, aggregation, is_durable);
        let done = steady(settings.watch, report, name, how).await;
        report.ended(name, done)?;
    }
    Ok(())
}

async fn steady(
    time: Duration,
    report: &mut Report,
    name: &str,
    (round_trip_ms, aggregation, is_durable): (u64, &str, bool),
) -> Result<(), Failure> {
    let stage = Stage::start(is_durable).await?;
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
    let run = watch(&stage, &database, &sink, &relay, 2000, time).await?;
    relay.end().await?;
    let figures = Figures::of_run(name, &run).with_latencies(&run.counts);
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
    Ok(())
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
    let delivered_first = relay.delivered().await?;
    let settling = Duration::from_secs(2);
    let warm = publish(database, &PUBLISHERS, rows_per_second, settling).await?;
    let delivered_before = delivered_first + warm;
    all_delivered(relay, delivered_before).await?;
    sink.reset().await?;
    let before = relay.used(stage, sink)?;
    let published = publish(database, &PUBLISHERS, rows_per_second, time).await?;
    // The slowest rows count as well.
    all_delivered(relay, delivered_before + published).await?;
    let used = relay.used(stage, sink)?;
    let counts = sink.counts().await?;
    let wanted = number(rows_per_second) * time.as_secs_f64();
    if number(published) < 0.9 * wanted {
        return Err(format!("only {published} of {wanted} rows were published in time").into());
    }
    Ok(Run {
        rows: relay.delivered().await? - delivered_before,
        is_complete: true,
        counts,
        relay: used.relay - before.relay,
        postgres: used.postgres - before.postgres,
        sink: used.sink - before.sink,
        resident_mib: most_resident_mib(relay.pid()?)?,
        memory: Vec::new(),
    })
}

/// Waits until the relay has delivered so many rows since it was started.
///
/// # Errors
/// It does not in 30 seconds.
pub(crate) async fn all_delivered(relay: &Relay, rows: u64) -> Result<(), Failure> {
    let until = Instant::now() + TAIL;
    loop {
        let delivered = relay.delivered().await?;
        if delivered >= rows {
            return Ok(());
        }
        if Instant::now() >= until {
            return Err(format!("{delivered} of {rows} rows were delivered in {TAIL:?}").into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
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
