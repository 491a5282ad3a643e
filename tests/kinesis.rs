//! The real client against the embedded emulator over HTTP.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test says what it expects"
)]
#![cfg(feature = "demo")]

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tidegate::config::client_spec::ClientSpec;
use tidegate::core::ports::{CallFailure, PutRecord, RecordOutcome, StreamService};
use tidegate::core::shard_map::{ShardMap, hash_key};
use tidegate::demo::emulator::{Emulator, EmulatorOptions};
use tidegate::demo::faults::{Applied, CallFault, Often, Operation, Refused};
use tidegate::kinesis::client::{ClientPool, KinesisTimeouts};
use tidegate::kinesis::stream::{KinesisStream, StreamTarget};
use tokio::time::Instant;

const STREAM: &str = "orders";
const ARN: &str = "arn:aws:kinesis:us-east-1:000000000000:stream/orders";

fn emulator() -> Emulator {
    Emulator::start(&EmulatorOptions {
        enforce_limits: false,
        ..EmulatorOptions::default()
    })
    .expect("a free port")
}

fn pool() -> ClientPool {
    ClientPool::new(KinesisTimeouts::default())
}

fn stream_of(spec: ClientSpec, timeouts: KinesisTimeouts) -> KinesisStream {
    KinesisStream::new(
        ClientPool::new(timeouts),
        spec,
        StreamTarget::Name(STREAM.to_owned()),
    )
}

fn stream(emulator: &Emulator) -> KinesisStream {
    stream_of(emulator.client_spec(), KinesisTimeouts::default())
}

fn impatient() -> KinesisTimeouts {
    KinesisTimeouts {
        operation: Duration::from_millis(300),
        connect: Duration::from_millis(200),
    }
}

fn record(key: &str) -> PutRecord {
    PutRecord {
        key: key.into(),
        explicit_hash_key: None,
        data: format!("data of {key}").into_bytes().into(),
    }
}

fn records(count: usize) -> Vec<PutRecord> {
    (0..count)
        .map(|index| record(&format!("key-{index}")))
        .collect()
}

fn assert_unknown(result: Result<Vec<RecordOutcome>, CallFailure>) -> String {
    match result {
        Err(CallFailure::Unknown { reason }) => reason,
        other => panic!("not an unknown outcome: {other:?}"),
    }
}

async fn stored(emulator: &Emulator, at_least: u64) -> u64 {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let stored = emulator.tally().total(STREAM).accepted_records;
        if stored >= at_least || Instant::now() >= deadline {
            return stored;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn describes_a_stream_by_name_and_by_arn() {
    let emulator = emulator();
    emulator.create_stream(STREAM, 2).await.expect("a stream");
    let by_name = stream(&emulator).describe().await.expect("a description");
    assert_eq!(by_name.arn, ARN);
    assert_eq!(by_name.status, "ACTIVE");
    assert!(by_name.writable && !by_name.ignores_keys);
    assert_eq!(by_name.max_record_bytes, 1024 * 1024);

    let target = StreamTarget::Arn(ARN.to_owned());
    let spec = ClientSpec {
        region: None,
        ..emulator.client_spec()
    };
    let by_arn = KinesisStream::new(pool(), spec, target);
    assert!(
        by_name.created_at_ms.is_some_and(|at| at > 0),
        "{by_name:?}"
    );
    assert_eq!(by_arn.describe().await, Ok(by_name));
    assert_eq!(by_arn.list_open_shards().await.expect("shards").len(), 2);
    let outcomes = by_arn.put(records(3)).await.expect("an answer");
    assert!(
        outcomes
            .iter()
            .all(|outcome| matches!(outcome, RecordOutcome::Stored { .. }))
    );
}

#[tokio::test]
async fn sees_large_records_and_streams_that_ignore_keys() {
    let emulator = emulator();
    emulator.create_stream(STREAM, 1).await.expect("a stream");
    emulator
        .faults()
        .describe_as("MaxRecordSizeInKiB", json!(10240));
    emulator
        .faults()
        .describe_as("RecordDistributionStrategy", json!("AUTO"));
    emulator
        .faults()
        .describe_as("StreamStatus", json!("DELETING"));
    let description = stream(&emulator).describe().await.expect("a description");
    assert_eq!(description.max_record_bytes, 10 * 1024 * 1024);
    assert!(description.ignores_keys);
    assert!(!description.writable);
    emulator
        .faults()
        .describe_as("RecordDistributionStrategy", json!("USER_PARTITION_KEY"));
    emulator
        .faults()
        .describe_as("StreamStatus", json!("UPDATING"));
    let description = stream(&emulator).describe().await.expect("a description");
    assert!(!description.ignores_keys && description.writable);
}

#[tokio::test]
async fn lists_open_shards_over_pages_even_where_a_token_alone_is_refused() {
    let emulator = emulator();
    emulator.create_stream(STREAM, 7).await.expect("a stream");
    let stream = stream(&emulator);
    let whole = ShardMap::new(stream.list_open_shards().await.expect("shards")).expect("a map");
    let client = emulator.client().await.expect("a client");
    let split = &whole.shards()[2];
    let middle = split.range.first + (split.range.last - split.range.first) / 2;
    client
        .split_shard()
        .stream_name(STREAM)
        .shard_to_split(&*split.id.0)
        .new_starting_hash_key(middle.to_string())
        .send()
        .await
        .expect("a split");
    let deadline = Instant::now() + Duration::from_secs(10);
    let paged = stream.clone().with_shards_per_page(2);
    loop {
        let shards = paged.list_open_shards().await.expect("shards");
        if shards.len() == 8 {
            let map = ShardMap::new(shards).expect("a map");
            assert!(map.find(&split.id).is_none());
            let children = map
                .shards()
                .iter()
                .filter(|shard| shard.parents == [split.id.clone()]);
            assert_eq!(children.count(), 2);
            break;
        }
        assert!(Instant::now() < deadline, "{shards:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn puts_records_to_the_shards_of_their_keys_in_order() {
    let emulator = emulator();
    emulator.create_stream(STREAM, 4).await.expect("a stream");
    let stream = stream(&emulator);
    let map = ShardMap::new(stream.list_open_shards().await.expect("shards")).expect("a map");
    let widest: String = "é".repeat(128);
    let mut records = records(200);
    records.push(record(&widest));
    let outcomes = stream.put(records.clone()).await.expect("an answer");
    assert_eq!(outcomes.len(), records.len());
    for (record, outcome) in records.iter().zip(&outcomes) {
        let RecordOutcome::Stored { shard, sequence } = outcome else {
            panic!("{}: {outcome:?}", record.key);
        };
        assert_eq!(shard, &map.shard_of(hash_key(&record.key)).id);
        assert!(
            sequence.parse::<u128>().is_ok() || sequence.len() > 38,
            "{sequence}"
        );
    }
}

#[tokio::test]
async fn says_which_records_of_a_call_failed() {
    let emulator = emulator();
    emulator.create_stream(STREAM, 1).await.expect("a stream");
    emulator
        .faults()
        .fail_records_where(Arc::new(|key, index| match (key, index) {
            ("key-1", _) => Some("InternalFailure".to_owned()),
            (_, 3) => Some("ProvisionedThroughputExceededException".to_owned()),
            _ => None,
        }));
    let outcomes = stream(&emulator).put(records(6)).await.expect("an answer");
    let names: Vec<&str> = outcomes
        .iter()
        .map(|outcome| match outcome {
            RecordOutcome::Stored { .. } => "stored",
            RecordOutcome::Throttled => "throttled",
            RecordOutcome::Failed { code, .. } => code,
        })
        .collect();
    let expected = [
        "stored",
        "InternalFailure",
        "stored",
        "throttled",
        "stored",
        "stored",
    ];
    assert_eq!(names, expected);
    assert_eq!(emulator.tally().total(STREAM).accepted_records, 4);
}

#[tokio::test]
async fn a_throttled_record_is_told_from_a_throttled_call() {
    let emulator = emulator();
    emulator.create_stream(STREAM, 1).await.expect("a stream");
    let stream = stream(&emulator);
    let shard = stream.list_open_shards().await.expect("shards").remove(0);
    emulator.faults().refuse(Refused::Shard(shard.id));
    assert_eq!(
        stream.put(records(2)).await,
        Ok(vec![RecordOutcome::Throttled; 2])
    );
    emulator.faults().heal();
    for code in [
        "KMSThrottlingException",
        "LimitExceededException",
        "ThrottlingException",
    ] {
        emulator
            .faults()
            .inject(Operation::PutRecords, Often::Next(1), CallFault::code(code));
        let failure = stream.put(records(2)).await.expect_err("refused");
        assert!(
            matches!(&failure, CallFailure::Throttled { code: got, .. } if got == code),
            "{failure:?}"
        );
        emulator.faults().heal();
    }
    assert_eq!(emulator.tally().total(STREAM).accepted_records, 0);
}

#[tokio::test]
async fn whole_calls_fail_as_what_they_are_and_are_made_once() {
    let emulator = emulator();
    emulator.create_stream(STREAM, 1).await.expect("a stream");
    let stream = stream(&emulator);
    let cases = [
        ("AccessDeniedException", "operator"),
        ("KMSDisabledException", "operator"),
        ("ResourceNotFoundException", "operator"),
        ("ANewException", "operator"),
        ("ExpiredTokenException", "credentials"),
        ("UnrecognizedClientException", "credentials"),
        ("InvalidArgumentException", "bad record"),
        ("ValidationException", "bad record"),
    ];
    for (code, expected) in cases {
        let before = emulator.tally().calls(Operation::PutRecords);
        emulator
            .faults()
            .inject(Operation::PutRecords, Often::Always, CallFault::code(code));
        let failure = stream.put(records(1)).await.expect_err("refused");
        let (name, got) = match &failure {
            CallFailure::Operator { code, .. } => ("operator", code),
            CallFailure::Credentials { code, .. } => ("credentials", code),
            CallFailure::BadRecord { code, .. } => ("bad record", code),
            CallFailure::Throttled { code, .. } => ("throttled", code),
            CallFailure::Unknown { reason } => ("unknown", reason),
        };
        assert_eq!((name, got.as_str()), (expected, code));
        assert_eq!(
            emulator.tally().calls(Operation::PutRecords) - before,
            1,
            "{code} was retried"
        );
        emulator.faults().heal();
    }
    emulator.faults().hide_stream(STREAM);
    for failure in [
        stream.describe().await.expect_err("hidden"),
        stream.list_open_shards().await.expect_err("hidden"),
        stream.put(records(1)).await.expect_err("hidden"),
    ] {
        assert!(
            failure.to_string().contains("stream orders was not found"),
            "{failure}"
        );
    }
}

#[tokio::test]
async fn an_answer_that_says_nothing_of_the_records_is_unknown() {
    let emulator = emulator();
    emulator.create_stream(STREAM, 1).await.expect("a stream");
    let stream = stream(&emulator);
    let mut expected = 0;
    for applied in [Applied::Never, Applied::First] {
        let hold = Duration::ZERO;
        for fault in [
            CallFault::internal_failure(applied),
            CallFault::Refuse {
                status: 503,
                code: String::new(),
                applied,
            },
            CallFault::Reset { applied },
            CallFault::Garble { applied },
            CallFault::Hang { hold, applied },
        ] {
            emulator
                .faults()
                .inject(Operation::PutRecords, Often::Always, fault.clone());
            let before = emulator.tally().calls(Operation::PutRecords);
            assert_unknown(stream.put(records(2)).await);
            assert_eq!(
                emulator.tally().calls(Operation::PutRecords) - before,
                1,
                "{fault:?} was retried"
            );
            emulator.faults().heal();
            expected += if applied == Applied::First { 2 } else { 0 };
            assert_eq!(
                emulator.tally().total(STREAM).accepted_records,
                expected,
                "{fault:?}"
            );
        }
    }
    assert_eq!(stream.put(records(2)).await.expect("healed").len(), 2);
}

#[tokio::test]
async fn a_call_without_answer_ends_in_time_and_may_still_be_applied_later() {
    let emulator = emulator();
    emulator.create_stream(STREAM, 1).await.expect("a stream");
    let stream = stream_of(emulator.client_spec(), impatient());
    let fault = CallFault::Hang {
        hold: Duration::from_secs(60),
        applied: Applied::Late(Duration::from_millis(600)),
    };
    emulator
        .faults()
        .inject(Operation::PutRecords, Often::Next(1), fault);
    let started = Instant::now();
    let reason = assert_unknown(stream.put(records(2)).await);
    assert!(reason.contains("no answer in time"), "{reason}");
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(
        stream
            .put(records(1))
            .await
            .expect("the next call passes")
            .len(),
        1
    );
    assert_eq!(stored(&emulator, 3).await, 3);
}

#[tokio::test]
async fn an_outage_is_unknown_and_passes() {
    let emulator = emulator();
    emulator.create_stream(STREAM, 1).await.expect("a stream");
    let stream = stream_of(emulator.client_spec(), impatient());
    stream.put(records(1)).await.expect("an answer");
    emulator.faults().refuse_connections(true);
    assert_unknown(stream.put(records(1)).await);
    assert_unknown(stream.put(records(1)).await);
    assert!(matches!(
        stream.describe().await,
        Err(CallFailure::Unknown { .. })
    ));
    emulator.faults().refuse_connections(false);
    stream.put(records(1)).await.expect("an answer");
    assert_eq!(emulator.tally().total(STREAM).accepted_records, 2);
}

#[tokio::test]
async fn a_port_nobody_listens_on_is_unknown() {
    let emulator = emulator();
    let spec = emulator.client_spec();
    emulator.stop();
    let reason = assert_unknown(stream_of(spec, impatient()).put(records(1)).await);
    assert!(reason.contains("connection failed"), "{reason}");
}

#[tokio::test]
async fn equal_specs_share_a_client_and_others_do_not() {
    let emulator = emulator();
    let pool = pool();
    let spec = emulator.client_spec();
    pool.client(&spec).await.expect("a client");
    pool.client(&spec.clone()).await.expect("a client");
    assert_eq!(pool.len(), 1);
    let elsewhere = ClientSpec {
        region: Some("eu-west-1".to_owned()),
        ..spec.clone()
    };
    pool.client(&elsewhere).await.expect("a client");
    let as_role = ClientSpec {
        role_arn: Some("arn:aws:iam::1:role/x".to_owned()),
        ..spec.clone()
    };
    pool.clone().client(&as_role).await.expect("a client");
    assert_eq!(pool.len(), 3);
    // A young client is kept: a burst of refusals does not build one after another.
    pool.renew(&spec);
    assert_eq!(pool.len(), 3);
}
