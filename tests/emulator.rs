//! The emulator itself: what the other tests and the demo rest on. Above all that
//! nothing it acknowledged hides from a reader, which it does unmodified.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test says what it expects"
)]
#![cfg(feature = "demo")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tidegate::core::ports::{CallFailure, PutRecord, RecordOutcome, StreamService};
use tidegate::core::shard_map::{ShardId, ShardMap, hash_key};
use tidegate::demo::consumer::{Arrived, StreamConsumer};
use tidegate::demo::delivered::Delivered;
use tidegate::demo::emulator::{Emulator, EmulatorOptions};
use tidegate::demo::faults::{Applied, CallFault, Often, Operation, Refused};
use tidegate::demo::verdict::{Committed, judge};
use tidegate::kinesis::client::{ClientPool, KinesisTimeouts};
use tidegate::kinesis::stream::{KinesisStream, StreamTarget};
use tokio::time::Instant;

const STREAM: &str = "orders";
const POLL: Duration = Duration::from_millis(10);
const QUIET: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(60);

fn start(enforce_limits: bool) -> Emulator {
    Emulator::start(&EmulatorOptions {
        enforce_limits,
        ..EmulatorOptions::default()
    })
    .expect("a free port")
}

fn stream(emulator: &Emulator) -> KinesisStream {
    let pool = ClientPool::new(KinesisTimeouts::default());
    KinesisStream::new(
        pool,
        emulator.client_spec(),
        StreamTarget::Name(STREAM.to_owned()),
    )
}

async fn consumer(emulator: &Emulator) -> StreamConsumer {
    StreamConsumer::start(emulator.client().await.expect("a client"), STREAM, POLL)
}

fn body(key: &str, id: i64) -> Bytes {
    let body = json!({
        "id": id, "seq": format!("{id:034}"), "event_id": format!("event-{id}"), "outbox": "events",
        "key": key, "created_at": "2026-01-01T00:00:00Z", "headers": {}, "payload": { "n": id },
    });
    Bytes::from(body.to_string())
}

fn record(key: &str, id: i64) -> PutRecord {
    PutRecord {
        key: key.into(),
        explicit_hash_key: None,
        data: body(key, id),
    }
}

fn delivered(arrived: &[Arrived]) -> Vec<Delivered> {
    arrived
        .iter()
        .map(|arrived| Delivered::parse(arrived).expect("a native body"))
        .collect()
}

/// Sends a record until it is stored.
async fn put_until_stored(stream: &KinesisStream, record: &PutRecord) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = stream.put(vec![record.clone()]).await;
        if matches!(answer.as_deref(), Ok([RecordOutcome::Stored { .. }])) {
            return;
        }
        assert!(Instant::now() < deadline, "{answer:?}");
    }
}

/// Four writers on one shard while two readers tail it: each writer owns a key, and
/// each reader gets every acknowledged record, each key in its order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_is_read_by_all_who_tail() {
    const CALLS: i64 = 60;
    const PER_CALL: i64 = 50;
    let emulator = start(false);
    emulator.create_stream(STREAM, 1).await.expect("a stream");
    let readers = [consumer(&emulator).await, consumer(&emulator).await];
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..4_i64 {
        let stream = stream(&emulator);
        writers.spawn(async move {
            let key = format!("key-{writer}");
            for call in 0..CALLS {
                let first = writer * 1_000_000 + call * PER_CALL;
                let records = (first..first + PER_CALL)
                    .map(|id| record(&key, id))
                    .collect();
                let outcomes = stream.put(records).await.expect("an answer");
                let stored =
                    |outcome: &RecordOutcome| matches!(outcome, RecordOutcome::Stored { .. });
                assert!(outcomes.iter().all(stored), "{outcomes:?}");
            }
        });
    }
    while let Some(written) = writers.join_next().await {
        written.expect("a writer that ended well");
    }
    let committed: Vec<Committed> = (0..4_i64)
        .flat_map(|writer| {
            (0..CALLS * PER_CALL).map(move |place| Committed {
                outbox: "events".into(),
                id: writer * 1_000_000 + place,
                key: Some(format!("key-{writer}").into()),
                order: u64::try_from(place).ok(),
            })
        })
        .collect();
    for reader in readers {
        let expected = committed.len() as u64;
        assert!(
            reader.wait_until_quiet(expected, QUIET, PATIENCE).await,
            "{} of {expected}",
            reader.received()
        );
        let ranges = reader.ranges();
        let verdict = judge(&committed, &delivered(&reader.stop().await), &ranges);
        assert!(verdict.is_clean(), "{verdict:?}");
        assert_eq!((verdict.delivered, verdict.duplicates), (expected, 0));
    }
}

#[tokio::test]
async fn a_refused_shard_keeps_nobody_else_waiting() {
    let emulator = start(false);
    emulator.create_stream(STREAM, 4).await.expect("a stream");
    let stream = stream(&emulator);
    let map = ShardMap::new(stream.list_open_shards().await.expect("shards")).expect("a map");
    let refused = map.shards()[1].clone();
    let records: Vec<PutRecord> = (0..100)
        .map(|id| record(&format!("key-{id}"), id))
        .collect();
    let is_refused = |record: &PutRecord| refused.range.contains(hash_key(&record.key));
    let expected = records.iter().filter(|record| is_refused(record)).count();
    assert!(expected > 0 && expected < 100, "{expected}");
    for refusal in [
        Refused::Shard(refused.id.clone()),
        Refused::Range(refused.range),
    ] {
        emulator.faults().refuse(refusal);
        let outcomes = stream.put(records.clone()).await.expect("an answer");
        for (record, outcome) in records.iter().zip(&outcomes) {
            match outcome {
                RecordOutcome::Throttled => assert!(is_refused(record), "{}", record.key),
                RecordOutcome::Stored { shard, .. } => {
                    assert_eq!(*shard, map.shard_of(hash_key(&record.key)).id);
                    assert!(!is_refused(record), "{}", record.key);
                }
                RecordOutcome::Failed { .. } => panic!("{outcome:?}"),
            }
        }
        emulator.faults().admit_all();
    }
    let counts = emulator.tally().shards(STREAM)[&refused.id];
    assert_eq!(counts.throttled_records, 2 * expected as u64);
    assert_eq!((counts.accepted_records, counts.calls), (0, 2));
    let outcomes = stream.put(records).await.expect("an answer");
    assert!(
        outcomes
            .iter()
            .all(|outcome| matches!(outcome, RecordOutcome::Stored { .. }))
    );
    let reader = consumer(&emulator).await;
    let total = 3 * 100 - 2 * expected as u64;
    assert!(
        reader.wait_until_quiet(total, QUIET, PATIENCE).await,
        "{}",
        reader.received()
    );
    assert_eq!(reader.received(), total);
}

#[tokio::test]
async fn limits_are_enforced_per_shard_and_counted() {
    let emulator = start(true);
    emulator.create_stream(STREAM, 2).await.expect("a stream");
    let stream = stream(&emulator);
    let map = ShardMap::new(stream.list_open_shards().await.expect("shards")).expect("a map");
    // One shard's records only: 4 calls of 500 within a second are 1,000 too many.
    let busy = map.shards()[0].clone();
    let keys: Vec<String> = (0..)
        .map(|number| format!("key-{number}"))
        .filter(|key| busy.range.contains(hash_key(key)))
        .take(500)
        .collect();
    let (mut stored, mut throttled) = (0, 0);
    let started = Instant::now();
    for _ in 0..4 {
        let records = keys.iter().map(|key| record(key, 1)).collect();
        for outcome in stream.put(records).await.expect("an answer") {
            match outcome {
                RecordOutcome::Stored { .. } => stored += 1,
                RecordOutcome::Throttled => throttled += 1,
                RecordOutcome::Failed { .. } => panic!("{outcome:?}"),
            }
        }
    }
    let windows = started.elapsed().as_secs() + 2;
    assert_eq!(stored + throttled, 2000);
    assert!(
        (1000..=1000 * windows).contains(&stored),
        "{stored} stored in {windows} windows"
    );
    let counts = emulator.tally().shards(STREAM)[&busy.id];
    assert_eq!(
        (counts.offered_records, counts.accepted_records),
        (2000, stored)
    );
    assert_eq!(counts.throttled_records, throttled);
    let busiest = emulator.tally().busiest_second(STREAM, &busy.id);
    assert!(busiest.records > 1000 || windows > 2, "{busiest:?}");
    assert_eq!(emulator.tally().offers(STREAM, &busy.id).len(), 4);
}

/// 5 MiB of data and keys are the most the emulator takes; in base64 they are over
/// three times the request size that its router admits by default.
#[tokio::test]
async fn a_full_call_passes_and_a_larger_one_blames_a_record() {
    let emulator = start(false);
    emulator.create_stream(STREAM, 1).await.expect("a stream");
    let stream = stream(&emulator);
    let data = Bytes::from(vec![b'x'; 1024 * 1024 - 1]);
    let full: Vec<PutRecord> = (0..5)
        .map(|_| PutRecord {
            key: "k".into(),
            explicit_hash_key: None,
            data: data.clone(),
        })
        .collect();
    let outcomes = stream.put(full.clone()).await.expect("an answer");
    assert!(
        outcomes
            .iter()
            .all(|outcome| matches!(outcome, RecordOutcome::Stored { .. }))
    );
    let reader = consumer(&emulator).await;
    assert!(
        reader.wait_until_quiet(5, QUIET, PATIENCE).await,
        "{}",
        reader.received()
    );
    assert!(
        reader
            .stop()
            .await
            .iter()
            .all(|arrived| arrived.data == data)
    );
    let larger = [full, vec![record("k", 1)]].concat();
    let failure = stream.put(larger).await.expect_err("too large");
    assert!(
        matches!(failure, CallFailure::BadRecord { .. }),
        "{failure:?}"
    );
}

#[tokio::test]
async fn faults_strike_before_or_after_the_records_are_stored() {
    let emulator = start(false);
    emulator.create_stream(STREAM, 1).await.expect("a stream");
    let stream = stream(&emulator);
    let reader = consumer(&emulator).await;
    for (id, applied) in [
        (1, Applied::Never),
        (2, Applied::First),
        (3, Applied::Late(POLL)),
    ] {
        let fault = CallFault::internal_failure(applied);
        emulator
            .faults()
            .inject(Operation::PutRecords, Often::Next(1), fault);
        put_until_stored(&stream, &record("key", id)).await;
    }
    assert!(
        reader.wait_until_quiet(5, QUIET, PATIENCE).await,
        "{}",
        reader.received()
    );
    let mut counts: BTreeMap<i64, u64> = BTreeMap::new();
    for record in delivered(&reader.stop().await) {
        *counts.entry(record.id).or_default() += 1;
    }
    assert_eq!(counts, [(1, 1), (2, 2), (3, 2)].into());
}

#[tokio::test]
async fn every_nth_record_fails_inside_an_answer_and_the_log_knows() {
    let emulator = start(false);
    emulator.create_stream(STREAM, 1).await.expect("a stream");
    emulator.tally().log_calls(10, true);
    emulator
        .faults()
        .fail_records(Often::EveryNth(3), "InternalFailure");
    let stream = stream(&emulator);
    let records: Vec<PutRecord> = (0..4).map(|id| record(&format!("key-{id}"), id)).collect();
    for _ in 0..2 {
        stream.put(records.clone()).await.expect("an answer");
    }
    let calls = emulator.tally().logged_calls();
    let failed: Vec<Vec<bool>> = calls
        .iter()
        .filter(|call| call.operation == Operation::PutRecords)
        .map(|call| {
            call.records
                .iter()
                .map(|record| record.code.is_some())
                .collect()
        })
        .collect();
    assert_eq!(
        failed,
        [[false, false, true, false], [false, true, false, false]]
    );
    assert_eq!(calls[0].records[1].key, "key-1");
    assert_eq!(calls[0].records[1].data, Some(body("key-1", 1)));
    assert!(
        calls
            .iter()
            .all(|call| call.stream.as_deref() == Some(STREAM) && call.applied)
    );
}

/// A reader follows a split and a merge: parents first, nothing left out.
#[tokio::test]
async fn a_reader_follows_reshards() {
    let emulator = start(false);
    emulator.create_stream(STREAM, 1).await.expect("a stream");
    let (stream, reader) = (stream(&emulator), consumer(&emulator).await);
    let client = emulator.client().await.expect("a client");
    let mut committed = Vec::new();
    for round in 0..4_i64 {
        for key in 0..20_i64 {
            let (id, key) = (round * 20 + key, format!("key-{key}"));
            put_until_stored(&stream, &record(&key, id)).await;
            let order = u64::try_from(round).ok();
            committed.push(Committed {
                outbox: "events".into(),
                id,
                key: Some(key.into()),
                order,
            });
        }
        let target = if round % 2 == 0 { 2 } else { 1 };
        let request = client
            .update_shard_count()
            .stream_name(STREAM)
            .target_shard_count(target);
        let scaling = aws_sdk_kinesis::types::ScalingType::UniformScaling;
        request
            .scaling_type(scaling)
            .send()
            .await
            .expect("a reshard");
        let deadline = Instant::now() + PATIENCE;
        while stream.list_open_shards().await.expect("shards").len() != target as usize {
            assert!(Instant::now() < deadline);
            tokio::time::sleep(POLL).await;
        }
    }
    let expected = committed.len() as u64;
    assert!(
        reader.wait_until_quiet(expected, QUIET, PATIENCE).await,
        "{}",
        reader.received()
    );
    let ranges = reader.ranges();
    assert!(ranges.len() > 4, "{ranges:?}");
    let verdict = judge(&committed, &delivered(&reader.stop().await), &ranges);
    assert!(verdict.is_clean(), "{verdict:?}");
}

#[test]
fn it_outlives_the_runtime_that_used_it_and_frees_its_port() {
    let emulator = start(false);
    let run = || tokio::runtime::Runtime::new().expect("a runtime");
    run().block_on(async { emulator.create_stream(STREAM, 1).await.expect("a stream") });
    let put = |id| async move { record("key", id) };
    let outcome = run().block_on(async { stream(&emulator).put(vec![put(1).await]).await });
    assert!(
        matches!(outcome.as_deref(), Ok([RecordOutcome::Stored { .. }])),
        "{outcome:?}"
    );
    let port = emulator.port();
    emulator.stop();
    let options = EmulatorOptions {
        port: Some(port),
        ..EmulatorOptions::default()
    };
    let again = Emulator::start(&options).expect("the port is free again");
    let taken = Emulator::start(&options).expect_err("the port is taken");
    assert!(taken.to_string().contains("cannot start"), "{taken}");
    let shards = run().block_on(async { again.tally().shards(STREAM) });
    assert_eq!(shards, BTreeMap::<ShardId, _>::new());
    let faults = Arc::clone(&again.faults());
    assert!(!faults.connections_refused());
}
