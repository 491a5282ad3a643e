//! SIGTERM at any moment under load: nothing is lost, nothing comes twice.

use std::time::Duration;

use serde_json::json;
use tidegate::demo::load::{KeyOrder, OutboxLoad};
use tokio::time::Instant;

use crate::scenario::{PATIENCE, scenario};
use crate::world::World;
use crate::{LONG_LEASE, leases_held};

const TERMS: u32 = 50;

/// A relay is left to itself for so long, at most, before it is asked to end.
const LONGEST_MS: u64 = 500;

#[tokio::test(flavor = "multi_thread")]
async fn fifty_drains_at_any_moment_lose_and_repeat_nothing() {
    scenario(4 * PATIENCE, async {
        let world = World::new(2).await;
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
            world.pipeline(&load.outbox, json!({})).await;
        }
        let seed = fastrand::u64(..);
        eprintln!("seed {seed}");
        let mut dice = fastrand::Rng::with_seed(seed);
        let load = world.load(outboxes, seed).await;
        world.lost_counters();
        let (mut at_work, mut longest) = (0, Duration::ZERO);
        for term in 0..TERMS {
            let received = world.consumer.received();
            // Some while they start, most at work.
            let mut relay = if term % 5 == 0 {
                let relay =
                    crate::relay::Relay::start_unready(&world.settings(&[LONG_LEASE]));
                relay.wait_for_handlers().await;
                relay
            } else {
                let relay = world.relay_with(&[LONG_LEASE]).await;
                // A relay that is ready may not have its leases yet: most send rows first.
                if term % 4 != 1 {
                    world.wait_until_received(received + 1).await;
                }
                relay
            };
            let moment = Duration::from_millis(dice.u64(0..LONGEST_MS));
            tokio::time::sleep(moment).await;
            at_work += u32::from(world.consumer.received() > received);
            relay.signal(if dice.bool() { "TERM" } else { "INT" });
            let asked = Instant::now();
            assert_eq!(relay.end(PATIENCE).await, 0, "after {moment:?}");
            longest = longest.max(asked.elapsed());
            let log = relay.log();
            assert!(
                log.contains("drained: everything that was sent is settled"),
                "after {moment:?}: {log}"
            );
            assert!(!log.contains("panic"), "after {moment:?}: {log}");
            assert_eq!(leases_held(&world).await, 0, "after {moment:?}: {log}");
        }
        assert!(at_work >= TERMS / 2, "only {at_work} relays were at work");
        let relay = world.relay_with(&[LONG_LEASE]).await;
        let (report, verdict) = world.settle(load).await;
        eprintln!(
            "{TERMS} drains, {at_work} at work, the longest took {longest:?}: {} rows, {} sent again",
            report.committed.len(),
            verdict.duplicates
        );
        assert_eq!(verdict.duplicates, 0, "{verdict:#?}");
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}
