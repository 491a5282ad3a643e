//! A stream that ignores keys, is missing, was made again, or may only be put to:
//! its pipelines stop or make do, say so, and go on by themselves.

use std::time::Duration;

use serde_json::{Value, json};
use tidegate::core::shard_map::HashRange;
use tidegate::demo::consumer::StreamConsumer;
use tidegate::demo::delivered::Delivered;
use tidegate::demo::faults::Refused;
use tidegate::demo::verdict::{Committed, judge};
use tokio::time::Instant;

use crate::relay::Relay;
use crate::resharding::{OFTEN, came_once, load, until_followed};
use crate::scenario::{PATIENCE, scenario, until};
use crate::shards::Shards;
use crate::world::{STREAM, World};

/// Whoever signs with it may call PutRecords and nothing else.
pub(crate) const PUT_ONLY: &str = "AKIAPUTONLY";

/// Nobody else wants the pipelines here, and a lease that runs out on a starved machine
/// repeats rows.
const LONG_LEASE: (&str, &str) = ("TIDEGATE__CLUSTER__LEASE", "60s");

/// Longer than a call that was under way takes.
const CALLS_END: Duration = Duration::from_millis(500);

fn stream_status(relay: &Relay) -> Value {
    relay.status()["streams"][0].clone()
}

async fn until_waiting_for(relay: &Relay, words: &str) {
    until(&format!("the pipeline waits: {words}"), PATIENCE, || {
        let pipeline = relay.pipeline("events");
        pipeline["state"] == "waiting"
            && pipeline["reason"]
                .as_str()
                .is_some_and(|reason| reason.contains(words))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_begins_to_ignore_keys_is_not_written_to_until_it_does_not() {
    scenario(3 * PATIENCE, async {
        let world = World::new(2).await;
        world.pipeline("events", json!({})).await;
        let relay = world.relay_with(&[OFTEN, LONG_LEASE]).await;
        let load = world.load(vec![load(200.0)], 41).await;
        world.wait_until_received(200).await;
        let faults = world.emulator.faults();
        // Rows wait in the writers when it happens.
        faults.refuse(Refused::Range(HashRange::ALL));
        until("rows are queued", PATIENCE, || {
            relay.metric("tidegate_shard_queued_rows", &[]) > 50.0
        })
        .await;
        let strategy = "RecordDistributionStrategy";
        faults.describe_as(strategy, json!("AUTO"));
        until_waiting_for(&relay, "AUTO").await;
        // The router looks by itself, a moment later.
        until("the stream's problem is shown", PATIENCE, || {
            let problem = stream_status(&relay)["problem"].to_string();
            problem.contains("PARTITION_KEY")
        })
        .await;
        tokio::time::sleep(CALLS_END).await;
        faults.admit_all();
        let received = world.consumer.received();
        let published = load.published();
        load.wait_until_published(published + 300, PATIENCE)
            .await
            .expect("rows");
        assert_eq!(world.consumer.received(), received, "it was written to");
        assert_eq!(relay.state("events"), "waiting");
        faults.describe_as(strategy, json!("PARTITION_KEY"));
        relay.wait_for_state("events", "running").await;
        assert_eq!(stream_status(&relay)["problem"], Value::Null);
        came_once(&world, relay, load).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_hidden_for_a_while_repeats_nothing() {
    scenario(3 * PATIENCE, async {
        let world = World::new(2).await;
        world.pipeline("events", json!({})).await;
        // Nothing but a refused call tells of it.
        let relay = world.relay_with(&[LONG_LEASE]).await;
        let load = world.load(vec![load(200.0)], 42).await;
        world.wait_until_received(200).await;
        world.emulator.faults().hide_stream(STREAM);
        until_waiting_for(&relay, "not found").await;
        let published = load.published();
        load.wait_until_published(published + 100, PATIENCE)
            .await
            .expect("rows");
        world.emulator.faults().show_stream(STREAM);
        came_once(&world, relay, load).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_deleted_and_made_again_is_gone_on_with() {
    scenario(3 * PATIENCE, async {
        let world = World::new(2).await;
        let emulator = &world.emulator;
        emulator.create_stream("other", 1).await.expect("a stream");
        world.pipeline("events", json!({})).await;
        let to_other = json!({"stream_name": "other"});
        world.pipeline("others", to_other).await;
        let relay = world.relay_with(&[OFTEN, LONG_LEASE]).await;
        let before = world.publish_many("events", 300, 20, 10).await;
        let verdict = world.judge(&before).await;
        assert!(
            verdict.is_clean() && verdict.duplicates == 0,
            "{verdict:#?}"
        );

        let client = emulator.client().await.expect("a client");
        let deletion = client.delete_stream().stream_name(STREAM);
        deletion.send().await.expect("deleted");
        let after = world.publish_many("events", 300, 20, 10).await;
        until_waiting_for(&relay, "not found").await;
        // The other stream does not notice.
        let others = world.publish_many("others", 50, 5, 10).await;
        let other = emulator.client().await.expect("a client");
        let other = StreamConsumer::start(other, "other", Duration::from_millis(30));
        until("the other stream's rows", PATIENCE, || {
            other.received() >= 50
        })
        .await;
        assert_eq!(others.len(), 50);
        assert_eq!(relay.state("others"), "running");

        // The emulator's streams are as old as the second they were made in.
        tokio::time::sleep(Duration::from_secs(1)).await;
        emulator.create_stream(STREAM, 2).await.expect("a stream");
        let again = StreamConsumer::start(client, STREAM, Duration::from_millis(30));
        let all = after.len() as u64;
        let quiet = again.wait_until_quiet(all, CALLS_END, PATIENCE).await;
        assert!(quiet, "{} of {all} rows", again.received());
        let arrived = again.drain();
        let delivered: Vec<Delivered> = arrived
            .iter()
            .map(|record| Delivered::parse(record).expect("a native body"))
            .collect();
        let verdict = judge(&after, &delivered, &again.ranges());
        assert!(
            verdict.is_clean() && verdict.duplicates == 0,
            "{verdict:#?}"
        );
        assert_eq!(
            relay.log_lines(&["the stream was deleted and made again"]),
            1
        );
        assert_eq!(relay.state("events"), "running");
        world.has_arrived_elsewhere(arrived);
        assert_eq!(relay.metric("tidegate_actor_restarts_total", &[]), 0.0);
        assert_eq!(
            relay.metric("tidegate_sequence_regressions_total", &[]),
            0.0
        );
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_puts_alone_allowed_the_shards_are_learnt() {
    scenario(4 * PATIENCE, async {
        let world = World::new(3).await;
        world.emulator.faults().account().allow_only_puts(PUT_ONLY);
        world.pipeline("events", json!({})).await;
        let put_only = [OFTEN, LONG_LEASE, ("AWS_ACCESS_KEY_ID", PUT_ONLY)];
        let relay = world.relay_with(&put_only).await;
        let load = world.load(vec![load(400.0)], 43).await;
        let shards = Shards::of(&world).await;
        until_followed(&relay, &shards).await;
        let advice = stream_status(&relay)["advice"].to_string();
        for part in [
            "kinesis:ListShards",
            "kinesis:DescribeStreamSummary",
            "1 MiB",
        ] {
            assert!(advice.contains(part), "{advice}");
        }
        assert_eq!(relay.state("events"), "running");

        shards.split(1).await;
        until_followed(&relay, &shards).await;
        shards.merge(0).await;
        shards.set_count(5).await;
        until_followed(&relay, &shards).await;

        world.emulator.faults().account().allow_all();
        until("the permissions are seen", PATIENCE, || {
            stream_status(&relay)["advice"].is_null()
        })
        .await;
        // Now the lists are looked at again.
        shards.split(0).await;
        until_followed(&relay, &shards).await;
        came_once(&world, relay, load).await;
    })
    .await;
}

/// How long 8,000 rows of a backlog of 12,000 take through a new relay; the rows.
async fn eight_thousand(world: &World, settings: &[(&str, &str)]) -> (Duration, Vec<Committed>) {
    let before = world.consumer.received();
    let rows = world.publish_many("events", 12_000, 200, 10).await;
    let relay = world.relay_with(settings).await;
    world.wait_until_received(before + 2_000).await;
    let began = Instant::now();
    world.wait_until_received(before + 10_000).await;
    let took = began.elapsed();
    world.wait_for(&rows, PATIENCE).await;
    assert_eq!(relay.terminate().await, 0);
    (took, rows)
}

/// Beside shards that were listed, in the same run.
#[tokio::test(flavor = "multi_thread")]
async fn learnt_shards_are_filled() {
    scenario(3 * PATIENCE, async {
        let world = World::new(4).await;
        world.pipeline("events", json!({})).await;
        let (listed, mut rows) = eight_thousand(&world, &[]).await;
        world.emulator.faults().account().allow_only_puts(PUT_ONLY);
        let put_only = [("AWS_ACCESS_KEY_ID", PUT_ONLY)];
        let (learnt, more) = eight_thousand(&world, &put_only).await;
        rows.extend(more);
        eprintln!("8,000 rows: {listed:?} through listed shards, {learnt:?} through learnt ones");
        // One shard alone would take four times as long.
        assert!(learnt < listed * 2, "{listed:?}, then {learnt:?}");
        let verdict = world.judge(&rows).await;
        assert!(
            verdict.is_clean() && verdict.duplicates == 0,
            "{verdict:#?}"
        );
    })
    .await;
}
