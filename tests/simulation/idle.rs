//! Outboxes in which nothing happens: their readers do nothing, and are there at once
//! when something does.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use tidegate::actors::fault;

use crate::dice::Dice;
use crate::many::hush;
use crate::node::Node;
use crate::plan::{Plan, PutFaults, StoreFaults};
use crate::poison::PoisonPlan;
use crate::run::{self, settings, world};
use crate::world::{Shared, pass};

const OUTBOXES: usize = 20;

/// How often actors passed each point.
type Passed = Rc<RefCell<BTreeMap<&'static str, u64>>>;

fn plan() -> Plan {
    Plan {
        seed: 815,
        nodes: 1,
        outboxes: OUTBOXES,
        streams: 1,
        shards: 2,
        keys: 4,
        free_keys: 0,
        batch_size: 100,
        store: StoreFaults::default(),
        put: PutFaults::default(),
        panics: 0.0,
        forgets: 0.0,
        events: Vec::new(),
        lease: Duration::from_secs(30),
        poison: PoisonPlan::none(),
        ..Plan::of(1)
    }
}

fn count_passes() -> Passed {
    let passed = Passed::default();
    let counts = Rc::clone(&passed);
    fault::decide(Some(Box::new(move |name| {
        *counts.borrow_mut().entry(name).or_default() += 1;
        None
    })));
    passed
}

/// What readers passed since this was asked last: messages and timers.
fn of_readers(passed: &Passed) -> BTreeMap<&'static str, u64> {
    let mut all = std::mem::take(&mut *passed.borrow_mut());
    all.retain(|name, _| name.starts_with("outbox_reader."));
    all
}

fn waits(node: &Node) -> Vec<(&'static str, f64)> {
    let pipelines = node.board.status().pipelines;
    let waits = pipelines.iter().filter_map(|one| one.waits.as_ref());
    waits
        .map(|waits| (waits.waits_for, waits.seconds))
        .collect()
}

fn publish(world: &Shared, outbox: usize) {
    let mut world = world.lock();
    let now = world.now();
    let outbox = world.database.outboxes[outbox].id;
    world.database.begin(false);
    world.database.insert(0, outbox, "key0", 20, None, now);
    let rows = world.database.end(0, true);
    world.ledger.committed(&rows);
}

async fn idle() {
    let plan = plan();
    let mut dice = Dice::new(plan.seed);
    let clock = tidegate::actors::clock::Clock::start();
    let shared = Shared::new(world(&plan, clock, false, &mut dice));
    let mut node = Node::new(0, shared.clone(), settings(&plan).into(), clock);
    node.start();
    pass(Duration::from_secs(10)).await;
    // They fall idle one after the other, at all places of the probe's pace.
    for outbox in 0..OUTBOXES {
        publish(&shared, outbox);
        pass(Duration::from_millis(1037)).await;
    }
    pass(Duration::from_secs(10)).await;
    let passed = count_passes();
    let probed = |passed: &Passed| passed.borrow().get("probe.Answered").copied();
    pass(Duration::from_secs(60)).await;
    // One question for all, at the pace of quiet outboxes (250 ms).
    let asked = probed(&passed).unwrap_or_default();
    assert!((200..=242).contains(&asked), "{asked} questions");
    assert_eq!(
        of_readers(&passed),
        BTreeMap::new(),
        "while nothing happens"
    );
    let seen = waits(&node);
    assert_eq!(seen.len(), OUTBOXES);
    let still = |(what, seconds): &(&str, f64)| *what == "news" && (90.0..=102.0).contains(seconds);
    assert!(seen.iter().all(still), "{seen:?}");
    // One wakes up, alone, within the pace of the probe, and rests again.
    publish(&shared, 7);
    pass(Duration::from_millis(600)).await;
    assert_eq!(shared.lock().left_over(), 0, "the row was not delivered");
    pass(Duration::from_secs(10)).await;
    let of_one = of_readers(&passed);
    assert_eq!(of_one.get("outbox_reader.Wake"), Some(&1), "{of_one:?}");
    let rounds = of_one.get("outbox_reader.round.timer").copied();
    assert!(rounds.unwrap_or_default() <= 4, "{of_one:?}");
    pass(Duration::from_secs(30)).await;
    assert_eq!(of_readers(&passed), BTreeMap::new(), "once it rests again");
    // The database cannot be reached: nobody vouches for them, so they look themselves.
    let until = shared.lock().now() + Duration::from_secs(5);
    let name = std::sync::Arc::clone(node.name());
    shared.lock().partitioned.insert(name, until);
    pass(Duration::from_secs(5)).await;
    let rounds = of_readers(&passed)
        .get("outbox_reader.round.timer")
        .copied();
    let rounds = rounds.unwrap_or_default();
    assert!(rounds >= OUTBOXES as u64, "{rounds} rounds of {OUTBOXES}");
    pass(Duration::from_secs(5)).await;
    of_readers(&passed);
    pass(Duration::from_secs(10)).await;
    assert_eq!(
        of_readers(&passed),
        BTreeMap::new(),
        "once it is there again"
    );
    fault::decide(None);
    run::ends_well(&shared, node).await;
}

#[test]
fn a_reader_with_nothing_to_do_does_nothing() {
    hush();
    run::on_a_paused_clock(815, idle());
}
