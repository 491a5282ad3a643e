//! Rows that share records: the program as a child process, a private PostgreSQL, an
//! emulator over HTTP, and consumers that take the records apart again.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::large_futures,
    clippy::cast_precision_loss,
    reason = "a test says what it expects, and has its thread's stack for itself"
)]
#![allow(
    clippy::zombie_processes,
    reason = "the watchdog outlives the test process on purpose"
)]
#![cfg(feature = "demo")]

#[path = "aggregation/changing.rs"]
mod changing;
#[path = "common/database.rs"]
mod database;
#[path = "aggregation/hot_key.rs"]
mod hot_key;
#[path = "aggregation/large.rs"]
mod large;
#[path = "aggregation/library.rs"]
mod library;
#[path = "aggregation/poison.rs"]
mod poison;
#[path = "common/process.rs"]
mod process;
#[path = "common/relay.rs"]
mod relay;
#[path = "aggregation/resharding.rs"]
mod resharding;
#[path = "common/scenario.rs"]
mod scenario;
#[path = "common/shards.rs"]
mod shards;
#[path = "aggregation/trouble.rs"]
mod trouble;
#[path = "common/world.rs"]
mod world;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde_json::{Value, json};
use tidegate::core::aggregation::kpl;
use tidegate::core::shard_map::hash_key;
use tidegate::demo::consumer::{Arrived, StreamConsumer};

use crate::scenario::{PATIENCE, scenario, until};
use crate::world::{STREAM, World};

/// Reads the records as they are, beside the world's own consumer.
pub(crate) async fn raw_consumer(world: &World) -> StreamConsumer {
    let client = world.emulator.client().await.expect("a client");
    StreamConsumer::start_raw(client, STREAM, Duration::from_millis(30))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_library_of_aws_finds_every_row_of_a_kpl_record_in_order() {
    scenario(2 * PATIENCE, async {
        let world = World::new(3).await;
        let raw = raw_consumer(&world).await;
        world
            .pipeline("events", json!({"aggregation": "kpl"}))
            .await;
        let mut rows = world.publish_many("events", 3_000, 40, 30).await;
        rows.extend(world.publish_many("events", 1_000, 1, 300).await);
        // The widest key, and one alone in its shard's call.
        world
            .publish("events", &"\u{1f30a}".repeat(256), json!({"wide": true}))
            .await;
        let relay = world.relay().await;
        let verdict = world.judge(&rows).await;
        assert!(
            verdict.unknown <= 1 && verdict.order_violations == 0,
            "{verdict:#?}"
        );
        until("the wide key has come", PATIENCE, || {
            world.consumer.received() > rows.len() as u64
        })
        .await;

        let mut records: Vec<Arrived> = Vec::new();
        let ranges = world.consumer.ranges();
        until("the raw records are there", PATIENCE, || {
            records.extend(raw.drain());
            library::rows_of(&records).len() > rows.len()
        })
        .await;
        assert!(records.len() * 10 < rows.len(), "{} records", records.len());
        let of = |metric| relay.metric(metric, &[("pipeline", "events")]);
        let weight = |record: &Arrived| record.data.len() + record.partition_key.len();
        let bytes: usize = records.iter().map(weight).sum();
        let units: usize = records.iter().map(|one| weight(one).div_ceil(25_000)).sum();
        assert_eq!(of("tidegate_records_stored_total"), records.len() as f64);
        assert_eq!(of("tidegate_bytes_stored_total"), bytes as f64);
        assert_eq!(of("tidegate_put_units_total"), units as f64);
        assert_eq!(of("tidegate_rows_delivered_total"), rows.len() as f64 + 1.0);
        for record in &records {
            let weight = weight(record);
            assert!(weight <= 50_000, "{weight} bytes");
        }
        let found = library::rows_of(&records);
        let mut of_key: HashMap<String, Vec<i64>> = HashMap::new();
        for row in &found {
            let body: Value = serde_json::from_str(&row.body).expect("JSON");
            assert_eq!(body["key"], json!(row.key));
            of_key
                .entry(row.key.clone())
                .or_default()
                .push(body["id"].as_i64().expect("an id"));
        }
        assert!(found.iter().any(|row| row.place.is_some()), "aggregated");
        let outbox: Vec<(i64, String)> =
            sqlx::query_as("SELECT id, dedup_key FROM tide.outbox_message ORDER BY id")
                .fetch_all(&world.pool)
                .await
                .expect("rows");
        let mut expected: HashMap<String, Vec<i64>> = HashMap::new();
        for (id, key) in outbox {
            expected.entry(key).or_default().push(id);
        }
        assert!(of_key == expected, "other rows, or another order");
        // What KCL checks: every sub-record belongs to the shard of its record.
        for record in &records {
            let range = ranges[&record.shard];
            for (key, _) in kpl::decode::rows(&record.data).unwrap_or_default() {
                assert!(range.contains(hash_key(&key)), "{key} in {}", record.shard);
            }
        }
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_container_and_compression_gives_the_rows_back() {
    scenario(3 * PATIENCE, async {
        let world = World::new(2).await;
        let raw = raw_consumer(&world).await;
        let mut names = Vec::new();
        let mut rows = Vec::new();
        for aggregation in ["none", "kpl", "ndjson"] {
            for compression in ["none", "gzip", "zstd"] {
                let name = format!("{aggregation}-{compression}");
                let more = json!({"aggregation": aggregation, "compression": compression});
                world.pipeline(&name, more).await;
                rows.extend(world.publish_many(&name, 300, 20, 200).await);
                names.push(name);
            }
        }
        let relay = world.relay().await;
        let verdict = world.judge(&rows).await;
        assert!(verdict.is_clean(), "{verdict:#?}");
        assert_eq!(verdict.duplicates, 0);
        let mut records: Vec<Arrived> = Vec::new();
        until("the raw records are there", PATIENCE, || {
            records.extend(raw.drain());
            let rows_in = |record: &Arrived| {
                let range = tidegate::core::shard_map::HashRange::ALL;
                let key = &record.partition_key;
                tidegate::demo::deaggregate::rows(key, &record.data, range).len()
            };
            records.iter().map(rows_in).sum::<usize>() == rows.len()
        })
        .await;
        let mut bytes: BTreeMap<String, (usize, usize)> = BTreeMap::new();
        for record in &records {
            let range = tidegate::core::shard_map::HashRange::ALL;
            let inner =
                tidegate::demo::deaggregate::rows(&record.partition_key, &record.data, range);
            let body: Value = serde_json::from_slice(&inner[0].1).expect("JSON");
            let outbox = body["outbox"].as_str().expect("a name").to_owned();
            let entry = bytes.entry(outbox).or_default();
            entry.0 += 1;
            entry.1 += record.data.len();
        }
        for name in &names {
            let (records, bytes) = bytes[name];
            eprintln!("{name}: 300 rows in {records} records, {bytes} bytes");
        }
        let of = |name: &str| bytes[name];
        assert_eq!(of("none-none").0, 300);
        assert!(of("kpl-none").0 < 60 && of("ndjson-gzip").0 < 60);
        assert!(of("ndjson-zstd").1 * 5 < of("ndjson-none").1);
        assert!(of("ndjson-gzip").1 * 5 < of("ndjson-none").1);
        assert!(of("kpl-gzip").1 < of("kpl-none").1);
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}
