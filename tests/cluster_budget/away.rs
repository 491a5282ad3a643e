//! The coordination database is away: nodes that write for another database go on with
//! what they keep, and nobody takes what a silent one may still use.

use std::time::Duration;

use crate::database::{self, OWNER};
use crate::proxy::Proxy;
use crate::pushed::{NARROW, PIPELINES, SHARDS, backlog, mark, push, since};
use crate::relay::Relay;
use crate::scenario::{PATIENCE, scenario_alone, until};
use crate::way::{Road, Way, name_in};
use crate::world::World;

/// The environment of a relay whose pipelines are in the world's database, `events`,
/// with another one, `nodes`, at this URL; it divides the shards in one of them.
pub(crate) fn settings(
    world: &World,
    road: &Road,
    nodes: &str,
    divides_in: &str,
    lease: &str,
) -> Vec<(String, String)> {
    let events = road.section("events", &road.url(name_in(&world.url)));
    let nodes = road.section("nodes", nodes);
    let cluster = format!("[cluster]\nlease = \"{lease}\"\ndatabase = \"{divides_in}\"\n");
    let path = road.file(&format!("{cluster}{events}{nodes}"));
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

/// For how long each state is looked at, in the time that the shards take for it.
#[derive(Debug, Clone, Copy)]
struct Length {
    lease: &'static str,
    /// Seconds of rows.
    backlog: usize,
    together: Duration,
    away: Duration,
    dead: Duration,
}

async fn the_coordination_database_is_away(way: Way, length: Length) {
    let world = World::new(SHARDS).await;
    let rows = backlog(&world, length.backlog).await;
    let nodes_database = database::migrated_database().await;
    let road = Road::new(way).await;
    let port = road.port();
    let proxy = Proxy::start(port);
    let coordination = proxy.url(OWNER, &nodes_database);
    let settings = settings(&world, &road, &coordination, "nodes", length.lease);
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
    let together = push(&world, length.together).await;
    eprintln!("{way:?}: two nodes: {together}");

    let left = mark(&world);
    proxy.lead_to(1);
    proxy.cut_all();
    let age = || first.metric("tidegate_coordination_age_seconds", &[]);
    until("nothing is heard of it", PATIENCE, || age() > 4.0).await;
    push(&world, length.away).await;
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
    push(&world, length.dead).await;
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
}

const LENGTH: Length = Length {
    lease: "2s",
    backlog: 70,
    together: Duration::from_secs(4),
    away: Duration::from_secs(8),
    dead: Duration::from_secs(4),
};

/// What a pooler adds is seen in a shorter time; a beat through it is four round trips,
/// and takes longer where the machine is busy.
const SHORTER: Length = Length {
    lease: "4s",
    backlog: 50,
    together: Duration::from_secs(4),
    away: Duration::from_secs(5),
    dead: Duration::from_secs(2),
};

#[tokio::test(flavor = "multi_thread")]
async fn without_the_coordination_database_nodes_go_on_with_an_equal_part() {
    let away = the_coordination_database_is_away(Way::Direct, LENGTH);
    scenario_alone(8 * PATIENCE, away).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_coordination_database_nodes_go_on_with_an_equal_part_through_a_pooler() {
    let away = the_coordination_database_is_away(Way::Pooled, SHORTER);
    scenario_alone(8 * PATIENCE, away).await;
}
