//! Tenants that share a shard, in simulated time: the queue, its turns and the budget
//! of one writer, against a shard that answers after 10 to 20 ms.

use std::collections::BTreeMap;

use super::*;

/// A tenant's load.
#[derive(Clone, Copy)]
struct Load {
    weight: u32,
    /// Rows a second; `None`: there are always 2,000 more.
    rate: Option<f64>,
    bytes: u64,
}

/// What came of a tenant.
#[derive(Default)]
struct Outcome {
    /// From push to confirmation, in milliseconds, sorted.
    latencies: Vec<u64>,
    rows: usize,
    bytes: u64,
}

impl Outcome {
    fn percentile(&self, percent: usize) -> u64 {
        self.latencies[(self.latencies.len() - 1) * percent / 100]
    }
}

/// Takes the whole rows out of what is due.
fn whole_of(due: &mut f64) -> usize {
    let mut rows = 0;
    while *due >= 1.0 {
        *due -= 1.0;
        rows += 1;
    }
    rows
}

/// Lets tenants share a shard for so many seconds.
fn share(loads: &[Load], seconds: u64, seed: u64) -> Vec<Outcome> {
    let mut random = fastrand::Rng::with_seed(seed);
    let budget = ShardBudget::new(ShardLimits::default(), Moment::ORIGIN);
    let mut writer: Dispatch<Row> =
        Dispatch::new("s".into(), Arc::new(Mutex::new(budget)), Moment::ORIGIN);
    let flows: Vec<Flow> = loads
        .iter()
        .zip(1..)
        .map(|(load, id)| Flow {
            id,
            tenant: format!("t{id}").into(),
            shares: Arc::new(Shares::new(load.weight, 1, 500)),
            packing: None,
        })
        .collect();
    let mut outcomes: Vec<Outcome> = loads.iter().map(|_| Outcome::default()).collect();
    // Every row has a key of its own, which tells when it was pushed.
    let mut pushed: BTreeMap<(FlowId, u128), u64> = BTreeMap::new();
    let mut waiting = vec![0_usize; loads.len()];
    let mut due = vec![0.0_f64; loads.len()];
    let mut next_key = 0;
    let mut answers_at: Option<u64> = None;
    for millis in 0..seconds * 1000 {
        let now = at(millis);
        for (place, load) in loads.iter().enumerate() {
            let rows = match load.rate {
                None => 2_000 - waiting[place].min(2_000),
                Some(rate) => {
                    // At random moments, as publishers are.
                    due[place] += rate / 1000.0 * 2.0 * random.f64();
                    whole_of(&mut due[place])
                }
            };
            for _ in 0..rows {
                next_key += 1;
                pushed.insert((flows[place].id, next_key), millis);
                writer.push(&flows[place], Row(next_key, load.bytes));
                waiting[place] += 1;
            }
        }
        if answers_at.is_some_and(|at| at <= millis) {
            answers_at = None;
            let outcomes_of_call = vec![stored(); writer.in_flight().len()];
            let answer = writer.answered(Ok(outcomes_of_call), now, 0.5);
            for stored in answer.stored {
                let flow = stored.parcel.flow;
                let place = usize::try_from(flow).unwrap() - 1;
                waiting[place] -= 1;
                for row in stored.parcel.into_rows() {
                    let since = pushed.remove(&(flow, row.0)).expect("pushed once");
                    outcomes[place].latencies.push(millis - since);
                    outcomes[place].rows += 1;
                    outcomes[place].bytes += row.1;
                }
            }
        }
        match writer.next(now) {
            Next::Call => answers_at = Some(millis + random.u64(10..=20)),
            Next::Wait(..) | Next::Nothing => {}
        }
        assert_eq!(writer.take_violations().len(), 0);
    }
    for outcome in &mut outcomes {
        outcome.latencies.sort_unstable();
    }
    outcomes
}

const SMALL: Load = Load {
    weight: 1,
    rate: Some(5.0),
    bytes: 300,
};

/// The worst p99 of nine small tenants, alone and beside a flood.
fn nine_beside_a_flood(flood: Load, seed: u64) -> (u64, u64, f64) {
    let nine = vec![SMALL; 9];
    let p99 = |outcomes: &[Outcome]| {
        let mut all: Vec<u64> = outcomes
            .iter()
            .flat_map(|outcome| outcome.latencies.iter().copied())
            .collect();
        all.sort_unstable();
        all[(all.len() - 1) * 99 / 100]
    };
    let alone = share(&nine, 60, seed);
    let mut with_flood = nine.clone();
    with_flood.push(flood);
    let beside = share(&with_flood, 60, seed);
    let used = beside
        .iter()
        .map(|outcome| (outcome.rows as f64 / 60_000.0).max(outcome.bytes as f64 / 62_914_560.0))
        .sum();
    (p99(&alone), p99(&beside[..9]), used)
}

/// P-FAIR: nobody waits behind a flood for longer than for a call in flight and the
/// budget of the next one.
#[test]
fn nine_small_tenants_are_as_fast_beside_a_flood() {
    for (bytes, seed) in [(200, 1), (2_000, 2), (30_000, 3)] {
        let flood = Load {
            weight: 1,
            rate: None,
            bytes,
        };
        let (alone, beside, used) = nine_beside_a_flood(flood, seed);
        eprintln!(
            "rows of {bytes} bytes: p99 {alone} ms alone, {beside} ms beside a flood, shard used to {used:.3}"
        );
        assert!(used > 0.94, "the shard is full: {used}");
        assert!(beside < alone * 2, "{alone} ms, then {beside} ms");
    }
}

#[test]
fn saturated_tenants_share_by_weight() {
    // By records, by bytes, and one by each.
    for bytes in [[200, 200, 200], [5_000, 5_000, 5_000], [100, 3_000, 20_000]] {
        let loads: Vec<Load> = bytes
            .iter()
            .zip([1, 2, 4])
            .map(|(bytes, weight)| Load {
                weight,
                rate: None,
                bytes: *bytes,
            })
            .collect();
        let outcomes = share(&loads, 60, 7);
        // A record takes a thousandth of the shard, however small it is.
        let cost =
            |outcome: &Outcome, bytes: u64| outcome.rows as f64 * (bytes as f64).max(1_048.0);
        let costs: Vec<f64> = outcomes
            .iter()
            .zip(bytes)
            .map(|(outcome, bytes)| cost(outcome, bytes))
            .collect();
        let all: f64 = costs.iter().sum();
        for (cost, weight) in costs.iter().zip([1.0, 2.0, 4.0]) {
            let share = cost / all;
            let expected = weight / 7.0;
            eprintln!("{bytes:?}: {share:.4}, by weight {expected:.4}");
            assert!((share / expected - 1.0).abs() < 0.05, "{bytes:?} {costs:?}");
        }
    }
}

/// A flood that begins after a rest spends what it has saved; a second later whoever
/// sends little must not stand behind what was saved meanwhile.
#[test]
fn a_burst_is_no_burst_each_second() {
    let flood = Load {
        weight: 1,
        rate: None,
        bytes: 200,
    };
    let mut loads = vec![SMALL; 9];
    loads.push(flood);
    let outcomes = share(&loads, 20, 11);
    for outcome in &outcomes[..9] {
        let slowest = outcome.percentile(100);
        assert!(slowest < 300, "{slowest} ms");
        let p99 = outcome.percentile(99);
        assert!(p99 < 60, "{p99} ms");
    }
}
