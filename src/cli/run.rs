//! `tidegate run`: the composition root of the relay.
//!
//! The actors run on one thread, their reading and sending on a pool of worker
//! threads, the admin port on a thread of its own. Should the supervisor itself
//! die, the whole actor system is built anew from what is durable.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use actix::Context;
use prometheus::Registry;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::migrate::pool_settings;
use super::{FAILED, Failure, logging};
use crate::actors::clock::Clock;
use crate::actors::messages::Shutdown;
use crate::actors::stage::Stage;
use crate::actors::supervisor::{Database, DrainReport, StreamSource, Supervisor, SupervisorParts};
use crate::admin::metrics::{Metrics, show_process};
use crate::admin::server;
use crate::admin::status::StatusBoard;
use crate::config::pipeline::{StreamRef, StreamTarget};
use crate::config::settings::Settings;
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
struct Root {
    settings: Arc<Settings>,
    node: Arc<str>,
    metrics: Metrics,
    board: Arc<StatusBoard>,
    clients: ClientPool,
}

/// How an actor system ended.
enum End {
    /// By a signal, in order.
    Drained(DrainReport),
    /// By a second signal.
    AtOnce,
    /// The supervisor died.
    Died,
}

pub(super) fn run(settings: Settings) -> Result<ExitCode, Failure> {
    logging::start(&settings.log)?;
    let node = settings.cluster.node_name();
    let registry = Registry::new();
    let metrics = show_process(&registry).and_then(|()| Metrics::new(registry));
    let metrics = metrics.map_err(|error| Failure::Failed(error.to_string()))?;
    let board = Arc::new(StatusBoard::new(Arc::clone(&node)));
    let admin = server::start(settings.admin.listen, metrics.clone(), Arc::clone(&board))
        .map_err(|error| Failure::Failed(error.to_string()))?;
    let version = env!("CARGO_PKG_VERSION");
    tracing::info!(version, %node, admin = %admin.local_addr(), "tidegate starts");
    let timeouts = KinesisTimeouts {
        operation: settings.kinesis.operation_timeout,
        connect: settings.kinesis.connect_timeout,
    };
    let root = Root {
        settings: Arc::new(settings),
        node,
        metrics,
        board,
        clients: ClientPool::new(timeouts),
    };
    let mut backoff = Backoff::new(REBUILD_PAUSES.0, REBUILD_PAUSES.1);
    let mut pause = Duration::ZERO;
    let end = loop {
        let began = Instant::now();
        match relay(&root, pause)? {
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
        End::Drained(DrainReport {
            drained,
            cut_off: 0,
        }) => {
            tracing::info!(
                pipelines = drained,
                "drained: everything that was sent is settled"
            );
            ExitCode::SUCCESS
        }
        End::Drained(DrainReport { drained, cut_off }) => {
            tracing::warn!(
                drained,
                cut_off,
                "the grace is over: some rows that were sent are not settled and will be sent again"
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
fn relay(root: &Root, pause: Duration) -> Result<End, Failure> {
    let system = actix::System::with_tokio_rt(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .thread_name("tidegate")
            .build();
        // Without threads nothing can run; the panic ends the process at its start.
        #[expect(clippy::expect_used, reason = "there is nothing else to do")]
        runtime.expect("a runtime with its threads")
    });
    system.block_on(relay_in_system(root.clone(), pause))
}

async fn relay_in_system(root: Root, pause: Duration) -> Result<End, Failure> {
    let failed = |error: std::io::Error| Failure::Failed(format!("no signal handler: {error}"));
    let mut signals = Signals {
        terminate: signal(SignalKind::terminate()).map_err(failed)?,
        interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
        hang_up: signal(SignalKind::hangup()).map_err(failed)?,
    };
    let first = tokio::time::timeout(pause, signals.next()).await;
    if matches!(first, Ok(Asked::End)) {
        return Ok(End::AtOnce);
    }
    let (finished, mut is_finished) = oneshot::channel();
    let parts = SupervisorParts {
        databases: databases(&root.settings)?,
        settings: Arc::clone(&root.settings),
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
    let mut is_draining = false;
    loop {
        tokio::select! {
            report = &mut is_finished => {
                // The sender is dropped unused only with a supervisor that died.
                return Ok(report.map_or(died(is_draining), End::Drained));
            }
            _ = &mut task => return Ok(died(is_draining)),
            asked = signals.next() => match asked {
                Asked::Reload => tracing::warn!(
                    "SIGHUP: this version reads its configuration only at start; nothing has changed"
                ),
                Asked::End if std::mem::replace(&mut is_draining, true) => return Ok(End::AtOnce),
                Asked::End => {
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

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

/// What a signal asks for.
enum Asked {
    End,
    Reload,
}

impl Signals {
    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::End,
            _ = self.interrupt.recv() => Asked::End,
            _ = self.hang_up.recv() => Asked::Reload,
        }
    }
}

fn databases(settings: &Settings) -> Result<Vec<Database>, Failure> {
    let mut databases = Vec::with_capacity(settings.databases.len());
    for database in &settings.databases {
        let (pool, watch) = connect_watched(&pool_settings(database))
            .map_err(|error| Failure::Failed(format!("database {:?}: {error}", &*database.name)))?;
        let store = PgOutboxStore::new(pool.clone()).with_watch(watch.clone());
        let store = if database.prepared_statements {
            store
        } else {
            store.with_shared_sessions()
        };
        databases.push(Database {
            name: Arc::clone(&database.name),
            retention: Arc::new(store.clone()),
            store: Arc::new(store),
            catalog: Arc::new(PgCatalog::new(pool).with_watch(watch)),
        });
    }
    Ok(databases)
}

/// Streams of the real service, or of whatever answers at its endpoint.
struct KinesisSource {
    clients: ClientPool,
}

impl StreamSource for KinesisSource {
    fn stream(&self, target: &StreamTarget) -> Arc<dyn StreamService> {
        let stream = match &target.stream {
            StreamRef::Name(name) => KinesisTarget::Name(name.clone()),
            StreamRef::Arn(arn) => KinesisTarget::Arn(arn.clone()),
        };
        Arc::new(KinesisStream::new(
            self.clients.clone(),
            target.client.clone(),
            stream,
        ))
    }
}
