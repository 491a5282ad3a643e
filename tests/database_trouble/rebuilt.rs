//! The database behind the URL is replaced by a restored dump of it while the
//! relay runs: the pipeline stops with what to do, and after that goes on.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::json;
use tidegate::demo::consumer::StreamConsumer;
use tidegate::demo::delivered::Delivered;
use tidegate::demo::emulator::EmulatorOptions;
use tidegate::demo::private_postgres::{PrivatePostgres, PrivatePostgresOptions};

use crate::proxy::Proxy;
use crate::relay::program;
use crate::scenario::{PATIENCE, scenario, until};
use crate::world::{STREAM, World};

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_database_stops_the_pipeline_until_it_is_rebased() {
    scenario(2 * PATIENCE, async {
        let server = || PrivatePostgres::start(PrivatePostgresOptions::default());
        let (old, new) = (server().expect("a server"), server().expect("a server"));
        old.create_database("app").await.expect("a database");
        new.create_database("app").await.expect("a database");
        let proxy = Proxy::start(old.port());
        let url = proxy.url("postgres", "app");
        let world = World::at(url, 2, EmulatorOptions::default()).await;
        let migrated = program(&world.settings(&[])).arg("migrate").output();
        assert!(migrated.expect("a migration").status.success());
        world.pipeline("first", json!({})).await;
        let other = format!("{STREAM}-other");
        world
            .emulator
            .create_stream(&other, 1)
            .await
            .expect("a stream");
        let client = world.emulator.client().await.expect("a client");
        let second = StreamConsumer::start(client, &other, Duration::from_millis(30));
        world
            .set_pipeline("second", "first", json!({"stream_name": other}))
            .await;
        let relay = world.relay().await;
        let mut rows = world.publish_many("first", 200, 10, 20).await;
        world.wait_until_received(200).await;
        until("both have all", PATIENCE, || second.received() == 200).await;
        // A backlog for one of the two: both positions are dumped.
        world.sql("SELECT tide.relay_disable('second')").await;
        until("it is gone", PATIENCE, || relay.state("second").is_empty()).await;
        rows.extend(world.publish_many("first", 100, 10, 20).await);
        world.wait_until_received(300).await;
        let cluster = relay.status()["databases"][0]["server"]["system_identifier"].clone();

        let dumped_while_running = old.dump_into("app", &new, "app", &[]);
        dumped_while_running.expect("restored");
        // Nothing is published until the application writes to the new one.
        proxy.lead_to(new.port());
        world.sql("SELECT tide.relay_enable('second')").await;
        rows.extend(world.publish_many("first", 50, 10, 20).await);
        for pipeline in ["first", "second"] {
            until("the pipeline says what to do", PATIENCE, || {
                let shown = relay.pipeline(pipeline);
                shown["state"] == "failed"
                    && shown["reason"].to_string().contains("tidegate rebase")
            })
            .await;
        }
        assert!(relay.log_lines(&["WARN", "another cluster answers"]) >= 1);
        let server = relay.status()["databases"][0]["server"].clone();
        assert_ne!(server["system_identifier"], cluster, "{server}");
        assert_eq!(
            (world.consumer.received(), second.received()),
            (300, 200),
            "nothing is sent"
        );

        let rebase = |arguments: &[&str]| {
            let mut command = program(&world.settings(&[]));
            command.args(["--output", "json", "rebase"]).args(arguments);
            let output = command.output().expect("it runs");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            (output.status.code(), text)
        };
        let (code, text) = rebase(&["--pipeline", "second", "--dry-run"]);
        assert_eq!(code, Some(0), "{text}");
        let said: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(said["needed"], true);
        assert_eq!(said["messages"], 350);
        let of = |name: &str| {
            let all = said["pipelines"].as_array().expect("pipelines").iter();
            let one = all.clone().find(|one| one["pipeline"] == name);
            one.expect("the pipeline")["to_deliver"]
                .as_i64()
                .expect("a number")
        };
        // The dump may have missed the last 200 ms of what was settled.
        assert_eq!(of("second"), 150);
        assert!((50..=150).contains(&of("first")), "{said}");
        let (code, text) = rebase(&["--outbox", "nowhere"]);
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains("nowhere"), "{text}");
        let (code, text) = rebase(&[]);
        assert_eq!(code, Some(0), "{text}");

        let sent_again = world.judge_after_a_crash(&rows).await;
        assert!(sent_again <= 100, "{sent_again}");
        until("the other one has all", PATIENCE, || {
            second.received() >= 350
        })
        .await;
        let is_quiet = second
            .wait_until_quiet(350, Duration::from_millis(400), PATIENCE)
            .await;
        assert!(
            is_quiet && second.received() == 350,
            "{}",
            second.received()
        );
        let of_second: Vec<i64> = second
            .drain()
            .iter()
            .map(|record| Delivered::parse(record).expect("a native body").id)
            .collect();
        let all: Vec<i64> = rows.iter().map(|row| row.id).collect();
        let unique: HashSet<&i64> = of_second.iter().collect();
        assert_eq!(
            unique.len(),
            all.len(),
            "each row once, what was settled not again"
        );
        for pipeline in ["first", "second"] {
            relay.wait_for_state(pipeline, "running").await;
        }
        let (code, text) = rebase(&["--outbox", "first"]);
        assert_eq!(code, Some(0), "{text}");
        assert!(text.contains(r#""needed":false"#), "{text}");
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}
