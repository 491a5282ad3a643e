//! All nodes are replaced, one after the other: little moves, nothing comes twice.

use std::collections::BTreeMap;

use crate::fleet::{Fleet, name_of};
use crate::history;
use crate::relay::Relay;
use crate::scenario::{PATIENCE, scenario};
use crate::way::Way;

const PIPELINES: usize = 24;

async fn every_node_is_replaced(way: Way) {
    let fleet = Fleet::new(way, 2, PIPELINES).await;
    let load = fleet.load(10.0).await;
    let mut nodes = vec![fleet.node().await, fleet.node().await, fleet.node().await];
    fleet.balanced(&nodes.iter().collect::<Vec<_>>()).await;
    let before = history::now(fleet.pool()).await;
    // A pipeline has to move as often as its owner ends.
    let mut needed: BTreeMap<String, i64> = BTreeMap::new();
    for _ in 0..3 {
        let old = nodes.remove(0);
        let owned: Vec<String> =
            sqlx::query_scalar("SELECT pipeline FROM tide.relay_lease WHERE owner = $1")
                .bind(name_of(&old))
                .fetch_all(fleet.pool())
                .await
                .expect("pipelines");
        assert_eq!(owned.len(), PIPELINES / 3);
        for pipeline in owned {
            *needed.entry(pipeline).or_default() += 1;
        }
        old.signal("TERM");
        assert_eq!(old.exit_code(PATIENCE).await, 0);
        fleet.balanced(&nodes.iter().collect::<Vec<&Relay>>()).await;
        nodes.push(fleet.node().await);
        fleet.balanced(&nodes.iter().collect::<Vec<&Relay>>()).await;
    }
    let moves = history::moves(fleet.pool(), before).await;
    let all: i64 = moves.values().sum();
    let least: i64 = needed.values().sum();
    eprintln!("{way:?}: {PIPELINES} pipelines, {all} moves, {least} needed");
    for (pipeline, moves) in &moves {
        let needed = needed.get(pipeline).copied().unwrap_or_default();
        assert!(
            *moves <= needed + 1,
            "{pipeline} moved {moves} times, {needed} times its owner ended"
        );
    }
    let (report, verdict) = fleet.world.settle(load).await;
    eprintln!(
        "{} rows, {} sent again",
        report.committed.len(),
        verdict.duplicates
    );
    assert_eq!(verdict.duplicates, 0, "{verdict:#?}");
    history::judge(fleet.pool()).await;
    for node in nodes {
        assert_eq!(node.terminate().await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_moves_little_and_repeats_nothing() {
    scenario(6 * PATIENCE, every_node_is_replaced(Way::Direct)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_moves_little_and_repeats_nothing_through_a_pooler() {
    scenario(6 * PATIENCE, every_node_is_replaced(Way::Pooled)).await;
}
