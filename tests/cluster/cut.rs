//! A node is cut off from the database: it stops before others begin, and comes back.

use std::net::TcpListener;

use crate::fleet::{Fleet, name_of};
use crate::history;
use crate::proxy::Proxy;
use crate::relay::Relay;
use crate::scenario::{PATIENCE, scenario, until};
use crate::way::{Way, name_in};

/// What the node meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// Nobody listens.
    Refused,
    /// Connections are made, and nothing is ever answered.
    Silent,
}

async fn a_node_is_cut_off(way: Way, cut: Cut) {
    let fleet = Fleet::new(way, 2, 9).await;
    let port = fleet.road.port();
    let proxy = Proxy::start(port);
    let name = name_in(&fleet.world.url);
    let settings = fleet.settings_at(&proxy.url(crate::database::OWNER, name), &[]);
    let load = fleet.load(20.0).await;
    let nodes = [
        fleet.node_by(&settings).await,
        fleet.node().await,
        fleet.node().await,
    ];
    let all: Vec<&Relay> = nodes.iter().collect();
    fleet.balanced(&all).await;
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let nowhere = match cut {
        Cut::Refused => 1,
        Cut::Silent => silent.local_addr().expect("an address").port(),
    };
    proxy.lead_to(nowhere);
    let lost = [("event", "lost")];
    until("it stops by itself", PATIENCE, || {
        nodes[0].metric("tidegate_lease_events_total", &lost) >= 3.0
    })
    .await;
    let expired = nodes[0].log_lines(&["the lease could not be renewed in time"]);
    assert!(expired >= 3, "{}", nodes[0].log());
    // Its own clock told it, before the database's let anybody else have them.
    assert_eq!(
        nodes[0].log_lines(&["another node has taken the pipeline"]),
        0
    );
    fleet.balanced(&all[1..]).await;
    assert!(!fleet.held().await.contains_key(&name_of(&nodes[0])));
    let received = fleet.world.consumer.received();
    fleet.world.wait_until_received(received + 100).await;
    proxy.lead_to(port);
    fleet.balanced(&all).await;
    fleet.world.settle(load).await;
    history::judge(fleet.pool()).await;
    for node in nodes {
        assert_eq!(node.terminate().await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_connections_are_refused_stops_in_time_and_comes_back() {
    scenario(4 * PATIENCE, a_node_is_cut_off(Way::Direct, Cut::Refused)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_gets_no_answers_stops_in_time_and_comes_back() {
    scenario(4 * PATIENCE, a_node_is_cut_off(Way::Direct, Cut::Silent)).await;
}

/// It is cut off from PgBouncer, which has its connections to the server left over.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_connections_are_refused_stops_in_time_and_comes_back_through_a_pooler() {
    scenario(4 * PATIENCE, a_node_is_cut_off(Way::Pooled, Cut::Refused)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_gets_no_answers_stops_in_time_and_comes_back_through_a_pooler() {
    scenario(4 * PATIENCE, a_node_is_cut_off(Way::Pooled, Cut::Silent)).await;
}
