use super::super::{Cost, Grant, ShardBudget, ShardLimits, Waiting};
use super::*;

fn at(millis: u64) -> Moment {
    Moment::from_origin(Duration::from_millis(millis))
}

fn part(ratio: f64) -> HeldShare {
    HeldShare {
        share: Ratios {
            records: ratio,
            bytes: ratio,
        },
        until: None,
        afterwards: Ratios::NONE,
        is_shared: true,
    }
}

fn budget(share: HeldShare) -> ShardBudget {
    let mut budget = ShardBudget::new(ShardLimits::default(), at(0));
    budget.hold(share, at(0));
    budget
}

/// Sends what the budgets allow, with a backlog at each node, from `from` to `to`;
/// answers the calls.
fn send(budgets: &mut [ShardBudget], each: u64, from: u64, to: u64) -> Vec<(Moment, Cost)> {
    let waiting = Waiting {
        all: Cost {
            records: 500,
            bytes: 500 * each,
        },
        next_bytes: each,
        record_bytes: each,
    };
    let mut calls = Vec::new();
    for now in (from..to).map(at) {
        for budget in &mut *budgets {
            let Grant::Now(most) = budget.grant(waiting, now) else {
                continue;
            };
            let records = most.records.min((most.bytes / each).max(1)).min(500);
            let cost = Cost {
                records,
                bytes: records * each,
            };
            let call = budget.charge(cost, now);
            budget.answered(call, now);
            calls.push((now, cost));
        }
    }
    calls
}

/// The most records of any second.
fn busiest_second(calls: &[(Moment, Cost)]) -> u64 {
    let ends = calls.iter().map(|(end, _)| {
        let within = calls
            .iter()
            .filter(|(at, _)| at <= end && end.since(*at) < WINDOW);
        within.map(|(_, cost)| cost.records).sum()
    });
    ends.max().unwrap_or(0)
}

fn records(calls: &[(Moment, Cost)]) -> u64 {
    calls.iter().map(|(_, cost)| cost.records).sum()
}

#[test]
fn nothing_is_sent_without_a_share() {
    let mut budgets = [budget(HeldShare::NONE)];
    assert_eq!(send(&mut budgets, 100, 0, 3_000), []);
}

#[test]
fn three_shares_are_one_shard() {
    let mut budgets = [part(0.5), part(0.3), part(0.2)].map(budget);
    let calls = send(&mut budgets, 100, 0, 11_000);
    let rate = records(&calls) as f64 / 11.0;
    assert!((960.0..981.0).contains(&rate), "{rate}");
    assert!(busiest_second(&calls) <= 1000);
}

#[test]
fn a_share_that_moves_is_offered_once() {
    let mut budgets = [part(1.0), part(0.0)].map(budget);
    let mut calls = send(&mut budgets, 100, 0, 3_000);
    let mut millis = 3_000;
    for share in [0.5, 0.2, 0.9, 0.1] {
        let now = at(millis);
        // Less first, as it is granted.
        let (first, other) = if budgets[0].held(now).records > share {
            (0, 1)
        } else {
            (1, 0)
        };
        let shares = [part(share), part(1.0 - share)];
        budgets[first].hold(shares[first], now);
        budgets[other].hold(shares[other], now);
        calls.extend(send(&mut budgets, 100, millis, millis + 2_000));
        millis += 2_000;
    }
    assert!(busiest_second(&calls) <= 1000, "{}", busiest_second(&calls));
    // Each move costs no more than a quarter of a second of what moves.
    assert!(
        records(&calls) >= 980 * 11 - 245 * 4 - 300,
        "{}",
        records(&calls)
    );
}

#[test]
fn a_full_bucket_is_not_offered_again_by_who_gets_the_share() {
    let mut budgets = [part(1.0), part(0.0)].map(budget);
    let mut calls = send(&mut budgets, 100, 0, 2_000);
    // A pause fills the bucket; it is emptied, and the share moves.
    calls.extend(send(&mut budgets, 100, 2_400, 2_401));
    budgets[0].hold(part(0.0), at(2_401));
    budgets[1].hold(part(1.0), at(2_401));
    calls.extend(send(&mut budgets, 100, 2_402, 5_000));
    assert!(busiest_second(&calls) <= 1000, "{}", busiest_second(&calls));
}

#[test]
fn a_share_ends_by_itself_and_what_is_kept_goes_on() {
    let share = HeldShare {
        until: Some(at(2_000)),
        afterwards: part(0.25).share,
        ..part(1.0)
    };
    let mut budgets = [budget(share)];
    send(&mut budgets, 100, 0, 2_000);
    let after = send(&mut budgets, 100, 3_000, 13_000);
    let rate = records(&after) as f64 / 10.0;
    assert!((235.0..255.0).contains(&rate), "{rate}");
}

#[test]
fn large_records_pass_a_small_share_at_its_rate() {
    let mut budgets = [budget(part(0.1))];
    let size = 1 << 20;
    let calls = send(&mut budgets, size, 0, 100_000);
    // A tenth of 0.98 MiB a second: one of 1 MiB every ten seconds.
    assert!((9..=11).contains(&calls.len()), "{}", calls.len());
}

#[test]
fn a_share_below_one_record_a_second_saves_up() {
    let mut budgets = [budget(part(0.0005))];
    let calls = send(&mut budgets, 100, 0, 21_000);
    assert!((9..=10).contains(&calls.len()), "{}", calls.len());
}

#[test]
fn a_beat_that_prolongs_a_share_changes_nothing_else() {
    let until = |millis| HeldShare {
        until: Some(at(millis)),
        ..part(0.5)
    };
    let mut budgets = [budget(until(2_000))];
    let mut calls = Vec::new();
    for second in 0..10 {
        budgets[0].hold(until(second * 1000 + 2_000), at(second * 1000));
        calls.extend(send(&mut budgets, 100, second * 1000, (second + 1) * 1000));
    }
    assert!(records(&calls) >= 4_900 - 130, "{}", records(&calls));
}
