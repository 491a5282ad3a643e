//! Every restart names its cause, and the documentation knows all of them.

use std::collections::BTreeSet;

use serde_json::json;
use tidegate::actors::child::Exit;

use crate::restarts::{all_restarts, restarts};
use crate::scenario::{PATIENCE, scenario, until};
use crate::world::World;

/// The names in the first column of a table of the page, under a heading.
fn documented(heading: &str) -> BTreeSet<String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/supervision.md");
    let page = std::fs::read_to_string(path).expect("the page");
    let (_, rest) = page.split_once(heading).expect("the heading");
    let section = rest.split("\n## ").next().expect("a section");
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.filter_map(|line| Some(line.split('`').nth(1)?.to_owned()))
        .collect()
}

#[test]
fn the_page_lists_every_cause_actor_and_wait() {
    let exits = [
        Exit::Stopped,
        Exit::LeaseLost,
        Exit::LeaseExpired,
        Exit::RowsLost,
        Exit::Refused(String::new()),
        Exit::Blocked(String::new()),
        Exit::Stuck,
        Exit::Panicked(String::new()),
    ];
    let causes: BTreeSet<String> = exits.iter().map(|exit| exit.cause().to_owned()).collect();
    assert_eq!(documented("## Causes"), causes);
    let actors = [
        "outbox_reader",
        "stream_router",
        "shard_writer",
        "probe",
        "retention",
        "stage",
        "supervisor",
    ];
    let actors: BTreeSet<String> = actors.map(str::to_owned).into();
    assert_eq!(documented("## Actors"), actors);
    let waits = tidegate::core::wait::Wait::ALL.map(|wait| wait.name().to_owned());
    let mut waits = BTreeSet::from(waits);
    waits.insert("nobody".to_owned());
    assert_eq!(documented("## Waits"), waits);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_was_taken_away_is_named() {
    scenario(3 * PATIENCE, async {
        let world = World::new(1).await;
        world.pipeline("events", json!({})).await;
        let relay = world.relay().await;
        relay.wait_for_state("events", "running").await;
        world
            .sql(
                "UPDATE tide.relay_lease SET epoch = epoch + 1, owner = 'another',
                expires_at = clock_timestamp() + interval '1 second'",
            )
            .await;
        until("it notices", PATIENCE, || {
            restarts(&relay, "outbox_reader", "lease_lost") == 1.0
        })
        .await;
        let lost = [("event", "lost")];
        assert_eq!(relay.metric("tidegate_lease_events_total", &lost), 1.0);
        relay.wait_for_state("events", "running").await;
        assert_eq!(all_restarts(&relay), 1.0);
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_could_not_be_renewed_is_named() {
    scenario(3 * PATIENCE, async {
        let world = World::new(1).await;
        world.pipeline("events", json!({})).await;
        let relay = world.relay().await;
        relay.wait_for_state("events", "running").await;
        let mut blocker = world.pool.begin().await.expect("a transaction");
        sqlx::raw_sql("LOCK TABLE tide.relay_lease IN ACCESS EXCLUSIVE MODE")
            .execute(&mut *blocker)
            .await
            .expect("a lock");
        until("it notices", PATIENCE, || {
            restarts(&relay, "outbox_reader", "lease_expired") >= 1.0
        })
        .await;
        blocker.rollback().await.expect("no lock any more");
        relay.wait_for_state("events", "running").await;
        let rows = world.publish_many("events", 20, 5, 10).await;
        assert!(world.judge(&rows).await.is_clean());
        assert_eq!(
            restarts(&relay, "outbox_reader", "lease_expired"),
            all_restarts(&relay)
        );
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_missing_is_a_refusal() {
    scenario(3 * PATIENCE, async {
        let world = World::new(1).await;
        world.pipeline("events", json!({})).await;
        let relay = world.relay().await;
        relay.wait_for_state("events", "running").await;
        world
            .sql("ALTER TABLE tide.relay_position RENAME TO elsewhere")
            .await;
        world.publish("events", "k", json!({})).await;
        until("it says so", PATIENCE, || {
            restarts(&relay, "outbox_reader", "refused") >= 1.0
        })
        .await;
        world
            .sql("ALTER TABLE tide.elsewhere RENAME TO relay_position")
            .await;
        relay.wait_for_state("events", "running").await;
        world.wait_until_received(1).await;
        assert_eq!(
            restarts(&relay, "outbox_reader", "refused"),
            all_restarts(&relay)
        );
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}
