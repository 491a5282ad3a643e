//! Connections that are lost at random statements, again and again.

use serde_json::json;
use tidegate::demo::load::{KeyOrder, OutboxLoad};

use crate::database;
use crate::proxy::Proxy;
use crate::scenario::{PATIENCE, scenario, until};
use crate::world::World;

/// One statement of so many loses its connection.
const ONE_IN: u64 = 25;
const CUTS: u64 = 60;

#[tokio::test(flavor = "multi_thread")]
async fn connections_cut_at_random_statements_lose_nothing() {
    scenario(2 * PATIENCE, async {
        let world = World::new(2).await;
        world.pipeline("events", json!({})).await;
        world.pipeline("racing", json!({})).await;
        let proxy = Proxy::start(database::server().port());
        let database = world.url.rsplit('/').next().expect("a name").to_owned();
        let url = proxy.url(database::OWNER, &database);
        let relay = world.relay_with(&[("DATABASE_URL", &url)]).await;
        relay.wait_for_state("events", "running").await;
        let loads = [("events", KeyOrder::Locked), ("racing", KeyOrder::Unlocked)];
        let loads = loads.map(|(outbox, key_order)| OutboxLoad {
            rows_per_second: Some(100.0),
            key_order,
            ..OutboxLoad::new(outbox)
        });
        let load = world.load(loads.to_vec(), 51).await;
        proxy.cut_one_in(Some(ONE_IN), 51);
        until("enough cuts", PATIENCE, || proxy.cuts() >= CUTS).await;
        load.wait_until_published(300, PATIENCE)
            .await
            .expect("rows");
        proxy.cut_one_in(None, 0);
        let (report, verdict) = world.settle(load).await;
        eprintln!(
            "{} statements, {} cuts: {} rows, {} sent again",
            proxy.units(),
            proxy.cuts(),
            report.committed.len(),
            verdict.duplicates
        );
        for pipeline in ["events", "racing"] {
            relay.wait_for_state(pipeline, "running").await;
        }
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}
