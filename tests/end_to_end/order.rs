//! From the page's SQL to Kinesis: every committed row, in order.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Value, json};
use tidegate::demo::consumer::StreamConsumer;
use tidegate::demo::delivered::Delivered;
use tidegate::demo::load::{KeyOrder, LoadOptions, OutboxLoad, TransactionSize};
use tidegate::demo::verdict::Committed;

use crate::scenario::{PATIENCE, scenario, until};
use crate::world::World;

/// The example of the page, word for word.
const PAGE: &str = r#"
SELECT tide.outbox_create('events');
SELECT tide.relay_set_outbox('events-to-kinesis', 'events', 'kinesis-relay',
  '{"sink_type":"kinesis","stream_name":"pg-tide-events","region":"us-east-1","partition_key":"{dedup_key}"}'::jsonb);
"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_sql_delivers_what_is_published() {
    scenario(PATIENCE, async {
        let world = World::new(0).await;
        let stream = "pg-tide-events";
        world
            .emulator
            .create_stream(stream, 2)
            .await
            .expect("a stream");
        let relay = world.relay().await;
        world.sql(PAGE).await;
        let total = json!({"total": 12});
        let id = world.publish("events", "order-1", total.clone()).await;
        let client = world.emulator.client().await.expect("a client");
        let consumer = StreamConsumer::start(client, stream, Duration::from_millis(20));
        until("the row arrives", PATIENCE, || consumer.received() == 1).await;
        let arrived = consumer.drain().remove(0);
        let body: Value = serde_json::from_slice(&arrived.data).expect("JSON");
        assert_eq!(arrived.partition_key, "order-1");
        let told = [&body["id"], &body["outbox"], &body["key"], &body["payload"]];
        assert_eq!(
            told,
            [&json!(id), &json!("events"), &json!("order-1"), &total]
        );
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

/// Publishers that trip readers of outboxes: late locks, old transaction ids,
/// roll-backs, savepoints, bulks, and one outbox whose keys nobody locks.
fn adversaries() -> Vec<OutboxLoad> {
    vec![
        OutboxLoad {
            workers: 8,
            keys: 12,
            rows_per_second: Some(500.0),
            ..OutboxLoad::new("events")
        },
        OutboxLoad {
            workers: 1,
            keys: 40,
            rows_per_second: Some(200.0),
            size: TransactionSize::Bulk {
                keys: 8,
                rows_per_key: 3,
            },
            ..OutboxLoad::new("bulk")
        },
        OutboxLoad {
            workers: 4,
            keys: 2,
            rows_per_second: Some(200.0),
            key_order: KeyOrder::Unlocked,
            ..OutboxLoad::new("racing")
        },
    ]
}

/// First occurrences of an outbox whose id is below an earlier one of their key:
/// their transactions committed in the other order than they inserted.
fn late_commits(delivered: &[Delivered], outbox: &str) -> usize {
    let mut highest: HashMap<&str, i64> = HashMap::new();
    let mut late = 0;
    for record in delivered.iter().filter(|record| &*record.outbox == outbox) {
        let highest = highest.entry(&record.partition_key).or_insert(record.id);
        late += usize::from(record.id < *highest);
        *highest = record.id.max(*highest);
    }
    late
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_out_of_order_while_a_transaction_stays_open() {
    scenario(4 * PATIENCE, async {
        let world = World::new(4).await;
        for load in adversaries() {
            world.pipeline(&load.outbox, json!({})).await;
        }
        let mut open = world.pool.begin().await.expect("a transaction");
        let late_id: i64 =
            sqlx::query_scalar("SELECT tide.outbox_publish('events', '{}', '{}', 'late')")
                .fetch_one(&mut *open)
                .await
                .expect("published");
        let relay = world.relay().await;
        let load = world
            .load_with(LoadOptions {
                hold_open: true,
                ..LoadOptions::new(&world.url, adversaries(), 11)
            })
            .await;
        load.wait_until_published(3500, PATIENCE)
            .await
            .expect("rows");
        // All of them arrive while the transaction is open.
        let (report, verdict) = world.settle(load).await;
        assert_eq!(verdict.duplicates, 0, "{verdict:#?}");
        assert!(report.counts.rolled_back > 0 && report.counts.undone_rows > 0);
        let late = late_commits(&world.delivered(), "racing");
        assert!(late > 0, "no transactions of a key crossed");

        open.commit().await.expect("committed");
        let mut rows = report.rows();
        rows.push(Committed {
            outbox: "events".into(),
            id: late_id,
            key: Some("late".into()),
            order: None,
        });
        let verdict = world.judge(&rows).await;
        assert!(
            verdict.is_clean() && verdict.duplicates == 0,
            "{verdict:#?}"
        );
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}
