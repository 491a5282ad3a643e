//! SIGKILL at any moment: nothing is lost, order and `seq` stay, and what is sent
//! again is bounded.

use std::time::Duration;

use serde_json::json;
use tidegate::demo::load::{KeyOrder, OutboxLoad};

use crate::scenario::{PATIENCE, scenario};
use crate::world::World;

const KILLS: u64 = 20;

/// Rows of a pipeline that are sent and not confirmed, at most.
const ROWS_IN_FLIGHT: u64 = 50;

/// The most a pipeline sends in a second, and at once.
const ROWS_PER_SECOND: u64 = 400;
const BURST: u64 = 50;

/// What a pipeline may send again after a kill: what was in flight, and what was
/// confirmed since the position was last written. That happens every 200 ms; a
/// loaded machine may take twice as long.
const SENT_AGAIN: u64 = ROWS_IN_FLIGHT + ROWS_PER_SECOND * 4 / 10 + BURST;

#[tokio::test(flavor = "multi_thread")]
async fn twenty_kills_lose_nothing_and_repeat_little() {
    scenario(4 * PATIENCE, async {
        let world = World::new(2).await;
        let limited = json!({"rate_limit": {
            "enabled": true, "max_messages_per_second": ROWS_PER_SECOND, "burst_size": BURST,
        }});
        let outboxes = vec![
            OutboxLoad {
                workers: 3,
                rows_per_second: Some(120.0),
                ..OutboxLoad::new("events")
            },
            OutboxLoad {
                workers: 3,
                keys: 2,
                rows_per_second: Some(80.0),
                key_order: KeyOrder::Unlocked,
                ..OutboxLoad::new("racing")
            },
        ];
        for load in &outboxes {
            world.pipeline(&load.outbox, limited.clone()).await;
        }
        let rows_in_flight = ROWS_IN_FLIGHT.to_string();
        let settings = [
            ("TIDEGATE__CLUSTER__LEASE", "1s"),
            ("TIDEGATE__LIMITS__PIPELINE_ROWS", &rows_in_flight),
        ];
        // Under its own name a relay takes its pipelines back at once; under
        // another one it waits for the lease's end.
        let mut named = settings.to_vec();
        named.push(("TIDEGATE__CLUSTER__NODE_ID", "the-same"));

        let load = world.load(outboxes, 12).await;
        let mut kills_under_way = 0;
        for kill in 0..KILLS {
            let is_named = kill % 4 != 0;
            let settings = if is_named { &named[..] } else { &settings[..] };
            let relay = world.relay_with(settings).await;
            let before = world.consumer.received();
            if kill % 2 == 0 {
                // At work; the others are killed wherever they are.
                world.wait_until_received(before + 1).await;
            }
            let moment = Duration::from_millis(fastrand::u64(0..800));
            tokio::time::sleep(moment).await;
            kills_under_way += u64::from(world.consumer.received() > before);
            relay.kill();
        }
        assert!(
            kills_under_way >= KILLS / 2,
            "only {kills_under_way} relays were killed at work"
        );
        let relay = world.relay_with(&settings).await;
        let (report, verdict) = world.settle(load).await;
        eprintln!(
            "{KILLS} kills, {kills_under_way} at work: {} rows, {} sent again",
            report.committed.len(),
            verdict.duplicates
        );
        assert!(verdict.duplicates <= 2 * KILLS * SENT_AGAIN, "{verdict:#?}");
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}
