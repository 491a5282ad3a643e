//! Claims of the page that other tests take for granted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};
use tidegate::demo::consumer::{Arrived, StreamConsumer};
use tidegate::demo::faults::{Often, Operation};
use tidegate::demo::tally::LoggedCall;

use crate::scenario::{PATIENCE, scenario, until};
use crate::world::{STREAM, World};

/// More calls than any of these tests makes.
const CALLS: usize = 100_000;

fn puts(world: &World) -> Vec<LoggedCall> {
    let mut calls = world.emulator.tally().logged_calls();
    calls.retain(|call| call.operation == Operation::PutRecords);
    calls
}

/// The payload's number of each record, by shard.
fn by_shard(arrived: &[Arrived]) -> BTreeMap<String, Vec<i64>> {
    let mut found: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for record in arrived {
        let body: Value = serde_json::from_slice(&record.data).expect("JSON");
        let number = body["payload"]["n"].as_i64().expect("a number");
        found
            .entry(record.shard.to_string())
            .or_default()
            .push(number);
    }
    found
}

/// Two consumers, the second of which begins when the first has everything: each
/// reads all of it, in the same order per shard, and takes nothing from the other.
#[tokio::test(flavor = "multi_thread")]
async fn consumers_read_independently_and_later_ones_read_what_was_kept() {
    scenario(PATIENCE, async {
        let world = World::new(3).await;
        world.pipeline("events", json!({})).await;
        let relay = world.relay().await;
        world.publish_many("events", 300, 40, 10).await;
        world.wait_until_received(300).await;
        let client = world.emulator.client().await.expect("a client");
        let later = StreamConsumer::start(client, STREAM, Duration::from_millis(70));
        until("the later one has all", PATIENCE, || {
            later.received() == 300
        })
        .await;
        let (first, second) = (world.arrived(), later.drain());
        assert_eq!(by_shard(&first), by_shard(&second));
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

/// `{dedup_key}` keeps an entity on one shard and in order, `{stream_table}` keeps a
/// whole outbox together, a key of its own for each event uses all shards.
#[tokio::test(flavor = "multi_thread")]
async fn the_partition_key_decides_the_shard() {
    scenario(PATIENCE, async {
        let world = World::new(4).await;
        world.outbox("events").await;
        for (name, key) in [
            ("entity", "{dedup_key}"),
            ("outbox", "{stream_table}"),
            ("spread", "{event_id}"),
        ] {
            // The payload says which pipeline a record is of only by its key.
            let template = format!("{name}/{key}");
            world
                .set_pipeline(name, "events", json!({"partition_key": template}))
                .await;
        }
        let relay = world.relay().await;
        world.publish_many("events", 400, 20, 10).await;
        world.wait_until_received(3 * 400).await;
        let arrived = world.arrived();
        let of = |name: &str| {
            let begin = format!("{name}/");
            let mut of_pipeline = arrived.clone();
            of_pipeline.retain(|record| record.partition_key.starts_with(&begin));
            of_pipeline
        };

        let mut shards_of_key: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut last_of_key: BTreeMap<String, i64> = BTreeMap::new();
        for record in of("entity") {
            let key = record.partition_key.clone();
            shards_of_key
                .entry(key.clone())
                .or_default()
                .insert(record.shard.to_string());
            let body: Value = serde_json::from_slice(&record.data).expect("JSON");
            let number = body["payload"]["n"].as_i64().expect("a number");
            let before = last_of_key.insert(key, number);
            assert!(
                before.is_none_or(|before| before < number),
                "{before:?} then {number}"
            );
        }
        assert_eq!(shards_of_key.len(), 20);
        assert!(
            shards_of_key.values().all(|shards| shards.len() == 1),
            "{shards_of_key:?}"
        );

        let of_outbox = by_shard(&of("outbox"));
        let numbers: Vec<i64> = (0..400).collect();
        assert_eq!(of_outbox.into_values().collect::<Vec<_>>(), [numbers]);

        let spread = by_shard(&of("spread"));
        // 400 hashes over 4 shards: 100 each, with a deviation of 8.7.
        assert_eq!(spread.len(), 4);
        assert!(spread.values().all(|rows| rows.len() > 50), "{spread:?}");
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

/// `batch_size` is a pipeline's part of a call: 100 unless it says otherwise.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_takes_100_records_of_a_pipeline_unless_it_says_otherwise() {
    scenario(PATIENCE, async {
        let world = World::new(2).await;
        world.pipeline("usual", json!({})).await;
        world
            .pipeline(
                "largest",
                json!({"batch_size": 500, "stream_name": "other"}),
            )
            .await;
        world
            .emulator
            .create_stream("other", 1)
            .await
            .expect("a stream");
        world.emulator.tally().log_calls(CALLS, false);
        world.publish_many("usual", 2_000, 2_000, 10).await;
        world.publish_many("largest", 1_500, 1_500, 10).await;
        // While a slow call is under way a shard's budget grows to more than a call takes.
        let slow = Duration::from_millis(900);
        world.emulator.faults().set_latency(slow, slow);
        let relay = world.relay().await;
        world.wait_until_received(2_000).await;
        let largest = |stream: &str| {
            let calls = puts(&world);
            let of_stream = calls
                .iter()
                .filter(|call| call.stream.as_deref() == Some(stream));
            of_stream.map(|call| call.records.len()).max()
        };
        assert_eq!(largest(STREAM), Some(100));
        until("all of it", PATIENCE, || {
            let delivered = [("pipeline", "largest")];
            relay.metric("tidegate_rows_delivered_total", &delivered) >= 1_500.0
        })
        .await;
        let most = largest("other").expect("calls");
        assert!((101..=500).contains(&most), "{most} records in a call");
        eprintln!("{most} records in the largest call");
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

/// Delivery is confirmed before the position moves: what Kinesis has not taken is
/// sent by the next relay, and only that.
#[tokio::test(flavor = "multi_thread")]
async fn the_position_moves_only_over_what_kinesis_has_confirmed() {
    scenario(2 * PATIENCE, async {
        let world = World::new(1).await;
        world.pipeline("events", json!({})).await;
        let relay = world.relay().await;
        let mut rows = world.publish_many("events", 50, 10, 10).await;
        world.wait_for(&rows, PATIENCE).await;
        let pending = "SELECT pending::bigint FROM tide.outbox_lag WHERE pipeline = 'events'";
        while world.number(pending).await > 0 {
            tokio::task::yield_now().await;
        }
        let faults = world.emulator.faults();
        faults.fail_records(Often::Always, "InternalFailure");
        rows.extend(world.publish_many("events", 50, 10, 10).await);
        let retried = [("pipeline", "events"), ("reason", "failed")];
        until("records fail", PATIENCE, || {
            relay.metric("tidegate_records_retried_total", &retried) >= 30.0
        })
        .await;
        assert_eq!(world.number(pending).await, 50);
        relay.kill();
        assert_eq!(world.number(pending).await, 50);
        faults.heal();
        let next = world.relay().await;
        let verdict = world.judge(&rows).await;
        assert!(
            verdict.is_clean() && verdict.duplicates == 0,
            "{verdict:#?}"
        );
        assert_eq!(next.terminate().await, 0);
    })
    .await;
}

/// What the page's policy allows is what is called: above all, no `PutRecord`.
#[tokio::test(flavor = "multi_thread")]
async fn no_other_operation_is_called() {
    scenario(PATIENCE, async {
        let world = World::new(2).await;
        world.pipeline("events", json!({})).await;
        let tally = world.emulator.tally();
        let before = tally.calls(Operation::Other);
        assert!(before > 0, "the stream was created");
        let relay = world.relay().await;
        world.publish_many("events", 100, 20, 10).await;
        world.publish_many("events", 1, 1, 10).await;
        world.wait_until_received(101).await;
        assert_eq!(relay.terminate().await, 0);
        assert!(tally.calls(Operation::PutRecords) > 0);
        assert_eq!(tally.calls(Operation::Other), before);
    })
    .await;
}
