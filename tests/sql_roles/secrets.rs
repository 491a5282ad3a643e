//! Secrets that a relay is given, looked for wherever somebody else may look, while it
//! works and while it fails.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;
use sqlx::PgPool;
use tidegate::demo::emulator::EmulatorOptions;
use tokio::time::Instant;

use crate::database::{self, OWNER};
use crate::relay::program;
use crate::roles::{House, administer, wait_for};
use crate::scenario::{PATIENCE, until};
use crate::statements::value;
use crate::way::{Road, Way};
use crate::world::World;

/// The part that all secrets of these tests share.
const CANARY: &str = "CaNaRy";

/// The secrets of a pipeline, of the process, and of the database's URL.
const KEY_ID: &str = "AKIACaNaRy0000000001";
const SECRET: &str = "secret+CaNaRy/1";
const TOKEN: &str = "token-CaNaRy-1";
const PROCESS_SECRET: &str = "secret+CaNaRy/2";
const PASSWORD: &str = "password-CaNaRy-3";

/// Where in a text a secret shows.
#[track_caller]
fn assert_hidden(place: &str, text: &str) {
    let lines: Vec<&str> = text.lines().filter(|line| line.contains(CANARY)).collect();
    assert!(lines.is_empty(), "{place} shows a secret: {lines:#?}");
}

/// Of a URL that has a user and no password.
fn with_password(url: &str) -> String {
    url.replacen('@', &format!(":{PASSWORD}@"), 1)
}

/// Everything that is in tables of the schema, but for the column that holds the
/// definitions.
async fn tables(owner: &PgPool) -> String {
    let queries: Vec<String> = value(
        owner,
        "SELECT ARRAY(SELECT format('SELECT coalesce(string_agg((to_jsonb(x) - %L)::text, chr(10)), '''') FROM tide.%I AS x',
            CASE c.relname WHEN 'relay_pipeline' THEN 'config' ELSE '' END, c.relname)
        FROM pg_class AS c WHERE c.relnamespace = 'tide'::regnamespace AND c.relkind IN ('r', 'v'))",
    )
    .await;
    assert!(queries.len() > 20, "{queries:?}");
    let mut all = String::new();
    for query in queries {
        all.push_str(&value::<String>(owner, &query).await);
        all.push('\n');
    }
    for list in [
        "tide.relay_list_configs()",
        "tide.relay_dlq_list()",
        "tide.relay_pauses()",
    ] {
        let query = format!("SELECT coalesce(string_agg(x::text, chr(10)), '') FROM {list} AS x");
        all.push_str(&value::<String>(owner, &query).await);
    }
    all
}

async fn a_relay_works_and_fails(way: Way) {
    let house = House::new().await;
    let world = World::at(house.url(OWNER), 1, EmulatorOptions::default()).await;
    let login = house.login("relay", "tide_relay").await;
    // Every statement of the relay with its parameters, in the server's log.
    administer(&format!("ALTER ROLE {login} SET log_statement = 'all'")).await;
    let superuser = PgPool::connect(&database::server().url("postgres"))
        .await
        .expect("a session");

    let keys =
        json!({"access_key_id": KEY_ID, "secret_access_key": SECRET, "session_token": TOKEN});
    let mut no_stream = keys.clone();
    no_stream["stream_name"] = json!("no-such-stream");
    let mut parks = keys.clone();
    parks["on_poison"] = json!("park");
    parks["partition_key"] = json!("{headers.key}");
    world.pipeline("good", keys).await;
    world.pipeline("no-stream", no_stream).await;
    world.pipeline("parks", parks).await;
    world.outbox("of-the-process").await;
    world
        .set_pipeline("of-the-process", "of-the-process", json!({}))
        .await;
    world
        .pipeline(
            "unset",
            json!({"access_key_id": "${env:NOT_SET}", "secret_access_key": SECRET}),
        )
        .await;
    world
        .sql("SELECT tide.outbox_publish('parks', '1'), tide.outbox_publish('no-stream', '1')")
        .await;

    let settings = [
        ("AWS_ACCESS_KEY_ID", "AKIACaNaRy0000000002"),
        ("AWS_SECRET_ACCESS_KEY", PROCESS_SECRET),
        // What somebody who looks for a mistake would set.
        ("TIDEGATE__LOG__FILTER", "trace"),
    ];
    let road = Road::of_role(way, &login).await;
    let url = with_password(&road.url(&house.database));
    let relay = match way {
        Way::Direct => {
            let of_environment = [("DATABASE_URL", url.as_str())];
            let all = [&of_environment[..], &settings].concat();
            world.relay_with(&all).await
        }
        Way::Pooled => road.relay_at(&url, &world, &settings).await,
    };
    let mut rows = world.publish_many("good", 50, 5, 20).await;
    rows.extend(world.publish_many("of-the-process", 50, 5, 20).await);

    // Sessions are looked at all the while.
    let mut queries = BTreeSet::new();
    let mut look = async || {
        let seen: Vec<String> = value(
            &superuser,
            &format!(
                "SELECT ARRAY(SELECT concat_ws(' ', query, application_name, backend_type)
                FROM pg_stat_activity WHERE usename = '{login}')"
            ),
        )
        .await;
        queries.extend(seen);
    };
    let deadline = Instant::now() + PATIENCE;
    while world
        .number("SELECT count(*) FROM tide.relay_dead_letter")
        .await
        == 0
    {
        assert!(Instant::now() < deadline, "no letter");
        look().await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    world.wait_for(&rows, PATIENCE).await;
    until("the stream is missed", PATIENCE, || {
        relay.state("no-stream") != "running"
    })
    .await;
    until("the variable is missed", PATIENCE, || {
        relay.log_lines(&["NOT_SET"]) > 0
    })
    .await;
    look().await;

    // Statements that fail, connections that are cut.
    world
        .sql("REVOKE UPDATE ON tide.relay_position FROM tide_relay")
        .await;
    let more = world.publish_many("good", 10, 5, 20).await;
    until("a refusal", PATIENCE, || {
        relay.log_lines(&["permission denied"]) > 0
    })
    .await;
    world
        .sql("GRANT UPDATE ON tide.relay_position TO tide_relay")
        .await;
    let cut: i64 = value(
        &superuser,
        &format!("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = '{login}'"),
    )
    .await;
    assert!(cut > 0, "no session of the relay");
    world.wait_for(&more, PATIENCE).await;
    look().await;

    assert!(queries.len() > 3, "{queries:?}");
    for query in &queries {
        assert_hidden("pg_stat_activity", query);
    }
    for path in ["/api/status", "/metrics", "/readyz", "/livez", "/"] {
        let (_, body) = relay.get(path).expect("an answer");
        assert_hidden(path, &body);
    }
    wait_for(
        &world,
        "a state of each pipeline",
        "SELECT (count(*) >= 4)::int::bigint FROM tide.relay_pipeline_state",
    )
    .await;
    assert_hidden("a table or list", &tables(&world.pool).await);
    let log = relay.log();
    assert!(log.contains("DEBUG"), "{log}");
    assert_hidden("the log", &log);
    assert_eq!(relay.terminate().await, 0);
    let server_log = database::server().log();
    assert!(server_log.contains("relay_lease"), "statements are logged");
    // The relay's own statements; who defines a pipeline with a literal shows it.
    assert_hidden("the server's log", &server_log);
    let defined: String = value(
        &house.owner,
        "SELECT string_agg(config::text, '') FROM tide.relay_pipeline",
    )
    .await;
    assert!(defined.contains(SECRET), "there was something to hide");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_shows_anywhere_while_a_relay_works_and_fails() {
    a_relay_works_and_fails(Way::Direct).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_shows_anywhere_while_a_relay_works_and_fails_through_a_pooler() {
    a_relay_works_and_fails(Way::Pooled).await;
}

/// Commands that cannot connect, or cannot even read the URL.
#[tokio::test(flavor = "multi_thread")]
async fn commands_that_fail_do_not_show_the_database_url() {
    let house = House::new().await;
    let port = database::server().port();
    let urls = [
        format!("postgres://someone:{PASSWORD}@127.0.0.1:1/db"),
        format!(
            "postgres://no_such_role:{PASSWORD}@127.0.0.1:{port}/{}",
            house.database
        ),
        format!("postgres://{OWNER}:{PASSWORD}@127.0.0.1:{port}/no_such_database"),
        format!("postgres://someone:{PASSWORD}@127.0.0.1:notaport/db"),
        format!("postgres://someone:{PASSWORD}@127.0.0.1/db?sslmode=nonsense"),
        format!("someone:{PASSWORD}@127.0.0.1/db"),
    ];
    for url in &urls {
        for command in [
            &["migrate"][..],
            &["validate"],
            &["dlq", "list"],
            &["pause", "pipeline", "p"],
            &["migrate", "--output", "json"],
        ] {
            let environment = [
                ("DATABASE_URL".to_owned(), url.clone()),
                ("TIDEGATE__LOG__FILTER".to_owned(), "trace".to_owned()),
            ];
            let output = program(&environment)
                .args(command)
                .output()
                .expect("it runs");
            let said = format!(
                "{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
            assert!(!said.is_empty(), "{command:?} says nothing of {url}");
            assert_hidden(&format!("{command:?} of {url}"), &said);
        }
    }
}
