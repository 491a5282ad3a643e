//! Writing Kinesis.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use tidegate::demo::faults::{Applied, CallFault, Often, Operation};
use tidegate::demo::tally::LoggedCall;

use crate::calls::{assert_stored_records_are_not_sent_again, put_calls};
use crate::relay::Relay;
use crate::scenario::{PATIENCE, scenario, until};
use crate::world::{STREAM, World};

/// More calls than any test here makes.
const CALLS: usize = 100_000;

async fn world_with_pipeline(shards: u16) -> (World, Relay) {
    let world = World::new(shards).await;
    world.pipeline("events", json!({})).await;
    world.emulator.tally().log_calls(CALLS, true);
    let relay = world.relay().await;
    relay.wait_for_state("events", "running").await;
    (world, relay)
}

fn puts(world: &World) -> Vec<LoggedCall> {
    let mut calls = world.emulator.tally().logged_calls();
    calls.retain(|call| call.operation == Operation::PutRecords);
    calls
}

fn delivered(relay: &Relay) -> f64 {
    relay.metric("tidegate_rows_delivered_total", &[("pipeline", "events")])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partial_failure_re_sends_the_whole_batch() {
    scenario(PATIENCE, async {
        let (world, relay) = world_with_pipeline(1).await;
        world
            .emulator
            .faults()
            .fail_records(Often::EveryNth(4), "InternalFailure");
        let rows = world.publish_many("events", 200, 50, 10).await;
        let verdict = world.judge(&rows).await;
        assert!(
            verdict.is_clean() && verdict.duplicates == 0,
            "{verdict:#?}"
        );
        let calls = put_calls(&world.emulator.tally());
        assert!(calls.iter().any(|call| call.is_partial()));
        assert_stored_records_are_not_sent_again(&calls);
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_record_lands_on_one_shard() {
    scenario(PATIENCE, async {
        let (world, relay) = world_with_pipeline(4).await;
        let rows = world.publish_many("events", 200, 100, 10).await;
        world.wait_for(&rows, PATIENCE).await;
        let mut per_shard: BTreeMap<String, usize> = BTreeMap::new();
        for record in world.arrived() {
            *per_shard.entry(record.shard.to_string()).or_default() += 1;
        }
        assert_eq!(per_shard.len(), 4, "{per_shard:?}");
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn documented_settings_are_ignored() {
    scenario(PATIENCE, async {
        let world = World::new(1).await;
        let definition = json!({
            "region": "eu-central-1", "partition_key": "own-{payload.n}", "batch_size": 7,
            "access_key_id": "AKIAOWN", "secret_access_key": "x",
        });
        world.pipeline("events", definition).await;
        world.emulator.tally().log_calls(CALLS, false);
        let relay = world.relay().await;
        world.publish_many("events", 100, 100, 10).await;
        world.wait_until_received(100).await;
        let largest = puts(&world).iter().map(|call| call.records.len()).max();
        assert_eq!(largest, Some(7), "batch_size");
        let mut keys: Vec<String> = world
            .arrived()
            .iter()
            .map(|record| record.partition_key.clone())
            .collect();
        let mut expected: Vec<String> = (0..100).map(|n| format!("own-{n}")).collect();
        keys.sort_unstable();
        expected.sort_unstable();
        assert_eq!(keys, expected, "partition_key");
        let signers = world.emulator.faults().account().signers();
        let own = ("AKIAOWN".to_owned(), "eu-central-1".to_owned());
        assert!(signers.contains(&own), "{signers:?}");
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fixed_sleep_follows_a_failure() {
    scenario(PATIENCE, async {
        let (world, relay) = world_with_pipeline(1).await;
        let failed = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&failed);
        let once = move |key: &str, _| {
            let is_first = key == "k-0" && count.fetch_add(1, Ordering::Relaxed) == 0;
            is_first.then(|| "InternalFailure".to_owned())
        };
        world.emulator.faults().fail_records_where(Arc::new(once));
        let rows = world.publish_many("events", 10, 10, 10).await;
        world.wait_for(&rows, PATIENCE).await;
        let of_key: Vec<Duration> = puts(&world)
            .iter()
            .filter(|call| call.records.iter().any(|record| record.key == "k-0"))
            .map(|call| call.at)
            .collect();
        let pause = of_key[1] - of_key[0];
        eprintln!("sent again after {pause:?}");
        assert!(pause < Duration::from_millis(500), "{of_key:?}");
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_records_count_as_delivered() {
    scenario(PATIENCE, async {
        let (world, relay) = world_with_pipeline(1).await;
        let faults = world.emulator.faults();
        faults.fail_records(Often::Always, "InternalFailure");
        let rows = world.publish_many("events", 20, 5, 10).await;
        let retried = [("pipeline", "events"), ("reason", "failed")];
        until("records fail", PATIENCE, || {
            relay.metric("tidegate_records_retried_total", &retried) >= 15.0
        })
        .await;
        assert_eq!(delivered(&relay), 0.0);
        assert_eq!(relay.pipeline("events")["delivered_rows"], 0);
        faults.heal();
        let verdict = world.judge(&rows).await;
        assert!(
            verdict.is_clean() && verdict.duplicates == 0,
            "{verdict:#?}"
        );
        until("the books say so", PATIENCE, || delivered(&relay) == 20.0).await;
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_partial_failure_re_sends_the_wrong_rows() {
    scenario(PATIENCE, async {
        let (world, relay) = world_with_pipeline(1).await;
        // The first call fails at places 1, 4, 7 ..., its retry at other ones.
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&calls);
        let rule = move |_: &str, index: usize| {
            if index == 0 {
                counted.fetch_add(1, Ordering::Relaxed);
            }
            let is_struck = match counted.load(Ordering::Relaxed) {
                1 => index % 3 == 1,
                2 => index.is_multiple_of(2),
                3 => index % 4 == 3,
                _ => false,
            };
            is_struck.then(|| "InternalFailure".to_owned())
        };
        world.emulator.faults().fail_records_where(Arc::new(rule));
        let rows = world.publish_many("events", 60, 60, 10).await;
        let verdict = world.judge(&rows).await;
        assert!(
            verdict.is_clean() && verdict.duplicates == 0,
            "{verdict:#?}"
        );
        assert!(calls.load(Ordering::Relaxed) >= 4);
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_tries_then_it_stops() {
    scenario(2 * PATIENCE, async {
        let (world, relay) = world_with_pipeline(1).await;
        let failure = CallFault::internal_failure(Applied::Never);
        let faults = world.emulator.faults();
        faults.inject(Operation::PutRecords, Often::Next(9), failure);
        let rows = world.publish_many("events", 20, 5, 10).await;
        let verdict = world.judge(&rows).await;
        assert!(
            verdict.is_clean() && verdict.duplicates == 0,
            "{verdict:#?}"
        );
        assert!(puts(&world).len() > 9);
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_message_overtakes_a_failed_one() {
    scenario(PATIENCE, async {
        let (world, relay) = world_with_pipeline(1).await;
        let failures = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&failures);
        let five_times = move |key: &str, _| {
            let fails = key == "k-0" && count.fetch_add(1, Ordering::Relaxed) < 5;
            fails.then(|| "InternalFailure".to_owned())
        };
        world
            .emulator
            .faults()
            .fail_records_where(Arc::new(five_times));
        let rows = world.publish_many("events", 40, 4, 10).await;
        let verdict = world.judge(&rows).await;
        assert!(
            verdict.is_clean() && verdict.duplicates == 0,
            "{verdict:#?}"
        );
        let of_key: Vec<i64> = world
            .delivered()
            .iter()
            .filter(|record| &*record.partition_key == "k-0")
            .map(|record| record.id)
            .collect();
        assert_eq!(of_key.len(), 10);
        assert!(of_key.is_sorted(), "{of_key:?}");
        // Other keys did not wait for it.
        let first = world.delivered().remove(0);
        assert_ne!(&*first.partition_key, "k-0");
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_retried_until_a_deadline_then_dropped() {
    scenario(2 * PATIENCE, async {
        let (world, relay) = world_with_pipeline(1).await;
        let faults = world.emulator.faults();
        let fault = CallFault::code("AccessDeniedException");
        faults.account().deny(STREAM, Operation::PutRecords, fault);
        let rows = world.publish_many("events", 20, 5, 10).await;
        until("it has tried several times", PATIENCE, || {
            puts(&world).len() >= 4
        })
        .await;
        // Slower each time: nobody can mend a policy within a second.
        let at: Vec<Duration> = puts(&world).iter().map(|call| call.at).collect();
        assert!(at[3] - at[2] > Duration::from_secs(1), "{at:?}");
        until("all of it is said to wait", PATIENCE, || {
            relay.pipeline("events")["lag_rows"] == 20
        })
        .await;
        faults.heal();
        let verdict = world.judge(&rows).await;
        assert!(
            verdict.is_clean() && verdict.duplicates == 0,
            "{verdict:#?}"
        );
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn auto_distribution_ignores_keys() {
    scenario(2 * PATIENCE, async {
        let world = World::new(1).await;
        let faults = world.emulator.faults();
        faults.describe_as("RecordDistributionStrategy", json!("AUTO"));
        world.pipeline("events", json!({})).await;
        world.emulator.tally().log_calls(CALLS, false);
        let relay = world.relay().await;
        let rows = world.publish_many("events", 20, 5, 10).await;
        let labels = [("stream", STREAM), ("kind", "keys_ignored")];
        let trouble = || relay.metric("tidegate_stream_trouble", &labels);
        until("it is refused", PATIENCE, || trouble() == 1.0).await;
        relay.wait_for_state("events", "waiting").await;
        let reason = relay.pipeline("events")["reason"].to_string();
        assert!(
            reason.contains("AUTO") && reason.contains("order"),
            "{reason}"
        );
        assert!(puts(&world).is_empty(), "nothing was sent");
        faults.describe_as("RecordDistributionStrategy", json!("USER_PARTITION_KEY"));
        let verdict = world.judge(&rows).await;
        assert!(
            verdict.is_clean() && verdict.duplicates == 0,
            "{verdict:#?}"
        );
        assert_eq!(trouble(), 0.0);
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}
