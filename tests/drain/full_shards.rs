//! Shards that are full: more waits for them than they take within the grace. What was
//! in no call is left to the next owner, who sends it, and only it.

use std::time::Duration;

use serde_json::json;
use tidegate::demo::verdict::Committed;
use tokio::time::Instant;

use crate::relay::Relay;
use crate::scenario::{PATIENCE, scenario, until};
use crate::world::World;
use crate::{LONG_LEASE, leases_held};

/// What the relay takes the shard for: what a lane has handed, a thousand rows, would
/// take it 25 s.
const NARROW: (&str, &str) = ("TIDEGATE__KINESIS__SHARD_BUDGET__RECORDS_PER_SECOND", "40");

/// A drain lets go for a second what goes by itself; the rest is calls, statements and
/// a machine under load.
const SOON: Duration = Duration::from_secs(5);

/// Rows of one busy key before and among those of many others: most of those are sent
/// before it, out of turn.
async fn backlog(world: &World, pipelines: &[&str]) -> Vec<Committed> {
    let mut all = Vec::new();
    for name in pipelines {
        world.pipeline(name, json!({})).await;
        for _ in 0..3 {
            all.extend(world.publish_many(name, 100, 1, 10).await);
            all.extend(world.publish_many(name, 300, 60, 10).await);
        }
    }
    // Ids rise, also over the statements.
    all.sort_by_key(|row| row.id);
    all
}

/// Rows that their owner left, as the log has it.
fn rows_left(relay: &Relay) -> u64 {
    let lines = relay.lines_with("rows that were not sent are left to the next owner");
    let rows = lines.iter().map(|line| {
        let (_, rest) = line.split_once("rows=").expect("a number");
        let digits = rest.split(|digit: char| !digit.is_ascii_digit()).next();
        digits
            .and_then(|rows| rows.parse::<u64>().ok())
            .expect("a number")
    });
    rows.sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_shard_holds_no_drain_and_nothing_comes_twice() {
    scenario(3 * PATIENCE, async {
        let world = World::new(1).await;
        let rows = backlog(&world, &["events", "more"]).await;
        // Twice, so that a relay hands on what it was left before it has sent it.
        for term in 1..=2 {
            let mut relay = world.relay_with(&[NARROW, LONG_LEASE]).await;
            world.wait_until_received(term * 150).await;
            let asked = Instant::now();
            relay.signal("TERM");
            assert_eq!(relay.end(PATIENCE).await, 0);
            let took = asked.elapsed();
            let left = rows_left(&relay);
            eprintln!("drained within {took:?}, {left} rows were left");
            assert!(took < SOON, "{took:?}");
            assert!(left > 500, "{left} rows were left: the shard was not full");
            let words = [
                "drained: everything that was sent is settled",
                "pipelines=2",
            ];
            assert_eq!(relay.log_lines(&words), 1, "{}", relay.log());
            assert_eq!(leases_held(&world).await, 0);
        }
        assert!(world.consumer.received() < rows.len() as u64 / 2);

        let relay = world.relay_with(&[LONG_LEASE]).await;
        let verdict = world.judge(&rows).await;
        assert!(verdict.is_clean(), "{verdict:#?}");
        assert_eq!(verdict.duplicates, 0, "{verdict:#?}");
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_shard_holds_no_joiner_up_and_nothing_comes_twice() {
    scenario(3 * PATIENCE, async {
        let world = World::new(1).await;
        let pipelines = ["a", "b", "c", "d"];
        let rows = backlog(&world, &pipelines).await;
        let first = world.relay_with(&[NARROW]).await;
        world.wait_until_received(150).await;
        let asked = Instant::now();
        let second = world.relay_with(&[NARROW]).await;
        until("the joiner has its part", PATIENCE, || {
            second.status()["databases"][0]["cluster"]["held"] == 2
        })
        .await;
        let took = asked.elapsed();
        let left = rows_left(&first);
        eprintln!("joined within {took:?}, {left} rows were left");
        // It asks from its second beat on, and asks again until it is given.
        assert!(took < 2 * SOON, "{took:?}");
        assert!(left > 500, "{left} rows were left: the shard was not full");
        assert_eq!(first.log_lines(&["some rows will be sent again"]), 0);
        let received = world.consumer.received();
        world.wait_until_received(received + 150).await;
        // Their figures do not stand still.
        for relay in [first, second] {
            relay.signal("TERM");
            assert_eq!(relay.exit_code(PATIENCE).await, 0);
        }
        assert!(world.consumer.received() < rows.len() as u64 / 2);

        let relay = world.relay().await;
        let verdict = world.judge(&rows).await;
        assert!(verdict.is_clean(), "{verdict:#?}");
        assert_eq!(verdict.duplicates, 0, "{verdict:#?}");
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

/// A pause is a drain as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_is_paused_on_a_full_shard_and_nothing_comes_twice() {
    scenario(3 * PATIENCE, async {
        let world = World::new(1).await;
        let rows = backlog(&world, &["events"]).await;
        let relay = world.relay_with(&[NARROW]).await;
        world.wait_until_received(150).await;
        let asked = Instant::now();
        world
            .sql("SELECT tide.relay_pause('pipeline', 'events')")
            .await;
        relay.wait_for_state("events", "paused").await;
        let took = asked.elapsed();
        assert!(took < SOON, "{took:?}");
        assert!(rows_left(&relay) > 200);
        assert_eq!(relay.terminate().await, 0);

        let relay = world.relay().await;
        world
            .sql("SELECT tide.relay_resume('pipeline', 'events')")
            .await;
        let verdict = world.judge(&rows).await;
        assert!(verdict.is_clean(), "{verdict:#?}");
        assert_eq!(verdict.duplicates, 0, "{verdict:#?}");
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}
