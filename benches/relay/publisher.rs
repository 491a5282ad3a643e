//! What publishing costs whoever publishes: `tide.outbox_publish()` against an insert,
//! 16 clients each, in turns, while a relay delivers.
//!
//! | who | what a client repeats |
//! |---|---|
//! | `own table` | an insert into a table as people make it themselves: `bigserial` key, payload, headers, key, time |
//! | `plain insert` | an insert into `tide.outbox_message` by the owner of the schema |
//! | `outbox_publish` | the function |
//!
//! The relay delivers what the second and the third wrote, on the same two cores; the
//! first leaves it idle, and so shows what all of it costs.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, Executor};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::Failure;
use crate::case::Settings;
use crate::figures::{Figures, median};
use crate::null_kinesis::{NullKinesis, NullOptions};
use crate::relay::{BUDGET_LIFTED, Relay};
use crate::report::Report;
use crate::stage::{Database, Stage};

const CLIENTS: usize = 16;

/// How often each is measured; medians count.
const REPEATS: usize = 5;

/// How long each time.
const TURN: Duration = Duration::from_secs(3);

const PREPARE: &str = "CREATE TABLE own_outbox (
        id bigserial PRIMARY KEY, dedup_key text, payload jsonb NOT NULL, headers jsonb NOT NULL DEFAULT '{}',
        created_at timestamptz NOT NULL DEFAULT now());";

/// What a client repeats: $1 payload, $2 key.
const TURNS: [(&str, &str); 3] = [
    (
        "own table",
        "INSERT INTO own_outbox (dedup_key, payload) VALUES ($2, $1::text::jsonb) RETURNING id",
    ),
    (
        "plain insert",
        "INSERT INTO tide.outbox_message (outbox_id, dedup_key, payload) VALUES (1, $2, $1::text::jsonb) RETURNING id",
    ),
    (
        "outbox_publish",
        "SELECT tide.outbox_publish('events', $1::text::jsonb, '{}', $2)",
    ),
];

pub(crate) async fn run(settings: &Settings, report: &mut Report) -> Result<(), Failure> {
    // Syncing is PostgreSQL's own default; without it, only processors are measured.
    let cases = [
        ("goal/publisher", true, true),
        ("goal/publisher-unsynced", false, true),
        ("publisher/no-relay", false, false),
    ];
    for (name, is_durable, with_relay) in cases {
        if settings.wants(name) {
            let done = measure(report, name, is_durable, with_relay).await;
            report.ended(name, done)?;
        }
    }
    Ok(())
}

async fn measure(
    report: &mut Report,
    name: &str,
    is_durable: bool,
    with_relay: bool,
) -> Result<(), Failure> {
    let stage = Stage::start(is_durable).await?;
    let database = stage.database("app").await?;
    database.create_outbox("events").await?;
    database.run(PREPARE).await?;
    let config = serde_json::json!({});
    database
        .create_pipeline("publisher", "events", &config)
        .await?;
    let sink = NullKinesis::start(NullOptions::unlimited(8, 15)).await?;
    let relay = if with_relay {
        Some(Relay::start(&database, &sink, BUDGET_LIFTED, 1).await?)
    } else {
        None
    };
    let mut rates = TURNS.map(|_| Vec::new());
    for _ in 0..REPEATS {
        for ((_, sql), rates) in TURNS.iter().zip(&mut rates) {
            rates.push(rate(&database, sql).await?);
            // What is left of it is not the next one's burden.
            if let Some(relay) = &relay {
                let rows = "SELECT count(*) FROM tide.outbox_message";
                let rows: i64 = sqlx::query_scalar(rows).fetch_one(&database.pool).await?;
                while relay.delivered().await? < u64::try_from(rows)? {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }
    let [own, plain, publish] = rates.map(median);
    for ((who, _), rate) in TURNS.iter().zip([own, plain, publish]) {
        let figures = Figures {
            case: name.to_owned(),
            who: (*who).to_owned(),
            rows_per_second: Some(rate),
            ..Figures::default()
        };
        report.figures(&figures)?;
    }
    let (to_plain, to_own) = (publish / plain, publish / own);
    report.goal(
        name,
        "outbox_publish over a plain insert, at least 0.9",
        to_plain,
        to_plain >= 0.9,
    )?;
    report.goal(
        name,
        "outbox_publish over an own table, at least 0.9",
        to_own,
        to_own >= 0.9,
    )?;
    if let Some(relay) = relay {
        relay.end().await?;
    }
    Ok(())
}

/// How many times a second 16 clients together run a statement.
async fn rate(database: &Database, sql: &'static str) -> Result<f64, Failure> {
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let mut connection = database.connect().await?;
        connection
            .execute("SET application_name = 'publisher'")
            .await?;
        clients.spawn(async move {
            let started = Instant::now();
            let mut rows = 0_u32;
            while started.elapsed() < TURN {
                sqlx::query(AssertSqlSafe(sql))
                    .bind(format!("{{\"n\": {rows}, \"fill\": \"{:0170}\"}}", rows))
                    .bind(format!("key-{client}-{}", rows % 1000))
                    .execute(&mut connection)
                    .await?;
                rows += 1;
            }
            let rate = f64::from(rows) / started.elapsed().as_secs_f64();
            connection.close().await?;
            Ok::<f64, Failure>(rate)
        });
    }
    let mut together = 0.0;
    while let Some(rate) = clients.join_next().await {
        together += rate??;
    }
    Ok(together)
}
