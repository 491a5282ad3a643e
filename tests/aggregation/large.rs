//! Rows that are larger than a record may be, before they are compressed.

use serde_json::json;

use crate::scenario::{PATIENCE, scenario, until};
use crate::world::World;

/// A row whose payload is a text of this SQL expression; answers its id.
async fn publish(world: &World, outbox: &str, text: &str) -> i64 {
    let sql = format!(
        "SELECT tide.outbox_publish('{outbox}', jsonb_build_object('text', {text}), '{{}}', 'k')"
    );
    world.number(&sql).await
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_over_the_record_limit_are_sent_when_they_compress_below_it() {
    scenario(3 * PATIENCE, async {
        let world = World::new(1).await;
        let configs = [
            ("rows-gzip", json!({"compression": "gzip"})),
            (
                "kpl-zstd",
                json!({"aggregation": "kpl", "compression": "zstd"}),
            ),
            (
                "lines-gzip",
                json!({"aggregation": "ndjson", "compression": "gzip"}),
            ),
        ];
        // Hexadecimal digits at random compress to a little more than half.
        let noise = |bytes: usize| {
            let words = bytes / 32;
            format!("(SELECT string_agg(md5(n || 'x'), '') FROM generate_series(1, {words}) AS n)")
        };
        let texts = [
            "repeat('x', 5000000)".to_owned(),
            noise(1_500_000),
            // Too large still.
            noise(3_000_000),
            // Not tried: it is over 10 MiB.
            "repeat('x', 11000000)".to_owned(),
            "'last'".to_owned(),
        ];
        let mut sent = Vec::new();
        let mut parked = Vec::new();
        for (name, _) in &configs {
            world.outbox(name).await;
            for (place, text) in texts.iter().enumerate() {
                let id = publish(&world, name, text).await;
                let goes = ![2, 3].contains(&place);
                if goes { &mut sent } else { &mut parked }.push(((*name).to_owned(), id));
            }
        }
        for (name, config) in configs {
            world.set_pipeline(name, name, config).await;
        }
        let relay = world.relay().await;
        until("all that fit have come", 2 * PATIENCE, || {
            world.consumer.received() >= sent.len() as u64
        })
        .await;
        let mut found: Vec<(String, i64)> = world
            .delivered()
            .iter()
            .map(|one| (one.outbox.to_string(), one.id))
            .collect();
        found.sort();
        sent.sort();
        assert_eq!(found, sent);
        let mut letters: Vec<(String, i64)> = sqlx::query_as(
            "SELECT pipeline, row_id FROM tide.relay_dead_letter WHERE reason = 'record_too_large'",
        )
        .fetch_all(&world.pool)
        .await
        .expect("letters");
        letters.sort();
        parked.sort();
        assert_eq!(letters, parked);
        assert_eq!(relay.metric("tidegate_actor_restarts_total", &[]), 0.0);
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}
