//! Under on_poison = halt rows that cannot be sent hold their pipeline, name themselves, and harm nothing
//! else; mended, they flow.

use std::collections::HashSet;

use serde_json::{Value, json};
use tidegate::demo::delivered::{Delivered, EventId};
use tidegate::demo::load::OutboxLoad;
use tidegate::demo::verdict::Committed;

use crate::scenario::{PATIENCE, scenario, until};
use crate::world::World;

/// What the stream says it takes, in KiB; the emulator takes 1,024.
const RECORD_LIMIT_KIB: u64 = 2048;

/// A row that cannot be sent.
struct Poison {
    /// Its pipeline and outbox.
    name: &'static str,
    template: &'static str,
    /// What a good row carries, and this one.
    good: Value,
    key: String,
    payload: Value,
    /// What the reason says.
    reason: &'static str,
    /// How somebody mends it.
    mend: &'static str,
}

fn poisons() -> Vec<Poison> {
    let text = |bytes: usize| json!({"text": "x".repeat(bytes)});
    let poison = |name, key: &str, payload, reason, mend| Poison {
        name,
        template: "{dedup_key}",
        good: json!({}),
        key: key.to_owned(),
        payload,
        reason,
        mend,
    };
    vec![
        poison(
            "long-key",
            &"\u{e9}".repeat(257),
            json!({}),
            "257 characters",
            "dedup_key = 'k'",
        ),
        Poison {
            template: "{payload.key}",
            good: json!({"key": "k"}),
            ..poison(
                "empty-key",
                "k",
                json!({"key": ""}),
                "is empty",
                r#"payload = '{"key": "k"}'"#,
            )
        },
        Poison {
            template: "{payload.key}",
            good: json!({"key": "k"}),
            ..poison(
                "no-variable",
                "k",
                json!({}),
                "payload.key",
                r#"payload = '{"key": "k"}'"#,
            )
        },
        poison(
            "too-large",
            "k",
            text(3 << 20),
            "at most 2097152",
            "payload = '{}'",
        ),
        poison(
            "refused-by-the-service",
            "k",
            text(1_200_000),
            "Kinesis refuses the record",
            "payload = '{}'",
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_cannot_be_sent_holds_its_pipeline_until_it_is_mended() {
    scenario(3 * PATIENCE, async {
        let world = World::new(1).await;
        let faults = world.emulator.faults();
        faults.describe_as("MaxRecordSizeInKiB", json!(RECORD_LIMIT_KIB));
        world.pipeline("healthy", json!({})).await;
        let mut before = Vec::new();
        let mut after = Vec::new();
        let mut bad = Vec::new();
        for poison in poisons() {
            let more = json!({"partition_key": poison.template, "on_poison": "halt"});
            world.pipeline(poison.name, more).await;
            let row = async |key: &str, payload: &Value, order| Committed {
                outbox: poison.name.into(),
                id: world.publish(poison.name, key, payload.clone()).await,
                key: Some("k".into()),
                order: Some(order),
            };
            before.push(row("k", &poison.good, 1).await);
            bad.push(row(&poison.key, &poison.payload, 2).await);
            after.push(row("k", &poison.good, 3).await);
        }
        let relay = world.relay().await;
        let healthy = OutboxLoad {
            rows_per_second: Some(50.0),
            ..OutboxLoad::new("healthy")
        };
        let load = world.load(vec![healthy], 18).await;
        world.wait_for(&before, PATIENCE).await;
        for (poison, row) in poisons().iter().zip(&bad) {
            let name = poison.name;
            relay.wait_for_state(name, "blocked").await;
            let status = relay.pipeline(name);
            assert_eq!(status["row_id"], row.id, "{status}");
            let reason = status["reason"].as_str().unwrap_or_default();
            assert!(reason.contains(poison.reason), "{name}: {reason}");
            let state = [("pipeline", name), ("state", "blocked")];
            assert_eq!(relay.metric("tidegate_pipeline_state", &state), 1.0);
            let of_pipeline = [("pipeline", name)];
            assert!(relay.metric("tidegate_rows_blocked_total", &of_pipeline) >= 1.0);
            let error = ["ERROR", name, &format!("row={}", row.id)];
            assert!(
                relay.log_lines(&error) >= 1,
                "no error is logged: {error:?}"
            );
        }
        // Others flow on, and behind the bad rows nothing of their keys comes.
        let published = load.published();
        load.wait_until_published(published + 100, PATIENCE)
            .await
            .expect("rows");
        let report = load.stop().await.expect("the books");
        let mut rows = report.rows();
        world.wait_for(&rows, PATIENCE).await;
        let arrived: HashSet<EventId> = world.delivered().iter().map(Delivered::event).collect();
        for row in bad.iter().chain(&after) {
            let event = (row.outbox.clone(), row.id);
            assert!(!arrived.contains(&event), "{event:?} was not to come yet");
        }
        rows.extend(before);

        for (poison, row) in poisons().iter().zip(&bad) {
            let (mend, id) = (poison.mend, row.id);
            world
                .sql(&format!(
                    "UPDATE tide.outbox_message SET {mend} WHERE id = {id}"
                ))
                .await;
        }
        rows.extend(bad);
        rows.extend(after);
        let verdict = world.judge(&rows).await;
        assert!(verdict.is_clean(), "{verdict:#?}");
        for poison in poisons() {
            let what = format!("{} runs", poison.name);
            until(&what, PATIENCE, || relay.state(poison.name) == "running").await;
        }
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}
