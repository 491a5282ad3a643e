//! One run: a seed becomes a world, the world is let loose, healed, and judged.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tidegate::actors::clock::Clock;
use tidegate::actors::fault::{self, Failure};
use tidegate::config::environment::Environment;
use tidegate::config::settings::Settings;
use tidegate::core::budget::ShardLimits;
use tidegate::core::dead_letter::OnPoison;
use tidegate::core::invariants::{self, Invariant};
use tidegate::core::ports::{Outbox, OutboxId};
use tokio::task::LocalSet;
use uuid::Uuid;

use crate::books;
use crate::database::Database;
use crate::dice::Dice;
use crate::events::{self, SETTLES_WITHIN};
use crate::kinesis::Stream;
use crate::ledger::{Ledger, Route};
use crate::many::unplanned_panics;
use crate::node::Node;
use crate::operator;
use crate::plan::Plan;
use crate::publishers;
use crate::trace::Trace;
use crate::world::{Shared, World, pass, pipeline_name};

/// What came of a run.
pub(crate) struct Outcome {
    pub(crate) plan: Plan,
    pub(crate) violations: Vec<(Invariant, String)>,
    /// The number of the trace.
    pub(crate) trace: u64,
    pub(crate) events: u64,
    pub(crate) text: String,
    pub(crate) rows: usize,
    pub(crate) repeats: usize,
    pub(crate) calls: u64,
    pub(crate) simulated: Duration,
}

/// Runs something on a paused clock of its own.
pub(crate) fn on_a_paused_clock<T>(seed: u64, work: impl Future<Output = T>) -> T {
    fastrand::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let local = LocalSet::new();
    let outcome = runtime.block_on(local.run_until(work));
    fault::decide(None);
    outcome
}

/// Runs a plan.
pub(crate) fn run(plan: Plan, keep_text: bool) -> Outcome {
    let mut outcome = on_a_paused_clock(plan.seed, live(plan, keep_text));
    let panics = unplanned_panics();
    if panics > 0 {
        let text = format!("{panics} panics that no plan asked for");
        outcome.violations.push((Invariant::Settles, text));
    }
    outcome
}

pub(crate) fn settings(plan: &Plan) -> Settings {
    let environment = Environment::from_iter([("DATABASE_URL", "postgres://localhost/simulated")]);
    let mut settings = Settings::load(None, environment).expect("settings");
    settings.cluster.lease = plan.lease;
    if plan.coordinates_apart {
        let name: Arc<str> = "coordination".into();
        let mut apart = settings.databases[0].clone();
        apart.name = Arc::clone(&name);
        settings.databases.push(apart);
        settings.cluster.database = Some(name);
    }
    settings.limits.pipeline_rows = plan.pipeline_rows;
    settings.limits.drain_grace = Duration::from_secs(3);
    settings.kinesis.shard_refresh = Duration::from_secs(5);
    settings.kinesis.shard_budget.records_per_second = plan.budget_records;
    settings.kinesis.shard_budget.bytes_per_second = plan.budget_bytes;
    settings.probe.min_interval = Duration::from_millis(10);
    settings.probe.max_interval = Duration::from_millis(250);
    settings
}

pub(crate) fn world(plan: &Plan, clock: Clock, keep_text: bool, dice: &mut Dice) -> World {
    let now = clock.now();
    let outboxes: Vec<Outbox> = (0..plan.outboxes)
        .map(|place| Outbox {
            id: OutboxId(i32::try_from(place).expect("few") + 1),
            name: format!("events{place}").into(),
            uuid: Uuid::from_u128(place as u128 + 1),
        })
        .collect();
    let mut routes: Vec<Route> = outboxes
        .iter()
        .flat_map(|outbox| {
            (0..plan.streams).map(|stream| Route {
                outbox: outbox.id,
                stream,
                on_poison: OnPoison::default(),
            })
        })
        .collect();
    for (place, route) in routes.iter_mut().enumerate() {
        let policies = &plan.poison.policies;
        route.on_poison = policies[place % policies.len()];
    }
    let (serialised, _) = publishers::keys(plan.keys, 0);
    let mut database = Database::new(outboxes, dice);
    database.versions = (0..routes.len())
        .map(|place| (format!("p{place}"), 1))
        .collect();
    database.outboxes_of = routes
        .iter()
        .enumerate()
        .map(|(place, route)| (pipeline_name(place), route.outbox))
        .collect();
    World {
        plan: plan.clone(),
        clock,
        trace: Trace::new(keep_text),
        database,
        coordination: Database::new(Vec::new(), &mut Dice::new(plan.seed ^ 0xc00d)),
        streams: (0..plan.streams)
            .map(|place| {
                let mut stream = Stream::new(&format!("s{place}"), plan.shards, plan.takes, now);
                stream.max_record_bytes = plan.poison.max_record_bytes;
                stream
            })
            .collect(),
        resharded_at: vec![None; plan.streams],
        ledger: Ledger::new(routes, serialised.into_iter().collect()),
        limits: ShardLimits {
            records_per_second: f64::from(plan.budget_records),
            bytes_per_second: plan.budget_bytes as f64,
            fraction: 1.0,
        },
        healed: false,
        store_dice: dice.fork(),
        put_dice: dice.fork(),
        poison_dice: Dice::new(plan.seed ^ 0x9015_0915),
        cured: false,
        halts_seen: 0,
        streaks: BTreeMap::new(),
        partitioned: BTreeMap::new(),
        asleep: BTreeMap::new(),
        control_away: None,
        service_away: None,
        catalog_generation: 1,
        calls: 0,
    }
}

/// By then a process that was frozen has sent what it had, and knows its leases.
const AWAKE: Duration = Duration::from_secs(5);

/// Words between actors that may be forgotten, as timers are.
const FORGOTTEN: [&str; 3] = ["probe.watched", "shard_writer.tell", "stream_router.writer"];

/// Actors panic, and timers are forgotten, by chance.
fn let_actors_fail(plan: &Plan, mut dice: Dice, is_over: Rc<Cell<bool>>) {
    let (panics, forgets) = (plan.panics, plan.forgets);
    fault::decide(Some(Box::new(move |name| {
        if is_over.get() {
            return None;
        }
        if name.ends_with(".timer") || FORGOTTEN.contains(&name) {
            return dice.chance(forgets).then_some(Failure::Forget);
        }
        // The supervisor passes points all the time: it would only die.
        let part = if name.starts_with("supervisor.") {
            0.05
        } else {
            1.0
        };
        dice.chance(panics * part).then_some(Failure::Panic)
    })));
}

async fn live(plan: Plan, keep_text: bool) -> Outcome {
    let mut dice = Dice::new(plan.seed ^ 0x5eed);
    let clock = Clock::start();
    let shared = Shared::new(world(&plan, clock, keep_text, &mut dice));
    let settings = Arc::new(settings(&plan));
    let is_over = Rc::new(Cell::new(false));
    let_actors_fail(&plan, dice.fork(), Rc::clone(&is_over));
    let mut nodes: Vec<Node> = (0..plan.nodes)
        .map(|number| Node::new(number, shared.clone(), Arc::clone(&settings), clock))
        .collect();
    for node in &mut nodes {
        node.start();
    }
    let publishing = tokio::task::spawn_local(publishers::publish(shared.clone(), dice.fork()));
    let chance = shared.lock().poison_dice.fork();
    let operating = tokio::task::spawn_local(operator::operate(shared.clone(), chance));
    events::happen(&shared, &mut nodes, &mut dice).await;
    publishing.await.expect("the publishers do not fail");
    operating.await.expect("the persons do not fail");
    is_over.set(true);
    publishers::finish(&mut shared.lock(), &mut dice);
    events::heal(&shared, &mut nodes);
    operator::finish(&mut shared.lock());
    settle(&shared, &mut nodes).await;
    start_again(&shared, &mut nodes).await;
    for node in &mut nodes {
        node.kill();
    }
    judge(&plan, &shared, clock)
}

/// Waits until everything is settled and written down.
pub(crate) async fn settle(shared: &Shared, nodes: &mut [Node]) {
    let began = shared.lock().now();
    loop {
        pass(Duration::from_millis(250)).await;
        for node in nodes.iter_mut().filter(|node| !node.is_running()) {
            node.start();
        }
        operator::look_at_halted(shared, nodes);
        let mut world = shared.lock();
        let left_over = world.left_over() + unsettled_positions(&world);
        let time_is_up = world.now().since(began) >= SETTLES_WITHIN;
        if left_over == 0 || time_is_up {
            let holds = invariants::settles_in_time(left_over, time_is_up);
            if !holds {
                let text = format!(
                    "{left_over} rows and windows are left over: {:?}",
                    nodes[0].board.status().pipelines
                );
                world.ledger.violations.push((Invariant::Settles, text));
            }
            return;
        }
    }
}

/// Pipelines whose position does not say that all is settled.
fn unsettled_positions(world: &World) -> usize {
    let routes = world.ledger.routes.iter().enumerate();
    routes
        .filter(|(place, route)| {
            let stored = world.database.positions.get(&format!("p{place}"));
            stored.is_none_or(|stored| {
                let position = &stored.position;
                !position.open.is_empty()
                    || !position.marks.is_empty()
                    || world.database.unseen(route.outbox, &position.base) > 0
            })
        })
        .count()
}

/// All is written down as settled: processes that start now send nothing.
async fn start_again(shared: &Shared, nodes: &mut [Node]) {
    let has_settled = {
        let world = shared.lock();
        world.left_over() + unsettled_positions(&world) == 0
    };
    if !has_settled {
        return;
    }
    let_cancelled_replays_end(shared, nodes).await;
    let_sleepers_wake(shared).await;
    let calls = shared.lock().calls;
    // The status is brought up to date once a second.
    pass(Duration::from_millis(1_100)).await;
    check_at_rest(shared, nodes);
    for node in nodes.iter_mut() {
        node.kill();
        node.start();
    }
    pass(Duration::from_secs(2)).await;
    let mut world = shared.lock();
    let again = usize::try_from(world.calls - calls).expect("few");
    if !invariants::repeat_has_cause(again, false) {
        let text = format!("{again} calls were sent again after everything had been settled");
        world
            .ledger
            .violations
            .push((Invariant::RepeatsCaused, text));
    }
}

/// A process that is still frozen sends what it had when it wakes up.
async fn let_sleepers_wake(shared: &Shared) {
    let (now, last) = {
        let world = shared.lock();
        (world.now(), world.asleep.values().max().copied())
    };
    if let Some(last) = last.filter(|last| *last + AWAKE > now) {
        pass((last + AWAKE).since(now)).await;
    }
}

/// The only node of a world is done: everything was delivered as promised.
pub(crate) async fn ends_well(shared: &Shared, node: Node) {
    let mut nodes = [node];
    settle(shared, &mut nodes).await;
    nodes[0].kill();
    let mut world = shared.lock();
    world.judge_the_end();
    assert_eq!(world.ledger.violations, []);
}

/// Rows of a replay that was cancelled may be on their way, in slow calls, when all
/// that is wanted has been settled.
async fn let_cancelled_replays_end(shared: &Shared, nodes: &[Node]) {
    let has_cancelled = shared.lock().database.has_cancelled_replays();
    let began = shared.lock().now();
    while has_cancelled && shared.lock().now().since(began) < SETTLES_WITHIN {
        let pipelines = |node: &Node| node.board.status().pipelines;
        let mut all = nodes.iter().flat_map(pipelines);
        if all.all(|pipeline| pipeline.in_flight_bytes == 0) {
            return;
        }
        pass(Duration::from_millis(250)).await;
    }
}

/// Permits are back, and the running relays found nothing wrong either.
fn check_at_rest(shared: &Shared, nodes: &[Node]) {
    for node in nodes {
        node.judge_itself();
        for pipeline in node.board.status().pipelines {
            let (rows, bytes) = (pipeline.in_flight_rows, pipeline.in_flight_bytes);
            let in_use = usize::try_from(rows + bytes).expect("few");
            if !invariants::within_bound(in_use, 0, 0) {
                let text =
                    format!("{rows} rows of {bytes} bytes have permits although all is settled");
                let mut world = shared.lock();
                world.ledger.violations.push((Invariant::Bound, text));
            }
        }
    }
}

fn judge(plan: &Plan, shared: &Shared, clock: Clock) -> Outcome {
    let mut world = shared.lock();
    world.judge_the_end();
    let repeats = world.ledger.repeats;
    books::judge(&mut world, plan.may_repeat());
    Outcome {
        plan: plan.clone(),
        violations: std::mem::take(&mut world.ledger.violations),
        trace: world.trace.number(),
        events: world.trace.events(),
        text: world.trace.text(),
        rows: world.ledger.arrived_rows(),
        repeats,
        calls: world.calls,
        simulated: clock.now().since_origin(),
    }
}
