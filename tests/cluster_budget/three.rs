//! Nodes come, die and leave while all of them push the same four shards.

use std::time::Duration;

use crate::pushed::{NARROW, PIPELINES, SHARDS, backlog, between, mark, push, since};
use crate::relay::Relay;
use crate::scenario::{PATIENCE, scenario_alone, until};
use crate::world::{STREAM, World};

const SETTINGS: [(&str, &str); 2] = [("TIDEGATE__CLUSTER__LEASE", "4s"), NARROW];

/// How many pipelines a node has.
fn held(node: &Relay) -> u64 {
    let cluster = &node.status()["databases"][0]["cluster"];
    cluster["held"].as_u64().unwrap_or_default()
}

async fn balanced(nodes: &[&Relay]) {
    let each = (PIPELINES / nodes.len()) as u64;
    until("the pipelines are spread", 2 * PATIENCE, || {
        nodes.iter().all(|node| held(node) == each)
    })
    .await;
}

/// The share of every shard that these nodes go by, in all.
fn shares(nodes: &[&Relay]) -> f64 {
    let of = |node: &&Relay| node.metric("tidegate_shard_share_ratio", &[("resource", "records")]);
    nodes.iter().map(of).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_use_four_shards_as_one_would() {
    scenario_alone(8 * PATIENCE, async {
        let world = World::new(SHARDS).await;
        let rows = backlog(&world, 75).await;
        let first = world.relay_with(&SETTINGS).await;
        balanced(&[&first]).await;
        let began = mark(&world);
        let alone = push(&world, Duration::from_secs(5)).await;
        eprintln!("one node: {alone}");

        let joining = mark(&world);
        let second = world.relay_with(&SETTINGS).await;
        let third = world.relay_with(&SETTINGS).await;
        balanced(&[&first, &second, &third]).await;
        let joined = since(&world, joining);
        eprintln!("two nodes join: {joined}");
        let steady = push(&world, Duration::from_secs(10)).await;
        eprintln!("three nodes: {steady}");
        let of = shares(&[&first, &second, &third]);
        assert!(of > 3.9 && of < 4.0001, "the shares of 4 shards are {of}");

        let killing = mark(&world);
        second.kill();
        let dying = push(&world, Duration::from_secs(8)).await;
        eprintln!("one of three is killed: {dying}");
        balanced(&[&first, &third]).await;
        let two = push(&world, Duration::from_secs(6)).await;
        eprintln!("two nodes: {two}");
        let after_death = since(&world, killing);
        eprintln!("from the kill on: {after_death}");

        let leaving = mark(&world);
        assert_eq!(third.terminate().await, 0);
        push(&world, Duration::from_secs(5)).await;
        let left = since(&world, leaving);
        eprintln!("one of two leaves: {left}");

        let all = between(began, mark(&world));
        eprintln!("all in all: {all}");
        for shard in world.emulator.tally().shards(STREAM).keys() {
            let busiest = world.emulator.tally().busiest_second(STREAM, shard);
            eprintln!("{shard}: {busiest:?}");
        }
        for passed in [alone, joined, steady, dying, two, left, all] {
            assert!(passed.throttled_part() < 0.005, "{passed}");
        }
        for passed in [alone, steady, two, all] {
            assert!(passed.used >= 0.95, "{passed}");
        }

        let verdict = world.judge(&rows).await;
        assert!(verdict.is_clean(), "{verdict:#?}");
        assert_eq!(first.terminate().await, 0);
    })
    .await;
}
