//! The shards of the stream change under a load: nothing is lost, repeated or out
//! of order, nobody starts again, and what is shown is what is there.

use std::time::Duration;

use serde_json::json;
use tidegate::demo::faults::{CallFault, Often, Operation, Refused};
use tidegate::demo::load::{Load, OutboxLoad};

use crate::relay::Relay;
use crate::scenario::{PATIENCE, scenario, scenario_alone, until};
use crate::shards::Shards;
use crate::world::{STREAM, World};

pub(crate) const OFTEN: (&str, &str) = ("TIDEGATE__KINESIS__SHARD_REFRESH", "1s");
/// Only a record that goes to an unexpected shard tells of a reshard.
const SELDOM: (&str, &str) = ("TIDEGATE__KINESIS__SHARD_REFRESH", "1h");

/// The shards a relay shows in its status, sorted.
pub(crate) fn shown(relay: &Relay) -> Vec<String> {
    let status = relay.status();
    let shards = status["streams"][0]["shards"].as_array().cloned();
    let id = |shard: &serde_json::Value| shard["id"].as_str().unwrap_or_default().to_owned();
    let mut ids: Vec<String> = shards.unwrap_or_default().iter().map(id).collect();
    ids.sort();
    ids
}

/// The shards a relay has series of, sorted.
pub(crate) fn measured(relay: &Relay) -> Vec<String> {
    let (_, body) = relay.get("/metrics").expect("metrics");
    let series = body.lines().filter(|line| !line.starts_with('#'));
    let mut ids: Vec<String> = series
        .filter_map(|line| {
            let (_, rest) = line.split_once("shard=\"")?;
            Some(rest.split_once('"')?.0.to_owned())
        })
        .collect();
    ids.sort();
    ids.dedup();
    ids
}

/// Waits until status and metrics show just the shards that are open.
pub(crate) async fn until_followed(relay: &Relay, shards: &Shards) {
    let mut open = shards.ids().await;
    open.sort();
    until("status and metrics show the open shards", PATIENCE, || {
        shown(relay) == open && measured(relay) == open
    })
    .await;
}

pub(crate) fn load(rows_per_second: f64) -> OutboxLoad {
    OutboxLoad {
        workers: 4,
        keys: 60,
        rows_per_second: Some(rows_per_second),
        ..OutboxLoad::new("events")
    }
}

/// All that was committed has come, once, in order, and no actor started again.
pub(crate) async fn came_once(world: &World, relay: Relay, load: Load) {
    let (report, verdict) = world.settle(load).await;
    eprintln!("{} rows, {verdict:?}", report.committed.len());
    assert_eq!(verdict.duplicates, 0, "{verdict:#?}");
    assert_eq!(relay.metric("tidegate_actor_restarts_total", &[]), 0.0);
    assert_eq!(relay.terminate().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn splits_merges_and_new_counts_under_load_lose_and_repeat_nothing() {
    scenario(3 * PATIENCE, async {
        let world = World::new(4).await;
        world.pipeline("events", json!({})).await;
        let relay = world.relay_with(&[OFTEN]).await;
        let load = world.load(vec![load(400.0)], 31).await;
        world.wait_until_received(200).await;
        let shards = Shards::of(&world).await;
        // Each of these is under way before the one before was seen.
        shards.split(0).await;
        shards.split(3).await;
        shards.merge(2).await;
        until_followed(&relay, &shards).await;
        let received = world.consumer.received();
        world.wait_until_received(received + 200).await;
        for count in [8, 3, 6, 4] {
            shards.set_count(count).await;
            let received = world.consumer.received();
            world.wait_until_received(received + 200).await;
        }
        until_followed(&relay, &shards).await;
        assert!(relay.log_lines(&["the shards of the stream have changed"]) >= 3);
        came_once(&world, relay, load).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_in_an_unexpected_shard_tells_of_a_reshard() {
    scenario(2 * PATIENCE, async {
        let world = World::new(2).await;
        world.pipeline("events", json!({})).await;
        let relay = world.relay_with(&[SELDOM]).await;
        let load = world.load(vec![load(200.0)], 32).await;
        world.wait_until_received(100).await;
        let shards = Shards::of(&world).await;
        shards.split(1).await;
        until_followed(&relay, &shards).await;
        shards.merge(0).await;
        until_followed(&relay, &shards).await;
        came_once(&world, relay, load).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_does_not_move_goes_to_the_children_and_one_of_them_may_be_stuck() {
    scenario(3 * PATIENCE, async {
        let world = World::new(2).await;
        world.pipeline("events", json!({})).await;
        let few = [
            OFTEN,
            ("TIDEGATE__LIMITS__PIPELINE_ROWS", "300"),
            ("TIDEGATE__LIMITS__PIPELINE_BYTES", "2MiB"),
        ];
        let relay = world.relay_with(&few).await;
        let load = world.load(vec![load(300.0)], 33).await;
        world.wait_until_received(100).await;
        let shards = Shards::of(&world).await;
        // The first shard takes nothing until its rows do not fit any more.
        let parent = shards.open().await[0].clone();
        world.emulator.faults().refuse(Refused::Range(parent.range));
        until("rows of the stuck shard are deferred", PATIENCE, || {
            relay.metric("tidegate_deferred_rows", &[]) > 100.0
        })
        .await;
        shards.split(0).await;
        until_followed(&relay, &shards).await;
        // Now only one of the children is stuck: the other one's rows flow.
        let open = shards.open().await;
        let (stuck, free) = (open[0].clone(), open[1].clone());
        world.emulator.faults().admit_all();
        world.emulator.faults().refuse(Refused::Range(stuck.range));
        let free_child = [("stream", STREAM), ("shard", &*free.id.0)];
        until("the free child has caught up", PATIENCE, || {
            let accepted = relay.metric("tidegate_shard_records_accepted_total", &free_child);
            accepted > 300.0 && relay.metric("tidegate_shard_queued_rows", &free_child) < 20.0
        })
        .await;
        let stuck_child = [("stream", STREAM), ("shard", &*stuck.id.0)];
        let accepted = relay.metric("tidegate_shard_records_accepted_total", &stuck_child);
        assert_eq!(accepted, 0.0, "it was to be stuck");
        world.emulator.faults().admit_all();
        came_once(&world, relay, load).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_split_brings_more_throughput() {
    scenario_alone(3 * PATIENCE, async {
        let world = World::new(1).await;
        world.pipeline("events", json!({})).await;
        let relay = world.relay_with(&[OFTEN]).await;
        let rows = world.publish_many("events", 12_000, 200, 10).await;
        let rate = async |seconds: u32| {
            let before = world.consumer.received();
            tokio::time::sleep(Duration::from_secs(seconds.into())).await;
            let received = u32::try_from(world.consumer.received() - before).expect("few");
            f64::from(received) / f64::from(seconds)
        };
        world.wait_until_received(500).await;
        let one_shard = rate(3).await;
        let shards = Shards::of(&world).await;
        shards.set_count(4).await;
        until_followed(&relay, &shards).await;
        let four_shards = rate(2).await;
        eprintln!("{one_shard} records/s through one shard, {four_shards} through four");
        assert!(
            one_shard < 1100.0,
            "{one_shard}: the limit is 1,000 a second"
        );
        assert!(
            four_shards > 1.5 * one_shard,
            "{four_shards} after {one_shard}"
        );
        let verdict = world.judge(&rows).await;
        assert!(
            verdict.is_clean() && verdict.duplicates == 0,
            "{verdict:#?}"
        );
        assert_eq!(relay.metric("tidegate_actor_restarts_total", &[]), 0.0);
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_in_the_middle_of_a_reshard_repeats_nothing() {
    scenario(3 * PATIENCE, async {
        let world = World::new(2).await;
        world.pipeline("events", json!({})).await;
        let mut relay = world.relay_with(&[OFTEN]).await;
        let load = world.load(vec![load(200.0)], 34).await;
        let shards = Shards::of(&world).await;
        let faults = world.emulator.faults();
        for _ in 0..3 {
            let received = world.consumer.received();
            world.wait_until_received(received + 100).await;
            let changes = relay.log_lines(&["the shards of the stream have changed"]);
            shards.split(0).await;
            // A call is in flight when the shards are seen to have changed.
            let slow = Duration::from_millis(700);
            faults.set_latency(slow, slow);
            until("the change is seen", PATIENCE, || {
                relay.log_lines(&["the shards of the stream have changed"]) > changes
            })
            .await;
            relay.signal("TERM");
            faults.set_latency(Duration::ZERO, Duration::ZERO);
            assert_eq!(relay.exit_code(PATIENCE).await, 0);
            relay = world.relay_with(&[OFTEN]).await;
        }
        came_once(&world, relay, load).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_shards_cannot_be_listed_what_is_known_goes_on() {
    scenario(3 * PATIENCE, async {
        let world = World::new(2).await;
        world.pipeline("events", json!({})).await;
        let relay = world.relay_with(&[OFTEN]).await;
        let load = world.load(vec![load(200.0)], 35).await;
        world.wait_until_received(100).await;
        let shards = Shards::of(&world).await;
        let faults = world.emulator.faults();
        let before = shown(&relay);
        let throttled = CallFault::code("LimitExceededException");
        let first = shards.open().await[0].clone();
        // Before the split, or the relay might see it in between.
        faults.inject(Operation::ListShards, Often::Always, throttled);
        shards.split_this(&first).await;
        let delivered = || {
            relay.pipeline("events")["delivered_rows"]
                .as_u64()
                .unwrap_or(0)
        };
        let so_far = delivered();
        until("rows flow on", PATIENCE, || {
            delivered() > so_far + 400 && relay.log_lines(&["the stream cannot be examined"]) > 0
        })
        .await;
        assert_eq!(relay.state("events"), "running");
        assert_eq!(shown(&relay), before);
        faults.heal();
        until_followed(&relay, &shards).await;
        came_once(&world, relay, load).await;
    })
    .await;
}
