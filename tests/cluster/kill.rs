//! A node is killed: others have its pipelines within the time that is promised.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::fleet::{Fleet, name_of};
use crate::history;
use crate::scenario::{PATIENCE, scenario};
use crate::way::Way;

/// What is promised by default settings; and what a machine under load may take on
/// top, which has nothing to do with it.
const PROMISED: Duration = Duration::from_secs(5);
const UNDER_LOAD: Duration = Duration::from_secs(5);

const PIPELINES: usize = 12;

async fn a_killed_node_is_replaced(way: Way) {
    let fleet = Fleet::new(way, 2, PIPELINES).await;
    let load = fleet.load(10.0).await;
    let nodes = [fleet.node().await, fleet.node().await, fleet.node().await];
    fleet.balanced(&nodes.iter().collect::<Vec<_>>()).await;
    fleet.world.wait_until_received(100).await;
    let before = history::now(fleet.pool()).await;
    let [dead, second, third] = nodes;
    let name = name_of(&dead);
    let owned: Vec<String> =
        sqlx::query_scalar("SELECT pipeline FROM tide.relay_lease WHERE owner = $1")
            .bind(&name)
            .fetch_all(fleet.pool())
            .await
            .expect("pipelines");
    assert_eq!(owned.len(), PIPELINES / 3);
    dead.kill();
    let killed = Instant::now();
    // What is published from now on the dead one cannot have sent.
    let last: i64 = sqlx::query_scalar("SELECT max(id) FROM tide.outbox_message")
        .fetch_one(fleet.pool())
        .await
        .expect("an id");
    let mut waiting: BTreeSet<&str> = owned.iter().map(String::as_str).collect();
    let mut took: BTreeMap<&str, Duration> = BTreeMap::new();
    while !waiting.is_empty() {
        for record in fleet.world.delivered() {
            if record.id > last && waiting.remove(&*record.outbox) {
                let place = owned.iter().find(|name| ***name == *record.outbox);
                took.insert(place.expect("one of them"), killed.elapsed());
            }
        }
        assert!(killed.elapsed() < PATIENCE, "{waiting:?} were not taken");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let longest = took.values().max().copied().unwrap_or_default();
    eprintln!("{way:?}: from SIGKILL to the first record of another node: {took:?}");
    assert!(longest < PROMISED + UNDER_LOAD, "{longest:?}");
    fleet.balanced(&[&second, &third]).await;
    let moves = history::moves(fleet.pool(), before).await;
    let moved: Vec<&String> = moves.keys().collect();
    let mut owned: Vec<&String> = owned.iter().collect();
    owned.sort();
    assert_eq!(moved, owned, "only what the dead one had moves");
    assert!(moves.values().all(|count| *count == 1), "{moves:?}");
    fleet.world.settle(load).await;
    history::judge(fleet.pool()).await;
    assert_eq!(second.terminate().await, 0);
    assert_eq!(third.terminate().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_nodes_pipelines_are_taken_over_in_time() {
    scenario(4 * PATIENCE, a_killed_node_is_replaced(Way::Direct)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_nodes_pipelines_are_taken_over_in_time_through_a_pooler() {
    scenario(4 * PATIENCE, a_killed_node_is_replaced(Way::Pooled)).await;
}
