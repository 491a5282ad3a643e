//! Outboxes in which nothing happens.

use std::time::Duration;

use crate::Failure;
use crate::case::Settings;
use crate::figures::Figures;
use crate::null_kinesis::{NullKinesis, NullOptions};
use crate::plot::{Curve, Plot};
use crate::relay::Relay;
use crate::report::Report;
use crate::stage::Stage;

/// The goal speaks of the last.
const OUTBOXES: [u32; 4] = [1, 250, 500, 1000];

const CASE: &str = "goal/idle";

/// How long everything is given to become quiet.
const SETTLING: Duration = Duration::from_secs(10);

pub(crate) async fn run(settings: &Settings, report: &mut Report) -> Result<(), Failure> {
    let mut curves = [Curve::new("relay"), Curve::new("PostgreSQL")];
    for outboxes in OUTBOXES {
        let name = format!("{CASE}-{outboxes}");
        if !settings.wants(&name) {
            continue;
        }
        let done = idle(settings, report, &name, outboxes).await;
        let done = done.map(|[relay, postgres]| {
            curves[0].add(f64::from(outboxes), relay);
            curves[1].add(f64::from(outboxes), postgres);
        });
        report.ended(&name, done)?;
    }
    Plot {
        title: "Idle outboxes on one database",
        x: "outboxes, each with a pipeline",
        y: "percent of a core",
        curves: &curves,
    }
    .write(&settings.plots, "idle-outboxes.svg")
}

async fn idle(
    settings: &Settings,
    report: &mut Report,
    name: &str,
    outboxes: u32,
) -> Result<[f64; 2], Failure> {
    let stage = Stage::start(false).await?;
    let database = stage.database("app").await?;
    for index in 0..outboxes {
        let name = format!("out{index:04}");
        database.create_outbox(&name).await?;
        let config = serde_json::json!({});
        database.create_pipeline(&name, &name, &config).await?;
    }
    let sink = NullKinesis::start(NullOptions::unlimited(8, 15)).await?;
    let pipelines = usize::try_from(outboxes)?;
    let relay = Relay::start(&database, &sink, "", pipelines).await?;
    tokio::time::sleep(SETTLING).await;
    let before = relay.used(&stage, &sink)?;
    tokio::time::sleep(settings.watch.max(Duration::from_secs(20))).await;
    let after = relay.used(&stage, &sink)?;
    let seconds = (after.at - before.at).as_secs_f64();
    let of_relay = 100.0 * (after.relay - before.relay) / seconds;
    let of_postgres = 100.0 * (after.postgres - before.postgres) / seconds;
    let figures = Figures {
        case: name.to_owned(),
        who: "relay".to_owned(),
        resident_mib: Some(relay.resident_mib()?),
        ..Figures::default()
    };
    let figures = figures
        .with("relay % of a core", of_relay)
        .with("PostgreSQL %", of_postgres);
    report.figures(&figures)?;
    if outboxes == 1000 {
        report.goal(
            CASE,
            "relay, percent of a core, under 2",
            of_relay,
            of_relay < 2.0,
        )?;
        report.goal(
            CASE,
            "PostgreSQL, percent of a core, under 3",
            of_postgres,
            of_postgres < 3.0,
        )?;
    }
    relay.end().await?;
    Ok([of_relay, of_postgres])
}
