//! A supervisor that is stuck: what does not depend on it works all the same.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::relay::Relay;
use crate::scenario::{PATIENCE, scenario, until};
use crate::world::World;

/// The supervisor's thread is blocked after a few seconds.
const STUCK: (&str, &str) = ("TIDEGATE_TEST_FAULTS", "supervisor.Tick=30:block");

async fn stuck_relay(world: &World) -> Relay {
    let relay = world.relay_with(&[STUCK]).await;
    until("it is stuck", PATIENCE, || {
        relay.log_lines(&["a test asked for a blocked thread"]) > 0
    })
    .await;
    relay
}

/// It comes first: nobody can have told a reader to stop.
#[tokio::test(flavor = "multi_thread")]
async fn readiness_ends_before_anything_else_changes() {
    scenario(PATIENCE, async {
        let world = World::new(1).await;
        world.pipeline("events", json!({})).await;
        let mut relay = stuck_relay(&world).await;
        assert_eq!(relay.get("/readyz").expect("an answer").0, 200);
        relay.signal("TERM");
        until("it is not ready", PATIENCE, || {
            relay.get("/readyz").is_ok_and(|(code, _)| code == 503)
        })
        .await;
        assert_eq!(relay.log_lines(&["draining: nothing more is read"]), 0);
        // Its readers still read and send.
        let received = world.consumer.received();
        world.publish_many("events", 10, 10, 10).await;
        world.wait_until_received(received + 10).await;

        let asked = Instant::now();
        relay.signal("TERM");
        assert_eq!(relay.end(PATIENCE).await, 1);
        let took = asked.elapsed();
        assert!(took < Duration::from_secs(2), "{took:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_that_cannot_drain_holds_nothing() {
    scenario(PATIENCE, async {
        let world = World::new(1).await;
        world.pipeline("events", json!({})).await;
        let mut relay = stuck_relay(&world).await;
        relay.signal("TERM");
        assert_eq!(relay.end(PATIENCE).await, 1);
        let words = ["the supervisor shows no sign of life and cannot drain"];
        assert_eq!(relay.log_lines(&words), 1, "{}", relay.log());
    })
    .await;
}
