//! Actors that panic at what a reload tells them: they start again, by the new
//! settings.

use serde_json::{Value, json};

use crate::configured::{File, take};
use crate::scenario::{PATIENCE, scenario, until};
use crate::world::{STREAM, World};

/// Where they panic. The supervisor has tests of its own, in `moments`.
const POINTS: [&str; 4] = [
    "outbox_reader.Retune",
    "probe.ProbeAtPace",
    "retention.SweepBy",
    "stream_router.RefreshEvery",
];

fn configuration(world: &World, batch_size: u32, refresh: &str, pace: &str, pause: &str) -> Value {
    json!({
        "databases": [{"name": "default", "url": world.url}],
        "admin": {"listen": "127.0.0.1:0"},
        "cluster": {"lease": "2s"},
        "kinesis": {"shard_refresh": refresh},
        "probe": {"max_interval": pace},
        "retention": {"pause": pause},
        "pipelines": [{
            "name": "events", "outbox": "events", "stream_name": STREAM, "region": "us-east-1",
            "batch_size": batch_size,
        }],
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn actors_that_panic_at_a_reload_start_again_by_the_new_settings() {
    scenario(2 * PATIENCE, async {
        let world = World::new(1).await;
        world.lost_counters();
        world.outbox("events").await;
        let file = File::with(&configuration(&world, 100, "30s", "100ms", "100ms"));
        let armed: Vec<String> = POINTS.iter().map(|point| format!("{point}=1")).collect();
        let armed = armed.join(",");
        let relay = file
            .relay(&world, &[("TIDEGATE_TEST_FAULTS", &armed)])
            .await;
        relay.wait_for_state("events", "running").await;
        let rows = world.publish_many("events", 50, 5, 10).await;
        world.wait_for(&rows, PATIENCE).await;
        take(
            &relay,
            &file,
            &configuration(&world, 50, "20s", "50ms", "50ms"),
        )
        .await;
        for point in POINTS {
            let (actor, _) = point.split_once('.').expect("an actor and a message");
            until(&format!("{actor} starts again"), PATIENCE, || {
                relay.panics(actor) > 0.5
            })
            .await;
        }
        let rows = world.publish_many("events", 200, 5, 10).await;
        world.wait_for(&rows, PATIENCE).await;
        relay.wait_for_state("events", "running").await;
        for point in POINTS {
            let (actor, _) = point.split_once('.').expect("an actor and a message");
            assert!((relay.panics(actor) - 1.0).abs() < f64::EPSILON, "{actor}");
        }
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}
