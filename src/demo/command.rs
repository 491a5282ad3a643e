//! `tidegate demo`: publish, relay, read back, and check every record.
//!
//! It starts a private PostgreSQL and an emulator of Kinesis that enforces the
//! service's limits, installs schema `tide`, makes three outboxes with their
//! pipelines, and runs this very binary as the relay, with an environment and no
//! file. Then it publishes, reads every shard as a consumer would, and compares
//! what arrived with what was committed.
//!
//! Rules:
//! - nothing of the user's is touched: servers are private, in temporary
//!   directories, on free ports of 127.0.0.1;
//! - nothing is left running, however the demo ends;
//! - figures come from outside of the relay: the publishers' books, the consumer,
//!   and the emulator's counters;
//! - it fails if a row was lost, came out of order, or was never committed.

mod chaos;
mod figures;
mod live;
mod observer;
mod report;
mod scene;

use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior};

use self::chaos::Kills;
use self::live::Printer;
use self::observer::Observer;
use self::report::Report;
use self::scene::Scene;
use super::emulator::EmulatorError;
use super::load::{Load, LoadError, LoadReport};
use super::private_postgres::PrivatePostgresError;
use super::relay_process::RelayProcessError;
use super::verdict::judge;

/// How often the demo looks at everything.
const STEP: Duration = Duration::from_millis(50);

/// How often a live line is printed.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// How long nothing may arrive before the demo gives up waiting for the rest.
const NO_PROGRESS: Duration = Duration::from_secs(30);

/// How long the relay may take to relay every outbox.
const RELAY_READY: Duration = Duration::from_secs(60);

/// How long the relay may take to end: its own grace is 20 s.
const RELAY_DRAINED: Duration = Duration::from_secs(40);

/// How long the consumer may take to read what the stream has.
const READ_TO_END: Duration = Duration::from_secs(30);

/// What is done to the relay on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Chaos {
    /// Nothing.
    #[default]
    Off,
    /// SIGKILL at random moments, and a start at once.
    Kill,
}

/// What goes to standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DemoOutput {
    /// Live lines, a table, and one line of JSON.
    Text,
    /// The line of JSON alone; the rest goes to standard error.
    Json,
}

/// How to run the demo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DemoOptions {
    /// How long to publish.
    pub seconds: u32,
    /// What is done to the relay.
    pub chaos: Chaos,
    /// What goes to standard output.
    pub output: DemoOutput,
    /// The binary to run as the relay.
    pub program: PathBuf,
    /// What chance comes from.
    pub seed: u64,
}

/// Why the demo came to no result.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The private PostgreSQL.
    #[error(transparent)]
    Postgres(#[from] PrivatePostgresError),
    /// The emulator.
    #[error(transparent)]
    Emulator(#[from] EmulatorError),
    /// The relay.
    #[error(transparent)]
    Relay(#[from] RelayProcessError),
    /// The publishers.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The outboxes and pipelines could not be made.
    #[error("cannot make the outboxes and pipelines: {0}")]
    Sql(#[from] sqlx::Error),
    /// The relay did not drain well.
    #[error("the relay ended with {status} after SIGTERM; the end of its log:\n{log}")]
    Drain {
        /// How it ended.
        status: ExitStatus,
        /// The end of its log.
        log: String,
    },
    /// A signal cannot be listened to, or the like.
    #[error("cannot {doing}: {source}")]
    System {
        /// What was being done.
        doing: &'static str,
        /// The system's word.
        source: std::io::Error,
    },
}

/// Runs the demo and gives the exit code: 0 when every committed row arrived in
/// order, 1 when not or when there was no result, 130 or 143 when it was
/// interrupted.
pub async fn run(options: DemoOptions) -> u8 {
    let printer = Printer::new(options.output);
    let mut signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(source) => {
            let doing = "listen to signals";
            printer.error(&DemoError::System { doing, source });
            return 1;
        }
    };
    let mut playing = Box::pin(play(&options, &printer));
    tokio::select! {
        result = &mut playing => match result {
            Ok(report) => {
                printer.report(&report);
                u8::from(!report.is_clean())
            }
            Err(error) => {
                printer.error(&error);
                1
            }
        },
        exit_code = signals.next() => {
            printer.line("interrupted: cleaning up");
            // Everything that runs is owned by this future.
            drop(playing);
            exit_code
        }
    }
}

/// Plays it from the first server to the last record.
async fn play(options: &DemoOptions, printer: &Printer) -> Result<Report, DemoError> {
    let mut scene = Scene::set_up(options, printer).await?;
    scene.relay.start()?;
    scene
        .relay
        .wait_until_running(scene::PIPELINES, RELAY_READY)
        .await?;
    printer.line(&format!(
        "relay: running {} pipelines, metrics on http://{}/metrics",
        scene::PIPELINES,
        scene.relay.admin()
    ));
    let mut observer = Observer::new(&scene);
    let load = Load::start(scene.load_options(options.seed)).await?;
    let kills = match options.chaos {
        Chaos::Off => 0,
        Chaos::Kill => chaos::kills(options.seconds),
    };
    publish(options, printer, &mut scene, &mut observer, &load, kills).await?;
    let published_for = observer.elapsed();
    let books = load.stop().await?;
    drain(printer, &mut scene, &mut observer, &books).await?;
    let drained_after = observer.elapsed();
    stop_relay(printer, &mut scene).await?;
    read_to_the_end(printer, &scene, &mut observer).await;
    let verdict = judge(
        &books.rows(),
        observer.delivered(),
        &scene.consumer.ranges(),
    );
    let played = report::Played {
        seconds: published_for.as_secs_f64(),
        drain_seconds: drained_after.saturating_sub(published_for).as_secs_f64(),
        kills,
    };
    Ok(Report::new(
        played,
        verdict,
        &books,
        &observer,
        &scene.emulator.tally(),
    ))
}

/// Lets the load run for its time, and kills the relay when it is due.
async fn publish(
    options: &DemoOptions,
    printer: &Printer,
    scene: &mut Scene,
    observer: &mut Observer,
    load: &Load,
    kills: usize,
) -> Result<(), DemoError> {
    let mut kills = Kills::draw(options.seed, kills, options.seconds);
    let until = Duration::from_secs(options.seconds.into());
    let mut steps = steps();
    while observer.elapsed() < until {
        steps.tick().await;
        scene.relay.check()?;
        if let Some(reason) = load.failure() {
            return Err(LoadError::Refused(reason).into());
        }
        observer.look(&scene.consumer);
        if observer.is_line_due(LINE_EVERY) {
            printer.live(&observer.sample(load.published(), &scene.emulator.tally()));
        }
        if kills.is_due(observer.elapsed()) {
            scene.relay.kill()?;
            scene.relay.start()?;
            printer.line("relay: killed with SIGKILL and started again");
        }
    }
    Ok(())
}

/// Waits until everything has arrived, or nothing arrives any more.
async fn drain(
    printer: &Printer,
    scene: &mut Scene,
    observer: &mut Observer,
    books: &LoadReport,
) -> Result<(), DemoError> {
    let published = books.committed.len() as u64;
    let mut steps = steps();
    let (mut arrived, mut last_progress) = (observer.arrived(), Instant::now());
    loop {
        steps.tick().await;
        scene.relay.check()?;
        observer.look(&scene.consumer);
        if observer.is_line_due(LINE_EVERY) {
            printer.live(&observer.sample(published, &scene.emulator.tally()));
        }
        if observer.arrived() >= published {
            return Ok(());
        }
        if observer.arrived() != arrived {
            (arrived, last_progress) = (observer.arrived(), Instant::now());
        }
        if last_progress.elapsed() >= NO_PROGRESS {
            printer.line(&format!(
                "nothing has arrived for {NO_PROGRESS:?}; the end of the relay's log:\n{}",
                scene.relay.log_tail()
            ));
            return Ok(());
        }
    }
}

async fn stop_relay(printer: &Printer, scene: &mut Scene) -> Result<(), DemoError> {
    let status = scene.relay.terminate(RELAY_DRAINED).await?;
    if !status.success() {
        let log = scene.relay.log_tail();
        return Err(DemoError::Drain { status, log });
    }
    printer.line("relay: ended with exit code 0 after SIGTERM");
    Ok(())
}

/// Reads what the stream still has: records that came twice, or never should have.
async fn read_to_the_end(printer: &Printer, scene: &Scene, observer: &mut Observer) {
    let stored = scene.emulator.tally().total(scene::STREAM).accepted_records;
    let is_read = scene
        .consumer
        .wait_until_quiet(stored, STEP * 2, READ_TO_END)
        .await;
    observer.look(&scene.consumer);
    if !is_read {
        printer.line(&format!(
            "the consumer has read {} of the stream's {stored} records within {READ_TO_END:?}",
            scene.consumer.received()
        ));
    }
}

fn steps() -> tokio::time::Interval {
    let mut steps = tokio::time::interval(STEP);
    steps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    steps
}

/// The signals that end the demo.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for one and gives its exit code: 128 and its number.
    async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => 130,
            _ = self.terminate.recv() => 143,
            _ = self.hang_up.recv() => 129,
        }
    }
}
