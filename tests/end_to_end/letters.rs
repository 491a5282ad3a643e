//! Dead letters that a person has sent again: really delivered, once, in the order
//! of their key, or parked again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;
use sqlx::PgPool;
use tidegate::demo::faults::Refused;
use tidegate::demo::verdict::Committed;

use crate::relay::Relay;
use crate::resharding::OFTEN;
use crate::scenario::{PATIENCE, scenario, scenario_alone, until};
use crate::world::World;

/// Too large while the stream says it takes 100 KiB.
const LARGE: &str = "jsonb_build_object('text', repeat('x', 200000))";

/// Refused by the emulator, which takes 1 MiB, while the stream says it takes 2.
const REFUSED: &str = "jsonb_build_object('text', repeat('x', 1200000))";

async fn spoil(world: &World, row: &Committed, payload: &str) {
    let id = row.id;
    world
        .sql(&format!(
            "UPDATE tide.outbox_message SET payload = {payload} WHERE id = {id}"
        ))
        .await;
}

async fn wait_for(world: &World, what: &str, sql: &str, expected: i64) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let found = world.number(sql).await;
        if found == expected {
            return;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "{what}: {found}, not {expected}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn letters(world: &World, condition: &str, expected: usize) {
    let sql = format!("SELECT count(*) FROM tide.relay_dead_letter WHERE {condition}");
    wait_for(
        world,
        condition,
        &sql,
        i64::try_from(expected).expect("few"),
    )
    .await;
}

async fn the_letter(world: &World) -> i64 {
    world
        .number("SELECT letter_id FROM tide.relay_dead_letter WHERE state = 'parked'")
        .await
}

async fn takes_more(world: &World, relay: &Relay) {
    let faults = world.emulator.faults();
    faults.describe_as("MaxRecordSizeInKiB", json!(1024));
    until("the relay knows the new limit", PATIENCE, || {
        relay.log_lines(&["takes records of another size"]) > 0
    })
    .await;
}

/// Publishes to one key, row after row, until it is told to stop.
struct Busy {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Vec<Committed>>,
}

impl Busy {
    fn start(pool: PgPool, outbox: &'static str, key: &'static str, every: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let mut rows = Vec::new();
            let mut pace = tokio::time::interval(every);
            while !stopped.load(Ordering::Relaxed) {
                pace.tick().await;
                let id: i64 =
                    sqlx::query_scalar("SELECT tide.outbox_publish($1, '{\"live\": 1}', '{}', $2)")
                        .bind(outbox)
                        .bind(key)
                        .fetch_one(&pool)
                        .await
                        .expect("published");
                rows.push(Committed {
                    outbox: outbox.into(),
                    id,
                    key: Some(key.into()),
                    order: Some(id.unsigned_abs()),
                });
            }
            rows
        });
        Self { stop, task }
    }

    async fn end(self) -> Vec<Committed> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("published")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retried_letter_is_delivered_once_under_its_id_and_a_higher_seq() {
    scenario(2 * PATIENCE, async {
        let world = World::new(2).await;
        let faults = world.emulator.faults();
        faults.describe_as("MaxRecordSizeInKiB", json!(100));
        world.outbox("events").await;
        let mut rows = world.publish_many("events", 40, 4, 10).await;
        spoil(&world, &rows[10], LARGE).await;
        // Its place among the rows of its key is given up.
        rows[10].order = None;
        world.set_pipeline("events", "events", json!({})).await;
        let relay = world.relay_with(&[OFTEN]).await;
        letters(
            &world,
            "state = 'parked' AND reason = 'record_too_large'",
            1,
        )
        .await;
        until("the others arrive", PATIENCE, || {
            world.delivered().len() == 39
        })
        .await;

        // The stream does not take it yet: it is parked again.
        let id = the_letter(&world).await;
        world
            .number(&format!("SELECT tide.relay_dlq_retry({id})::bigint"))
            .await;
        letters(&world, "state = 'parked' AND attempts = 2", 1).await;

        takes_more(&world, &relay).await;
        world
            .number(&format!("SELECT tide.relay_dlq_retry({id})::bigint"))
            .await;
        letters(&world, "state = 'delivered' AND attempts = 3", 1).await;
        let verdict = world.judge(&rows).await;
        assert!(
            verdict.is_clean() && verdict.duplicates == 0,
            "{verdict:#?}"
        );
        let delivered = world.delivered();
        let retried = delivered.iter().find(|one| one.id == rows[10].id);
        let retried = retried.expect("it has arrived");
        let of_key = delivered.iter().filter(|one| one.key == retried.key);
        assert_eq!(of_key.map(|one| &one.seq).max(), Some(&retried.seq));
        let sources = [("pipeline", "events"), ("source", "letter")];
        assert_eq!(relay.metric("tidegate_rows_resent_total", &sources), 1.0);
        until("no letter is open", PATIENCE, || {
            relay.pipeline("events")["dead_letters_open"] == 0
        })
        .await;
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_key_that_is_busy_is_delivered_in_order_and_free_again() {
    scenario_alone(3 * PATIENCE, async {
        let world = World::new(2).await;
        let faults = world.emulator.faults();
        faults.describe_as("MaxRecordSizeInKiB", json!(100));
        world.outbox("events").await;
        let mut rows = world.publish_many("events", 1_000, 5, 10).await;
        spoil(&world, &rows[500], LARGE).await;
        let policy = json!({"on_poison": "block_key"});
        world.set_pipeline("events", "events", policy).await;
        let relay = world.relay_with(&[OFTEN]).await;
        letters(&world, "state = 'parked'", 1).await;
        letters(&world, "state = 'waiting'", 99).await;
        let busy = Busy::start(
            world.pool.clone(),
            "events",
            "k-0",
            Duration::from_millis(40),
        );
        let more = "SELECT (count(*) >= 120)::int::bigint FROM tide.relay_dead_letter";
        wait_for(&world, "live rows wait too", more, 1).await;

        // It is too large still: those behind it wait again.
        let id = the_letter(&world).await;
        let retry = format!("SELECT tide.relay_dlq_retry({id})::bigint");
        assert!(world.number(&retry).await >= 120);
        letters(&world, "state = 'parked' AND attempts = 2", 1).await;
        letters(&world, "state = 'retry'", 0).await;

        takes_more(&world, &relay).await;
        assert!(world.number(&retry).await >= 120);
        letters(&world, "state <> 'delivered'", 0).await;
        until("no key is blocked", PATIENCE, || {
            relay.pipeline("events")["blocked_keys"] == 0
        })
        .await;
        let known = world
            .number("SELECT count(*) FROM tide.relay_dead_letter")
            .await;
        let last = world.publish("events", "k-0", json!({"last": 1})).await;
        rows.extend(busy.end().await);
        rows.sort_by_key(|row| row.id);
        rows.retain(|row| row.id != last);
        rows.push(Committed {
            outbox: "events".into(),
            id: last,
            key: Some("k-0".into()),
            order: Some(last.unsigned_abs()),
        });
        let verdict = world.judge(&rows).await;
        assert!(
            verdict.is_clean() && verdict.duplicates == 0,
            "{verdict:#?}"
        );
        let sql = "SELECT count(*) FROM tide.relay_dead_letter";
        assert_eq!(world.number(sql).await, known, "rows flow past the table");
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_the_service_refuses_again_holds_its_key_until_it_is_discarded() {
    scenario(3 * PATIENCE, async {
        let world = World::new(2).await;
        let faults = world.emulator.faults();
        faults.describe_as("MaxRecordSizeInKiB", json!(2048));
        world.outbox("events").await;
        let mut rows = world.publish_many("events", 200, 5, 10).await;
        spoil(&world, &rows[100], REFUSED).await;
        let policy = json!({"on_poison": "block_key"});
        world.set_pipeline("events", "events", policy).await;
        let relay = world.relay().await;
        letters(&world, "state = 'parked' AND reason = 'record_rejected'", 1).await;
        letters(&world, "state = 'waiting'", 19).await;
        let busy = Busy::start(
            world.pool.clone(),
            "events",
            "k-0",
            Duration::from_millis(40),
        );

        let id = the_letter(&world).await;
        assert!(
            world
                .number(&format!("SELECT tide.relay_dlq_retry({id})::bigint"))
                .await
                >= 20
        );
        letters(&world, "state = 'parked' AND attempts = 2", 1).await;
        letters(&world, "state = 'retry'", 0).await;
        assert_eq!(
            world
                .delivered()
                .iter()
                .filter(|one| one.id >= rows[100].id && &*one.partition_key == "k-0")
                .count(),
            0
        );

        world
            .number(&format!(
                "SELECT tide.relay_dlq_discard({id}, 'a test')::bigint"
            ))
            .await;
        letters(&world, "state IN ('parked', 'waiting', 'retry')", 0).await;
        until("no key is blocked", PATIENCE, || {
            relay.pipeline("events")["blocked_keys"] == 0
        })
        .await;
        rows.remove(100);
        rows.extend(busy.end().await);
        let verdict = world.judge(&rows).await;
        assert!(
            verdict.is_clean() && verdict.duplicates == 0,
            "{verdict:#?}"
        );
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_that_are_sent_again_survive_kills() {
    scenario(3 * PATIENCE, async {
        let world = World::new(2).await;
        let faults = world.emulator.faults();
        faults.describe_as("MaxRecordSizeInKiB", json!(100));
        world.outbox("events").await;
        let rows = world.publish_many("events", 1_500, 5, 10).await;
        spoil(&world, &rows[0], LARGE).await;
        let policy = json!({"on_poison": "block_key"});
        world.set_pipeline("events", "events", policy).await;
        let relay = world.relay_with(&[OFTEN]).await;
        letters(&world, "state = 'waiting'", 299).await;
        takes_more(&world, &relay).await;
        let id = the_letter(&world).await;
        world.number(&format!("SELECT tide.relay_dlq_retry({id})::bigint")).await;
        let mut relay = relay;
        for delivered in [40, 150] {
            let sql = format!("SELECT (count(*) >= {delivered})::int::bigint FROM tide.relay_dead_letter WHERE state = 'delivered'");
            wait_for(&world, "letters are delivered", &sql, 1).await;
            relay.kill();
            relay = world.relay_with(&[OFTEN]).await;
        }
        letters(&world, "state <> 'delivered'", 0).await;
        world.wait_for(&rows, PATIENCE).await;
        let mut seen = std::collections::HashSet::new();
        let firsts: Vec<i64> = world
            .delivered()
            .iter()
            .filter(|one| &*one.partition_key == "k-0" && seen.insert(one.id))
            .map(|one| one.id)
            .collect();
        assert_eq!(firsts.len(), 300);
        assert!(firsts.is_sorted(), "{firsts:?}");
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

/// A key that was freed by its last letter is blocked again by the next bad row,
/// although another letter of the same round is on its way for long.
#[tokio::test(flavor = "multi_thread")]
async fn a_freed_key_is_blocked_again_by_the_next_bad_row() {
    scenario(2 * PATIENCE, async {
        let world = World::new(2).await;
        let faults = world.emulator.faults();
        faults.describe_as("MaxRecordSizeInKiB", json!(100));
        let policy = json!({"on_poison": "block_key"});
        world.pipeline("events", policy).await;
        let large = json!({"text": "x".repeat(200_000)});
        // "a" and "b" go to different shards.
        let mut rows = Vec::new();
        for (key, payload) in [("a", &large), ("a", &json!(1)), ("b", &large)] {
            let id = world.publish("events", key, payload.clone()).await;
            rows.push(committed(key, id));
        }
        let relay = world.relay_with(&[OFTEN]).await;
        letters(&world, "state = 'parked'", 2).await;
        letters(&world, "state = 'waiting'", 1).await;
        takes_more(&world, &relay).await;
        let last = world.consumer.ranges().pop_last();
        faults.refuse(Refused::Shard(last.expect("two shards").0));
        world.sql("SELECT tide.relay_dlq_retry_all('events')").await;
        letters(&world, "state = 'delivered' AND partition_key = 'a'", 2).await;
        letters(&world, "state = 'retry' AND partition_key = 'b'", 1).await;

        let larger = json!({"text": "x".repeat(1_200_000)});
        world.publish("events", "a", larger).await;
        letters(&world, "state = 'parked'", 1).await;
        for behind in 1..=2 {
            let id = world
                .publish("events", "a", json!({"behind": behind}))
                .await;
            rows.push(committed("a", id));
            letters(&world, "state = 'waiting'", behind).await;
        }
        let id = the_letter(&world).await;
        world
            .sql(&format!("SELECT tide.relay_dlq_discard({id}, 'a test')"))
            .await;
        letters(&world, "state = 'delivered' AND partition_key = 'a'", 4).await;
        faults.admit_all();
        letters(&world, "state = 'delivered'", 5).await;
        let verdict = world.judge(&rows).await;
        assert!(
            verdict.is_clean() && verdict.duplicates == 0,
            "{verdict:#?}"
        );
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

fn committed(key: &str, id: i64) -> Committed {
    Committed {
        outbox: "events".into(),
        id,
        key: Some(key.into()),
        order: Some(id.unsigned_abs()),
    }
}
