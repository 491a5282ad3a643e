//! Nodes that divide the shards in different databases: each says so.

use serde_json::{Value, json};

use crate::away::settings;
use crate::database;
use crate::relay::{Relay, program};
use crate::scenario::{PATIENCE, scenario, until};
use crate::way::{Road, Way};
use crate::world::World;

const WARNING: &str = "another node divides the shards in another database";

/// The nodes of each database that go by other budgets, as a relay sees them.
fn others(relay: &Relay) -> Vec<Value> {
    let status = relay.status();
    let databases = status["databases"].as_array().cloned();
    let others = databases.into_iter().flatten();
    others.map(|one| one["other_budgets"].clone()).collect()
}

/// Waits until each relay has seen so many nodes in both databases.
async fn met(relays: &[&Relay], nodes: f64) {
    until("they meet in both", PATIENCE, || {
        relays.iter().all(|relay| {
            ["events", "nodes"].iter().all(|database| {
                let live = [("database", *database), ("state", "live")];
                relay.metric("tidegate_cluster_nodes", &live) > nodes - 0.5
            })
        })
    })
    .await;
}

async fn nodes_do_not_agree(way: Way) {
    let world = World::new(1).await;
    let road = Road::new(way).await;
    let nodes = road.url(&database::migrated_database().await);
    let alike = settings(&world, &road, &nodes, "nodes", "2s");
    let first = world.keeps_book_of(Relay::start(&alike).await);
    let second = world.keeps_book_of(Relay::start(&alike).await);
    met(&[&first, &second], 2.0).await;
    for relay in [&first, &second] {
        assert_eq!(relay.log_lines(&[WARNING]), 0, "{}", relay.log());
        assert_eq!(others(relay), [Value::Null, Value::Null]);
    }

    let unlike = settings(&world, &road, &nodes, "events", "2s");
    let third = world.keeps_book_of(Relay::start(&unlike).await);
    met(&[&first, &second, &third], 3.0).await;
    let name = |relay: &Relay| relay.status()["node"].clone();
    let mut pair = [name(&first), name(&second)];
    pair.sort_by_key(ToString::to_string);
    // Once for each database and node.
    assert_eq!(others(&third), [json!(pair), json!(pair)]);
    assert_eq!(third.log_lines(&[WARNING]), 4, "{}", third.log());
    for relay in [&first, &second] {
        let odd = json!([name(&third)]);
        assert_eq!(others(relay), [odd.clone(), odd]);
        assert_eq!(relay.log_lines(&[WARNING, "cluster.database"]), 2);
    }
    let url = format!("http://{}", first.admin());
    let command = program(&[]).args(["status", "--relay", &url]).output();
    let told = String::from_utf8(command.expect("it runs").stdout).expect("text");
    let line = "on nodes divides the shards in another database";
    assert!(told.contains(line), "{told}");

    assert_eq!(third.terminate().await, 0);
    until("it is gone", PATIENCE, || {
        others(&first) == [Value::Null, Value::Null]
    })
    .await;
    for relay in [first, second] {
        assert_eq!(relay.log_lines(&[WARNING]), 2);
        assert_eq!(relay.terminate().await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_divide_in_different_databases_say_so() {
    scenario(4 * PATIENCE, nodes_do_not_agree(Way::Direct)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_divide_in_different_databases_say_so_through_a_pooler() {
    scenario(4 * PATIENCE, nodes_do_not_agree(Way::Pooled)).await;
}
