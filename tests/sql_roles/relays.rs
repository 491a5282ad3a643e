//! The real relay, as a login role that is a member of `tide_relay` and nothing else.

use serde_json::json;
use tidegate::demo::emulator::EmulatorOptions;

use crate::database::OWNER;
use crate::roles::{House, wait_for};
use crate::scenario::{PATIENCE, until};
use crate::statements::{assert_refused, value};
use crate::way::{Road, Way};
use crate::world::{STREAM, World};

const TROUBLE: [&str; 3] = ["permission denied", "42501", "must be owner"];

async fn world() -> (House, World) {
    let house = House::new().await;
    let world = World::at(house.url(OWNER), 2, EmulatorOptions::default()).await;
    (house, world)
}

async fn a_member_of_tide_relay_relays(way: Way) {
    let (house, world) = world().await;
    let (login, as_relay) = house.user("relay", "tide_relay").await;
    let road = Road::of_role(way, &login).await;
    let settings = [("TIDEGATE__RETENTION__INTERVAL", "100ms")];
    let relay = road.relay(&world, &settings).await;

    // Delivering, and parking what has no key.
    world
        .pipeline(
            "events",
            json!({"partition_key": "{headers.key}", "on_poison": "park"}),
        )
        .await;
    world.outbox("plain").await;
    world.set_pipeline("plain", "plain", json!({})).await;
    let mut rows = world.publish_many("plain", 200, 7, 20).await;
    world.sql("SELECT tide.outbox_publish('events', '1')").await;
    world
        .sql("SELECT tide.outbox_publish('events', '2', '{\"key\": \"k\"}', 'k')")
        .await;
    world.wait_for(&rows, PATIENCE).await;
    let letters = |state: &str| {
        format!("SELECT count(*) FROM tide.relay_dead_letter WHERE state = '{state}'")
    };
    wait_for(&world, "a letter", &letters("parked")).await;

    // A letter and a range again.
    world
        .sql("UPDATE tide.relay_dead_letter SET headers = '{\"key\": \"k\"}'")
        .await;
    world
        .sql("SELECT tide.relay_dlq_retry(letter_id) FROM tide.relay_dead_letter")
        .await;
    let (first, last) = (rows[0].id, rows[9].id);
    world
        .sql(&format!(
            "SELECT tide.relay_replay('plain', {first}, {last})"
        ))
        .await;
    wait_for(
        &world,
        "a replay",
        "SELECT count(*) FROM tide.relay_replay WHERE state = 'done' AND sent = 10",
    )
    .await;
    wait_for(
        &world,
        "the letter's end",
        "SELECT (count(*) = 0)::int::bigint FROM tide.relay_dead_letter WHERE state = 'retry'",
    )
    .await;

    // A pause and its end, a position moved back.
    world
        .sql("SELECT tide.relay_pause('pipeline', 'plain', 'a look')")
        .await;
    relay.wait_for_state("plain", "paused").await;
    wait_for(
        &world,
        "a written state",
        "SELECT count(*) FROM tide.relay_status WHERE pipeline = 'plain' AND state = 'paused'",
    )
    .await;
    world
        .sql("SELECT tide.relay_resume('pipeline', 'plain')")
        .await;
    relay.wait_for_state("plain", "running").await;
    world
        .sql(&format!(
            "SELECT tide.relay_rewind('plain', {last}, 'plain')"
        ))
        .await;
    rows.extend(world.publish_many("plain", 50, 7, 20).await);
    world.wait_for(&rows, PATIENCE).await;

    // Retention.
    world
        .sql("UPDATE tide.outbox_message SET created_at = '2020-01-01'")
        .await;
    wait_for(
        &world,
        "everything has been removed",
        "SELECT (count(*) = 0)::int::bigint FROM tide.outbox_message",
    )
    .await;

    // A deleted pipeline, and an orderly end with another beginning.
    world.lost_counters();
    world.sql("SELECT tide.relay_delete('events')").await;
    let log = relay.log();
    assert_eq!(relay.terminate().await, 0);
    let next = road.relay(&world, &settings).await;
    let rows = world.publish_many("plain", 50, 7, 20).await;
    world.wait_for(&rows, PATIENCE).await;
    let logs = log + &next.log();
    for trouble in TROUBLE {
        let lines: Vec<&str> = logs.lines().filter(|line| line.contains(trouble)).collect();
        assert!(lines.is_empty(), "{lines:#?}");
    }

    // It has no business with these.
    let stream = format!(
        "SELECT tide.relay_set_outbox('x', 'plain', '{{\"sink_type\": \"kinesis\", \"stream_name\": \"{STREAM}\"}}')"
    );
    for denied in [
        stream.as_str(),
        "SELECT tide.outbox_create('x')",
        "SELECT tide.outbox_publish('plain', '1')",
        "SELECT tide.relay_pause('pipeline', 'plain')",
        "SELECT tide.relay_resume('pipeline', 'plain')",
        "SELECT tide.outbox_grant_publish('plain', session_user)",
        "SELECT tide.forget_position('plain')",
        "UPDATE tide.outbox SET retention_hours = 1",
        "UPDATE tide.outbox_message SET payload = '1'",
        "INSERT INTO tide.outbox_message (outbox_id, payload) VALUES (1, '1')",
        "UPDATE tide.relay_pipeline SET enabled = false",
        "DELETE FROM tide.relay_position",
        "DELETE FROM tide.relay_lease",
        "DELETE FROM tide.relay_dead_letter",
        "TRUNCATE tide.outbox_message",
        "ALTER TABLE tide.outbox_message ADD COLUMN x int",
        "CREATE TABLE tide.x (a int)",
    ] {
        let words: &[&str] = if denied.starts_with("ALTER") {
            &["must be owner"]
        } else {
            &["permission denied"]
        };
        assert_refused(&as_relay, denied, "42501", words).await;
    }
    let owns: i64 = value(
        &as_relay,
        "SELECT count(*) FROM pg_class AS c WHERE pg_has_role(c.relowner, 'USAGE')",
    )
    .await;
    assert_eq!(owns, 0);
    assert_eq!(next.terminate().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_needs_the_rights_of_tide_relay_and_no_others() {
    a_member_of_tide_relay_relays(Way::Direct).await;
}

/// PgBouncer's connections are that role's.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_needs_the_rights_of_tide_relay_and_no_others_through_a_pooler() {
    a_member_of_tide_relay_relays(Way::Pooled).await;
}

async fn a_relay_without_rights_is_told(way: Way) {
    let (house, world) = world().await;
    let login = house.login("bare", "").await;
    let road = Road::of_role(way, &login).await;
    let relay = road.relay(&world, &[]).await;
    until("a hint", PATIENCE, || {
        relay.log_lines(&["permission denied", "GRANT tide_relay TO"]) > 0
    })
    .await;
    assert_eq!(relay.terminate().await, 0);
}

/// A relay without the rights says which role is missing.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_without_rights_says_what_to_grant() {
    a_relay_without_rights_is_told(Way::Direct).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_without_rights_says_what_to_grant_through_a_pooler() {
    a_relay_without_rights_is_told(Way::Pooled).await;
}
