//! One relay: its real supervisor and actors, on ports to the world.
//!
//! A process is a task with a `LocalSet` of its own, which all its actors run in:
//! ending the task ends them at once, wherever they are, as SIGKILL does. What is
//! on the network by then arrives all the same.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::{Addr, AsyncContext, Context};
use futures::future::{Either, select};
use prometheus::Registry;
use tidegate::actors::clock::Clock;
use tidegate::actors::messages::Shutdown;
use tidegate::actors::stage::Stage;
use tidegate::actors::supervisor::{Database, Supervisor, SupervisorParts};
use tidegate::admin::metrics::Metrics;
use tidegate::admin::status::StatusBoard;
use tidegate::config::settings::Settings;
use tidegate::core::invariants::Invariant;
use tidegate::core::time::Moment;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, LocalSet};

use crate::catalog::{EmptyCatalog, SimCatalog};
use crate::frozen::{Freezable, Frost};
use crate::retention::KeepsAll;
use crate::store::{Server, SimStore};
use crate::stream::SimSource;
use crate::world::{Process, Shared, pass};

/// As `cli::run` has it.
const REBUILD_PAUSE: Duration = Duration::from_millis(200);

/// A process under way.
struct Running {
    process: Process,
    task: JoinHandle<()>,
    supervisor: Rc<Cell<Option<Addr<Supervisor>>>>,
    frost: Frost,
}

/// A machine that runs a relay, or does not.
pub(crate) struct Node {
    name: Arc<str>,
    world: Shared,
    settings: Arc<Settings>,
    clock: Clock,
    processes: u64,
    number: u64,
    running: Option<Running>,
    metrics: Metrics,
    pub(crate) board: Arc<StatusBoard>,
}

fn fresh_metrics() -> Metrics {
    Metrics::new(Registry::new()).expect("a fresh registry")
}

impl Node {
    pub(crate) fn new(number: usize, world: Shared, settings: Arc<Settings>, clock: Clock) -> Self {
        let name: Arc<str> = format!("node{number}").into();
        Self {
            board: Arc::new(StatusBoard::new(Arc::clone(&name))),
            name,
            world,
            settings,
            clock,
            processes: 0,
            number: number as u64,
            running: None,
            metrics: fresh_metrics(),
        }
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(crate) fn is_running(&self) -> bool {
        self.running
            .as_ref()
            .is_some_and(|running| !running.task.is_finished())
    }

    pub(crate) fn start(&mut self) {
        self.judge_itself();
        self.processes += 1;
        let number = self.number * 1_000_000 + self.processes;
        let process = Process::new(number, &self.name, &self.process_name());
        // A process has a name of its own, as `ClusterSettings::node_name` makes it.
        let name = self.process_name();
        self.metrics = fresh_metrics();
        self.board = Arc::new(StatusBoard::new(Arc::clone(&name)));
        let supervisor = Rc::new(Cell::new(None));
        let body = Body {
            name,
            process: process.clone(),
            world: self.world.clone(),
            settings: Arc::clone(&self.settings),
            clock: self.clock,
            metrics: self.metrics.clone(),
            board: Arc::clone(&self.board),
            supervisor: Rc::clone(&supervisor),
        };
        let frost = Frost::default();
        let body = Freezable::new(body.run(), frost.clone(), self.clock);
        let task = tokio::task::spawn_local(body);
        self.running = Some(Running {
            process,
            task,
            supervisor,
            frost,
        });
    }

    /// What the relay itself has found wrong.
    pub(crate) fn judge_itself(&self) {
        let text = self.metrics.render().expect("text");
        let counts = text
            .lines()
            .filter(|line| line.starts_with("tidegate_invariant_violations_total{"))
            .filter(|line| !line.ends_with(" 0"));
        for line in counts {
            let is_it = |one: &&Invariant| line.contains(&format!("\"{}\"", one.id()));
            let found = Invariant::ALL.iter().find(is_it).expect("an id of ours");
            let text = format!("the relay itself counts: {line}");
            self.world.lock().ledger.violations.push((*found, text));
        }
    }

    pub(crate) fn kill(&mut self) {
        if let Some(running) = self.running.take() {
            running.process.kill();
            running.task.abort();
        }
    }

    /// SIGSTOP, and SIGCONT at that moment.
    pub(crate) fn freeze(&self, until: Moment) {
        if let Some(running) = &self.running {
            running.frost.until(until);
        }
    }

    /// What its process is called in leases.
    pub(crate) fn process_name(&self) -> Arc<str> {
        format!("{}-{}", self.name, self.processes).into()
    }

    /// SIGTERM: it finishes what it has and ends by itself.
    pub(crate) fn terminate(&self) {
        if let Some(running) = &self.running {
            let supervisor = running.supervisor.take();
            if let Some(supervisor) = supervisor {
                supervisor.try_send(Shutdown).ok();
            }
        }
    }
}

struct Body {
    name: Arc<str>,
    process: Process,
    world: Shared,
    settings: Arc<Settings>,
    clock: Clock,
    metrics: Metrics,
    board: Arc<StatusBoard>,
    supervisor: Rc<Cell<Option<Addr<Supervisor>>>>,
}

impl Body {
    /// What `cli::run` does: builds all actors, and builds them anew when the
    /// supervisor dies.
    async fn run(self) {
        for rebuilt in 0.. {
            let actors = LocalSet::new();
            let is_done = actors.run_until(self.relay(rebuilt)).await;
            drop(actors);
            if is_done {
                break;
            }
            pass(REBUILD_PAUSE).await;
        }
        self.process.kill();
    }

    fn store(&self, server: Server) -> Arc<SimStore> {
        let (world, process) = (self.world.clone(), self.process.clone());
        Arc::new(SimStore::new(world, process, server))
    }

    async fn relay(&self, rebuilt: u64) -> bool {
        let (finished, is_finished) = oneshot::channel();
        let mut databases = vec![Database {
            name: "default".into(),
            store: self.store(Server::Outboxes),
            catalog: Arc::new(SimCatalog {
                world: self.world.clone(),
                process: self.process.clone(),
                seen: Arc::default(),
            }),
            retention: Arc::new(KeepsAll),
        }];
        if let Some(name) = &self.settings.cluster.database {
            databases.push(Database {
                name: Arc::clone(name),
                store: self.store(Server::Coordination),
                catalog: Arc::new(EmptyCatalog),
                retention: Arc::new(KeepsAll),
            });
        }
        let parts = SupervisorParts {
            settings: Arc::clone(&self.settings),
            node: Arc::clone(&self.name),
            databases,
            streams: Arc::new(SimSource {
                world: self.world.clone(),
                process: self.process.clone(),
                // A supervisor that was built anew knows of no call before.
                budgets_of: self.process.number * 1000 + rebuilt,
            }),
            metrics: self.metrics.clone(),
            board: Arc::clone(&self.board),
            clock: self.clock,
            stage: Stage::here(Handle::current()),
            finished,
        };
        let mut context: Context<Supervisor> = Context::new();
        context.set_mailbox_capacity(1 << 20);
        self.supervisor.set(Some(context.address()));
        let task = actix::spawn(context.into_future(Supervisor::new(parts)));
        match select(is_finished, task).await {
            Either::Left((report, _)) => report.is_ok(),
            Either::Right(_) => false,
        }
    }
}
