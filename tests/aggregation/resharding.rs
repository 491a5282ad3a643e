//! Shards change while records of many rows are under way: consumers that leave out
//! what lies outside its shard have every row all the same.

use serde_json::json;
use tidegate::demo::load::OutboxLoad;

use crate::raw_consumer;
use crate::scenario::{PATIENCE, scenario, scenario_alone, until};
use crate::shards::Shards;
use crate::world::World;

/// Only a record that goes to an unexpected shard tells of a reshard.
const SELDOM: (&str, &str) = ("TIDEGATE__KINESIS__SHARD_REFRESH", "1h");

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_record_that_crosses_a_reshard_are_sent_again() {
    scenario(2 * PATIENCE, async {
        let world = World::new(1).await;
        let raw = raw_consumer(&world).await;
        world
            .pipeline("events", json!({"aggregation": "kpl"}))
            .await;
        let relay = world.relay_with(&[SELDOM]).await;
        let mut rows = world.publish_many("events", 10, 10, 10).await;
        world.wait_for(&rows, PATIENCE).await;
        let shards = Shards::of(&world).await;
        shards.split(0).await;
        // Gathered for the one shard that is gone: half of it is in the wrong one.
        rows.extend(world.publish_many("events", 400, 100, 10).await);
        let verdict = world.judge(&rows).await;
        assert!(verdict.is_clean(), "{verdict:#?}");
        let labels = [("pipeline", "events"), ("reason", "misplaced")];
        let retried = relay.metric("tidegate_records_retried_total", &labels);
        assert!(retried > 0.0, "no record crossed the reshard");
        until("the new shards are followed", PATIENCE, || {
            relay.status()["streams"][0]["shards"]
                .as_array()
                .map(Vec::len)
                == Some(2)
        })
        .await;
        // Each shard has records of many rows again.
        let before = world.consumer.received();
        drop(raw.drain());
        rows.extend(world.publish_many("events", 1_000, 100, 10).await);
        let verdict = world.judge(&rows).await;
        assert!(verdict.is_clean(), "{verdict:#?}");
        assert_eq!(
            world.consumer.received() - before,
            1_000,
            "nothing is repeated"
        );
        let records = raw.drain().len();
        assert!(records < 300, "{records} records");
        assert_eq!(relay.metric("tidegate_actor_restarts_total", &[]), 0.0);
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn splits_and_merges_under_load_lose_nothing() {
    scenario_alone(3 * PATIENCE, async {
        let world = World::new(3).await;
        world
            .pipeline("events", json!({"aggregation": "kpl"}))
            .await;
        world
            .pipeline(
                "lines",
                json!({"aggregation": "ndjson", "compression": "zstd"}),
            )
            .await;
        let relay = world
            .relay_with(&[("TIDEGATE__KINESIS__SHARD_REFRESH", "1s")])
            .await;
        let load = |name: &str| OutboxLoad {
            workers: 4,
            keys: 60,
            rows_per_second: Some(400.0),
            ..OutboxLoad::new(name)
        };
        let load = world.load(vec![load("events"), load("lines")], 51).await;
        world.wait_until_received(300).await;
        let shards = Shards::of(&world).await;
        for step in 0..4 {
            let received = world.consumer.received();
            match step {
                0 | 2 => shards.split(step).await,
                1 | 3.. => shards.merge(1).await,
            }
            world.wait_until_received(received + 300).await;
        }
        let report = load.stop().await.expect("the books");
        let verdict = world.judge(&report.rows()).await;
        // A consumer of lines sees rows also in a shard that they do not belong to.
        let of_lines = tidegate::demo::verdict::Verdict {
            wrong_shard: 0,
            examples: Vec::new(),
            ..verdict.clone()
        };
        assert!(of_lines.is_clean(), "{verdict:#?}");
        eprintln!(
            "{} rows, {} sent again",
            report.committed.len(),
            verdict.duplicates
        );
        assert_eq!(relay.metric("tidegate_actor_restarts_total", &[]), 0.0);
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}
