//! A pipeline that runs is told to share records, or not to, or otherwise.

use serde_json::json;
use tidegate::demo::load::OutboxLoad;

use crate::raw_consumer;
use crate::scenario::{PATIENCE, scenario_alone, until};
use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_under_load_changes_its_records_and_loses_nothing() {
    scenario_alone(3 * PATIENCE, async {
        let world = World::new(2).await;
        let raw = raw_consumer(&world).await;
        world.pipeline("events", json!({})).await;
        let relay = world.relay().await;
        let load = OutboxLoad {
            workers: 4,
            keys: 10,
            rows_per_second: Some(600.0),
            ..OutboxLoad::new("events")
        };
        let load = world.load(vec![load], 5).await;
        world.wait_until_received(200).await;
        let configs = [
            json!({"aggregation": "kpl"}),
            json!({"aggregation": "kpl", "compression": "gzip"}),
            json!({"aggregation": "ndjson", "aggregation_max_bytes": 5000}),
            json!({"aggregation": "ndjson", "compression": "zstd"}),
            json!({"compression": "gzip"}),
        ];
        let epoch = || relay.pipeline("events")["epoch"].as_i64();
        for config in configs {
            let before = epoch();
            world.set_pipeline("events", "events", config.clone()).await;
            until("the pipeline has started again", PATIENCE, || {
                epoch() > before
            })
            .await;
            let received = world.consumer.received();
            world.wait_until_received(received + 200).await;
        }
        let (report, verdict) = world.settle(load).await;
        // A drain waits for what was sent: no row goes twice.
        assert_eq!(verdict.duplicates, 0, "{verdict:#?}");
        let rows = report.rows().len();
        let records = raw.drain().len();
        eprintln!("{rows} rows in {records} records");
        assert!(records < rows, "no row has shared a record");
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}
