use super::*;

#[derive(Debug)]
struct Row(u128, u64);

impl Sendable for Row {
    fn hash(&self) -> u128 {
        self.0
    }

    fn weight(&self) -> usize {
        usize::try_from(self.1).unwrap()
    }
}

fn writer(keys: u128) -> Dispatch<Row> {
    let unlimited = ShardLimits {
        records_per_second: 1e9,
        bytes_per_second: 1e12,
        fraction: 1.0,
    };
    let budget = ShardBudget::new(unlimited, Moment::ORIGIN);
    let mut writer = Dispatch::new(Arc::new(Mutex::new(budget)), Moment::ORIGIN);
    let flow = Flow {
        id: 1,
        tenant: "t".into(),
        tenant_weight: 1,
        weight: 1,
        batch_size: 500,
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
    writer.in_flight().iter().map(|taken| taken.row.0).collect()
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
fn an_unknown_outcome_sends_the_same_records_first_after_a_pause() {
    let mut writer = writer(2);
    assert_eq!(writer.next(at(10)), Next::Call);
    let failure = CallFailure::Unknown {
        reason: "time-out".into(),
    };
    let answer = writer.answered(Err(failure), at(20), 1.0);
    assert_eq!(answer.unknown, 2);
    assert_eq!(writer.next(at(21)), Next::Wait(at(70)));
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
        tenant_weight: 1,
        weight: 1,
        batch_size: 500,
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
        let weights = writer.in_flight().iter().map(|taken| taken.row.1);
        let bytes: u64 = weights.sum();
        assert!(bytes <= CALL_LIMIT.bytes, "{bytes} bytes in a call");
        largest = largest.max(bytes);
        let all = writer.in_flight().iter().map(|_| stored()).collect();
        writer.answered(Ok(all), at(now * 60_000), 0.0);
    }
    assert_eq!(writer.queued(), 0);
    assert!(largest >= 2 * weight, "two large records fit");
}

#[test]
fn the_record_that_spoils_its_calls_is_found() {
    let mut writer = writer(300);
    let mut now = 10;
    let rejected = loop {
        now += 100;
        assert_eq!(writer.next(at(now)), Next::Call);
        let is_bad = keys(&writer).contains(&77);
        let outcome = if is_bad {
            let (code, message) = ("InvalidArgumentException".to_owned(), "no".to_owned());
            Err(CallFailure::BadRecord { code, message })
        } else {
            Ok(keys(&writer).iter().map(|_| stored()).collect())
        };
        if let Some(rejected) = writer.answered(outcome, at(now), 0.0).rejected {
            break rejected;
        }
        assert!(now < 10_000, "never found");
    };
    assert_eq!(rejected.row.0, 77);
}
