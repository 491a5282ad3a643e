//! Streams, permissions, credentials, clocks.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use serde_json::json;
use tidegate::demo::faults::{CallFault, Operation};

use crate::scenario::scenario;
use crate::world::{STREAM, World};
use crate::{doctor, examine};

const DESCRIBE: (&str, &str) = ("stream", "describe");
const LIST: (&str, &str) = ("stream", "list_shards");
const PUT: (&str, &str) = ("stream", "put_records");
const DISTRIBUTION: (&str, &str) = ("stream", "distribution");
const CAPACITY: (&str, &str) = ("stream", "capacity");
const CLOCK: (&str, &str) = ("stream", "clock");
const IDENTITY: (&str, &str) = ("credentials", "identity");

async fn world() -> World {
    let world = World::new(1).await;
    world.pipeline("events", json!({})).await;
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_stream_stops_no_other_check() {
    scenario(Duration::from_secs(120), async {
        let world = world().await;
        world.outbox("more").await;
        world
            .set_pipeline("lost", "more", json!({"stream_name": "no-such-stream"}))
            .await;
        let said = examine(&world).await;
        assert_eq!(said.code, 1, "{said}");
        let of = |name: &str, check: &str| {
            let is_it = |line: &&serde_json::Value| line["name"] == name && line["check"] == check;
            said.checks()
                .into_iter()
                .find(is_it)
                .cloned()
                .unwrap_or_default()
        };
        let missing = of("no-such-stream", "describe");
        assert_eq!(missing["level"], "fail", "{said}");
        let fix = missing["fix"].as_str().expect("a fix");
        assert!(
            fix.contains("create it, or correct stream_name"),
            "{missing}"
        );
        assert!(of("no-such-stream", "put_records").is_null(), "{said}");
        assert_eq!(of(STREAM, "put_records")["level"], "ok", "{said}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_call_that_is_not_allowed_is_named() {
    scenario(Duration::from_secs(120), async {
        let world = world().await;
        let faults = world.emulator.faults();
        let denied = || CallFault::code("AccessDeniedException");
        faults
            .account()
            .deny(STREAM, Operation::PutRecords, denied());
        let said = examine(&world).await;
        said.has(
            PUT,
            "fail",
            "nothing can be sent",
            "allow kinesis:PutRecords",
        );
        said.is_good_but(&[PUT]);
        faults.heal();

        // The relay works without these two, so nothing fails.
        faults
            .account()
            .deny(STREAM, Operation::DescribeStreamSummary, denied());
        faults
            .account()
            .deny(STREAM, Operation::ListShards, denied());
        let said = examine(&world).await;
        said.has(
            DESCRIBE,
            "warn",
            "AUTO",
            "allow kinesis:DescribeStreamSummary",
        );
        said.has(LIST, "warn", "learnt", "allow kinesis:ListShards");
        said.has(CAPACITY, "skip", "not known", "");
        said.is_good_but(&[DESCRIBE, LIST]);
        assert_eq!(said.code, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_description_says_is_judged() {
    scenario(Duration::from_secs(120), async {
        let world = world().await;
        let faults = world.emulator.faults();
        faults.describe_as("MaxRecordSizeInKiB", json!(10_240));
        faults.describe_as("EncryptionType", json!("KMS"));
        faults.describe_as(
            "KeyId",
            json!("arn:aws:kms:us-east-1:000000000000:key/mine"),
        );
        let said = examine(&world).await;
        said.is_good_but(&[]);
        said.has(("stream", "record_limit"), "ok", "10240 KiB", "");
        said.has(
            ("stream", "encryption"),
            "skip",
            "key/mine",
            "kms:GenerateDataKey",
        );

        faults.describe_as("RecordDistributionStrategy", json!("AUTO"));
        let said = examine(&world).await;
        said.has(DISTRIBUTION, "fail", "AUTO", "PARTITION_KEY");
        said.is_good_but(&[DISTRIBUTION]);

        faults.describe_as("RecordDistributionStrategy", json!("PARTITION_KEY"));
        faults.describe_as("StreamStatus", json!("DELETING"));
        let said = examine(&world).await;
        said.has(("stream", "status"), "fail", "DELETING", "create it");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_are_compared_with_what_is_published() {
    scenario(Duration::from_secs(120), async {
        let world = world().await;
        // 20,000 rows are counted over the time they took, one second at least.
        world.publish_many("events", 25_000, 100, 10).await;
        let faults = world.emulator.faults();
        faults.describe_as("StreamModeDetails", json!({"StreamMode": "PROVISIONED"}));
        let said = examine(&world).await;
        said.has(("stream", "mode"), "ok", "PROVISIONED", "");
        said.has(CAPACITY, "fail", "1 open shard(s)", "update-shard-count");
        said.has(CAPACITY, "fail", "", "records, not bytes");
        said.is_good_but(&[CAPACITY]);

        faults.describe_as("StreamModeDetails", json!({"StreamMode": "ON_DEMAND"}));
        let said = examine(&world).await;
        said.has(("stream", "mode"), "ok", "ON_DEMAND", "");
        said.has(CAPACITY, "ok", "adds shards by itself", "");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_wrong_is_told() {
    scenario(Duration::from_secs(120), async {
        let world = world().await;
        world.emulator.faults().account().set_clock(-400);
        let said = examine(&world).await;
        said.has(CLOCK, "fail", "ahead of the service's", "NTP");
        said.is_good_but(&[CLOCK]);
        world.emulator.faults().account().set_clock(120);
        examine(&world)
            .await
            .has(CLOCK, "warn", "behind the service's", "NTP");
    })
    .await;
}

/// A service for one call that answers so; where it is.
fn sts(status: &'static str, body: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut request = [0; 16_384];
            let length = stream.read(&mut request).expect("a request");
            assert!(request[..length].starts_with(b"POST / "));
            let length = body.len();
            let head = format!(
                "HTTP/1.1 {status}\r\ncontent-type: text/xml\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
            );
            stream.write_all((head + body).as_bytes()).expect("sent");
        }
    });
    format!("http://{address}")
}

#[tokio::test(flavor = "multi_thread")]
async fn sts_says_who_it_is_or_that_the_key_is_wrong() {
    scenario(Duration::from_secs(120), async {
        let world = world().await;
        let url = sts(
            "200 OK",
            "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><GetCallerIdentityResult>\
             <Arn>arn:aws:iam::000000000000:user/relay</Arn><UserId>AIDA</UserId><Account>000000000000</Account>\
             </GetCallerIdentityResult></GetCallerIdentityResponse>",
        );
        let settings = world.settings(&[("AWS_ENDPOINT_URL_STS", &url)]);
        let said = doctor(&settings, &[]).await;
        said.has(IDENTITY, "ok", "arn:aws:iam::000000000000:user/relay, region us-east-1", "");
        said.is_good_but(&[]);

        let url = sts(
            "403 Forbidden",
            "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type>\
             <Code>InvalidClientTokenId</Code><Message>The security token included in the request is invalid.\
             </Message></Error></ErrorResponse>",
        );
        let code = "UnrecognizedClientException";
        world.emulator.faults().account().refuse_key("AKIAEMULATOR", code);
        let settings = world.settings(&[("AWS_ENDPOINT_URL_STS", &url)]);
        let said = doctor(&settings, &[]).await;
        said.has(IDENTITY, "fail", "InvalidClientTokenId", "replace the key");
        said.has(PUT, "fail", "UnrecognizedClientException", "replace the key");
        said.is_good_but(&[IDENTITY, DESCRIBE, LIST, PUT]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_credentials_and_no_service_are_told_apart() {
    scenario(Duration::from_secs(120), async {
        let world = world().await;
        let mut settings = world.settings(&[]);
        settings
            .retain(|(name, _)| !name.starts_with("AWS_ACCESS") && !name.starts_with("AWS_SECRET"));
        let said = doctor(&settings, &[]).await;
        said.has(IDENTITY, "fail", "", "give the relay credentials");
        said.has(PUT, "fail", "", "give the relay credentials");

        world.emulator.faults().refuse_connections(true);
        let said = examine(&world).await;
        said.has(PUT, "fail", "", "check DNS, routes");
        said.has(CLOCK, "skip", "no answer", "");
        said.has(("database", "schema"), "ok", "", "");
    })
    .await;
}
