//! Nothing is wrong: every check is there, and nothing was written.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;
use tidegate::demo::faults::Operation;

use crate::relay::program;
use crate::scenario::{PATIENCE, scenario};
use crate::world::World;
use crate::{doctor, examine};

const DATABASE: [&str; 12] = [
    "connection",
    "server",
    "pooler",
    "clock",
    "schema",
    "privileges",
    "indexes",
    "autovacuum",
    "transactions",
    "prepared_transactions",
    "replication_slots",
    "nodes",
];

const STREAM: [&str; 10] = [
    "describe",
    "list_shards",
    "put_records",
    "status",
    "mode",
    "record_limit",
    "distribution",
    "encryption",
    "clock",
    "capacity",
];

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_looked_at_and_nothing_is_written() {
    scenario(Duration::from_secs(120), async {
        let world = World::new(2).await;
        world.pipeline("events", json!({})).await;
        world.publish("events", "k", json!({"n": 1})).await;
        let before = fingerprint(&world).await;
        let said = examine(&world).await;
        assert_eq!(said.code, 0, "{said}");
        said.is_good_but(&[]);
        let of = |subject: &str| -> BTreeSet<String> {
            let lines = said.checks().into_iter();
            let lines = lines.filter(|line| line["subject"] == subject);
            lines
                .map(|line| line["check"].as_str().expect("a name").to_owned())
                .collect()
        };
        let named = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        let (database, stream): (BTreeSet<_>, BTreeSet<_>) = (named(&DATABASE), named(&STREAM));
        assert_eq!(of("database"), database, "{said}");
        assert_eq!(of("stream"), stream, "{said}");
        // The emulator is at AWS_ENDPOINT_URL, and does not know STS.
        said.has(("credentials", "identity"), "skip", "...ATOR", "");
        said.has(("stream", "put_records"), "ok", "allowed", "");
        said.has(("stream", "capacity"), "ok", "2 open shard(s)", "");
        assert_eq!(
            fingerprint(&world).await,
            before,
            "it wrote to the database"
        );
        let puts = world.emulator.tally().calls(Operation::PutRecords);
        assert_eq!(puts, 1, "the call is tried");
        let second = Duration::from_secs(1);
        assert!(world.consumer.wait_until_quiet(0, second, PATIENCE).await);
        assert_eq!(world.consumer.received(), 0, "it wrote to the stream");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn text_has_a_line_per_check_and_a_sum() {
    scenario(Duration::from_secs(120), async {
        let world = World::new(1).await;
        world.pipeline("events", json!({})).await;
        let mut command = program(&world.settings(&[]));
        let output = command.arg("doctor").output().expect("it runs");
        let text = String::from_utf8(output.stdout).expect("text");
        assert!(output.status.success(), "{text}");
        assert!(text.contains("\n  ok    schema"), "{text}");
        assert!(text.contains("stream tide-test\n"), "{text}");
        let sum = text.trim_end().lines().last().expect("a line");
        assert!(sum.starts_with("0 failed, 0 to look at, "), "{text}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn aws_can_be_left_alone() {
    scenario(Duration::from_secs(120), async {
        let world = World::new(0).await;
        world.pipeline("events", json!({})).await;
        let said = doctor(&world.settings(&[]), &["--skip-aws"]).await;
        said.is_good_but(&[]);
        assert!(said.checks().iter().all(|line| line["subject"] != "stream"));
        let tally = world.emulator.tally();
        assert_eq!(tally.calls(Operation::PutRecords), 0);
    })
    .await;
}

/// Everything in schema `tide` that a relay writes, and how many rows it is.
async fn fingerprint(world: &World) -> i64 {
    world
        .number(
            "SELECT (SELECT count(*) FROM tide.outbox_message) * 1000000
                + (SELECT count(*) FROM tide.relay_lease) * 1000 + (SELECT count(*) FROM tide.relay_position)
                + (SELECT count(*) FROM tide.relay_pipeline_state) + (SELECT count(*) FROM tide.relay_server_life)",
        )
        .await
}
