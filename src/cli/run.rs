//! `tidegate run`: the composition root of the relay.
//!
//! The actors run on one thread, their reading and sending on a pool of worker
//! threads, the admin port on a thread of its own. Should the supervisor itself
//! die, the whole actor system is built anew from what is durable.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use actix::Context;
use prometheus::Registry;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::logging::Log;
use super::migrate::pool_settings;
use super::notify::Notifier;
use super::reload::{Configuration, Reloads};
use super::signals::{Asked, Attended, DrainsWithin, Signals};
use super::{FAILED, Failure, logging};
use crate::actors::clock::Clock;
use crate::actors::messages::Shutdown;
use crate::actors::stage::Stage;
use crate::actors::supervisor::{
    Database, DrainReport, LAST_ACTS, StreamSource, Supervisor, SupervisorParts,
};
use crate::admin::metrics::{Metrics, show_process};
use crate::admin::server;
use crate::admin::status::StatusBoard;
use crate::config::pipeline::{StreamRef, StreamTarget};
use crate::config::settings::{DatabaseSettings, Settings};
use crate::core::backoff::Backoff;
use crate::core::ports::StreamService;
use crate::core::supervision::HEALTHY_AFTER;
use crate::kinesis::client::{ClientPool, KinesisTimeouts};
use crate::kinesis::stream::{KinesisStream, StreamTarget as KinesisTarget};
use crate::postgres::PgOutboxStore;
use crate::postgres::catalog::PgCatalog;
use crate::postgres::pool::connect_watched;

/// First and longest pause before a dead actor system is built anew.
const REBUILD_PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// What survives the actor system.
#[derive(Clone)]
pub(super) struct Root {
    pub(super) configuration: Configuration,
    node: Arc<str>,
    pub(super) metrics: Metrics,
    pub(super) board: Arc<StatusBoard>,
    pub(super) clients: ClientPool,
    pub(super) notifier: Notifier,
    pub(super) log: Log,
    pub(super) drains_within: DrainsWithin,
}

/// How an actor system ended.
enum End {
    /// By a signal, in order.
    Drained(DrainReport),
    /// By a signal, and then the supervisor died.
    AtOnce,
    /// The supervisor died.
    Died,
}

pub(super) fn run(file: Option<PathBuf>, mut signals: Signals) -> Result<ExitCode, Failure> {
    let configuration = Configuration::load(file)?;
    let settings = configuration.current();
    let log = logging::start(&settings.log)?;
    let node = settings.cluster.node_name();
    let registry = Registry::new();
    let metrics = show_process(&registry).and_then(|()| Metrics::new(registry));
    let metrics = metrics.map_err(|error| Failure::Failed(error.to_string()))?;
    let board = Arc::new(StatusBoard::new(Arc::clone(&node)));
    let hash = settings.fingerprint();
    metrics.config_taken(&hash, SystemTime::now());
    board.config_at_start(&hash, SystemTime::now());
    let notifier = Notifier::from_environment();
    let drains_within = DrainsWithin::new(settings.limits.drain_grace + LAST_ACTS);
    signals.attend(Attended {
        board: Arc::clone(&board),
        notifier: notifier.clone(),
        drains_within: drains_within.clone(),
    });
    let admin = server::start(settings.admin.listen, metrics.clone(), Arc::clone(&board))
        .map_err(|error| Failure::Failed(error.to_string()))?;
    let version = env!("CARGO_PKG_VERSION");
    tracing::info!(version, %node, admin = %admin.local_addr(), "tidegate starts");
    let root = Root {
        clients: ClientPool::new(timeouts(&settings)),
        configuration,
        node,
        metrics,
        board,
        notifier,
        log,
        drains_within,
    };
    let mut reloads = Reloads::default();
    let mut backoff = Backoff::new(REBUILD_PAUSES.0, REBUILD_PAUSES.1);
    let mut pause = Duration::ZERO;
    let end = loop {
        let began = Instant::now();
        match relay(&root, pause, &mut signals, &mut reloads)? {
            End::Died => {
                root.metrics.actor_restarted("supervisor", "panic");
                if began.elapsed() >= HEALTHY_AFTER {
                    backoff.reset();
                }
                pause = backoff.after_failure(fastrand::f64());
                tracing::error!(?pause, "the supervisor died; all actors are started again");
            }
            end @ (End::Drained(_) | End::AtOnce) => break end,
        }
    };
    admin.stop();
    Ok(exit_code(&end))
}

fn exit_code(end: &End) -> ExitCode {
    match end {
        End::Drained(report) if report.left.is_empty() => {
            tracing::info!(
                pipelines = report.drained,
                "drained: everything that was sent is settled"
            );
            ExitCode::SUCCESS
        }
        End::Drained(report) => {
            tracing::warn!(
                drained = report.drained,
                cut_off = report.left.len(),
                rows = report.rows_left(),
                left = report.names_left(),
                "the drain was cut off: some rows that were sent are not settled and will be sent again"
            );
            ExitCode::SUCCESS
        }
        End::AtOnce | End::Died => {
            tracing::warn!("exits at once: rows in flight will be sent again");
            ExitCode::from(FAILED)
        }
    }
}

/// Builds an actor system and runs it to its end.
fn relay(
    root: &Root,
    pause: Duration,
    signals: &mut Signals,
    reloads: &mut Reloads,
) -> Result<End, Failure> {
    let system = actix::System::with_tokio_rt(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .thread_name("tidegate")
            .build();
        // Without threads nothing can run; the panic ends the process at its start.
        #[expect(clippy::expect_used, reason = "there is nothing else to do")]
        runtime.expect("a runtime with its threads")
    });
    let end = system.block_on(relay_in_system(root, pause, signals, reloads))?;
    match &end {
        // The process ends now: a look-up of a name that takes its time must not
        // hold it, as the end of the runtime would.
        End::Drained(_) | End::AtOnce => std::mem::forget(system),
        End::Died => drop(system),
    }
    Ok(end)
}

async fn relay_in_system(
    root: &Root,
    pause: Duration,
    signals: &mut Signals,
    reloads: &mut Reloads,
) -> Result<End, Failure> {
    if let Some(end) = rest(pause, signals, reloads).await {
        return Ok(end);
    }
    let settings = root.configuration.current();
    let (finished, mut is_finished) = oneshot::channel();
    let parts = SupervisorParts {
        databases: settings
            .databases
            .iter()
            .map(connect)
            .collect::<Result<_, _>>()?,
        settings,
        node: Arc::clone(&root.node),
        streams: Arc::new(KinesisSource {
            clients: root.clients.clone(),
        }),
        metrics: root.metrics.clone(),
        board: Arc::clone(&root.board),
        clock: Clock::start(),
        stage: Stage::thread(tokio::runtime::Handle::current()),
        finished,
    };
    let mut context: Context<Supervisor> = Context::new();
    context.set_mailbox_capacity(1 << 20);
    let supervisor = actix::AsyncContext::address(&context);
    let mut task = actix::spawn(context.into_future(Supervisor::new(parts)));
    reloads.resume(root, &supervisor);
    let mut is_draining = false;
    loop {
        tokio::select! {
            report = &mut is_finished => {
                // The sender is dropped unused only with a supervisor that died.
                return Ok(report.map_or(died(is_draining), End::Drained));
            }
            _ = &mut task => return Ok(died(is_draining)),
            ended = reloads.ended() => reloads.conclude(ended, root, &supervisor),
            asked = signals.next() => match asked {
                Asked::Reload => reloads.ask(root, &supervisor),
                Asked::End => {
                    is_draining = true;
                    if supervisor.try_send(Shutdown).is_err() {
                        return Ok(died(is_draining));
                    }
                }
            },
        }
    }
}

/// A supervisor that dies while it drains is not built anew: the process was asked
/// to end.
const fn died(is_draining: bool) -> End {
    if is_draining { End::AtOnce } else { End::Died }
}

/// Waits before a dead actor system is built anew. Asked to end before anything
/// runs, there is nothing to drain; but what a dead one had sent is not settled.
async fn rest(pause: Duration, signals: &mut Signals, reloads: &mut Reloads) -> Option<End> {
    let until = Instant::now() + pause;
    loop {
        match tokio::time::timeout_at(until, signals.next()).await {
            Ok(Asked::End) if pause.is_zero() => return Some(End::Drained(DrainReport::default())),
            Ok(Asked::End) => return Some(End::AtOnce),
            Ok(Asked::Reload) => reloads.ask_later(),
            Err(_) => return None,
        }
    }
}

/// How long calls may take by these settings.
pub(super) const fn timeouts(settings: &Settings) -> KinesisTimeouts {
    KinesisTimeouts {
        operation: settings.kinesis.operation_timeout,
        connect: settings.kinesis.connect_timeout,
    }
}

/// A database by its settings; its connections are opened when they are needed.
pub(super) fn connect(database: &DatabaseSettings) -> Result<Database, Failure> {
    let (pool, watch) = connect_watched(&pool_settings(database)).map_err(|error| {
        Failure::Failed(format!("databases {:?}: url: {error}", &*database.name))
    })?;
    let store = PgOutboxStore::new(pool.clone()).with_watch(watch.clone());
    let store = if database.prepared_statements {
        store
    } else {
        store
            .with_shared_sessions()
            .with_statement_timeout(database.statement_timeout)
    };
    Ok(Database {
        name: Arc::clone(&database.name),
        retention: Arc::new(store.clone()),
        store: Arc::new(store),
        catalog: Arc::new(PgCatalog::new(pool).with_watch(watch)),
    })
}

/// Streams of the real service, or of whatever answers at its endpoint.
struct KinesisSource {
    clients: ClientPool,
}

/// A stream through the pool's client for it.
pub(super) fn kinesis_stream(clients: &ClientPool, target: &StreamTarget) -> KinesisStream {
    let stream = match &target.stream {
        StreamRef::Name(name) => KinesisTarget::Name(name.clone()),
        StreamRef::Arn(arn) => KinesisTarget::Arn(arn.clone()),
    };
    KinesisStream::new(clients.clone(), target.client.clone(), stream)
}

impl StreamSource for KinesisSource {
    fn stream(&self, target: &StreamTarget) -> Arc<dyn StreamService> {
        Arc::new(kinesis_stream(&self.clients, target))
    }

    fn forget_client(&self, target: &StreamTarget) {
        kinesis_stream(&self.clients, target).forget_client();
    }
}
