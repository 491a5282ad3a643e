//! Two relays on one database: one works, the other stands by.

use std::time::Duration;

use serde_json::json;
use tidegate::demo::load::{Load, OutboxLoad};
use tokio::time::Instant;

use crate::scenario::{PATIENCE, scenario, until};
use crate::world::World;

/// The shortest lease there is; and what taking over may take on top.
const LEASE: Duration = Duration::from_secs(2);
const TAKE_OVER: Duration = Duration::from_secs(2);

/// A lease that no test waits for.
const LONG_LEASE: [(&str, &str); 1] = [("TIDEGATE__CLUSTER__LEASE", "60s")];

async fn world_with_load() -> (World, Load) {
    let world = World::new(2).await;
    world.pipeline("events", json!({})).await;
    let load = OutboxLoad {
        rows_per_second: Some(100.0),
        ..OutboxLoad::new("events")
    };
    let load = world.load(vec![load], 20).await;
    (world, load)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_over_after_a_kill_and_after_a_drain() {
    scenario(2 * PATIENCE, async {
        let (world, load) = world_with_load().await;
        let first = world.relay().await;
        first.wait_for_state("events", "running").await;
        let owner = first.status()["node"].clone();
        let second = world.relay_with(&LONG_LEASE).await;
        second.wait_for_state("events", "standby").await;
        assert_eq!(second.pipeline("events")["owner"], owner);
        world.wait_until_received(100).await;

        first.kill();
        let killed = Instant::now();
        second.wait_for_state("events", "running").await;
        let took = killed.elapsed();
        assert!(took < LEASE + TAKE_OVER, "{took:?} after the kill");

        let third = world.relay().await;
        third.wait_for_state("events", "standby").await;
        let received = world.consumer.received();
        world.wait_until_received(received + 50).await;
        assert_eq!(second.terminate().await, 0);
        let drained = Instant::now();
        third.wait_for_state("events", "running").await;
        let took = drained.elapsed();
        assert!(took < TAKE_OVER, "{took:?} after the drain");

        let received = world.consumer.received();
        world.wait_until_received(received + 50).await;
        world.settle(load).await;
        assert_eq!(third.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_slept_over_its_lease_writes_nothing_any_more() {
    scenario(2 * PATIENCE, async {
        let (world, load) = world_with_load().await;
        let first = world.relay().await;
        world.wait_until_received(50).await;
        let second = world.relay().await;
        second.wait_for_state("events", "standby").await;
        for _ in 0..2 {
            first.signal("STOP");
            second.wait_for_state("events", "running").await;
            let received = world.consumer.received();
            world.wait_until_received(received + 100).await;
            let epoch = world
                .number("SELECT epoch FROM tide.relay_position WHERE pipeline = 'events'")
                .await;
            first.signal("CONT");
            let events = |event| first.metric("tidegate_lease_events_total", &[("event", event)]);
            first.wait_for_state("events", "standby").await;
            until("the first relay notices", PATIENCE, || {
                let fenced = [("outcome", "stale")];
                events("lost") + first.metric("tidegate_position_writes_total", &fenced) > 0.0
                    || first.log_lines(&["the lease could not be renewed in time"]) > 0
            })
            .await;
            let now = world
                .number("SELECT epoch FROM tide.relay_position WHERE pipeline = 'events'")
                .await;
            assert_eq!(now, epoch, "the second relay still owns the pipeline");
            assert_eq!(second.state("events"), "running");
            // The other way round.
            second.signal("STOP");
            first.wait_for_state("events", "running").await;
            second.signal("CONT");
            second.wait_for_state("events", "standby").await;
        }
        world.settle(load).await;
        assert_eq!(first.terminate().await, 0);
        assert_eq!(second.terminate().await, 0);
    })
    .await;
}
