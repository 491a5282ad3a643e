//! A node joins: it takes its part and nothing else moves; and what all of it costs the
//! database.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::fleet::Fleet;
use crate::history;
use crate::relay::Relay;
use crate::scenario::{PATIENCE, scenario_alone};
use crate::way::Way;

const PIPELINES: usize = 300;

/// For how long statements are counted.
const COUNTED_FOR: Duration = Duration::from_secs(10);

/// The statements that nodes send for each other's sake.
const COORDINATION: [&str; 5] = ["beat", "claim", "release", "write_shares", "forget_shares"];

fn statements(nodes: &[&Relay]) -> BTreeMap<&'static str, f64> {
    let count = |query: &&'static str| {
        let labels = [("query", *query)];
        let of = |node: &&Relay| node.metric("tidegate_database_query_seconds_count", &labels);
        (*query, nodes.iter().map(of).sum())
    };
    COORDINATION.iter().map(count).collect()
}

async fn a_joiner_takes_a_third(way: Way) {
    let fleet = Fleet::new(way, 2, PIPELINES).await;
    let first = fleet.node().await;
    fleet.balanced(&[&first]).await;
    let second = fleet.node().await;
    fleet.balanced(&[&first, &second]).await;
    let before = history::now(fleet.pool()).await;
    let rows = fleet
        .world
        .publish_many(&fleet.outboxes[0], 20, 5, 10)
        .await;

    let joined = Instant::now();
    let third = fleet.node().await;
    let nodes = [&first, &second, &third];
    fleet.balanced(&nodes).await;
    let took = joined.elapsed();
    let moves = history::moves(fleet.pool(), before).await;
    assert_eq!(moves.len(), PIPELINES / 3, "{moves:?}");
    assert!(moves.values().all(|count| *count == 1), "{moves:?}");

    let (counted, began) = (statements(&nodes), Instant::now());
    tokio::time::sleep(COUNTED_FOR).await;
    let seconds = began.elapsed().as_secs_f64();
    let rates: BTreeMap<&str, f64> = statements(&nodes)
        .into_iter()
        .map(|(query, count)| (query, (count - counted[query]) / seconds))
        .collect();
    let all: f64 = rates.values().sum();
    eprintln!(
        "{way:?}: a joiner of 3 nodes with {PIPELINES} pipelines had its part after {took:?}; then {all:.2} statements a second for coordination: {rates:.2?}"
    );
    assert!(all < 5.0, "{rates:?}");
    let still = history::moves(fleet.pool(), before).await;
    assert_eq!(still.len(), PIPELINES / 3, "what is balanced stays");

    let verdict = fleet.world.judge(&rows).await;
    assert!(verdict.is_clean(), "{verdict:#?}");
    assert_eq!(verdict.duplicates, 0);
    history::judge(fleet.pool()).await;
    for node in [first, second, third] {
        assert_eq!(node.terminate().await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_joiner_takes_a_third_and_no_more_moves() {
    scenario_alone(6 * PATIENCE, a_joiner_takes_a_third(Way::Direct)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_joiner_takes_a_third_and_no_more_moves_through_a_pooler() {
    scenario_alone(6 * PATIENCE, a_joiner_takes_a_third(Way::Pooled)).await;
}
