//! Pipelines, tenants and streams are paused and resumed while everything runs.

#[path = "pause/steps.rs"]
mod steps;

use std::time::Duration;

use serde_json::{Value, json};
use tidegate::demo::emulator::EmulatorOptions;
use tidegate::demo::load::OutboxLoad;
use tidegate::demo::private_postgres::{PrivatePostgres, PrivatePostgresOptions};
use tokio::time::Instant;

use self::steps::{
    arrived, assert_exactly_once, pause, publish, resume, text, tidegate, wait_for_more,
    wait_for_sql, with_settings,
};
use crate::database;
use crate::relay::program;
use crate::scenario::{PATIENCE, scenario, until};
use crate::world::{STREAM, World};

/// A pause is live within two seconds; what was sent is settled in that time too,
/// and this machine may be busy.
const LIVE: Duration = Duration::from_secs(10);

// === Under load ===

#[tokio::test(flavor = "multi_thread")]
async fn one_pipeline_is_paused_under_load_and_the_other_goes_on() {
    scenario(4 * PATIENCE, async {
        let world = World::new(2).await;
        for name in ["one", "two"] {
            world.pipeline(name, json!({})).await;
        }
        let relay = world.relay().await;
        let loads = ["one", "two"].map(|name| OutboxLoad {
            rows_per_second: Some(150.0),
            ..OutboxLoad::new(name)
        });
        let load = world.load(loads.to_vec(), 41).await;
        for name in ["one", "two"] {
            wait_for_more(&world, name, 100).await;
        }

        let done = pause(&world, &["--pipeline", "one", "--reason", "a bad consumer"]);
        assert_eq!(done["pipelines"], json!(["one"]));
        assert_eq!(done["was_paused"], false);
        let asked = Instant::now();
        relay.wait_for_state("one", "paused").await;
        eprintln!("paused {:?} after the command", asked.elapsed());
        assert!(asked.elapsed() < LIVE);
        let shown = relay.pipeline("one");
        let reason = shown["reason"].as_str().expect("a reason");
        assert!(reason.starts_with("pipeline one is paused by "), "{reason}");
        assert!(reason.ends_with(": a bad consumer"), "{reason}");
        let state = [("pipeline", "one"), ("state", "paused")];
        assert!(relay.metric("tidegate_pipeline_state", &state) > 0.0);
        assert_eq!(relay.get("/readyz").expect("an answer").0, 200);
        wait_for_sql(&world, "one", "paused").await;

        // The reader may have read a little more than it had reported.
        until("the last records are read", PATIENCE, {
            let sent = relay.metric("tidegate_rows_delivered_total", &[("pipeline", "one")]);
            let world = &world;
            move || arrived(world, "one") as f64 >= sent
        })
        .await;
        let before = arrived(&world, "one");
        wait_for_more(&world, "two", 300).await;
        assert_eq!(arrived(&world, "one"), before);

        // Over a restart, and one that nobody asked for.
        assert_eq!(relay.terminate().await, 0);
        let relay = world.relay().await;
        relay.wait_for_state("one", "paused").await;
        wait_for_more(&world, "two", 300).await;
        assert_eq!(arrived(&world, "one"), before);
        let held = "SELECT count(*) FROM tide.outbox_lag
            WHERE pipeline = 'one' AND paused AND owner IS NULL AND pending > 0";
        assert_eq!(world.number(held).await, 1);

        let done = resume(&world, &["--pipeline", "one"]);
        assert_eq!(
            (&done["was_paused"], &done["still_paused"]),
            (&json!(true), &json!([]))
        );
        relay.wait_for_state("one", "running").await;
        wait_for_more(&world, "one", 100).await;
        // Again, shortly, several times, while rows are in flight.
        for _ in 0..3 {
            pause(&world, &["--pipeline", "one"]);
            relay.wait_for_state("one", "paused").await;
            resume(&world, &["--pipeline", "one"]);
            wait_for_more(&world, "one", 20).await;
        }
        let (report, verdict) = world.settle(load).await;
        eprintln!("{} rows", report.rows().len());
        assert_exactly_once(&verdict);
        wait_for_sql(&world, "one", "running").await;
        assert_eq!(relay.terminate().await, 0);
        wait_for_sql(&world, "one", "stopped").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_does_not_take_up_what_is_paused() {
    scenario(4 * PATIENCE, async {
        let world = World::new(1).await;
        for name in ["one", "two"] {
            world.pipeline(name, json!({})).await;
        }
        let first = world.relay().await;
        for name in ["one", "two"] {
            first.wait_for_state(name, "running").await;
        }
        let second = world.relay().await;
        let mut rows = publish(&world, "one", 50).await;
        rows.extend(publish(&world, "two", 50).await);
        world.wait_for(&rows, PATIENCE).await;
        let epoch = "SELECT epoch FROM tide.relay_lease WHERE pipeline = 'one'";
        let before = world.number(epoch).await;

        pause(&world, &["--pipeline", "one"]);
        for relay in [&first, &second] {
            relay.wait_for_state("one", "paused").await;
        }
        let later = publish(&world, "one", 50).await;
        first.kill();
        second.wait_for_state("two", "running").await;
        rows.extend(publish(&world, "two", 50).await);
        world.wait_for(&rows, PATIENCE).await;
        assert_eq!(second.state("one"), "paused");
        assert_eq!(arrived(&world, "one"), 50);
        assert_eq!(
            world.number(epoch).await,
            before,
            "nobody has taken it since"
        );

        resume(&world, &["--pipeline", "one"]);
        rows.extend(later);
        let verdict = world.judge(&rows).await;
        assert!(verdict.is_clean(), "{verdict:#?}");
        assert_eq!(second.terminate().await, 0);
    })
    .await;
}

// === Tenants, streams, names to come ===

#[tokio::test(flavor = "multi_thread")]
async fn tenants_and_streams_are_paused_with_all_their_pipelines() {
    scenario(4 * PATIENCE, async {
        let world = World::new(1).await;
        world
            .emulator
            .create_stream("other", 1)
            .await
            .expect("a stream");
        world.pipeline("a", json!({"tenant": "acme"})).await;
        world.pipeline("b", json!({})).await;
        world
            .pipeline("c", json!({"tenant": "acme", "stream_name": "other"}))
            .await;
        let relay = world.relay().await;
        let states = |expected: [&'static str; 3]| {
            let relay = &relay;
            async move {
                for (name, state) in ["a", "b", "c"].into_iter().zip(expected) {
                    relay.wait_for_state(name, state).await;
                }
            }
        };
        states(["running"; 3]).await;
        let done = pause(&world, &["--tenant", "acme"]);
        assert_eq!(done["pipelines"], json!(["a", "c"]));
        states(["paused", "running", "paused"]).await;
        let arn = format!("arn:aws:kinesis:us-east-1:000000000000:stream/{STREAM}");
        pause(&world, &["--stream", &arn]);
        states(["paused"; 3]).await;
        let (_, listed) = tidegate(&world, &["pause", "--list"]);
        let listed = listed[0]["pauses"].as_array().expect("a list");
        let held: Vec<&Value> = listed.iter().map(|pause| &pause["pipelines"]).collect();
        assert_eq!(held, [&json!(["a", "b"]), &json!(["a", "c"])]);

        let done = resume(&world, &["--tenant", "acme"]);
        assert_eq!(done["still_paused"], json!(["a"]));
        states(["paused", "paused", "running"]).await;
        resume(&world, &["--stream", &arn]);
        states(["running"; 3]).await;
        let done = resume(&world, &["--stream", &arn]);
        assert_eq!(done["was_paused"], false);
        pause(&world, &["--stream", "other"]);
        states(["running", "running", "paused"]).await;
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_paused_before_it_exists_and_a_definition_changed_meanwhile() {
    scenario(4 * PATIENCE, async {
        let world = World::new(1).await;
        let relay = world.relay().await;
        let (is_done, lines) = tidegate(&world, &["pause", "--pipeline", "later"]);
        let error = lines[0]["error"].to_string();
        assert!(!is_done && error.contains("does not exist"), "{error}");
        pause(&world, &["--pipeline", "later", "--ahead"]);
        world.pipeline("later", json!({})).await;
        let rows = publish(&world, "later", 50).await;
        relay.wait_for_state("later", "paused").await;
        // A pause outlives changes of the definition, bad ones too.
        let secret = json!({"access_key_id": "${env:NOT_THERE}", "secret_access_key": "x"});
        world.set_pipeline("later", "later", secret).await;
        wait_for_sql(&world, "later", "invalid").await;
        let reason = "SELECT reason FROM tide.relay_status WHERE pipeline = 'later'";
        let reason = text(&world, reason).await;
        assert!(reason.contains("NOT_THERE"), "{reason}");
        world
            .set_pipeline("later", "later", json!({"batch_size": 7}))
            .await;
        wait_for_sql(&world, "later", "paused").await;
        assert_eq!(world.consumer.received(), 0);
        assert_eq!(
            world.number("SELECT count(*) FROM tide.relay_lease").await,
            0
        );
        resume(&world, &["--pipeline", "later"]);
        assert_exactly_once(&world.judge(&rows).await);
        // What is deleted is shown no more.
        world.lost_counters();
        world.sql("SELECT tide.relay_delete('later')").await;
        wait_for_sql(&world, "later", "").await;
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_of_a_file_starts_paused() {
    scenario(4 * PATIENCE, async {
        let world = World::new(1).await;
        world.outbox("events").await;
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("tidegate.toml");
        let definition = format!(
            "[[pipelines]]\nname = \"of-file\"\noutbox = \"events\"\nsink_type = \"kinesis\"\n\
             stream_name = \"{STREAM}\"\nregion = \"us-east-1\"\npartition_key = \"{{dedup_key}}\"\n\
             tenant = \"acme\"\n"
        );
        std::fs::write(&file, definition).expect("a file");
        let path = file.to_str().expect("a path").to_owned();
        let more = [("TIDEGATE_CONFIG", path.as_str())];
        let settings = world.settings(&more);
        let command = |arguments: &[&str]| {
            let (is_done, lines) = with_settings(&settings, arguments);
            assert!(is_done, "{lines:?}");
        };
        let mut rows = publish(&world, "events", 50).await;
        // The file is read, so it is no name to come.
        command(&["pause", "--pipeline", "of-file"]);
        command(&["resume", "--pipeline", "of-file"]);
        command(&["pause", "--tenant", "acme", "--reason", "bill"]);
        for _ in 0..3 {
            let relay = world.relay_with(&more).await;
            relay.wait_for_state("of-file", "paused").await;
            wait_for_sql(&world, "of-file", "paused").await;
            rows.extend(publish(&world, "events", 20).await);
            // No reader of it has run.
            assert_eq!(relay.log_lines(&["pipeline=default/of-file", "epoch="]), 0);
            assert_eq!(relay.terminate().await, 0);
        }
        assert_eq!(world.consumer.received(), 0);
        let relay = world.relay_with(&more).await;
        command(&["resume", "--tenant", "acme"]);
        assert_exactly_once(&world.judge(&rows).await);
        assert_eq!(relay.log_lines(&["pipeline=default/of-file", "epoch="]), 1);
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

// === What waits with it ===

async fn states_of_replays(world: &World) -> String {
    let sql = "SELECT coalesce(string_agg(DISTINCT state, ','), '') FROM tide.relay_replay";
    text(world, sql).await
}

#[tokio::test(flavor = "multi_thread")]
async fn replays_and_letters_of_a_paused_pipeline_wait() {
    scenario(4 * PATIENCE, async {
        let world = World::new(1).await;
        world
            .pipeline("events", json!({"partition_key": "{payload.id}"}))
            .await;
        world.pipeline("other", json!({})).await;
        let relay = world.relay().await;
        let mut ids = Vec::new();
        for number in 0..20 {
            ids.push(world.publish("events", "k", json!({"id": number})).await);
        }
        // No key: it is parked.
        world.publish("events", "k", json!({"id": ""})).await;
        let parked = "SELECT count(*) FROM tide.relay_dead_letter WHERE state = 'parked'";
        let deadline = Instant::now() + PATIENCE;
        while world.number(parked).await == 0 {
            assert!(Instant::now() < deadline, "no letter");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        world.wait_until_received(20).await;
        pause(&world, &["--pipeline", "events"]);
        relay.wait_for_state("events", "paused").await;
        let (first, last) = (ids[0], ids[19]);
        world
            .sql(&format!(
                "SELECT tide.relay_replay('events', {first}, {last})"
            ))
            .await;
        world.sql("SELECT tide.relay_dlq_retry_all('events')").await;
        // Longer than a relay takes to notice.
        for _ in 0..2 {
            world
                .sql("SELECT tide.relay_pause('tenant', 'nobody')")
                .await;
            let rows = publish(&world, "other", 20).await;
            world.wait_for(&rows, PATIENCE).await;
        }
        assert_eq!(states_of_replays(&world).await, "queued");
        let waits = "SELECT count(*) FROM tide.relay_dead_letter WHERE state = 'retry'";
        assert_eq!(world.number(waits).await, 1);
        assert_eq!(arrived(&world, "events"), 20);
        resume(&world, &["--pipeline", "events"]);
        let deadline = Instant::now() + PATIENCE;
        while states_of_replays(&world).await != "done" || world.number(waits).await > 0 {
            assert!(Instant::now() < deadline, "the replay is not done");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        until("the rows arrive again", PATIENCE, || {
            arrived(&world, "events") == 40
        })
        .await;
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

// === What it costs, and where it is kept ===

#[tokio::test(flavor = "multi_thread")]
async fn looking_for_pauses_costs_no_statement() {
    scenario(4 * PATIENCE, async {
        let options = PrivatePostgresOptions {
            settings: vec![("log_statement".to_owned(), "all".to_owned())],
            ..PrivatePostgresOptions::default()
        };
        let server = PrivatePostgres::start(options).expect("a server");
        let url = server.create_database("app").await.expect("a database");
        let world = World::at(url, 1, EmulatorOptions::default()).await;
        let migrated = program(&world.settings(&[])).arg("migrate").output();
        assert!(migrated.expect("a migration").status.success());
        for name in ["one", "two"] {
            world.pipeline(name, json!({})).await;
        }
        let relay = world.relay().await;
        pause(&world, &["--pipeline", "one"]);
        relay.wait_for_state("one", "paused").await;
        wait_for_sql(&world, "two", "running").await;
        wait_for_sql(&world, "one", "paused").await;

        const LOOK: &str = "coalesce(sum(r.version), 0)::text";
        let looks = |log: &str| log.matches(LOOK).count();
        let before = server.log();
        let wanted = looks(&before) + 6;
        until("the catalog is read six times", PATIENCE, || {
            looks(&server.log()) >= wanted
        })
        .await;
        let log = server.log().split_off(before.len());
        let tables = log.matches("FROM tide.relay_pause").count();
        assert!(looks(&log) >= 5, "{log}");
        // Count and sum are asked for beside those of the pipelines, in one statement.
        assert!(
            tables.abs_diff(2 * looks(&log)) <= 2,
            "{tables} of {}",
            looks(&log)
        );
        assert_eq!(log.matches("relay_pipeline_state").count(), 0, "{log}");
        // Leases are read and renewed by beats alone, a second apart.
        let statements = log.split("LOG:  ");
        let mut on_leases = statements.filter(|text| text.contains("relay_lease AS l"));
        assert!(
            on_leases.all(|text| text.contains("INSERT INTO tide.relay_node AS n")),
            "{log}"
        );
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_are_paused_in_every_database() {
    scenario(2 * PATIENCE, async {
        let world = World::new(1).await;
        let second = database::migrated_database().await;
        let second = database::server().url_as(database::OWNER, &second);
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("tidegate.toml");
        let definition = format!(
            "[[databases]]\nname = \"x\"\nurl = \"{}\"\n[[databases]]\nname = \"y\"\nurl = \"{second}\"\n",
            world.url
        );
        std::fs::write(&file, definition).expect("a file");
        let path = file.to_str().expect("a path").to_owned();
        let mut settings = world.settings(&[("TIDEGATE_CONFIG", path.as_str())]);
        settings.retain(|(name, _)| name != "DATABASE_URL");
        let command = |arguments: &[&str]| with_settings(&settings, arguments);

        let (is_done, lines) = command(&["pause", "--tenant", "acme"]);
        let names: Vec<&Value> = lines.iter().map(|line| &line["database"]).collect();
        assert!(is_done && names == ["x", "y"], "{lines:?}");
        let (is_done, lines) = command(&["pause", "--pipeline", "p", "--ahead"]);
        let error = lines[0]["error"].to_string();
        assert!(!is_done && error.contains("--database: there are x, y"), "{error}");
        let (is_done, lines) = command(&["pause", "--pipeline", "p", "--ahead", "--database", "y"]);
        assert!(is_done, "{lines:?}");
        let (_, lines) = command(&["pause", "--list"]);
        let pauses = lines[0]["pauses"].as_array().expect("a list").iter();
        let listed: Vec<String> = pauses
            .map(|pause| format!("{}/{}", pause["database"], pause["name"]).replace('"', ""))
            .collect();
        assert_eq!(listed, ["x/acme", "y/p", "y/acme"]);

        // One that is away keeps the others from nothing.
        let gone = definition_without(&file, &second);
        let (is_done, lines) = command(&["resume", "--tenant", "acme"]);
        assert!(!is_done, "{gone}");
        assert_eq!((&lines[0]["database"], &lines[0]["was_paused"]), (&json!("x"), &json!(true)));
        let error = lines[1]["error"].to_string();
        assert!(error.contains("\\\"y\\\"") && error.contains("resumed in the other 1"), "{error}");
        let usage = program(&settings).args(["pause", "--reason", "x"]).output();
        let usage = usage.expect("the program runs");
        assert_eq!(usage.status.code(), Some(64), "{usage:?}");
    })
    .await;
}

/// Puts a server that is not there in the place of one.
fn definition_without(file: &std::path::Path, url: &str) -> String {
    let definition = std::fs::read_to_string(file).expect("a file");
    let definition = definition.replace(url, "postgres://nobody@127.0.0.1:1/none");
    std::fs::write(file, &definition).expect("a file");
    definition
}
