//! Running seeds: one, a fixed few hundred, or as many as are asked for.

use std::cell::Cell;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::plan::Plan;
use crate::run::{Outcome, run};

/// Seeds of every test run.
const FEW: u64 = 240;

/// Seeds of each plan that is about one thing.
const FEW_OF_ONE_THING: u64 = 20;

/// Threads that run seeds: each run has one.
const THREADS: usize = 2;

pub(crate) fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

thread_local! {
    static UNPLANNED: Cell<u64> = const { Cell::new(0) };
}

/// Panics since this was asked last that no plan asked for.
pub(crate) fn unplanned_panics() -> u64 {
    UNPLANNED.take()
}

/// Panics of actors are part of the plan; what else panics is shown.
pub(crate) fn hush() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let shown = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let text = info.payload().downcast_ref::<String>();
            if !text.is_some_and(|text| text.starts_with("a test asked for")) {
                UNPLANNED.set(UNPLANNED.get() + 1);
                shown(info);
            }
        }));
    });
}

pub(crate) fn report(outcome: &Outcome) -> String {
    let seed = outcome.plan.seed;
    let found: Vec<String> = outcome
        .violations
        .iter()
        .take(5)
        .map(|(invariant, text)| format!("  {}: {text}", invariant.id()))
        .collect();
    format!(
        "seed {seed} violates {} invariants (SEED={seed} replays it):\n{}\n",
        outcome.violations.len(),
        found.join("\n"),
    )
}

#[derive(Default)]
struct Total {
    failed: Vec<String>,
    rows: usize,
    repeats: usize,
    calls: u64,
    simulated: Duration,
}

/// How a plan is made of a seed: `PLAN` names those that are about one thing.
fn kind_of_plan() -> fn(u64) -> Plan {
    match std::env::var("PLAN").as_deref() {
        Err(_) => Plan::of,
        Ok("coordinated_apart") => Plan::coordinated_apart,
        Ok("dies_while_saving") => Plan::dies_while_saving,
        Ok("fails_again") => Plan::fails_again,
        Ok("busy_key") => Plan::busy_key,
        Ok("handed_over") => Plan::handed_over,
        Ok("clustered") => Plan::clustered,
        Ok("replayed") => Plan::replayed,
        Ok("many_letters") => Plan::many_letters,
        Ok("shared_shard") => Plan::shared_shard,
        Ok(other) => {
            panic!("PLAN is {other}; expected one of tests/simulation/plan/own.rs")
        }
    }
}

/// Runs seeds on some threads and answers what failed.
fn run_seeds(plan_of: fn(u64) -> Plan, first: u64, count: u64) -> Total {
    hush();
    let next = AtomicU64::new(first);
    let total = Mutex::new(Total::default());
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        break;
                    }
                    let outcome = run(plan_of(seed), false);
                    let mut total = total.lock().expect("no thread panics");
                    total.rows += outcome.rows;
                    total.repeats += outcome.repeats;
                    total.calls += outcome.calls;
                    total.simulated += outcome.simulated;
                    if !outcome.violations.is_empty() {
                        let text = report(&outcome);
                        eprint!("{text}");
                        total.failed.push(text);
                    }
                }
            });
        }
    });
    let total = total.into_inner().expect("no thread panics");
    let took = began.elapsed().as_secs_f64();
    println!(
        "{count} seeds from {first} in {took:.1} s ({:.1} seeds/s): {} rows, {} repeats, {} calls, {:.1} h simulated, {} failed",
        count as f64 / took,
        total.rows,
        total.repeats,
        total.calls,
        total.simulated.as_secs_f64() / 3600.0,
        total.failed.len(),
    );
    total
}

#[test]
fn one_seed() {
    hush();
    let seed = number("SEED").unwrap_or(1);
    let outcome = run(kind_of_plan()(seed), true);
    println!("{:#?}\n{}", outcome.plan, outcome.text);
    println!("trace {:016x}, {} events", outcome.trace, outcome.events);
    assert!(outcome.violations.is_empty(), "{}", report(&outcome));
}

#[test]
fn a_few_hundred_seeds() {
    let total = run_seeds(Plan::of, 1, FEW);
    assert!(total.failed.is_empty(), "{}", total.failed.concat());
}

#[test]
fn plans_about_one_thing() {
    for plan_of in [
        Plan::busy_key as fn(u64) -> Plan,
        Plan::clustered,
        Plan::coordinated_apart,
        Plan::dies_while_saving,
        Plan::fails_again,
        Plan::handed_over,
        Plan::replayed,
        Plan::many_letters,
        Plan::shared_shard,
    ] {
        let total = run_seeds(plan_of, 1, FEW_OF_ONE_THING);
        assert!(total.failed.is_empty(), "{}", total.failed.concat());
    }
}

#[test]
#[ignore = "as many as SEEDS says: make sim"]
fn many_seeds() {
    let total = run_seeds(
        kind_of_plan(),
        number("FIRST").unwrap_or(1),
        number("SEEDS").unwrap_or(1000),
    );
    assert!(
        total.failed.is_empty(),
        "{} seeds failed",
        total.failed.len()
    );
}

#[test]
fn the_same_seed_is_the_same_run() {
    hush();
    for seed in 1..=12 {
        let (first, second) = (run(Plan::of(seed), false), run(Plan::of(seed), false));
        assert!(first.events > 20, "seed {seed} does nothing");
        assert_eq!(first.trace, second.trace, "seed {seed}");
    }
}
