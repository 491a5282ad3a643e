//! The coordination database is away: nodes that write for another database go on with
//! what they keep, and nobody takes what a silent one may still use.

use std::time::Duration;

use tempfile::TempDir;

use crate::database;
use crate::proxy::Proxy;
use crate::pushed::{NARROW, PIPELINES, SHARDS, backlog, mark, push, since};
use crate::relay::Relay;
use crate::scenario::{PATIENCE, scenario_alone, until};
use crate::world::World;

/// The environment of a relay with a coordination database behind a proxy; its
/// pipelines are in the world's own.
fn settings(world: &World, coordination: &str, folder: &TempDir) -> Vec<(String, String)> {
    let text = format!(
        "[cluster]\nlease = \"2s\"\ndatabase = \"nodes\"\n\
        [[databases]]\nname = \"events\"\nurl = \"{}\"\n\
        [[databases]]\nname = \"nodes\"\nurl = \"{coordination}\"\n",
        world.url
    );
    let path = folder.path().join("tidegate.toml");
    std::fs::write(&path, text).expect("a file");
    let path = path.display().to_string();
    let emulator = world.emulator.environment().into_iter();
    let emulator = emulator.map(|(name, value)| (name.to_owned(), value));
    let ours = [
        ("TIDEGATE_CONFIG", path.as_str()),
        ("TIDEGATE__ADMIN__LISTEN", "127.0.0.1:0"),
        NARROW,
    ];
    let ours = ours.map(|(name, value)| (name.to_owned(), value.to_owned()));
    emulator.chain(ours).collect()
}

/// A node's share of the records of all shards together.
fn share(node: &Relay) -> f64 {
    node.metric("tidegate_shard_share_ratio", &[("resource", "records")])
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_coordination_database_nodes_go_on_with_an_equal_part() {
    scenario_alone(8 * PATIENCE, async {
        let world = World::new(SHARDS).await;
        let rows = backlog(&world, 70).await;
        let nodes_database = database::migrated_database().await;
        let (_, port) = world.url.rsplit_once(':').expect("a port");
        let port: String = port.chars().take_while(char::is_ascii_digit).collect();
        let port = port.parse().expect("a port");
        let proxy = Proxy::start(port);
        let folder = tempfile::tempdir().expect("a folder");
        let settings = settings(
            &world,
            &proxy.url(database::OWNER, &nodes_database),
            &folder,
        );
        let first = world.keeps_book_of(Relay::start(&settings).await);
        let second = world.keeps_book_of(Relay::start(&settings).await);
        let half = f64::from(SHARDS) / 2.0;
        until("both have a part", PATIENCE, || {
            share(&first) > 0.2 * half && share(&second) > 0.2 * half
        })
        .await;
        // What was asked of the first is drained first: it has rows under way.
        let held = |node: &Relay| {
            let of_events = [("database", "events")];
            node.metric("tidegate_cluster_pipelines_held", &of_events)
        };
        until("both write", 2 * PATIENCE, || {
            [&first, &second]
                .iter()
                .all(|node| held(node) > PIPELINES as f64 / 2.0 - 0.5)
        })
        .await;
        // Each wishes for more than half, or is too slow for it: then it keeps less.
        let has_no_more_than_half = |node: &Relay| share(node) < half + 0.01;
        let together = push(&world, Duration::from_secs(4)).await;
        eprintln!("two nodes: {together}");

        let left = mark(&world);
        proxy.lead_to(1);
        proxy.cut_all();
        let age = || first.metric("tidegate_coordination_age_seconds", &[]);
        until("nothing is heard of it", PATIENCE, || age() > 4.0).await;
        push(&world, Duration::from_secs(8)).await;
        let away = since(&world, left);
        eprintln!("without the coordination database: {away}");
        assert!(has_no_more_than_half(&first) && has_no_more_than_half(&second));
        assert!(share(&first) > 0.0 && share(&second) > 0.0);
        assert!(away.throttled_part() < 0.005, "{away}");
        assert!(away.used > 0.9 * together.used, "{away}");

        // One that comes now gets no share.
        let late = world.keeps_book_of(Relay::start(&settings).await);
        let of_events = [("database", "events"), ("state", "live")];
        until("it is seen", PATIENCE, || {
            first.metric("tidegate_cluster_nodes", &of_events) > 2.5
        })
        .await;

        // Nobody can know that it is dead.
        second.kill();
        push(&world, Duration::from_secs(4)).await;
        assert!(has_no_more_than_half(&first));

        // Who has a share takes what it had: nobody else could send it.
        until("who has a share has every pipeline", PATIENCE, || {
            held(&first) > PIPELINES as f64 - 0.5
        })
        .await;
        assert!(held(&late) < 0.5);
        assert_eq!(late.terminate().await, 0);

        // Now somebody can.
        proxy.lead_to(port);
        until("the other one has all of it", PATIENCE, || {
            share(&first) > f64::from(SHARDS) - 0.01
        })
        .await;
        let verdict = world.judge(&rows).await;
        assert!(verdict.is_clean(), "{verdict:#?}");
        assert_eq!(first.terminate().await, 0);

        // A process that finds nobody else starts without it.
        proxy.lead_to(1);
        proxy.cut_all();
        let third = world.keeps_book_of(Relay::start(&settings).await);
        let more = world.publish_many("o00", 50, 10, 60).await;
        world.wait_for(&more, PATIENCE).await;
        until("it has all of every shard", PATIENCE, || {
            share(&third) > f64::from(SHARDS) - 0.001
        })
        .await;
        assert_eq!(third.terminate().await, 0);
    })
    .await;
}
