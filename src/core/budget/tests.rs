use super::*;
use proptest::prelude::*;

fn at(millis: u64) -> Moment {
    Moment::from_origin(Duration::from_millis(millis))
}

fn waiting(records: u64, each: u64) -> Waiting {
    Waiting {
        all: Cost {
            records,
            bytes: records * each,
        },
        next_bytes: each,
        record_bytes: each,
    }
}

/// Sends whenever the budget allows for `seconds`, with a backlog of records
/// of `each` bytes; answers the calls made.
fn saturate(
    budget: &mut ShardBudget,
    each: u64,
    seconds: u64,
    trip: Duration,
) -> Vec<(Moment, Cost)> {
    let mut now = Moment::ORIGIN;
    let mut calls = Vec::new();
    while now < at(seconds * 1000) {
        match budget.grant(waiting(500, each), now) {
            Grant::At(later) => {
                assert!(later > now, "a wait must move on");
                now = later;
            }
            Grant::Now(most) => {
                let records = most.records.min((most.bytes / each).max(1)).min(500);
                let cost = Cost {
                    records,
                    bytes: records * each,
                };
                let call = budget.charge(cost, now);
                calls.push((now, cost));
                now = now + trip;
                budget.answered(call, now);
            }
        }
    }
    calls
}

#[test]
fn starts_empty_and_paces() {
    let mut budget = ShardBudget::new(ShardLimits::default(), at(0));
    assert!(matches!(budget.grant(waiting(1, 100), at(0)), Grant::At(_)));
    // One record needs a millisecond of records and one of bytes (1 KiB).
    assert!(matches!(
        budget.grant(waiting(1, 100), at(2)),
        Grant::Now(_)
    ));
    // A backlog waits until a call is worth its round trip.
    assert!(matches!(
        budget.grant(waiting(500, 100), at(3)),
        Grant::At(_)
    ));
    assert!(matches!(
        budget.grant(waiting(500, 100), at(31)),
        Grant::Now(_)
    ));
}

#[test]
fn a_backlog_gets_nearly_all_of_the_limit() {
    for (each, trip, least) in [
        (100, 5, 0.97),
        (2000, 15, 0.96),
        (30_000, 15, 0.96),
        (100, 50, 0.95),
        (100, 200, 0.8),
    ] {
        let mut budget = ShardBudget::new(ShardLimits::default(), at(0));
        let calls = saturate(&mut budget, each, 10, Duration::from_millis(trip));
        let records: u64 = calls.iter().map(|(_, cost)| cost.records).sum();
        let bytes: u64 = calls.iter().map(|(_, cost)| cost.charged_bytes()).sum();
        let used = (records as f64 / 10_000.0).max(bytes as f64 / 10_485_760.0);
        assert!(used > least, "{each} bytes, {trip} ms: used {used}");
    }
}

#[test]
fn a_record_larger_than_the_bucket_goes_and_is_paid_for_afterwards() {
    let mut budget = ShardBudget::new(ShardLimits::default(), at(0));
    let huge = waiting(2, 1_000_000);
    let Grant::At(first) = budget.grant(huge, at(0)) else {
        panic!("went from an empty bucket");
    };
    assert!(matches!(budget.grant(huge, first), Grant::Now(_)));
    budget.charge(
        Cost {
            records: 1,
            bytes: 1_000_000,
        },
        first,
    );
    let Grant::At(second) = budget.grant(huge, first) else {
        panic!("two at once");
    };
    assert!(second.since(first) >= Duration::from_millis(950));
}

#[test]
fn throttles_cut_the_rate_and_calm_restores_it() {
    let mut budget = ShardBudget::new(ShardLimits::default(), at(0));
    budget.refused(3, 100, at(1000));
    budget.refused(3, 100, at(1050));
    assert!(
        (budget.factor() - 0.96).abs() < 1e-9,
        "one cut for one burst"
    );
    for millis in (2000..40_000).step_by(200) {
        budget.refused(100, 100, at(millis));
    }
    assert!(
        budget.factor() < 0.05,
        "a dead shard is only probed: {}",
        budget.factor()
    );
    assert!(budget.factor() >= LOWEST_FACTOR);
    for millis in (40_000..80_000).step_by(100) {
        budget.grant(waiting(1, 1), at(millis));
    }
    assert!((budget.factor() - 1.0).abs() < 1e-9);
}

#[test]
fn a_late_call_and_the_next_stay_inside_one_second_of_the_service() {
    let mut budget = ShardBudget::new(ShardLimits::default(), at(0));
    let mut now = at(0);
    let mut arrivals: Vec<(Moment, u64)> = Vec::new();
    for call in 0..400 {
        loop {
            match budget.grant(waiting(500, 100), now) {
                Grant::At(later) => now = later,
                Grant::Now(most) => {
                    let records = most.records.min(most.bytes / 100).min(500);
                    let cost = Cost {
                        records,
                        bytes: records * 100,
                    };
                    let number = budget.charge(cost, now);
                    // Every tenth call is held up on its way there.
                    let there =
                        Duration::from_millis(if call % 10 == 9 { 400 } else { 5 + call % 90 });
                    arrivals.push((now + there, records));
                    now = now + there + Duration::from_millis(5);
                    budget.answered(number, now);
                    break;
                }
            }
        }
    }
    for (first, (start, _)) in arrivals.iter().enumerate() {
        let within = arrivals[first..]
            .iter()
            .take_while(|(at, _)| at.since(*start) < WINDOW);
        let records: u64 = within.map(|(_, records)| records).sum();
        assert!(records <= 1000, "{records} records arrived in a second");
    }
}

/// Two writers share a budget: the call of one that is held up on its way counts
/// for the second in which it arrived, though the other has called since.
#[test]
fn a_late_call_counts_late_beside_another_writer() {
    let limits = ShardLimits::default();
    let mut budget = ShardBudget::new(limits, at(0));
    let cost = Cost {
        records: 400,
        bytes: 400,
    };
    let usual = budget.charge(cost, at(1_000));
    budget.answered(usual, at(1_010));
    let slow = budget.charge(cost, at(3_000));
    let quick = budget.charge(cost, at(3_100));
    budget.answered(quick, at(3_110));
    budget.answered(slow, at(3_900));
    let (records, _) = budget.utilisation(at(4_500));
    assert!((records - 0.4).abs() < 1e-9, "{records} of the slow call");
}

proptest! {
    /// P-BUDGET: in any second at most the limits, and over any span at most
    /// rate x time + the bucket, whatever is asked for and when.
    #[test]
    fn never_more_than_the_budget(
        asks in prop::collection::vec((1u64..400, 1u64..600, 1u64..60_000), 1..300),
    ) {
        let limits = ShardLimits::default();
        let mut budget = ShardBudget::new(limits, at(0));
        let mut now = at(0);
        let mut calls: Vec<(Moment, Cost)> = Vec::new();
        for (pause, records, each) in asks {
            now = now + Duration::from_micros(pause * 250);
            if let Grant::Now(most) = budget.grant(waiting(records, each), now) {
                let sent = records.min(most.records).min((most.bytes / each).max(1));
                let cost = Cost { records: sent, bytes: sent * each };
                budget.charge(cost, now);
                calls.push((now, cost));
            }
        }
        for (first, (start, _)) in calls.iter().enumerate() {
            let (mut records, mut bytes) = (0.0, 0.0);
            for (moment, cost) in &calls[first..] {
                records += cost.records as f64;
                bytes += cost.charged_bytes() as f64;
                let span = moment.since(*start);
                let reach = (span + DEPTH).as_secs_f64() * limits.fraction;
                prop_assert!(records <= limits.records_per_second * reach + 1.0);
                // The last record may overdraw the bucket by its own size.
                prop_assert!(bytes <= limits.bytes_per_second * reach + 60_000.0 + 1024.0);
                if span < WINDOW {
                    prop_assert!(records <= limits.records_per_second);
                    prop_assert!(bytes <= limits.bytes_per_second);
                }
            }
        }
    }
}

#[test]
fn a_changed_limit_holds_from_then_on() {
    let mut budget = ShardBudget::new(ShardLimits::default(), Moment::ORIGIN);
    let calls = saturate(&mut budget, 100, 3, Duration::ZERO);
    let (last, _) = *calls.last().expect("calls");
    let lower = ShardLimits {
        records_per_second: 100.0,
        ..ShardLimits::default()
    };
    budget.change(lower, last);
    // More than the new limit was offered in the second before: nothing goes until
    // that is over.
    let Grant::At(later) = budget.grant(waiting(500, 100), last) else {
        panic!("the window is full");
    };
    assert!(later > last);
    let mut now = last;
    let mut sent = Vec::new();
    while now < last + Duration::from_secs(11) {
        match budget.grant(waiting(500, 100), now) {
            Grant::At(at) => now = at,
            Grant::Now(most) => {
                let cost = Cost {
                    records: most.records,
                    bytes: most.records * 100,
                };
                budget.charge(cost, now);
                sent.push((now, most.records));
            }
        }
    }
    assert!(
        sent[0].0 > last + Duration::from_millis(800),
        "{:?}",
        sent[0]
    );
    for (place, (at, _)) in sent.iter().enumerate() {
        let within = sent[..=place].iter().rev();
        let within = within.take_while(|(earlier, _)| at.since(*earlier) < WINDOW);
        let records: u64 = within.map(|(_, records)| records).sum();
        assert!(records <= 100, "{records} within a second");
    }
    let all: u64 = sent.iter().map(|(_, records)| records).sum();
    assert!((900..=1_060).contains(&all), "{all}");
}
