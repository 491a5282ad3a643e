//! Several databases in one cluster: one that is away harms only its own pipelines.

use serde_json::Value;

use crate::database;
use crate::fleet::Fleet;
use crate::history;
use crate::proxy::Proxy;
use crate::relay::Relay;
use crate::scenario::{PATIENCE, scenario, until};
use crate::way::Way;
use crate::world::STREAM;

/// A database of a relay's, as it shows it.
fn shown(relay: &Relay, name: &str) -> Value {
    let status = relay.status();
    let databases = status["databases"].as_array().expect("databases");
    let found = databases.iter().find(|one| one["name"] == name);
    found.cloned().unwrap_or_default()
}

/// How many pipelines of a database a relay runs.
fn runs(relay: &Relay, database: &str) -> usize {
    let status = relay.status();
    let pipelines = status["pipelines"].as_array().expect("pipelines");
    let runs = pipelines
        .iter()
        .filter(|one| one["database"] == database && one["state"] == "running");
    runs.count()
}

async fn a_database_is_away(way: Way) {
    let fleet = Fleet::new(way, 2, 6).await;
    let port = fleet.road.port();
    let other = database::migrated_database().await;
    let pool = database::pool(&other);
    for n in 1..=4 {
        let config = serde_json::json!({"sink_type": "kinesis", "stream_name": STREAM, "region": "us-east-1"});
        sqlx::query("SELECT tide.outbox_create($1), tide.relay_set_outbox($1, $1, $2)")
            .bind(format!("x{n}"))
            .bind(config)
            .execute(&pool)
            .await
            .expect("a pipeline");
    }
    history::keep(&pool).await;
    let proxy = Proxy::start(port);
    let second = proxy.url(database::OWNER, &other);
    let text = fleet.road.section("first", &fleet.url()) + &fleet.road.section("second", &second);
    let settings = fleet.settings_by(&text, &[]);
    let load = fleet.load(20.0).await;
    let nodes = [
        fleet.node_by(&settings).await,
        fleet.node_by(&settings).await,
    ];
    let all: Vec<&Relay> = nodes.iter().collect();
    fleet.balanced(&all).await;
    // Each database is divided by itself.
    until("the second one is divided too", PATIENCE, || {
        nodes.iter().all(|node| runs(node, "second") == 2)
    })
    .await;
    let before = history::now(fleet.pool()).await;
    proxy.lead_to(1);
    until("its pipelines stop", PATIENCE, || {
        nodes.iter().all(|node| runs(node, "second") == 0)
    })
    .await;
    for node in &nodes {
        until("it is shown as away", PATIENCE, || {
            shown(node, "second")["up"] == false
        })
        .await;
        assert_eq!(runs(node, "first"), 3);
        assert_eq!(shown(node, "first")["up"], true);
    }
    let received = fleet.world.consumer.received();
    fleet.world.wait_until_received(received + 100).await;
    assert!(history::moves(fleet.pool(), before).await.is_empty());
    proxy.lead_to(port);
    until("its pipelines run again", PATIENCE, || {
        nodes.iter().map(|node| runs(node, "second")).sum::<usize>() == 4
    })
    .await;
    let (_, verdict) = fleet.world.settle(load).await;
    assert_eq!(verdict.duplicates, 0, "{verdict:#?}");
    history::judge(fleet.pool()).await;
    history::judge(&pool).await;
    for node in nodes {
        assert_eq!(node.terminate().await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_harms_only_its_pipelines() {
    scenario(4 * PATIENCE, a_database_is_away(Way::Direct)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_harms_only_its_pipelines_through_a_pooler() {
    scenario(4 * PATIENCE, a_database_is_away(Way::Pooled)).await;
}
