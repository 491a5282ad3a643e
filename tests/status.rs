//! `tidegate status` and `tidegate shards`, of a real relay and without one.
#![cfg(feature = "demo")]
#![allow(
    clippy::expect_used,
    clippy::large_futures,
    reason = "a test says what it expects, and has its thread's stack for itself"
)]

#[path = "common/database.rs"]
mod database;
#[path = "common/process.rs"]
mod process;
#[path = "common/relay.rs"]
mod relay;
#[path = "common/scenario.rs"]
mod scenario;
#[path = "common/world.rs"]
mod world;

use std::time::Duration;

use serde_json::{Value, json};

use crate::relay::{Relay, program};
use crate::scenario::{PATIENCE, scenario, until};
use crate::world::{STREAM, World};

/// A body with an event's key in every envelope, hot and cold.
const HOT: &str = "customer-4711@example.com";

struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Said {
    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).expect("one JSON object")
    }
}

/// Runs a command with the settings of a world.
async fn run(world: &World, arguments: &[&str]) -> Said {
    let mut command = program(&world.settings(&[]));
    command.args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output());
    let output = output.await.expect("no panic").expect("it runs");
    Said {
        code: output.status.code().expect("an exit code"),
        out: String::from_utf8(output.stdout).expect("text"),
        err: String::from_utf8(output.stderr).expect("text"),
    }
}

fn at(relay: &Relay) -> String {
    format!("http://{}", relay.admin())
}

/// A world with a pipeline that runs and one that is invalid, and a relay that has
/// delivered rows, half of them of one key.
async fn busy() -> (World, Relay) {
    let world = World::new(2).await;
    world.pipeline("events", json!({"tenant": "acme"})).await;
    world.pipeline("broken", json!({"tenant": "other"})).await;
    world
        .sql("UPDATE tide.relay_pipeline SET config = config || '{\"batch_size\": 501}' WHERE name = 'broken'")
        .await;
    let relay = world.relay().await;
    relay.wait_for_state("events", "running").await;
    let mut rows = world.publish_many("events", 200, 200, 50).await;
    for number in 0..200 {
        world.publish("events", HOT, json!({"n": number})).await;
    }
    world.wait_for(&rows, PATIENCE).await;
    // What waits is counted every few seconds.
    until("all is delivered", PATIENCE, || {
        let shown = relay.pipeline("events");
        shown["delivered_rows"] == 400 && shown["lag_rows"] == 0
    })
    .await;
    rows.clear();
    (world, relay)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_relay_is_shown_as_a_table_and_as_json() {
    scenario(Duration::from_secs(180), async {
        let (world, relay) = busy().await;
        let url = at(&relay);
        let said = run(&world, &["status", "--relay", &url]).await;
        assert_eq!(said.code, 0, "{}", said.err);
        assert!(said.out.starts_with("relay "), "{}", said.out);
        let line = |name: &str| {
            let line = said.out.lines().find(|line| line.starts_with(name));
            line.unwrap_or_else(|| panic!("no line {name}: {}", said.out))
                .to_owned()
        };
        let cells: Vec<String> = line("default/events")
            .split_whitespace()
            .map(str::to_owned)
            .collect();
        assert_eq!(
            cells[..4],
            ["default/events", "running", STREAM, "0"],
            "{}",
            said.out
        );
        assert!(cells.contains(&"400".to_owned()), "{}", said.out);
        assert!(line("default/broken").contains("invalid"), "{}", said.out);
        assert!(
            line("default/broken").contains("batch_size"),
            "{}",
            said.out
        );
        let cells: Vec<String> = line(STREAM).split_whitespace().map(str::to_owned).collect();
        assert_eq!(cells[1..3], ["ACTIVE", "2"], "{}", said.out);

        let one = [
            "status", "--relay", &url, "--tenant", "acme", "--output", "json",
        ];
        let status = run(&world, &one).await.json();
        assert_eq!(status["source"], "relay");
        let names: Vec<&Value> = status["pipelines"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|one| &one["name"])
            .collect();
        assert_eq!(names, ["events"]);
        relay.terminate().await;
    })
    .await;
}

/// What a relay said of a pipeline while it held it is the next one's to say.
#[tokio::test(flavor = "multi_thread")]
async fn who_has_given_a_pipeline_away_counts_its_dead_letters_no_more() {
    scenario(4 * PATIENCE, async {
        const NAMES: [&str; 2] = ["first", "second"];
        let world = World::new(1).await;
        for name in NAMES {
            let parks = json!({"partition_key": "{payload.customer}", "on_poison": "park"});
            world.pipeline(name, parks).await;
            world.publish(name, "k", json!({})).await;
        }
        let one = world
            .relay_with(&[("TIDEGATE__CLUSTER__NODE_ID", "relay-a")])
            .await;
        let letters = |relay: &Relay, name: &str| relay.pipeline(name)["dead_letters_open"].clone();
        for name in NAMES {
            until("its letter is counted", PATIENCE, || {
                letters(&one, name) == 1
            })
            .await;
        }
        let two = world
            .relay_with(&[("TIDEGATE__CLUSTER__NODE_ID", "relay-b")])
            .await;
        let given = || {
            let mut names = NAMES.into_iter();
            names.find(|name| one.pipeline(name)["state"] == "standby")
        };
        until("one is given away", PATIENCE, || given().is_some()).await;
        let given = given().expect("a pipeline");
        until("the other relay counts it", PATIENCE, || {
            letters(&two, given) == 1
        })
        .await;

        let shown = one.pipeline(given);
        assert_eq!(shown["epoch"], Value::Null, "{shown}");
        for count in ["dead_letters_open", "blocked_keys", "lag_rows"] {
            assert_eq!(shown[count], 0, "{count}: {shown}");
        }
        assert_eq!(shown["replay"], Value::Null, "{shown}");
        let said = run(&world, &["status", "--relay", &at(&one)]).await;
        let line = said
            .out
            .lines()
            .find(|line| line.starts_with(&format!("default/{given}")));
        let cells: Vec<&str> = line.expect("its line").split_whitespace().collect();
        // LAG, OLDEST and PARKED.
        assert_eq!([cells[3], cells[4], cells[8]], ["-"; 3], "{}", said.out);
        for relay in [one, two] {
            assert_eq!(relay.terminate().await, 0);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_shows_rates() {
    scenario(Duration::from_secs(180), async {
        let (world, relay) = busy().await;
        let url = at(&relay);
        let mut command = program(&world.settings(&[]));
        command.args([
            "status", "--relay", &url, "--watch", "--every", "500ms", "--times", "2",
        ]);
        let watch = tokio::task::spawn_blocking(move || command.output().expect("it runs"));
        let mut published = 400;
        while !watch.is_finished() {
            world.publish("events", "k", json!({})).await;
            published += 1;
        }
        let output = watch.await.expect("no panic");
        let text = String::from_utf8(output.stdout).expect("text");
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("default/events"))
            .collect();
        // Counted from the end: an age before it may be two words.
        let rate = |line: &str| {
            let mut words = line.split_whitespace().rev();
            words.nth(1).expect("a rate").to_owned()
        };
        assert_eq!(lines.len(), 2, "{text}");
        assert_eq!(rate(lines[0]), "-", "{text}");
        assert!(
            rate(lines[1]).parse::<u64>().expect("a number") > 0,
            "{text}"
        );
        assert!(!text.contains('\u{1b}'), "a pipe is no terminal: {text}");
        until("all is delivered", PATIENCE, || {
            relay.pipeline("events")["delivered_rows"] == published
        })
        .await;
        relay.terminate().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_databases_are_asked_where_no_relay_answers() {
    scenario(Duration::from_secs(180), async {
        let (world, relay) = busy().await;
        // The position is written a moment after what it says.
        let pending = "SELECT pending FROM tide.outbox_lag WHERE pipeline = 'events'";
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while world.number(pending).await > 0 {
            assert!(tokio::time::Instant::now() < deadline, "rows stay pending");
        }
        let url = at(&relay);
        let said = run(&world, &["status", "--database", "--output", "json"])
            .await
            .json();
        assert_eq!(said["source"], "database");
        let pipelines = said["databases"][0]["pipelines"]
            .as_array()
            .expect("a list");
        let of = |name: &str| {
            pipelines
                .iter()
                .find(|one| one["pipeline"] == name)
                .expect("a pipeline")
        };
        assert_eq!(of("events")["state"], "running");
        assert!(of("events")["owner"].is_string(), "{said}");
        assert_eq!(of("events")["pending"], 0);
        assert_eq!(of("broken")["state"], "invalid");
        relay.terminate().await;

        // The one that was named is meant.
        let named = run(&world, &["status", "--relay", &url]).await;
        assert_eq!(named.code, 1, "{}", named.out);
        assert!(
            named.err.contains("no relay answers at 127.0.0.1"),
            "{}",
            named.err
        );
        // admin.listen has a port where nobody listens.
        world.publish("events", "k", json!({})).await;
        let mut settings = world.settings(&[]);
        settings.retain(|(name, _)| name != "TIDEGATE__ADMIN__LISTEN");
        settings.push((
            "TIDEGATE__ADMIN__LISTEN".to_owned(),
            relay_port_that_is_free(),
        ));
        let output = program(&settings).arg("status").output().expect("it runs");
        let text = String::from_utf8(output.stdout).expect("text");
        assert!(output.status.success(), "{text}");
        let first = text.lines().next().expect("a line");
        assert!(first.starts_with("no relay answers at 127.0.0.1"), "{text}");
        assert!(first.ends_with("this is what the databases know"), "{text}");
        let line = text
            .lines()
            .find(|line| line.starts_with("default/events"))
            .expect("a line");
        let cells: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(
            cells[..4],
            ["default/events", "stopped", "-", "1"],
            "{text}"
        );
        // The row belongs to the books: it is delivered in the end.
        let relay = world.relay().await;
        until("it is delivered", PATIENCE, || {
            relay.pipeline("events")["delivered_rows"] == 1
        })
        .await;
        relay.terminate().await;
    })
    .await;
}

fn relay_port_that_is_free() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_are_shown_and_their_keys_to_who_asks() {
    scenario(Duration::from_secs(180), async {
        let (world, relay) = busy().await;
        let url = at(&relay);
        let said = run(&world, &["shards", "--relay", &url]).await;
        assert_eq!(said.code, 0, "{}", said.err);
        assert!(
            said.out
                .contains(&format!("stream {STREAM}: ACTIVE, 2 open shard(s)")),
            "{}",
            said.out
        );
        let shards: Vec<&str> = said
            .out
            .lines()
            .filter(|line| line.contains("shardId-"))
            .collect();
        assert_eq!(shards.len(), 2, "{}", said.out);
        assert!(
            shards.iter().all(|line| line.contains("50 %")),
            "half of the keys each: {}",
            said.out
        );
        assert!(!said.out.contains(HOT), "{}", said.out);

        // The writer shows once a second what it has.
        let hot = || {
            let body = relay.get("/api/shards?keys=5").expect("an answer").1;
            let answer: Value = serde_json::from_str(&body).expect("JSON");
            let shards = answer["streams"][0]["shards"]
                .as_array()
                .expect("a list")
                .clone();
            let keys = shards
                .iter()
                .flat_map(|shard| shard["hot_keys"].as_array().cloned().unwrap_or_default());
            keys.into_iter().find(|key| key["key"] == HOT)
        };
        until("the hot key is shown", PATIENCE, || {
            hot().is_some_and(|key| key["share"].as_f64().unwrap_or(0.0) > 0.5)
        })
        .await;
        let share = hot().expect("a key")["share"].as_f64().expect("a number");
        // 200 of its own and about half of 200 others: two thirds.
        assert!((0.5..0.85).contains(&share), "{share}");
        let said = run(&world, &["shards", "--relay", &url, "--keys"]).await;
        assert!(said.out.contains(&format!("{HOT:?}: ")), "{}", said.out);
        for path in ["/api/status", "/api/shards", "/metrics", "/api/config"] {
            let (_, body) = relay.get(path).expect("an answer");
            assert!(!body.contains(HOT), "{path} shows a key");
        }
        assert_eq!(relay.get("/api/shards?keys=21").expect("an answer").0, 400);
        assert_eq!(relay.lines_with(HOT), Vec::<String>::new());

        let other = run(&world, &["shards", "--relay", &url, "--stream", "no"]).await;
        assert_eq!(other.code, 1);
        assert!(
            other.err.contains(&format!("it writes to: {STREAM}")),
            "{}",
            other.err
        );
        relay.terminate().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_may_not_look_is_told_which_may() {
    scenario(Duration::from_secs(120), async {
        let world = World::new(1).await;
        let statement = "CREATE ROLE status_nobody LOGIN";
        database::server()
            .administer(statement)
            .await
            .expect("a role");
        let name = world.url.rsplit('/').next().expect("a name");
        let url = database::server().url_as("status_nobody", name);
        let settings = world.settings(&[("DATABASE_URL", &url)]);
        let mut command = program(&settings);
        let output = command
            .args(["status", "--database"])
            .output()
            .expect("it runs");
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8(output.stderr).expect("text");
        assert!(
            said.contains("a member of tide_reader or tide_operator"),
            "{said}"
        );
    })
    .await;
}

/// What the relay says of the deleting of an outbox's old rows.
fn sweep(relay: &Relay) -> Value {
    relay.status()["retention"][0]["outboxes"][0]["sweep"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn how_far_the_deleting_of_old_rows_has_come_is_shown_while_it_lasts() {
    scenario(Duration::from_secs(240), async {
        let world = World::new(4).await;
        world.pipeline("events", json!({})).await;
        world
            .sql("SELECT tide.outbox_set_retention('events', NULL)")
            .await;
        let rows = world.publish_many("events", 3_000, 200, 20).await;
        // A row a second, up to an hour ago.
        world
            .sql(
                "UPDATE tide.outbox_message AS m
                SET created_at = clock_timestamp() - interval '1 hour' - (newest.id - m.id + 1) * interval '1 second'
                FROM (SELECT max(id) AS id FROM tide.outbox_message) AS newest",
            )
            .await;
        let relay = world
            .relay_with(&[
                ("TIDEGATE__RETENTION__INTERVAL", "100ms"),
                ("TIDEGATE__RETENTION__BATCH_ROWS", "50"),
                ("TIDEGATE__RETENTION__PAUSE", "300ms"),
            ])
            .await;
        world.wait_for(&rows, PATIENCE).await;
        // Deleted is what the position has settled; it is written a moment later.
        let pending = "SELECT pending FROM tide.outbox_lag WHERE pipeline = 'events'";
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while world.number(pending).await > 0 {
            assert!(tokio::time::Instant::now() < deadline, "rows stay pending");
        }
        assert_eq!(sweep(&relay), Value::Null);
        let url = at(&relay);
        let before = run(&world, &["status", "--relay", &url]).await;
        assert!(!before.out.contains("RETENTION OF"), "{}", before.out);

        world
            .sql("SELECT tide.outbox_set_retention('events', 1)")
            .await;
        let part = |sweep: &Value| sweep["part"].as_f64().unwrap_or(0.0);
        until("a part of it is done", PATIENCE, || part(&sweep(&relay)) > 0.05).await;
        let first = sweep(&relay);
        let said = run(&world, &["status", "--relay", &url]).await;
        let line = said.out.lines().skip_while(|line| !line.starts_with("RETENTION OF")).nth(1);
        let line = line.unwrap_or_else(|| panic!("no sweep: {}", said.out));
        assert!(line.starts_with("default/events"), "{line}");
        assert!(line.contains('#') && line.contains("..") && line.contains(" %"), "{line}");
        assert!(line.contains("about "), "{line}");
        let (mut last, mut looks) = (first.clone(), 0);
        until("it is over", PATIENCE, || {
            let now = sweep(&relay);
            if now.is_null() {
                return true;
            }
            let deleted = |sweep: &Value| sweep["deleted_rows"].as_u64().expect("a number");
            assert!(deleted(&now) >= deleted(&last) && deleted(&now) <= 3_000, "{last} {now}");
            // While nothing is deleted a moment of rows grows old enough: a hair less is done.
            assert!(part(&now) + 0.01 >= part(&last) && part(&now) <= 1.0, "{last} {now}");
            looks += u32::from(deleted(&now) > deleted(&last));
            last = now;
            false
        })
        .await;
        assert!(looks > 3, "it was not seen to go on: {first} {last}");
        assert!(part(&last) > 0.8, "{last}");
        assert_eq!(world.number("SELECT count(*) FROM tide.outbox_message").await, 0);
        relay.terminate().await;
    })
    .await;
}
