//! Rows that the service refuses, in records of many: found by halving, parked alone,
//! and delivered when somebody asks for it.

use serde_json::{Value, json};
use tidegate::demo::verdict::Committed;

use crate::relay::Relay;
use crate::scenario::{PATIENCE, scenario, until};
use crate::world::World;

/// What the service does not take, wherever it is.
const BAD: &str = "not-with-me";

async fn spoil(world: &World, rows: &mut [Committed], places: &[usize]) {
    for place in places {
        let row = &mut rows[*place];
        world
            .sql(&format!(
                "UPDATE tide.outbox_message SET payload = '{{\"text\": \"{BAD}\"}}' WHERE id = {}",
                row.id
            ))
            .await;
    }
}

async fn letters(world: &World, condition: &str) -> i64 {
    let sql = format!("SELECT count(*) FROM tide.relay_dead_letter WHERE {condition}");
    world.number(&sql).await
}

async fn until_letters(world: &World, condition: &str, expected: i64) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let found = letters(world, condition).await;
        if found == expected {
            return;
        }
        let is_late = tokio::time::Instant::now() > deadline;
        assert!(!is_late, "{condition}: {found} letters, not {expected}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

fn refused_calls(relay: &Relay) -> f64 {
    relay.metric("tidegate_put_calls_total", &[("outcome", "bad_record")])
}

/// Three rows of 600 are bad, each of another key and far from the others.
async fn parked_alone(config: Value) {
    let world = World::new(1).await;
    world.emulator.faults().poison().refuse(BAD);
    world.outbox("events").await;
    let mut rows = world.publish_many("events", 600, 6, 20).await;
    let bad = [40, 285, 584];
    spoil(&world, &mut rows, &bad).await;
    world.set_pipeline("events", "events", config).await;
    let relay = world.relay().await;
    until_letters(&world, "state = 'parked' AND reason = 'record_rejected'", 3).await;
    let parked: Vec<i64> =
        sqlx::query_scalar("SELECT row_id FROM tide.relay_dead_letter ORDER BY row_id")
            .fetch_all(&world.pool)
            .await
            .expect("letters");
    assert_eq!(parked, bad.map(|place| rows[place].id));
    // Their place among the rows of their keys is given up, the others keep theirs.
    let mut good = rows.clone();
    good.retain(|row| !parked.contains(&row.id));
    let verdict = world.judge(&good).await;
    assert!(
        verdict.is_clean() && verdict.duplicates == 0,
        "{verdict:#?}"
    );
    // Halving 600 rows takes 10 refusals for each.
    let refused = refused_calls(&relay);
    assert!((3.0..=33.0).contains(&refused), "{refused} refused calls");

    // Nothing has changed: each is parked again.
    world
        .number("SELECT tide.relay_dlq_retry_all('events')")
        .await;
    until_letters(&world, "state = 'parked' AND attempts = 2", 3).await;

    world.emulator.faults().poison().heal();
    world
        .number("SELECT tide.relay_dlq_retry_all('events')")
        .await;
    until_letters(&world, "state = 'delivered' AND attempts = 3", 3).await;
    for place in bad {
        rows[place].order = None;
    }
    let verdict = world.judge(&rows).await;
    assert!(
        verdict.is_clean() && verdict.duplicates == 0,
        "{verdict:#?}"
    );
    assert_eq!(relay.metric("tidegate_actor_restarts_total", &[]), 0.0);
    assert_eq!(relay.terminate().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_rows_of_kpl_records_are_parked_alone_and_sent_when_asked_for() {
    scenario(2 * PATIENCE, parked_alone(json!({"aggregation": "kpl"}))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_lines_of_compressed_records_are_parked_alone_and_sent_when_asked_for() {
    let config = json!({"aggregation": "ndjson", "compression": "zstd"});
    scenario(2 * PATIENCE, parked_alone(config)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_behind_a_bad_row_is_sent_behind_it_in_records_of_many() {
    scenario(2 * PATIENCE, async {
        let world = World::new(1).await;
        world.emulator.faults().poison().refuse(BAD);
        world.outbox("events").await;
        let mut rows = world.publish_many("events", 400, 4, 20).await;
        spoil(&world, &mut rows, &[81]).await;
        let config = json!({"aggregation": "kpl", "on_poison": "block_key"});
        world.set_pipeline("events", "events", config).await;
        let relay = world.relay().await;
        until_letters(&world, "state = 'parked'", 1).await;
        until_letters(&world, "state = 'waiting'", 79).await;
        until("the other keys arrive", PATIENCE, || {
            world.delivered().len() == 320
        })
        .await;
        let records = || relay.metric("tidegate_records_stored_total", &[]);
        let before = records();

        world.emulator.faults().poison().heal();
        let letter = world
            .number("SELECT letter_id FROM tide.relay_dead_letter WHERE state = 'parked'")
            .await;
        let retry = format!("SELECT tide.relay_dlq_retry({letter})::bigint");
        assert_eq!(world.number(&retry).await, 80);
        until_letters(&world, "state <> 'delivered'", 0).await;
        // In the order of their key, all of them.
        let verdict = world.judge(&rows).await;
        assert!(
            verdict.is_clean() && verdict.duplicates == 0,
            "{verdict:#?}"
        );
        let more = records() - before;
        assert!(more <= 20.0, "80 letters of one key in {more} records");
        assert_eq!(relay.metric("tidegate_actor_restarts_total", &[]), 0.0);
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}
