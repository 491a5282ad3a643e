//! Figures that alerts rest on, brought about for real.

use serde_json::json;

use crate::scenario::{PATIENCE, until};
use crate::world::{STREAM, World};

/// A transaction that writes and does not end is told by its age, and forgotten when
/// it has ended.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_transaction_holds_the_horizon() {
    let world = World::new(1).await;
    world.pipeline("events", json!({})).await;
    let relay = world.relay().await;
    let held = || relay.metric("tidegate_database_horizon_held_seconds", &[]);
    relay.wait_for_state("events", "running").await;
    let mut old = world.pool.begin().await.expect("a transaction");
    sqlx::query("SELECT pg_current_xact_id()::text")
        .execute(&mut *old)
        .await
        .expect("an id");
    until("it has been held for a second", PATIENCE, || held() > 1.0).await;
    old.rollback().await.expect("the end");
    until("nothing holds it", PATIENCE, || held() < 1.0).await;
    assert_eq!(relay.terminate().await, 0);
}

/// Many rows of one key go one by one, whatever the shard takes.
#[tokio::test(flavor = "multi_thread")]
async fn a_hot_key_is_told() {
    let world = World::new(1).await;
    world.pipeline("events", json!({})).await;
    let rows = world.publish_many("events", 60, 1, 10).await;
    let relay = world.relay().await;
    world.wait_for(&rows, PATIENCE).await;
    let labels = [("stream", STREAM)];
    let limited = relay.metric("tidegate_shard_calls_key_limited_total", &labels);
    let calls = relay.metric("tidegate_put_calls_total", &labels);
    assert!(limited > 0.8 * calls, "{limited} of {calls} calls");
    let many = world.publish_many("events", 60, 60, 10).await;
    world.wait_for(&many, PATIENCE).await;
    let after = relay.metric("tidegate_shard_calls_key_limited_total", &labels);
    assert!(
        after < limited + 2.0,
        "{after} after {limited}: other keys wait for nobody"
    );
    assert_eq!(relay.terminate().await, 0);
}

/// The backlog of a pipeline is that of its owner; nobody shows it while it is paused.
#[tokio::test(flavor = "multi_thread")]
async fn only_the_owner_shows_the_backlog() {
    let world = World::new(1).await;
    world.pipeline("events", json!({})).await;
    let relays = [world.relay().await, world.relay().await];
    let shows = |family: &str| {
        let bodies = relays
            .iter()
            .map(|relay| relay.get("/metrics").expect("metrics").1);
        let series = format!("{family}{{");
        bodies.filter(|body| body.contains(&series)).count()
    };
    let states = || {
        let mut states = relays.each_ref().map(|relay| relay.state("events"));
        states.sort();
        states
    };
    let families = ["tidegate_lag_rows", "tidegate_lag_oldest_seconds"];
    until("one owns it", PATIENCE, || {
        states() == ["running", "standby"]
    })
    .await;
    for family in families {
        assert_eq!(shows(family), 1, "{family}");
    }
    world
        .sql("SELECT tide.relay_pause('pipeline', 'events')")
        .await;
    until("it is paused", PATIENCE, || {
        states() == ["paused", "paused"]
    })
    .await;
    for family in families {
        assert_eq!(shows(family), 0, "{family}");
    }
    world
        .sql("SELECT tide.relay_resume('pipeline', 'events')")
        .await;
    until("it runs again", PATIENCE, || {
        states() == ["running", "standby"]
    })
    .await;
    let shown = "its owner shows the backlog again";
    until(shown, PATIENCE, || {
        families.iter().all(|family| shows(family) == 1)
    })
    .await;
    for relay in relays {
        assert_eq!(relay.terminate().await, 0);
    }
}
