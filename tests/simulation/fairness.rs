//! P-FAIR through the whole relay: readers, router, writer and budget of one shard that
//! tenants share.

use std::collections::BTreeMap;
use std::time::Duration;

use tidegate::core::time::Moment;

use crate::dice::Dice;
use crate::kinesis::Takes;
use crate::many::hush;
use crate::node::Node;
use crate::plan::{Plan, PutFaults, StoreFaults};
use crate::poison::PoisonPlan;
use crate::run::{self, settings, world};
use crate::world::{Shared, pass};

/// How long tenants are looked at, after the first two seconds.
const LOOKED_AT: Duration = Duration::from_secs(30);

/// Rows that wait of a tenant that floods: five shares of a shard's second.
const WAITING: usize = 500;

const COUNT_EVERY: Duration = Duration::from_millis(50);

/// What a tenant does: rows a second, or all it can.
#[derive(Clone, Copy)]
enum Load {
    Some(f64),
    Flood,
}

/// What came of the pipelines.
struct Seen {
    /// From commit to the record in the stream, in milliseconds, sorted.
    latencies: Vec<Vec<f64>>,
    delivered: Vec<usize>,
}

fn plan(outboxes: usize, weights: &[u32], rate: Option<f64>) -> Plan {
    let plan = Plan::of(1);
    Plan {
        seed: 21,
        nodes: 1,
        outboxes,
        streams: 1,
        shards: 1,
        keys: 1_000,
        free_keys: 0,
        budget_records: 1_000,
        budget_bytes: 1 << 20,
        batch_size: 500,
        weights: weights.to_vec(),
        rate,
        pipeline_rows: 5_000,
        filler: 20,
        store: StoreFaults::default(),
        put: PutFaults::default(),
        panics: 0.0,
        forgets: 0.0,
        events: Vec::new(),
        lease: Duration::from_secs(10),
        poison: PoisonPlan::none(),
        takes: Takes {
            records: 1_000.0,
            bytes: 1_048_576.0,
            ..plan.takes
        },
        ..plan
    }
}

async fn share(weights: &[u32], loads: &[Load], rate: Option<f64>) -> Seen {
    let plan = plan(loads.len(), weights, rate);
    let mut dice = Dice::new(plan.seed);
    let clock = tidegate::actors::clock::Clock::start();
    let shared = Shared::new(world(&plan, clock, false, &mut dice));
    let mut node = Node::new(0, shared.clone(), settings(&plan).into(), clock);
    node.start();
    let mut committed: BTreeMap<i64, (usize, Moment)> = BTreeMap::new();
    let begins = shared.lock().now() + Duration::from_secs(2);
    let ends = begins + LOOKED_AT;
    let mut due = vec![0.0_f64; loads.len()];
    let mut last = shared.lock().now();
    let mut counted_at = last;
    let mut waiting = vec![0_usize; loads.len()];
    while last < ends {
        pass(dice.pause(1.0, 10.0)).await;
        let mut world = shared.lock();
        let now = world.now();
        let passed = now.since(last).as_secs_f64();
        last = now;
        // Counted anew now and then: it is a walk through all of them.
        if now.since(counted_at) >= COUNT_EVERY {
            counted_at = now;
            waiting.fill(0);
            let is_waiting = |id: &i64| !world.ledger.arrived_at.contains_key(id);
            for (_, (place, _)) in committed.iter().filter(|(id, _)| is_waiting(id)) {
                waiting[*place] += 1;
            }
        }
        for (place, load) in loads.iter().enumerate() {
            let rows = match load {
                Load::Some(rate) => {
                    due[place] += rate * passed;
                    let mut whole = 0;
                    while due[place] >= 1.0 {
                        due[place] -= 1.0;
                        whole += 1;
                    }
                    whole
                }
                Load::Flood => WAITING.saturating_sub(waiting[place]),
            };
            if rows == 0 {
                continue;
            }
            let outbox = world.database.outboxes[place].id;
            world.database.begin(false);
            for _ in 0..rows {
                let key = format!("key{}", dice.below(1_000));
                world.database.insert(0, outbox, &key, 20, None, now);
            }
            let rows = world.database.end(0, true);
            world.ledger.committed(&rows);
            waiting[place] += rows.len();
            committed.extend(rows.iter().map(|row| (row.id, (place, now))));
        }
    }
    let mut seen = Seen {
        latencies: vec![Vec::new(); loads.len()],
        delivered: vec![0; loads.len()],
    };
    let ended_at = shared.lock().now();
    pass(Duration::from_secs(5)).await;
    for (id, (_, at)) in &shared.lock().ledger.arrived_at {
        let (place, since) = committed[id];
        seen.delivered[place] += usize::from(*at >= begins && *at < ended_at);
        if since >= begins {
            let millis = at.since(since).as_secs_f64() * 1000.0;
            seen.latencies[place].push(millis);
        }
    }
    for latencies in &mut seen.latencies {
        latencies.sort_by(f64::total_cmp);
    }
    run::ends_well(&shared, node).await;
    seen
}

fn percentile(seen: &Seen, places: std::ops::Range<usize>, percent: usize) -> f64 {
    let mut all: Vec<f64> = seen.latencies[places].concat();
    all.sort_by(f64::total_cmp);
    all[(all.len() - 1) * percent / 100]
}

#[test]
fn nine_tenants_are_as_fast_beside_a_flood() {
    hush();
    let run = |flood: bool| {
        let mut loads = vec![Load::Some(5.0); 10];
        loads[9] = if flood { Load::Flood } else { Load::Some(0.0) };
        run::on_a_paused_clock(21, async move { share(&[1; 10], &loads, None).await })
    };
    let [alone, beside] = [false, true].map(run);
    let p = |seen: &Seen, percent| percentile(seen, 0..9, percent);
    let ratio = p(&beside, 99) / p(&alone, 99);
    println!(
        "commit to stream: p50 {:.0} ms, p99 {:.0} ms alone; p50 {:.0} ms, p99 {:.0} ms beside a flood of {:.0} rows/s: \
         ratio of p99 {ratio:.2}",
        p(&alone, 50),
        p(&alone, 99),
        p(&beside, 50),
        p(&beside, 99),
        beside.delivered[9] as f64 / LOOKED_AT.as_secs_f64(),
    );
    assert!(beside.delivered[9] as f64 > 850.0 * LOOKED_AT.as_secs_f64());
    assert!(ratio < 2.0, "{ratio}");
}

#[test]
fn saturated_tenants_share_a_shard_by_weight() {
    hush();
    let weights = [1, 2, 4];
    let seen = run::on_a_paused_clock(22, share(&weights, &[Load::Flood; 3], None));
    let all: usize = seen.delivered.iter().sum();
    println!("{:?} of {all} rows by weights {weights:?}", seen.delivered);
    assert!(all as f64 > 950.0 * LOOKED_AT.as_secs_f64(), "{all}");
    for (delivered, weight) in seen.delivered.iter().zip(weights) {
        let share = *delivered as f64 / all as f64;
        let expected = f64::from(weight) / 7.0;
        assert!(
            (share / expected - 1.0).abs() < 0.05,
            "{:?}",
            seen.delivered
        );
    }
}

/// Two pipelines of one tenant, with the smallest burst there is: what is lost between
/// two looks or taken twice would be missing, or too much.
#[test]
fn a_tenants_rate_is_exact() {
    hush();
    const RATE: f64 = 237.0;
    let loads = [Load::Flood; 2];
    let seen = run::on_a_paused_clock(23, share(&[1], &loads, Some(RATE)));
    let all: usize = seen.delivered.iter().sum();
    let rate = all as f64 / LOOKED_AT.as_secs_f64();
    println!(
        "{:?} of {all} rows: {rate:.1} rows/s of {RATE}",
        seen.delivered
    );
    assert!((rate / RATE - 1.0).abs() < 0.01, "{rate}");
    let half = seen.delivered[0] as f64 / all as f64;
    assert!((half - 0.5).abs() < 0.05, "{half}");
}
