mod fairness;
mod packing;

use super::*;
use crate::core::send_queue::Shares;

#[derive(Debug)]
struct Row(u128, u64);

impl Sendable for Row {
    fn hash(&self) -> u128 {
        self.0
    }

    fn weight(&self) -> usize {
        usize::try_from(self.1).unwrap()
    }

    fn key_bytes(&self) -> usize {
        1
    }

    fn is_of_key_of(&self, _: &Self) -> bool {
        true
    }

    fn doubt(&mut self) {}

    fn is_in_doubt(&self) -> bool {
        false
    }
}

fn writer(keys: u128) -> Dispatch<Row> {
    let unlimited = ShardLimits {
        records_per_second: 1e9,
        bytes_per_second: 1e12,
        fraction: 1.0,
    };
    let budget = ShardBudget::new(unlimited, Moment::ORIGIN);
    let mut writer = Dispatch::new("s".into(), Arc::new(Mutex::new(budget)), Moment::ORIGIN);
    let flow = Flow {
        id: 1,
        tenant: "t".into(),
        shares: Arc::new(Shares::new(1, 1, 500)),
        packing: None,
    };
    for key in 0..keys {
        writer.push(&flow, Row(key, 100));
        writer.push(&flow, Row(key, 100));
    }
    writer
}

fn at(millis: u64) -> Moment {
    Moment::from_origin(Duration::from_millis(millis))
}

fn keys(writer: &Dispatch<Row>) -> Vec<u128> {
    writer
        .in_flight()
        .iter()
        .map(|taken| taken.first().0)
        .collect()
}

fn stored() -> RecordOutcome {
    RecordOutcome::Stored {
        shard: "s".into(),
        sequence: "1".into(),
    }
}

#[test]
fn one_call_in_flight_and_only_failed_records_again() {
    let mut writer = writer(4);
    assert_eq!(writer.next(at(10)), Next::Call);
    assert_eq!(keys(&writer), [0, 1, 2, 3]);
    assert_eq!(writer.next(at(11)), Next::Nothing);
    let failed = RecordOutcome::Failed {
        code: "InternalFailure".into(),
        message: String::new(),
    };
    let answer = writer.answered(
        Ok(vec![stored(), RecordOutcome::Throttled, stored(), failed]),
        at(12),
        0.5,
    );
    assert_eq!(
        (answer.stored.len(), answer.throttled, answer.failed),
        (2, 1, 1)
    );
    assert_eq!(writer.next(at(13)), Next::Call);
    assert_eq!(keys(&writer), [1, 3, 0, 2], "the failed ones first");
}

#[test]
fn rows_behind_their_own_key_are_told_from_rows_behind_the_budget() {
    let mut writer = writer(2);
    assert!(!writer.is_key_limited(), "nothing is in flight");
    assert_eq!(writer.next(at(10)), Next::Call);
    assert!(writer.is_key_limited(), "of each key one row is left");
    let other = Flow {
        id: 2,
        tenant: "t".into(),
        shares: Arc::new(Shares::new(1, 1, 500)),
        packing: None,
    };
    writer.push(&other, Row(7, 100));
    assert!(!writer.is_key_limited(), "another key could go");
}

#[test]
fn an_unknown_outcome_sends_the_same_records_first_after_a_pause() {
    let mut writer = writer(2);
    assert_eq!(writer.next(at(10)), Next::Call);
    let failure = CallFailure::Unknown {
        reason: "time-out".into(),
    };
    let answer = writer.answered(Err(failure), at(20), 1.0);
    assert_eq!(answer.unknown, 2);
    assert_eq!(writer.next(at(21)), Next::Wait(at(70), Delay::Shard));
    assert_eq!(writer.next(at(70)), Next::Call);
    assert_eq!(keys(&writer), [0, 1]);
}

#[test]
fn an_answer_of_the_wrong_length_is_an_unknown_outcome() {
    let mut writer = writer(2);
    assert_eq!(writer.next(at(10)), Next::Call);
    let answer = writer.answered(Ok(vec![stored()]), at(20), 0.0);
    assert_eq!((answer.stored.len(), answer.unknown), (0, 2));
}

#[test]
fn a_call_stays_within_its_bytes() {
    let mut writer = writer(500);
    let weight = CALL_LIMIT.bytes / 3 + 1;
    let flow = Flow {
        id: 2,
        tenant: "large".into(),
        shares: Arc::new(Shares::new(1, 1, 500)),
        packing: None,
    };
    for key in 1000..1010 {
        writer.push(&flow, Row(key, weight));
    }
    let mut largest = 0;
    for now in 1..40 {
        let call = writer.next(at(now * 60_000));
        if call != Next::Call {
            continue;
        }
        let weights = writer.in_flight().iter().map(|taken| taken.first().1);
        let bytes: u64 = weights.sum();
        assert!(bytes <= CALL_LIMIT.bytes, "{bytes} bytes in a call");
        largest = largest.max(bytes);
        let all = writer.in_flight().iter().map(|_| stored()).collect();
        writer.answered(Ok(all), at(now * 60_000), 0.0);
    }
    assert_eq!(writer.queued(), 0);
    assert!(largest >= 2 * weight, "two large records fit");
}

/// Drives a writer of 300 keys with two rows each against a service that refuses
/// every call with one of the bad keys' first rows; answers the order in which
/// rows were stored and rejected, and in how many calls.
fn drive(
    bad: &[u128],
    mut given_up: impl FnMut(&mut Dispatch<Row>, u128),
) -> (Vec<u128>, Vec<u128>, usize) {
    let mut writer = writer(300);
    let (mut accepted, mut refused, mut calls) = (Vec::new(), Vec::new(), 0);
    while writer.next(at(10_000 + 100 * calls as u64)) == Next::Call {
        calls += 1;
        assert!(calls < 100, "no end: {refused:?}");
        let sent = keys(&writer);
        let spoilt = |key: &u128| bad.contains(key) && !refused.contains(key);
        let outcome = if sent.iter().any(spoilt) {
            let (code, message) = ("InvalidArgumentException".to_owned(), "no".to_owned());
            Err(CallFailure::BadRecord { code, message })
        } else {
            Ok(sent.iter().map(|_| stored()).collect())
        };
        let answer = writer.answered(outcome, at(10_000 + 100 * calls as u64), 0.0);
        accepted.extend(answer.stored.iter().map(|stored| stored.parcel.first().0));
        if let Some(rejected) = answer.rejected {
            refused.push(rejected.row.0);
            given_up(&mut writer, rejected.row.0);
        }
    }
    (accepted, refused, calls)
}

#[test]
fn the_records_that_spoil_their_calls_are_found_and_passed_over() {
    for bad in [vec![77], vec![0, 299], vec![12, 13, 14], vec![299, 150, 3]] {
        let (accepted, mut refused, calls) = drive(&bad, |writer, key| writer.pass_over(1, key));
        refused.sort_unstable();
        let mut expected = bad.clone();
        expected.sort_unstable();
        assert_eq!(refused, expected);
        assert_eq!(
            accepted.len(),
            600 - bad.len(),
            "the next row of each key goes"
        );
        assert!(calls <= 20 * bad.len() + 4, "{calls} calls for {bad:?}");
    }
}

#[test]
fn what_waits_behind_a_rejected_row_is_taken_out_on_demand() {
    let mut taken = Vec::new();
    let (accepted, refused, _) = drive(&[77, 200], |writer, key| {
        taken.extend(writer.take_key(1, key).iter().map(|row| row.0));
    });
    taken.sort_unstable();
    assert_eq!((refused.len(), taken), (2, vec![77, 200]));
    assert!(!accepted.contains(&77) && !accepted.contains(&200));
    assert_eq!(accepted.len(), 2 * 298);
}

#[test]
fn calls_are_full_again_after_a_search() {
    let mut writer = writer(500);
    let refuse = |code: &str| CallFailure::BadRecord {
        code: code.to_owned(),
        message: String::new(),
    };
    assert_eq!(writer.next(at(10_000)), Next::Call);
    let mut now = 10_000;
    while keys(&writer).len() > 1 {
        writer.answered(Err(refuse("ValidationException")), at(now), 0.0);
        now += 1000;
        assert_eq!(writer.next(at(now)), Next::Call);
    }
    let rejected = writer
        .answered(Err(refuse("ValidationException")), at(now), 0.0)
        .rejected;
    writer.pass_over(1, rejected.expect("alone").row.0);
    assert_eq!(writer.next(at(now + 1000)), Next::Call);
    assert_eq!(keys(&writer).len(), 500);
}

#[test]
fn writers_that_share_a_budget_never_spend_it_twice_at_once() {
    let limits = ShardLimits {
        records_per_second: 1000.0,
        bytes_per_second: 1e9,
        fraction: 1.0,
    };
    let budget = Arc::new(Mutex::new(ShardBudget::new(limits, Moment::ORIGIN)));
    let barrier = std::sync::Barrier::new(4);
    let found = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let mut writer = writer(1_000);
                writer.budget = Arc::clone(&budget);
                scope.spawn(|| {
                    let mut writer = writer;
                    let mut found = Vec::new();
                    for turn in 1..400 {
                        barrier.wait();
                        // A call's worth of tokens is there each time, for one of them.
                        let now = at(turn * 50);
                        if writer.next(now) == Next::Call {
                            let sent = std::mem::take(&mut writer.in_flight);
                            writer.give_back(sent);
                        }
                        found.extend(writer.take_violations());
                    }
                    found
                })
            })
            .collect();
        let results = threads.into_iter().map(|thread| thread.join());
        results.flat_map(|found| found.expect("no panic")).count()
    });
    assert_eq!(
        found, 0,
        "more was offered in a second than the shard takes"
    );
}

#[test]
fn a_service_that_refuses_everything_costs_few_records() {
    let mut writer = writer(500);
    let (mut refused, mut calls, mut now) = (0, 0, 10_000);
    while now < 3_600_000 && writer.queued() > 0 {
        match writer.next(at(now)) {
            Next::Call => {}
            Next::Wait(until, _) => {
                now = u64::try_from(until.since(Moment::ORIGIN).as_millis()).unwrap() + 1;
                continue;
            }
            Next::Nothing => break,
        }
        calls += 1;
        let (code, message) = ("InvalidArgumentException".to_owned(), "no".to_owned());
        let outcome = Err(CallFailure::BadRecord { code, message });
        if let Some(rejected) = writer.answered(outcome, at(now), 0.5).rejected {
            refused += 1;
            writer.pass_over(1, rejected.row.0);
        }
    }
    assert!(refused <= MOST_UNWITNESSED, "{refused} rows given up");
    assert!(calls < 400, "{calls} calls in an hour");
    // Once anything is stored, records can be blamed again.
    now += 60_000;
    assert_eq!(writer.next(at(now)), Next::Call);
    let all = writer.in_flight().iter().map(|_| stored()).collect();
    writer.answered(Ok(all), at(now), 0.5);
    let mut found = None;
    while found.is_none() {
        now += 60_000;
        assert_eq!(writer.next(at(now)), Next::Call);
        let (code, message) = ("InvalidArgumentException".to_owned(), "no".to_owned());
        let outcome = Err(CallFailure::BadRecord { code, message });
        found = writer.answered(outcome, at(now), 0.5).rejected;
    }
}

#[test]
fn good_records_are_found_among_many_bad_ones() {
    let mut writer = writer(200);
    let is_good = |key: u128| key >= 150;
    let (mut accepted, mut refused, mut now) = (0, 0, 10_000);
    while accepted < 100 {
        assert!(now < 6 * 3_600_000, "{accepted} stored, {refused} given up");
        match writer.next(at(now)) {
            Next::Call => {}
            Next::Wait(until, _) => {
                now = u64::try_from(until.since(Moment::ORIGIN).as_millis()).unwrap() + 1;
                continue;
            }
            Next::Nothing => break,
        }
        let outcome = if keys(&writer).into_iter().all(is_good) {
            Ok(writer.in_flight().iter().map(|_| stored()).collect())
        } else {
            let (code, message) = ("InvalidArgumentException".to_owned(), "no".to_owned());
            Err(CallFailure::BadRecord { code, message })
        };
        let answer = writer.answered(outcome, at(now), 0.5);
        accepted += answer.stored.len();
        if let Some(rejected) = answer.rejected {
            assert!(!is_good(rejected.row.0), "a good record is blamed");
            refused += 1;
            writer.pass_over(1, rejected.row.0);
        }
    }
    assert_eq!(accepted, 100, "all good records are stored");
    assert_eq!(writer.queued() + refused + accepted, 400, "none is lost");
}

/// Of another pipeline, whose rows are late, while rows that are not late are in flight.
#[test]
fn a_row_that_failed_does_not_wait_for_company() {
    let mut writer = writer(0);
    let flow = |id| Flow {
        id,
        tenant: "t".into(),
        shares: Arc::new(Shares::new(1, 1, 500)),
        packing: None,
    };
    writer.may_wait(Duration::ZERO);
    writer.push(&flow(1), Row(0, 100));
    writer.push(&flow(1), Row(1, 100));
    assert_eq!(writer.next(at(10_000)), Next::Call);
    writer.may_wait(Duration::from_millis(200));
    writer.push(&flow(2), Row(7, 100));
    let failed = RecordOutcome::Failed {
        code: "InternalFailure".to_owned(),
        message: String::new(),
    };
    writer.answered(Ok(vec![stored(), failed]), at(10_010), 0.5);
    assert_eq!(writer.next(at(10_011)), Next::Call);
    assert!(keys(&writer).contains(&1));
}

#[test]
fn waiting_for_company_is_told_from_waiting_for_the_shard() {
    let mut writer = writer(1);
    writer.may_wait(Duration::from_millis(200));
    assert_eq!(writer.next(at(10_000)), Next::Call);
    writer.answered(Ok(vec![stored()]), at(10_005), 0.5);
    assert_eq!(writer.next(at(10_006)), Next::Call, "left behind by a call");
    writer.answered(Ok(vec![stored()]), at(10_010), 0.5);
    let flow = Flow {
        id: 2,
        tenant: "t".into(),
        shares: Arc::new(Shares::new(1, 1, 500)),
        packing: None,
    };
    writer.may_wait(Duration::from_millis(200));
    writer.push(&flow, Row(7, 100));
    let next = writer.next(at(10_011));
    assert_eq!(next, Next::Wait(at(10_206), Delay::Company));
    assert_eq!(writer.next(at(10_206)), Next::Call);
}
