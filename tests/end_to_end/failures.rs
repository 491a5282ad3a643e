//! Calls that fail in part: only what failed is sent again, first, and in order;
//! and a shard is never offered more than it takes.

use serde_json::json;
use tidegate::demo::faults::{Often, THROTTLED};
use tidegate::demo::load::OutboxLoad;

use crate::calls::{
    assert_failed_records_go_first, assert_one_record_per_key,
    assert_stored_records_are_not_sent_again, partial_failures_in_a_row, put_calls,
};
use crate::scenario::{PATIENCE, scenario, scenario_alone};
use crate::world::{STREAM, World};

/// More calls than any test here makes.
const CALLS: usize = 100_000;

#[tokio::test(flavor = "multi_thread")]
async fn only_failed_records_are_sent_again_and_first() {
    scenario(2 * PATIENCE, async {
        let world = World::new(2).await;
        world.pipeline("events", json!({})).await;
        world.emulator.tally().log_calls(CALLS, true);
        let relay = world.relay().await;
        let faults = world.emulator.faults();
        faults.fail_records(Often::EveryNth(3), "InternalFailure");
        faults.fail_records(Often::EveryNth(5), THROTTLED);
        let load = world
            .load(
                vec![OutboxLoad {
                    workers: 4,
                    keys: 60,
                    ..OutboxLoad::new("events")
                }],
                13,
            )
            .await;
        load.wait_until_published(1200, PATIENCE)
            .await
            .expect("rows");
        let (_, verdict) = world.settle(load).await;
        assert_eq!(verdict.duplicates, 0, "{verdict:#?}");
        let calls = put_calls(&world.emulator.tally());
        assert_one_record_per_key(&calls);
        assert_stored_records_are_not_sent_again(&calls);
        assert_failed_records_go_first(&calls);
        let in_a_row = partial_failures_in_a_row(&calls);
        assert!(in_a_row >= 3, "{in_a_row} partial failures in a row");
        for reason in ["failed", "throttled"] {
            let labels = [("pipeline", "events"), ("reason", reason)];
            assert!(relay.metric("tidegate_records_retried_total", &labels) > 100.0);
        }
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_throttles_by_its_limits_gets_only_the_rest_again() {
    scenario(2 * PATIENCE, async {
        let world = World::new(1).await;
        world.pipeline("flood", json!({"batch_size": 500})).await;
        world.emulator.tally().log_calls(CALLS, true);
        let rows = world.publish_many("flood", 5000, 700, 20).await;
        // A relay that takes the shard for twice as fast as it is.
        let relay = world
            .relay_with(&[(
                "TIDEGATE__KINESIS__SHARD_BUDGET__RECORDS_PER_SECOND",
                "2000",
            )])
            .await;
        let verdict = world.judge(&rows).await;
        assert!(verdict.is_clean(), "{verdict:#?}");
        assert_eq!(verdict.duplicates, 0, "{verdict:#?}");
        let calls = put_calls(&world.emulator.tally());
        assert_one_record_per_key(&calls);
        assert_stored_records_are_not_sent_again(&calls);
        assert_failed_records_go_first(&calls);
        let throttled = world.emulator.tally().total(STREAM).throttled_records;
        assert!(throttled > 100, "{throttled} records were throttled");
        assert!(calls.iter().any(|call| call.is_partial()));
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flooded_shard_is_never_offered_more_than_its_limits() {
    scenario_alone(2 * PATIENCE, async {
        let world = World::new(1).await;
        world.pipeline("flood", json!({"batch_size": 500})).await;
        let mut rows = world.publish_many("flood", 4000, 700, 20).await;
        rows.extend(world.publish_many("flood", 500, 50, 8000).await);
        let relay = world.relay().await;
        let verdict = world.judge(&rows).await;
        assert!(verdict.is_clean(), "{verdict:#?}");
        let tally = world.emulator.tally();
        let (shard, counts) = tally.shards(STREAM).pop_first().expect("a shard");
        let busiest = tally.busiest_second(STREAM, &shard);
        let offers = tally.offers(STREAM, &shard);
        let took = offers.last().expect("a call").at - offers[0].at;
        eprintln!("{busiest:?} in {took:?}, {counts:?}");
        // The relay knows when it sent a call and when it was answered, not when
        // it arrived: on a starved machine one call may fall into another second
        // than it was meant for.
        let largest = offers.iter().map(|offer| offer.records).max();
        let largest_bytes = offers.iter().map(|offer| offer.rounded_bytes).max();
        assert!(
            busiest.records <= 1000 + largest.unwrap_or(0)
                && busiest.rounded_bytes <= 1024 * 1024 + largest_bytes.unwrap_or(0),
            "{busiest:?}, largest calls {largest:?} and {largest_bytes:?}"
        );
        assert!(
            counts.throttled_records * 20 < counts.offered_records,
            "{counts:?}"
        );
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}
