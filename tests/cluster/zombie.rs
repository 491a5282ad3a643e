//! A node sleeps for longer than its lease and wakes up: it moves no position, and
//! disturbs no order.

use crate::fleet::{Fleet, name_of};
use crate::history;
use crate::relay::Relay;
use crate::scenario::{PATIENCE, scenario, until};
use crate::way::Way;

async fn a_node_sleeps_over_its_lease(way: Way) {
    let fleet = Fleet::new(way, 2, 9).await;
    let load = fleet.load(20.0).await;
    let nodes = [fleet.node().await, fleet.node().await, fleet.node().await];
    let all: Vec<&Relay> = nodes.iter().collect();
    fleet.balanced(&all).await;
    for asleep in &nodes {
        let awake: Vec<&Relay> = nodes
            .iter()
            .filter(|node| !std::ptr::eq(*node, asleep))
            .collect();
        let name = name_of(asleep);
        asleep.signal("STOP");
        fleet.balanced(&awake).await;
        assert!(!fleet.held().await.contains_key(&name));
        let received = fleet.world.consumer.received();
        fleet.world.wait_until_received(received + 50).await;
        asleep.signal("CONT");
        let lost = [("event", "lost")];
        until("it notices", PATIENCE, || {
            asleep.metric("tidegate_lease_events_total", &lost) >= 3.0
        })
        .await;
        // It is a node like any other again.
        fleet.balanced(&all).await;
    }
    fleet.world.settle(load).await;
    history::judge(fleet.pool()).await;
    for node in nodes {
        assert_eq!(node.terminate().await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_slept_over_its_lease_harms_nothing() {
    scenario(6 * PATIENCE, a_node_sleeps_over_its_lease(Way::Direct)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_slept_over_its_lease_harms_nothing_through_a_pooler() {
    scenario(6 * PATIENCE, a_node_sleeps_over_its_lease(Way::Pooled)).await;
}
