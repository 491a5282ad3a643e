//! Two nodes begin at the same moment where none has been before: neither sends what the
//! other one has, and together they are granted no more than a shard takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::PgPool;
use tidegate::core::shares::WHOLE;
use tidegate::demo::verdict::Committed;
use tokio::task::JoinHandle;

use crate::database;
use crate::fleet::Fleet;
use crate::history;
use crate::proxy::Proxy;
use crate::relay::Relay;
use crate::scenario::{PATIENCE, scenario, until};
use crate::way::Way;
use crate::world::STREAM;

const PIPELINES: usize = 12;
const SHARDS: u16 = 2;

/// What nodes have left in a database for each other.
const TRACES: &str =
    "SELECT (SELECT count(*) FROM tide.relay_node) + (SELECT count(*) FROM tide.relay_lease)
    + (SELECT count(*) FROM tide.relay_share)";

/// The most of any shard that is granted to all nodes together, in ten-thousandths.
const MOST: &str = "SELECT coalesce(max(greatest(records, bytes)), 0) FROM (
    SELECT sum(records) AS records, sum(bytes) AS bytes FROM tide.relay_share GROUP BY stream, shard) AS shards";

/// Looks at what is granted, all the time.
struct Watch {
    is_over: Arc<AtomicBool>,
    most: JoinHandle<i64>,
}

impl Watch {
    fn begin(pool: PgPool) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let of_task = Arc::clone(&is_over);
        let most = tokio::spawn(async move {
            let mut most = 0;
            while !of_task.load(Ordering::Relaxed) {
                let now: i64 = sqlx::query_scalar(MOST)
                    .fetch_one(&pool)
                    .await
                    .expect("a sum");
                most = most.max(now);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            most
        });
        Self { is_over, most }
    }

    /// Something was granted, and never more than there is.
    async fn judge(self) {
        self.is_over.store(true, Ordering::Relaxed);
        let most = self.most.await.expect("no panic");
        assert!((1..=i64::from(WHOLE)).contains(&most), "{most}");
    }
}

/// Rows in every outbox.
async fn publish(fleet: &Fleet, rows: usize) -> Vec<Committed> {
    let mut all = Vec::new();
    for outbox in &fleet.outboxes {
        all.extend(fleet.world.publish_many(outbox, rows, 20, 10).await);
    }
    all
}

/// All of these have come, in order, each once, and the shards were not pushed.
async fn judge(fleet: &Fleet, rows: &[Committed]) {
    let verdict = fleet.world.judge(rows).await;
    assert!(verdict.is_clean(), "{verdict:#?}");
    assert_eq!(verdict.duplicates, 0, "{verdict:#?}");
    let counts = fleet.world.emulator.tally().total(STREAM);
    eprintln!(
        "{} of {} records throttled",
        counts.throttled_records, counts.offered_records
    );
    assert!(
        counts.throttled_records * 200 <= counts.offered_records,
        "{counts:?}"
    );
    history::judge(fleet.pool()).await;
}

async fn two_begin_at_once(way: Way) {
    let fleet = Fleet::new(way, SHARDS, PIPELINES).await;
    assert_eq!(fleet.world.number(TRACES).await, 0, "nobody has been here");
    let mut rows = publish(&fleet, 400).await;
    let watch = Watch::begin(fleet.pool().clone());
    let (first, second) = tokio::join!(fleet.node(), fleet.node());
    fleet.balanced(&[&first, &second]).await;
    rows.extend(publish(&fleet, 50).await);
    judge(&fleet, &rows).await;
    watch.judge().await;
    for node in [first, second] {
        assert_eq!(node.terminate().await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_that_begin_at_once_send_nothing_twice() {
    scenario(4 * PATIENCE, two_begin_at_once(Way::Direct)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_that_begin_at_once_send_nothing_twice_through_a_pooler() {
    scenario(4 * PATIENCE, two_begin_at_once(Way::Pooled)).await;
}

/// A node's share of the records of all shards together.
fn share(node: &Relay) -> f64 {
    node.metric("tidegate_shard_share_ratio", &[("resource", "records")])
}

/// The coordination database is not there when both begin, and no row says who has what
/// of the shards: one of them sends, with all of every shard, and the other one takes
/// nothing. When it comes both have their part.
async fn two_begin_without_the_coordination_database(way: Way) {
    let fleet = Fleet::new(way, SHARDS, PIPELINES).await;
    let coordination = database::migrated_database().await;
    let proxy = Proxy::start(1);
    let text = format!(
        "[cluster]\ndatabase = \"nodes\"\n{}{}",
        fleet.road.section("events", &fleet.url()),
        fleet
            .road
            .section("nodes", &proxy.url(database::OWNER, &coordination))
    );
    let settings = fleet.settings_by(&text, &[]);
    let mut rows = publish(&fleet, 200).await;
    let (first, second) = tokio::join!(fleet.node_by(&settings), fleet.node_by(&settings));
    judge(&fleet, &rows).await;
    let held = fleet.held().await;
    assert_eq!(
        held.values().collect::<Vec<_>>(),
        [&(PIPELINES as i64)],
        "{held:?}"
    );
    let all = f64::from(SHARDS);
    let shares = [share(&first), share(&second)];
    assert!(
        shares.iter().any(|part| (part - all).abs() < 0.001)
            && shares.iter().any(|part| part.abs() < 0.001),
        "{shares:?}"
    );

    let watch = Watch::begin(database::pool(&coordination));
    proxy.lead_to(fleet.road.port());
    fleet.balanced(&[&first, &second]).await;
    until("both have a part", PATIENCE, || {
        share(&first) > 0.0 && share(&second) > 0.0
    })
    .await;
    rows.extend(publish(&fleet, 50).await);
    judge(&fleet, &rows).await;
    watch.judge().await;
    for node in [first, second] {
        assert_eq!(node.terminate().await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_nodes_that_begin_without_the_coordination_database_one_sends() {
    let begin = two_begin_without_the_coordination_database(Way::Direct);
    scenario(4 * PATIENCE, begin).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_nodes_that_begin_without_the_coordination_database_one_sends_through_a_pooler() {
    let begin = two_begin_without_the_coordination_database(Way::Pooled);
    scenario(4 * PATIENCE, begin).await;
}
