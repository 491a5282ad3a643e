//! A shard that takes nothing harms only its own keys.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use serde_json::json;
use tidegate::core::shard_map::{ShardId, hash_key};
use tidegate::demo::delivered::{Delivered, EventId};
use tidegate::demo::faults::Refused;
use tidegate::demo::load::{CommittedRow, Load, OutboxLoad};
use tokio::time::Instant;

use crate::relay::Relay;
use crate::scenario::{PATIENCE, scenario};
use crate::world::World;

/// How long the shard takes nothing.
const STUCK_FOR: Duration = Duration::from_secs(20);

/// Few rows in flight, so that the stuck shard's do not fit.
const SETTINGS: [(&str, &str); 3] = [
    ("TIDEGATE__LIMITS__MEMORY", "64MiB"),
    ("TIDEGATE__LIMITS__PIPELINE_BYTES", "2MiB"),
    ("TIDEGATE__LIMITS__PIPELINE_ROWS", "200"),
];

/// What the whole process may take: a debug build of the program itself takes
/// most of it.
const MEMORY: u64 = 128 * 1024 * 1024;

/// Windows are merged above 64; some come on top, since windows with rows of
/// theirs in flight are not.
const WINDOWS: f64 = 200.0;

/// The longest that rows of the other shards may take while one is stuck, on a
/// machine under load.
const LATENCY: Duration = Duration::from_secs(5);

/// A stream of which one shard takes nothing any more, under a load.
struct Stuck {
    world: World,
    shard: ShardId,
    relay: Relay,
    load: Load,
    since: Instant,
}

impl Stuck {
    async fn begin(rows_per_second: f64) -> Self {
        let world = World::new(4).await;
        world.pipeline("events", json!({})).await;
        let relay = world.relay_with(&SETTINGS).await;
        let load = OutboxLoad {
            workers: 4,
            keys: 80,
            rows_per_second: Some(rows_per_second),
            payload_bytes: 300,
            ..OutboxLoad::new("events")
        };
        let load = world.load(vec![load], 17).await;
        world.wait_until_received(200).await;
        let (shard, _) = world.consumer.ranges().pop_first().expect("a shard");
        world
            .emulator
            .faults()
            .refuse(Refused::Shard(shard.clone()));
        Self {
            world,
            shard,
            relay,
            load,
            since: Instant::now(),
        }
    }
}

/// Records of other shards that have arrived.
fn arrived_elsewhere(world: &World, stuck: &ShardId) -> usize {
    let arrived = world.arrived();
    let elsewhere = arrived.iter().filter(|record| record.shard != *stuck);
    elsewhere.count()
}

/// The longest that rows of other shards took to arrive.
fn slowest_elsewhere<'a>(
    world: &World,
    stuck: &ShardId,
    committed: impl Iterator<Item = &'a CommittedRow>,
) -> Duration {
    let mut first_seen: HashMap<EventId, Instant> = HashMap::new();
    for record in world.arrived() {
        let row = Delivered::parse(&record).expect("a native body").event();
        first_seen.entry(row).or_insert(record.received_at);
    }
    let range = world.consumer.ranges()[stuck];
    let elsewhere = committed.filter(|row| {
        let key = row.row.key.as_deref();
        key.is_some_and(|key| !range.contains(hash_key(key)))
    });
    let latency = |row: &CommittedRow| {
        let seen = first_seen[&(row.row.outbox.clone(), row.row.id)];
        seen - row.commit_sent_at
    };
    elsewhere.map(latency).max().expect("rows of other shards")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_shard_does_not_hold_up_the_others() {
    scenario(3 * PATIENCE, async {
        let Stuck {
            world,
            shard,
            relay,
            load,
            since,
        } = Stuck::begin(250.0).await;
        let (mut most_memory, mut most_windows, mut most_deferred) = (0, 0.0_f64, 0.0_f64);
        let mut count = arrived_elsewhere(&world, &shard);
        // On a slow machine it takes longer until the stuck shard's share is used up.
        while since.elapsed() < STUCK_FOR
            || (most_deferred == 0.0 && since.elapsed() < 4 * STUCK_FOR)
        {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let now = arrived_elsewhere(&world, &shard);
            assert!(now > count, "no row of the other shards came for a second");
            count = now;
            most_memory = most_memory.max(relay.resident_bytes());
            most_windows = most_windows.max(relay.metric("tidegate_windows_open", &[]));
            most_deferred = most_deferred.max(relay.metric("tidegate_deferred_rows", &[]));
        }
        let until = Instant::now();
        world.emulator.faults().admit_all();
        let (report, verdict) = world.settle(load).await;
        assert_eq!(verdict.duplicates, 0, "{verdict:#?}");
        let while_stuck = report
            .committed
            .iter()
            .filter(|row| row.commit_sent_at > since && row.commit_sent_at < until);
        let slowest = slowest_elsewhere(&world, &shard, while_stuck);
        eprintln!(
            "{} rows, {} MiB, {most_windows} windows, {most_deferred} rows deferred, others within {slowest:?}",
            report.committed.len(),
            most_memory >> 20
        );
        assert!(most_memory < MEMORY, "{most_memory} bytes");
        assert!(most_windows < WINDOWS, "{most_windows} windows");
        assert!(most_deferred > 0.0, "the stuck shard's rows all fitted");
        assert!(slowest < LATENCY, "a row of another shard took {slowest:?}");
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_while_a_shard_is_stuck_does_not_repeat_what_the_others_took() {
    scenario(3 * PATIENCE, async {
        let Stuck {
            world,
            shard,
            relay,
            load,
            ..
        } = Stuck::begin(250.0).await;
        world.wait_until_received(1500).await;
        relay.kill();
        let relay = world.relay_with(&SETTINGS).await;
        let received = world.consumer.received();
        world.wait_until_received(received + 300).await;
        let elsewhere: Vec<EventId> = world
            .delivered()
            .iter()
            .filter(|record| record.shard != shard)
            .map(Delivered::event)
            .collect();
        let rows: HashSet<&EventId> = elsewhere.iter().collect();
        let repeated = elsewhere.len() - rows.len();
        // What was in flight, and what was settled in the second for which marks
        // may not have been written.
        eprintln!("{repeated} of {} rows were sent again", rows.len());
        assert!(repeated <= 200 + 250, "{repeated} of {} rows", rows.len());

        world.emulator.faults().admit_all();
        world.settle(load).await;
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}
