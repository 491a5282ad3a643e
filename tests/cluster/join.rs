//! A node joins: it takes its part and nothing else moves; and what all of it costs the
//! database.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::fleet::Fleet;
use crate::history;
use crate::relay::{Relay, sum_of};
use crate::scenario::{PATIENCE, scenario_alone};
use crate::way::Way;

const PIPELINES: usize = 300;

/// For how long statements are counted.
const COUNTED_FOR: Duration = Duration::from_secs(10);

/// The statements that nodes send for each other's sake.
const COORDINATION: [&str; 5] = ["beat", "claim", "release", "write_shares", "forget_shares"];

/// What a node had sent at a moment.
struct Sent {
    at: Instant,
    statements: BTreeMap<&'static str, f64>,
}

impl Sent {
    /// By one answer of the node: with hundreds of pipelines it takes its time.
    fn by(node: &Relay) -> Self {
        let (at, metrics) = (Instant::now(), node.metrics());
        let count = |query: &&'static str| {
            let name = "tidegate_database_query_seconds_count";
            (*query, sum_of(&metrics, name, &[("query", *query)]))
        };
        let statements = COORDINATION.iter().map(count).collect();
        Self { at, statements }
    }
}

/// How many statements nodes send a second.
async fn rates(nodes: &[&Relay]) -> BTreeMap<&'static str, f64> {
    let before: Vec<Sent> = nodes.iter().map(|node| Sent::by(node)).collect();
    tokio::time::sleep(COUNTED_FOR).await;
    let mut rates = BTreeMap::new();
    for (node, before) in nodes.iter().zip(before) {
        let after = Sent::by(node);
        let seconds = (after.at - before.at).as_secs_f64();
        for (query, count) in after.statements {
            *rates.entry(query).or_default() += (count - before.statements[query]) / seconds;
        }
    }
    rates
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

    let rates = rates(&nodes).await;
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
