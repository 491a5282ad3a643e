//! SIGHUP at bad moments: the process goes on, or ends as it was asked to.

use std::time::Duration;

use serde_json::json;
use tidegate::core::shard_map::HashRange;
use tidegate::demo::faults::Refused;
use tidegate::demo::load::OutboxLoad;

use crate::LONG_LEASE;
use crate::relay::Relay;
use crate::scenario::{PATIENCE, scenario, until};
use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn hang_ups_at_any_moment_of_the_start_and_twice_at_once() {
    scenario(2 * PATIENCE, async {
        let world = World::new(1).await;
        world.pipeline("events", json!({})).await;
        let load = OutboxLoad {
            rows_per_second: Some(100.0),
            ..OutboxLoad::new("events")
        };
        let load = world.load(vec![load], 5).await;
        world.lost_counters();
        for round in 0..10 {
            let mut relay = Relay::start_unready(&world.settings(&[LONG_LEASE]));
            relay.wait_for_handlers().await;
            let received = world.consumer.received();
            for _ in 0..20 {
                relay.signal("HUP");
                tokio::time::sleep(Duration::from_millis(fastrand::u64(0..10))).await;
            }
            world.wait_until_received(received + 1).await;
            // Two at once.
            relay.signal("HUP");
            relay.signal("HUP");
            world
                .wait_until_received(world.consumer.received() + 10)
                .await;
            if round % 2 == 0 {
                relay.signal("HUP");
            }
            relay.signal("TERM");
            assert_eq!(relay.end(PATIENCE).await, 0, "{}", relay.log());
            assert!(!relay.log().contains("panic"), "{}", relay.log());
        }
        let relay = world.relay_with(&[LONG_LEASE]).await;
        let (_, verdict) = world.settle(load).await;
        assert_eq!(verdict.duplicates, 0, "{verdict:#?}");
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hang_ups_during_a_drain_change_nothing() {
    scenario(2 * PATIENCE, async {
        let world = World::new(1).await;
        world.pipeline("events", json!({})).await;
        let everything = HashRange {
            first: 0,
            last: u128::MAX,
        };
        world.emulator.faults().refuse(Refused::Range(everything));
        let rows = world.publish_many("events", 50, 10, 10).await;
        let mut relay = world.relay_with(&[LONG_LEASE]).await;
        until("rows are in flight", PATIENCE, || {
            relay.pipeline("events")["in_flight_rows"] == 50
        })
        .await;
        relay.signal("TERM");
        until("it drains", PATIENCE, || {
            relay.status()["phase"] == "draining"
        })
        .await;
        for _ in 0..10 {
            relay.signal("HUP");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(relay.get("/readyz").expect("an answer").0, 503);
        until("it has heard them", PATIENCE, || {
            relay.log_lines(&["SIGHUP while the relay ends"]) > 0
        })
        .await;
        // The drain goes on, and ends clean.
        world.emulator.faults().admit_all();
        assert_eq!(relay.end(PATIENCE).await, 0);
        let words = ["drained: everything that was sent is settled"];
        assert_eq!(relay.log_lines(&words), 1, "{}", relay.log());

        let relay = world.relay_with(&[LONG_LEASE]).await;
        let verdict = world.judge(&rows).await;
        assert!(verdict.is_clean(), "{verdict:#?}");
        assert_eq!(verdict.duplicates, 0, "{verdict:#?}");
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}
