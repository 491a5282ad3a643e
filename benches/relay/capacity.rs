//! Three relays that push four shards: how much of these is used, and how much is turned
//! away, at rest, while nodes come, and when one is killed.

use std::time::Duration;

use tokio::time::Instant;

use crate::Failure;
use crate::case::{MANY_KEYS, Settings};
use crate::figures::{Figures, number};
use crate::null_kinesis::{NullKinesis, NullOptions, ShardLimit};
use crate::relay::Relay;
use crate::report::Report;
use crate::stage::{Backlog, Stage};

const CASE: &str = "cluster/capacity";

const SHARDS: u32 = 4;
const OUTBOXES: u32 = 12;

/// Of the three nodes each has so many in the end.
const OF_EACH: usize = 4;

/// Narrow, so that processors are not what limits three relays on one machine.
const LIMIT: ShardLimit = ShardLimit {
    records: 500.0,
    bytes: 1_048_576.0,
};

/// What the relays know of it.
const NARROW: &str = "[kinesis.shard_budget]\nrecords_per_second = 500\n";

/// What the sink lets through at once in the beginning is not counted.
const SETTLING: Duration = Duration::from_secs(3);

/// How long starting two relays may take, and the pipelines' way to them.
const JOINING: Duration = Duration::from_secs(30);

/// What the sink had counted at a moment.
#[derive(Debug, Clone, Copy)]
struct Mark {
    at: Instant,
    records: u64,
    bytes: u64,
    throttled: u64,
}

/// What has passed between two of them.
#[derive(Debug, Clone, Copy)]
struct Passed {
    seconds: f64,
    records: u64,
    bytes: u64,
    throttled: u64,
}

pub(crate) async fn run(settings: &Settings, report: &mut Report) -> Result<(), Failure> {
    if settings.wants(CASE) {
        let done = capacity(settings, report).await;
        report.ended(CASE, done)?;
    }
    Ok(())
}

async fn capacity(settings: &Settings, report: &mut Report) -> Result<(), Failure> {
    let half = settings.watch / 2;
    let stage = Stage::start(false).await?;
    let database = stage.database("app").await?;
    let mut outboxes = Vec::new();
    for index in 0..OUTBOXES {
        outboxes.push(database.create_outbox(&format!("out{index:03}")).await?);
    }
    let most = SETTLING + JOINING + 2 * settings.watch + 2 * half;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a number of rows"
    )]
    let rows = (1.3 * LIMIT.records * f64::from(SHARDS) * most.as_secs_f64()) as u64;
    let backlog = Backlog {
        rows,
        payload: 200,
        keys: MANY_KEYS,
    };
    database.fill(&outboxes, backlog).await?;
    let sink = NullKinesis::start(NullOptions {
        limit: Some(LIMIT),
        ..NullOptions::unlimited(SHARDS, 15)
    })
    .await?;
    for index in 0..OUTBOXES {
        let name = format!("out{index:03}");
        let config = serde_json::json!({});
        database.create_pipeline(&name, &name, &config).await?;
    }

    let first = Relay::start(&database, &sink, NARROW, outboxes.len()).await?;
    tokio::time::sleep(SETTLING).await;
    let began = Mark::of(&sink).await?;
    tokio::time::sleep(half).await;
    let joining = Mark::of(&sink).await?;
    let (second, third) = tokio::try_join!(
        Relay::start(&database, &sink, NARROW, OF_EACH),
        Relay::start(&database, &sink, NARROW, OF_EACH),
    )?;
    let joined = Mark::of(&sink).await?;
    tokio::time::sleep(settings.watch).await;
    let killing = Mark::of(&sink).await?;
    second.kill()?;
    // Longer than its lease, and its pipelines' way to the others.
    tokio::time::sleep(half).await;
    let replaced = Mark::of(&sink).await?;
    tokio::time::sleep(half).await;
    let end = Mark::of(&sink).await?;
    if end.records >= rows {
        return Err(format!("{rows} rows were too few").into());
    }

    let parts = [
        ("one node", began, joining),
        ("two join", joining, joined),
        ("three nodes", joined, killing),
        ("one is killed", killing, replaced),
        ("two nodes", replaced, end),
        ("all of it", began, end),
    ];
    let mut most_throttled: f64 = 0.0;
    for (who, from, to) in parts {
        let passed = Passed::between(from, to);
        most_throttled = most_throttled.max(passed.throttled());
        let figures = Figures::of_rate(CASE, who, passed.records, passed.bytes, passed.seconds)
            .with("of the limit", passed.used())
            .with("throttled", passed.throttled());
        report.figures(&figures)?;
    }
    for (what, from, to) in [("three nodes", joined, killing), ("all of it", began, end)] {
        let used = Passed::between(from, to).used();
        let goal = format!("part of the shards' limit, {what}, at least 0.95");
        report.goal(CASE, &goal, used, used >= 0.95)?;
    }
    report.goal(
        CASE,
        "most of records throttled in any part, under 0.005",
        most_throttled,
        most_throttled < 0.005,
    )?;
    first.end().await?;
    third.end().await
}

// === impl Mark ===

impl Mark {
    async fn of(sink: &NullKinesis) -> Result<Self, Failure> {
        let counts = sink.counts().await?;
        Ok(Self {
            at: Instant::now(),
            records: counts.records,
            bytes: counts.bytes,
            throttled: counts.throttled,
        })
    }
}

// === impl Passed ===

impl Passed {
    fn between(from: Mark, to: Mark) -> Self {
        Self {
            seconds: (to.at - from.at).as_secs_f64(),
            records: to.records - from.records,
            bytes: to.bytes - from.bytes,
            throttled: to.throttled - from.throttled,
        }
    }

    /// The part of the shards' limit.
    fn used(&self) -> f64 {
        number(self.records) / (self.seconds * LIMIT.records * f64::from(SHARDS))
    }

    /// The part of what was offered.
    fn throttled(&self) -> f64 {
        number(self.throttled) / number(self.records + self.throttled).max(1.0)
    }
}
