//! SIGTERM while the relay starts: nothing it waits for holds it.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::relay::Relay;
use crate::scenario::{PATIENCE, scenario, until};
use crate::world::World;
use crate::{LONG_LEASE, leases_held};

/// Far less than any grace or time-out, for a machine under load: the grace is 20 s,
/// a connection is waited for 5 s, a statement 60 s.
const QUICK: Duration = Duration::from_secs(4);

async fn ends_quickly(relay: &mut Relay) {
    let asked = Instant::now();
    relay.signal("TERM");
    assert_eq!(relay.end(PATIENCE).await, 0, "{}", relay.log());
    let took = asked.elapsed();
    assert!(took < QUICK, "{took:?}: {}", relay.log());
    let drained = relay.log_lines(&["drained: everything that was sent is settled"]);
    assert_eq!(drained, 1, "{}", relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn before_anything_runs() {
    scenario(PATIENCE, async {
        let world = World::new(1).await;
        for wait in [0, 1, 2, 5, 10, 20, 50] {
            let mut relay = Relay::start_unready(&world.settings(&[]));
            relay.wait_for_handlers().await;
            tokio::time::sleep(Duration::from_millis(wait)).await;
            ends_quickly(&mut relay).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_holds_nothing() {
    scenario(PATIENCE, async {
        let world = World::new(1).await;
        // Nobody listens, and nobody answers.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let silent = silent.local_addr().expect("an address").port();
        for port in [1, silent] {
            let url = format!("postgres://nobody@127.0.0.1:{port}/nothing");
            let mut relay = world.relay_with(&[("DATABASE_URL", &url)]).await;
            until("it has started", PATIENCE, || {
                relay.get("/readyz").is_ok_and(|(code, _)| code == 200)
            })
            .await;
            ends_quickly(&mut relay).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_missing_holds_nothing() {
    scenario(PATIENCE, async {
        let world = World::new(1).await;
        world
            .pipeline("events", json!({"stream_name": "nowhere"}))
            .await;
        world.publish_many("events", 10, 10, 10).await;
        let mut relay = world.relay_with(&[LONG_LEASE]).await;
        relay.wait_for_state("events", "waiting").await;
        ends_quickly(&mut relay).await;
    })
    .await;
}

/// A claim that is under way is waited for, but not for long.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_is_not_answered_holds_nothing() {
    scenario(PATIENCE, async {
        let world = World::new(1).await;
        world.pipeline("events", json!({})).await;
        let mut lock = world.pool.begin().await.expect("a transaction");
        sqlx::raw_sql("LOCK TABLE tide.relay_lease IN SHARE MODE")
            .execute(&mut *lock)
            .await
            .expect("locked");
        let mut relay = world.relay_with(&[LONG_LEASE]).await;
        wait_for_blocked_claim(&world).await;
        ends_quickly(&mut relay).await;
        lock.rollback().await.expect("unlocked");
    })
    .await;
}

/// A lease that is granted while the relay ends is given back.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_comes_late_is_given_back() {
    scenario(PATIENCE, async {
        let world = World::new(1).await;
        world.pipeline("events", json!({})).await;
        let rows = world.publish_many("events", 10, 10, 10).await;
        let mut lock = world.pool.begin().await.expect("a transaction");
        sqlx::raw_sql("LOCK TABLE tide.relay_lease IN SHARE MODE")
            .execute(&mut *lock)
            .await
            .expect("locked");
        let mut relay = world.relay_with(&[LONG_LEASE]).await;
        wait_for_blocked_claim(&world).await;
        relay.signal("TERM");
        until("it drains", PATIENCE, || {
            relay.log_lines(&["draining: nothing more is read"]) > 0
        })
        .await;
        lock.rollback().await.expect("unlocked");
        assert_eq!(relay.end(PATIENCE).await, 0);
        let epochs = "SELECT coalesce(max(epoch), 0) FROM tide.relay_lease";
        assert_eq!(world.number(epochs).await, 1, "it was granted");
        assert_eq!(leases_held(&world).await, 0);

        let relay = world.relay_with(&[LONG_LEASE]).await;
        let verdict = world.judge(&rows).await;
        assert!(verdict.is_clean(), "{verdict:#?}");
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

async fn wait_for_blocked_claim(world: &World) {
    let sql = "SELECT count(*) FROM pg_stat_activity \
        WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let deadline = Instant::now() + PATIENCE;
    while world.number(sql).await == 0 {
        assert!(Instant::now() < deadline, "no claim waits for the lock");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
