//! What a record is: its shard, its key, its body.

use serde_json::{Value, json};
use tidegate::demo::consumer::Arrived;

use crate::scenario::{PATIENCE, scenario};
use crate::world::World;

/// The records of a pipeline whose keys begin with its name.
fn keys(arrived: &[Arrived]) -> Vec<&str> {
    arrived
        .iter()
        .map(|record| record.partition_key.as_str())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_land_on_the_shard_their_md5_says() {
    scenario(PATIENCE, async {
        let world = World::new(5).await;
        world.pipeline("events", json!({})).await;
        let relay = world.relay().await;
        // 256 characters, and up to 1,024 bytes: as many as the service takes.
        let long = ["x", "\u{e9}", "\u{20ac}", "\u{1f30a}"].map(|one| one.repeat(256));
        let mut expected: Vec<String> = (0..200).map(|n| format!("clé-{n}")).collect();
        expected.extend(long);
        for key in &expected {
            world.publish("events", key, json!({})).await;
        }
        world.wait_until_received(expected.len() as u64).await;
        let arrived = world.arrived();
        let mut seen = keys(&arrived);
        seen.sort_unstable();
        expected.sort_unstable();
        assert_eq!(seen, expected);
        let ranges = world.consumer.ranges();
        let mut shards = std::collections::BTreeSet::new();
        for record in &arrived {
            // The hash as somebody else computes it.
            let md5: String = sqlx::query_scalar("SELECT md5($1)")
                .bind(&record.partition_key)
                .fetch_one(&world.pool)
                .await
                .expect("a hash");
            let hash = u128::from_str_radix(&md5, 16).expect("128 bits");
            let range = ranges[&record.shard];
            assert!(
                range.contains(hash),
                "{:?} on {}",
                record.partition_key,
                record.shard
            );
            shards.insert(&record.shard);
        }
        assert_eq!(shards.len(), 5, "all shards got some");
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_variable_of_a_key_template_renders() {
    scenario(PATIENCE, async {
        let world = World::new(2).await;
        world.outbox("orders").await;
        let relay = world.relay().await;
        let templates = [
            ("{dedup_key}", "k-1"),
            ("{stream_table}", "orders"),
            ("{outbox}/x", "orders/x"),
            ("{tenant}", "acme"),
            ("{headers.region}", "eu"),
            ("{headers.a.b}", "dotted"),
            ("{payload.a.b}", "deep"),
            ("{payload.n}-{payload.yes}", "12.50-true"),
            ("{{{dedup_key}}}", "{k-1}"),
            ("{{literal}}", "{literal}"),
        ];
        for (number, (template, _)) in templates.iter().enumerate() {
            let more = json!({"partition_key": template, "tenant": "acme"});
            world
                .set_pipeline(&format!("p-{number}"), "orders", more)
                .await;
        }
        let more = json!({"partition_key": "id:{event_id}"});
        world.set_pipeline("by-event", "orders", more).await;
        sqlx::query("SELECT tide.outbox_publish('orders', $1::jsonb, $2::jsonb, 'k-1')")
            .bind(r#"{"a": {"b": "deep"}, "n": 12.50, "yes": true}"#)
            .bind(r#"{"region": "eu", "a.b": "dotted"}"#)
            .execute(&world.pool)
            .await
            .expect("published");
        let records = templates.len() + 1;
        world.wait_until_received(records as u64).await;
        let arrived = world.arrived();
        let mut seen = keys(&arrived);
        let body: Value = serde_json::from_slice(&arrived[0].data).expect("JSON");
        let by_event = format!("id:{}", body["event_id"].as_str().expect("an event id"));
        let mut expected: Vec<&str> = templates.iter().map(|(_, key)| *key).collect();
        expected.push(&by_event);
        seen.sort_unstable();
        expected.sort_unstable();
        assert_eq!(seen, expected);
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_format_is_what_its_name_says() {
    scenario(PATIENCE, async {
        let world = World::new(1).await;
        world.outbox("orders").await;
        let relay = world.relay().await;
        for format in ["native", "payload", "cloudevents"] {
            let more = json!({"format": format, "partition_key": format});
            world.set_pipeline(format, "orders", more).await;
        }
        let payload = json!({"total": 12, "of": "\u{1f30a} \"quoted\""});
        let id: i64 =
            sqlx::query_scalar("SELECT tide.outbox_publish('orders', $1, $2, 'customer-7')")
                .bind(&payload)
                .bind(json!({"type": "order.placed"}))
                .fetch_one(&world.pool)
                .await
                .expect("published");
        world.wait_until_received(3).await;
        let arrived = world.arrived();
        let body = |format: &str| -> Value {
            let record = arrived.iter().find(|one| one.partition_key == format);
            serde_json::from_slice(&record.expect("a record").data).expect("JSON")
        };
        let native = body("native");
        assert_eq!(
            native,
            json!({
                "id": id, "seq": native["seq"], "event_id": native["event_id"], "outbox": "orders",
                "key": "native", "created_at": native["created_at"],
                "headers": {"type": "order.placed"}, "payload": payload,
            })
        );
        assert_eq!(body("payload"), payload);
        let event = body("cloudevents");
        assert_eq!(
            event,
            json!({
                "specversion": "1.0", "id": native["event_id"], "source": "/tidegate/orders",
                "type": "order.placed", "subject": "cloudevents", "time": native["created_at"],
                "datacontenttype": "application/json", "seq": event["seq"],
                "outboxid": id.to_string(), "data": payload,
            })
        );
        let seq = event["seq"].as_str().expect("a seq");
        assert_eq!(seq.len(), native["seq"].as_str().expect("a seq").len());
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}
