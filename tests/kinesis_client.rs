//! The real client against servers of a few lines: answers the emulator cannot
//! give, and the default chain of the SDK in a process of its own.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test says what it expects"
)]
#![cfg(feature = "demo")]

use std::collections::VecDeque;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tidegate::config::client_spec::{ClientSpec, CredentialSource, Secret};
use tidegate::core::ports::{CallFailure, PutRecord, RecordOutcome, StreamService};
use tidegate::demo::emulator::{Emulator, EmulatorOptions};
use tidegate::kinesis::client::{ClientPool, KinesisTimeouts};
use tidegate::kinesis::stream::{KinesisStream, StreamTarget};

const STREAM: &str = "orders";

fn stream_of(spec: ClientSpec) -> KinesisStream {
    let pool = ClientPool::new(KinesisTimeouts::default());
    KinesisStream::new(pool, spec, StreamTarget::Name(STREAM.to_owned()))
}

fn two_records() -> Vec<PutRecord> {
    ["a", "b"]
        .map(|key| PutRecord {
            key: key.into(),
            explicit_hash_key: None,
            data: Bytes::from_static(b"data"),
        })
        .into()
}

fn assert_unknown(result: Result<Vec<RecordOutcome>, CallFailure>) {
    assert!(
        matches!(result, Err(CallFailure::Unknown { .. })),
        "{result:?}"
    );
}

/// Serves what `answer` gives for each request's headers and body.
async fn serve<F>(answer: F) -> String
where
    F: Fn(HeaderMap, Bytes) -> Response + Clone + Send + Sync + 'static,
{
    let handler = move |headers: HeaderMap, body: Bytes| async move { answer(headers, body) };
    let router = axum::Router::new().fallback(handler);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a free port");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move { axum::serve(listener, router).await });
    endpoint
}

fn spec_of(endpoint: &str) -> ClientSpec {
    ClientSpec {
        region: Some("us-east-1".to_owned()),
        endpoint_url: Some(endpoint.to_owned()),
        credentials: CredentialSource::Static {
            access_key_id: "AKIATEST".to_owned(),
            secret_access_key: Secret::from("not-a-secret"),
            session_token: None,
        },
        role_arn: None,
        external_id: None,
    }
}
// === A server that answers as it is told ===

type Script = Arc<Mutex<VecDeque<Value>>>;
type Heard = Arc<Mutex<Vec<Value>>>;

/// Answers each request with the next line of the script and keeps what it heard.
async fn scripted(answers: Vec<Value>) -> (ClientSpec, Heard) {
    let script: Script = Arc::new(Mutex::new(answers.into()));
    let heard = Heard::default();
    let keep = Arc::clone(&heard);
    let answer = move |_: HeaderMap, body: Bytes| {
        let request = serde_json::from_slice(&body).expect("a request in JSON");
        keep.lock().expect("not poisoned").push(request);
        let next = script.lock().expect("not poisoned").pop_front();
        let next = next.expect("no more requests than answers");
        next.to_string().into_response()
    };
    (spec_of(&serve(answer).await), heard)
}

fn shard_json(id: &str, first: u128, last: u128, closed: bool) -> Value {
    let mut sequences = json!({ "StartingSequenceNumber": "1" });
    if closed {
        sequences["EndingSequenceNumber"] = json!("9");
    }
    json!({
        "ShardId": id,
        "HashKeyRange": { "StartingHashKey": first.to_string(), "EndingHashKey": last.to_string() },
        "SequenceNumberRange": sequences,
    })
}

#[tokio::test]
async fn a_next_token_is_sent_alone() {
    let (spec, heard) = scripted(vec![
        json!({ "Shards": [shard_json("s0", 0, 99, true), shard_json("s1", 0, 49, false)], "NextToken": "t1" }),
        json!({ "Shards": [], "NextToken": "t2" }),
        json!({ "Shards": [shard_json("s2", 50, u128::MAX, false)] }),
    ])
    .await;
    let stream = stream_of(spec);
    let shards = stream.list_open_shards().await.expect("shards");
    let ids: Vec<String> = shards.iter().map(|shard| shard.id.to_string()).collect();
    assert_eq!(ids, ["s1", "s2"]);
    assert_eq!(shards[1].range.last, u128::MAX);
    let heard = heard.lock().expect("not poisoned").clone();
    assert_eq!(heard[0]["StreamName"], json!(STREAM));
    assert_eq!(heard[0]["ShardFilter"], json!({ "Type": "AT_LATEST" }));
    for (request, token) in heard[1..].iter().zip(["t1", "t2"]) {
        assert_eq!(request["NextToken"], json!(token));
        assert!(request.get("StreamName").is_none(), "{request}");
        assert!(request.get("StreamARN").is_none() && request.get("ShardFilter").is_none());
    }
}

#[tokio::test]
async fn a_list_of_results_of_another_length_is_unknown() {
    let result = json!({ "ShardId": "s0", "SequenceNumber": "1" });
    let (spec, _heard) = scripted(vec![
        json!({ "FailedRecordCount": 0, "Records": [result] }),
        json!({ "FailedRecordCount": 0, "Records": [result, result, result] }),
        json!({ "FailedRecordCount": 0 }),
    ])
    .await;
    let stream = stream_of(spec);
    for _ in 0..3 {
        assert_unknown(stream.put(two_records()).await);
    }
}

#[tokio::test]
async fn shards_without_numbers_for_bounds_are_not_guessed() {
    let mut shard = shard_json("s0", 0, 1, false);
    shard["HashKeyRange"]["EndingHashKey"] = json!("many");
    let (spec, _heard) = scripted(vec![json!({ "Shards": [shard] })]).await;
    let failure = stream_of(spec).list_open_shards().await;
    assert!(
        matches!(&failure, Err(CallFailure::Unknown { reason }) if reason.contains("s0")),
        "{failure:?}"
    );
}

// === The default chain, in a process with an environment of its own ===

/// What the child process is to do with the chain it finds; says what came of it.
#[test]
#[ignore = "run by the tests below, in a process of its own"]
fn a_child_describes_the_stream() {
    let role = |name: &str| std::env::var(name).ok();
    let spec = ClientSpec {
        region: None,
        endpoint_url: None,
        credentials: CredentialSource::DefaultChain,
        role_arn: role("TEST_ROLE_ARN"),
        external_id: role("TEST_EXTERNAL_ID"),
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    println!("{:?}", runtime.block_on(stream_of(spec).describe()));
}

/// Runs the test above with this environment and nothing else.
async fn child(environment: Vec<(&'static str, String)>) -> String {
    let run = move || -> std::io::Result<Output> {
        Command::new(std::env::current_exe()?)
            .args([
                "--exact",
                "a_child_describes_the_stream",
                "--ignored",
                "--nocapture",
            ])
            .env_clear()
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .envs(environment)
            .output()
    };
    let ran = tokio::task::spawn_blocking(run)
        .await
        .expect("a finished task");
    let output = ran.expect("a child process");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
async fn the_environment_alone_leads_to_the_stream() {
    let emulator = Emulator::start(&EmulatorOptions::default()).expect("a free port");
    emulator.create_stream(STREAM, 1).await.expect("a stream");
    let said = child(emulator.environment()).await;
    assert!(
        said.contains("Ok(StreamDescription") && said.contains(":stream/orders"),
        "{said}"
    );

    let without = |gone: &str| {
        let mut environment = emulator.environment();
        environment.retain(|(name, _)| !name.starts_with(gone));
        environment
    };
    let said = child(without("AWS_REGION")).await;
    assert!(
        said.contains("Err(Operator") && said.contains("no AWS region"),
        "{said}"
    );
    let mut environment = without("AWS_ACCESS_KEY_ID");
    environment.retain(|(name, _)| *name != "AWS_SECRET_ACCESS_KEY");
    let said = child(environment).await;
    assert!(said.contains("Err(Credentials"), "{said}");
}

#[tokio::test]
async fn a_role_is_assumed_with_its_external_id_and_signs_the_calls() {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&heard);
    let endpoint = serve(move |headers: HeaderMap, body: Bytes| {
        let signed = headers.get("authorization").and_then(|value| value.to_str().ok());
        let body = String::from_utf8_lossy(&body).into_owned();
        let heard = format!("{} {body}", signed.unwrap_or_default());
        keep.lock().expect("not poisoned").push(heard);
        if headers.contains_key("x-amz-target") {
            let body = r#"{"__type":"AccessDeniedException","message":"far enough"}"#;
            return (axum::http::StatusCode::BAD_REQUEST, body).into_response();
        }
        "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult>\
         <AssumedRoleUser><AssumedRoleId>A:tidegate</AssumedRoleId><Arn>arn:aws:sts::1:assumed-role/x/tidegate</Arn></AssumedRoleUser>\
         <Credentials><AccessKeyId>ASIAROLE</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken>\
         <Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>"
            .into_response()
    })
    .await;
    let said = child(vec![
        ("AWS_ENDPOINT_URL", endpoint),
        ("AWS_REGION", "us-east-1".to_owned()),
        ("AWS_ACCESS_KEY_ID", "AKIABASE".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "s".to_owned()),
        ("TEST_ROLE_ARN", "arn:aws:iam::1:role/x".to_owned()),
        ("TEST_EXTERNAL_ID", "tenant-7".to_owned()),
    ])
    .await;
    assert!(
        said.contains("allow kinesis:DescribeStreamSummary"),
        "{said}"
    );
    let heard = heard.lock().expect("not poisoned").clone();
    let (assume, describe) = (&heard[0], &heard[1]);
    assert!(
        assume.contains("Credential=AKIABASE") && assume.contains("Action=AssumeRole"),
        "{assume}"
    );
    assert!(
        assume.contains("ExternalId=tenant-7") && assume.contains("role%2Fx"),
        "{assume}"
    );
    assert!(describe.contains("Credential=ASIAROLE"), "{describe}");
}
