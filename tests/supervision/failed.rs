//! A pipeline whose reader always dies is *failed*: it is tried again slowly, and
//! harms no other.

use serde_json::json;
use tidegate::demo::load::OutboxLoad;

use crate::restarts::{restarts, restarts_of_reader};
use crate::scenario::{PATIENCE, scenario, until};
use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_always_dies_is_failed_and_comes_back() {
    scenario(3 * PATIENCE, async {
        let world = World::new(2).await;
        world.pipeline("bad", json!({})).await;
        world.pipeline("good", json!({})).await;
        // Within that time it dies of every outcome, before it has done anything.
        let chaos = [("TIDEGATE_TEST_CHAOS", "1:15000:outbox_reader/bad")];
        let relay = world.relay_with(&chaos).await;
        let slow = |outbox| OutboxLoad {
            rows_per_second: Some(50.0),
            ..OutboxLoad::new(outbox)
        };
        let load = world.load(vec![slow("bad"), slow("good")], 8).await;
        relay.wait_for_state("bad", "failed").await;
        let reason = relay.pipeline("bad")["reason"].to_string();
        assert!(reason.contains("5 times in a row"), "{reason}");
        let died = restarts_of_reader(&relay, "bad");
        assert_eq!(died, 5, "no pause was left out");
        assert_eq!(relay.state("good"), "running");
        // It is tried again, slowly, and comes back when it does not die any more.
        until("it is back", PATIENCE, || relay.state("bad") == "running").await;
        world.settle(load).await;
        assert_eq!(restarts_of_reader(&relay, "good"), 0);
        let again = restarts_of_reader(&relay, "bad");
        assert!(again <= died + 2, "it died {again} times");
        assert_eq!(restarts(&relay, "outbox_reader", "panic"), again as f64);
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}
