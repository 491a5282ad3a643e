//! One shard refuses everything for an hour: its neighbours must not notice, now
//! or after a kill.

use std::collections::BTreeMap;
use std::time::Duration;

use tidegate::core::intake::{Intake, IntakeLimits, Ready, Room};
use tidegate::core::position::{Position, Seq};
use tidegate::core::row::Envelope;
use tidegate::core::shard_map::{HashRange, Shard, hash_key};
use tidegate::core::snapshot::Snapshot;
use tidegate::core::time::Moment;

use crate::dice::Dice;
use crate::many::hush;
use crate::node::Node;
use crate::plan::{Event, Plan, PutFaults, StoreFaults};
use crate::poison::PoisonPlan;
use crate::run::{self, settings, world};
use crate::world::{Shared, pass};

const HOUR: Duration = Duration::from_secs(3600);
const SHARDS: usize = 4;

/// What the neighbours saw of an hour.
struct Hour {
    /// From commit to the record in the stream, in milliseconds.
    p50: f64,
    p99: f64,
    delivered: usize,
    most_bytes: usize,
    most_windows: usize,
    most_in_flight: u64,
    /// Records of healthy shards that a kill at the end sent again.
    again: usize,
    /// How many could be under way when the kill came.
    in_flight: usize,
    waiting: usize,
}

fn plan() -> Plan {
    let plan = Plan::of(1);
    Plan {
        seed: 4711,
        nodes: 1,
        outboxes: 1,
        streams: 1,
        shards: SHARDS,
        keys: 64,
        free_keys: 0,
        budget_records: 1000,
        budget_bytes: 1 << 20,
        batch_size: 100,
        pipeline_rows: 5_000,
        filler: 20,
        store: StoreFaults::default(),
        put: PutFaults::default(),
        panics: 0.0,
        forgets: 0.0,
        events: vec![Event::KillNode],
        lease: Duration::from_secs(10),
        poison: PoisonPlan::none(),
        takes: crate::kinesis::Takes {
            records: 1000.0,
            bytes: 1e6,
            ..plan.takes
        },
        ..plan
    }
}

fn is_stuck(shards: &[Shard], key: &str) -> bool {
    shards[0].range.contains(hash_key(key))
}

/// About six rows a second in transactions of their own, and what the row in the
/// database weighs.
async fn publish(
    world: &Shared,
    most: &mut Hour,
    committed: &mut BTreeMap<i64, Moment>,
    node: &Node,
) {
    let mut dice = Dice::new(9);
    let end = world.lock().now() + HOUR;
    let outbox = world.lock().database.outboxes[0].id;
    let mut steps = 0_u32;
    while world.lock().now() < end {
        pass(dice.pause(10.0, 700.0)).await;
        let mut world = world.lock();
        let now = world.now();
        world.database.begin(false);
        let key = format!("key{}", dice.below(64));
        world.database.insert(0, outbox, &key, 20, None, now);
        let rows = world.database.end(0, true);
        world.ledger.committed(&rows);
        committed.insert(rows[0].id, now);
        steps += 1;
        if steps.is_multiple_of(50) {
            look(&world, most, node);
        }
    }
    look(&world.lock(), most, node);
}

fn look(world: &crate::world::World, most: &mut Hour, node: &Node) {
    if let Some(stored) = world.database.positions.get("p0") {
        let bytes = tidegate::postgres::written_bytes(&stored.position).expect("json");
        most.most_bytes = most.most_bytes.max(bytes);
        most.most_windows = most.most_windows.max(stored.position.open.len());
    }
    let status = node.board.status();
    let handed = status
        .pipelines
        .iter()
        .map(|one| one.in_flight_rows - one.deferred_rows)
        .sum();
    most.most_in_flight = most.most_in_flight.max(handed);
}

async fn hour(stick: bool) -> Hour {
    let plan = plan();
    let mut dice = Dice::new(plan.seed);
    let clock = tidegate::actors::clock::Clock::start();
    let shared = Shared::new(world(&plan, clock, false, &mut dice));
    let mut node = Node::new(0, shared.clone(), settings(&plan).into(), clock);
    node.start();
    let shards = shared.lock().streams[0].open_shards();
    if stick {
        let until = Moment::from_origin(HOUR * 2);
        shared.lock().streams[0].shards[0].stuck_until = Some((until, true));
    }
    let mut seen = Hour {
        p50: 0.0,
        p99: 0.0,
        delivered: 0,
        most_bytes: 0,
        most_windows: 0,
        most_in_flight: 0,
        again: 0,
        in_flight: 0,
        waiting: 0,
    };
    let mut committed = BTreeMap::new();
    publish(&shared, &mut seen, &mut committed, &node).await;
    // The kill: what is not confirmed by then, or within the last save.
    let killed_at = shared.lock().now();
    node.kill();
    let recent = |at: &&Moment| killed_at.since(**at) < Duration::from_secs(2);
    seen.in_flight = committed.values().filter(recent).count();
    seen.waiting = shared.lock().left_over();
    let before = shared.lock().ledger.repeats;
    node.start();
    pass(Duration::from_secs(20)).await;
    seen.again = shared.lock().ledger.repeats - before;
    let mut latencies: Vec<f64> = {
        let world = shared.lock();
        let healthy = world
            .ledger
            .arrived_at
            .iter()
            .filter(|(_, (key, _))| !is_stuck(&shards, key));
        let since = healthy.filter_map(|(id, (_, at))| Some(at.since(*committed.get(id)?)));
        since
            .map(|latency| latency.as_secs_f64() * 1000.0)
            .collect()
    };
    latencies.sort_by(f64::total_cmp);
    seen.delivered = latencies.len();
    seen.p50 = latencies[latencies.len() / 2];
    seen.p99 = latencies[latencies.len() * 99 / 100];
    // The shard comes back: everything is delivered, in order, by seq too.
    shared.lock().healed = true;
    shared.lock().streams[0].shards[0].stuck_until = None;
    let mut nodes = [node];
    run::settle(&shared, &mut nodes).await;
    nodes[0].kill();
    let mut world = shared.lock();
    world.judge_the_end();
    assert_eq!(world.ledger.violations, [], "with a stuck shard: {stick}");
    seen
}

#[test]
fn a_shard_that_is_stuck_for_an_hour_costs_its_neighbours_nothing() {
    hush();
    let hours = std::thread::scope(|scope| {
        let run = |stick| scope.spawn(move || run::on_a_paused_clock(4711, hour(stick)));
        [run(false), run(true)].map(|hour| hour.join().expect("no panic"))
    });
    for (name, hour) in ["without", "with"].iter().zip(&hours) {
        println!(
            "{name} a stuck shard: {} rows of the others, p50 {:.1} ms, p99 {:.1} ms; position at most {} bytes, {} windows; \
             at most {} rows handed; {} rows waited at the kill, {} sent again ({} committed in the 2 s before it)",
            hour.delivered,
            hour.p50,
            hour.p99,
            hour.most_bytes,
            hour.most_windows,
            hour.most_in_flight,
            hour.waiting,
            hour.again,
            hour.in_flight,
        );
    }
    let [without, with] = hours;
    assert!(with.waiting > 1000, "the shard was not stuck");
    assert!(
        with.p50 <= without.p50 * 1.1 + 1.0,
        "p50 {} to {}",
        without.p50,
        with.p50
    );
    assert!(
        with.p99 <= without.p99 * 1.1 + 2.0,
        "p99 {} to {}",
        without.p99,
        with.p99
    );
    // A shard that is stuck holds one call's rows and what it had room for.
    assert!(
        with.most_in_flight <= 1_500,
        "{} rows handed",
        with.most_in_flight
    );
    assert!(with.most_bytes < 64 << 10, "{} bytes", with.most_bytes);
    assert!(with.most_windows <= 260, "{} windows", with.most_windows);
    // What was sent again was committed within the last second or two.
    assert!(with.again <= with.in_flight, "{} sent again", with.again);
}

/// The intake of a pipeline of 500 shards, one of which settles nothing while the
/// others are all at different places.
#[test]
fn the_position_row_of_500_shards_stays_under_64_kib() {
    const LANES: usize = 500;
    let width = u128::MAX / LANES as u128;
    let ranges: Vec<HashRange> = (0..LANES as u128)
        .map(|place| HashRange {
            first: place * width,
            last: if place + 1 == LANES as u128 {
                u128::MAX
            } else {
                (place + 1) * width - 1
            },
        })
        .collect();
    let limits = IntakeLimits {
        rows: 5_000,
        stashed: 1 << 20,
        merge_above: 64,
    };
    let start = Position {
        last_number: tidegate::core::position::WindowNumber(12_000_000_000),
        ..Position::start()
    };
    let mut intake = Intake::new(
        start,
        "default {dedup_key}",
        &ranges,
        limits,
        Moment::ORIGIN,
    );
    let mut dice = Dice::new(500);
    let mut under_way: Vec<(Seq, u128)> = Vec::new();
    let mut most = (0, 0, 0);
    for round in 0..1_200_u64 {
        let now = Moment::from_origin(Duration::from_millis(20 * round));
        let xmax = 50_000_000_000 + 10 * round;
        let running = vec![xmax - 7, xmax - 3, xmax - 2];
        let snapshot = Snapshot::new(xmax - 7, xmax, running).expect("well formed");
        let window = intake.open_window(snapshot, now);
        for place in 0..20 {
            let hash = if place == 0 {
                5
            } else {
                width * dice.range(1, 499) as u128 + 5
            };
            let id = 1_000_000_000_000 + i64::try_from(round).expect("few") * 20 + place;
            let envelope = Envelope {
                seq: Seq { window, id },
                key: "k".into(),
                hash,
                body: "{}".into(),
            };
            let ready = Ready {
                envelope,
                visible_since: now,
            };
            let handed = intake.take_in(
                ready,
                &mut Room {
                    rows: 5_000,
                    bytes: 1 << 30,
                },
            );
            under_way.extend(handed.map(|envelope| (envelope.seq, envelope.hash)));
        }
        intake.end_window(window);
        under_way.retain(|(seq, hash)| {
            let settles = *hash != 5 && dice.chance(0.05);
            if settles {
                intake.settled(*seq, *hash, now).expect("was handed");
            }
            !settles
        });
        let position = intake.position_to_save(now);
        intake.saved(now);
        assert_eq!(intake.take_violations(), []);
        let bytes = tidegate::postgres::written_bytes(&position).expect("json");
        most = most.max((bytes, position.open.len(), position.marks.len()));
    }
    println!(
        "at most {} bytes: {} windows, {} marks",
        most.0, most.1, most.2
    );
    assert!(most.0 < 64 << 10, "{} bytes", most.0);
    assert!(most.2 > 400, "only {} marks", most.2);
}
