//! What the AWS SDK does by itself, and does not: decisions of ours rest on it.
//! When one of these fails after the SDK was bumped, look at `src/kinesis/client.rs`
//! and `src/kinesis/clock.rs`.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test says what it expects"
)]
#![cfg(feature = "demo")]

use std::fs;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use aws_config::credential_process::CredentialProcessProvider;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::primitives::{DateTime, DateTimeFormat};
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use tidegate::config::client_spec::{ClientSpec, CredentialSource, Secret};
use tidegate::core::ports::{CallFailure, StreamService};
use tidegate::core::trouble::TroubleKind;
use tidegate::kinesis::client::{ClientPool, KinesisTimeouts};
use tidegate::kinesis::stream::{KinesisStream, StreamTarget};

/// What a call was signed with: access key and time.
type Signed = Arc<Mutex<Vec<(String, String)>>>;

/// A server that refuses every call with a code, by a clock that is so many
/// seconds ahead; and what it heard.
async fn refusing(code: &'static str, clock_ahead: i64) -> (String, Signed) {
    let signed = Signed::default();
    let heard = Arc::clone(&signed);
    let handler = move |headers: HeaderMap, _: Bytes| async move {
        let header = |name: &str| {
            let value = headers.get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        let authorization = header("authorization");
        let (_, key) = authorization
            .split_once("Credential=")
            .expect("a signature");
        let key = key.split('/').next().expect("a key").to_owned();
        let entry = (key, header("x-amz-date"));
        heard.lock().expect("not poisoned").push(entry);
        let now = DateTime::from(SystemTime::now()).secs() + clock_ahead;
        let date = DateTime::from_secs(now).fmt(DateTimeFormat::HttpDate);
        let body = format!(r#"{{"__type":"{code}","message":"refused"}}"#);
        let date = [("date", date.expect("a date"))];
        (StatusCode::BAD_REQUEST, date, body).into_response()
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a free port");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    let router = axum::Router::new().fallback(handler);
    tokio::spawn(async move { axum::serve(listener, router).await });
    (endpoint, signed)
}

fn stream_at(endpoint: &str) -> KinesisStream {
    let spec = ClientSpec {
        region: Some("us-east-1".to_owned()),
        endpoint_url: Some(endpoint.to_owned()),
        credentials: CredentialSource::Static {
            access_key_id: "AKIATEST".to_owned(),
            secret_access_key: Secret::from("not-a-secret"),
            session_token: None,
        },
        role_arn: None,
        external_id: None,
    };
    let pool = ClientPool::new(KinesisTimeouts::default());
    KinesisStream::new(pool, spec, StreamTarget::Name("orders".to_owned()))
}

/// The cache of identities is not emptied by a refusal: a client that is not
/// renewed would sign with the refused key until the time its provider named.
#[tokio::test]
async fn the_sdk_keeps_credentials_that_the_service_says_are_expired() {
    let (endpoint, signed) = refusing("ExpiredTokenException", 0).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("credentials.json");
    let write = |key: &str| {
        let json = format!(
            r#"{{"Version":1,"AccessKeyId":"{key}","SecretAccessKey":"x","SessionToken":"t","Expiration":"2999-01-01T00:00:00Z"}}"#
        );
        fs::write(&file, json).expect("written");
    };
    let provider = CredentialProcessProvider::new(format!("cat {}", file.display()));
    let configuration = aws_config::defaults(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .endpoint_url(endpoint)
        .credentials_provider(provider)
        .retry_config(RetryConfig::disabled())
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .load()
        .await;
    let client = aws_sdk_kinesis::Client::new(&configuration);
    for key in ["FIRST", "SECOND"] {
        write(key);
        let refused = client.list_shards().stream_name("orders").send().await;
        refused.expect_err("it is refused");
    }
    let keys: Vec<String> = {
        let signed = signed.lock().expect("not poisoned");
        signed.iter().map(|(key, _)| key.clone()).collect()
    };
    assert_eq!(keys, ["FIRST", "FIRST"]);
}

/// `20260102T030405Z` in seconds, within a day of `near`.
fn seconds_of(amz_date: &str) -> i64 {
    let digits = |range: std::ops::Range<usize>| amz_date[range].to_owned();
    let text = format!(
        "{}-{}-{}T{}:{}:{}Z",
        digits(0..4),
        digits(4..6),
        digits(6..8),
        digits(9..11),
        digits(11..13),
        digits(13..15)
    );
    DateTime::from_str(&text, DateTimeFormat::DateTime)
        .expect("a time")
        .secs()
}

/// A wrong clock costs one refused call: the next is signed by the service's.
#[tokio::test]
async fn the_sdk_corrects_a_wrong_clock_from_the_answer_to_the_first_call() {
    for ahead in [3600, -3600] {
        let (endpoint, signed) = refusing("RequestExpired", ahead).await;
        let stream = stream_at(&endpoint);
        let before = DateTime::from(SystemTime::now()).secs();
        for _ in 0..2 {
            let failure = stream.put(Vec::new()).await.expect_err("it is refused");
            assert_eq!(TroubleKind::of(&failure), Some(TroubleKind::ClockSkew));
            let side = if ahead > 0 { "behind" } else { "ahead of" };
            assert!(failure.to_string().contains(side), "{failure}");
        }
        let times: Vec<i64> = {
            let signed = signed.lock().expect("not poisoned");
            signed
                .iter()
                .map(|(_, date)| seconds_of(date) - before)
                .collect()
        };
        assert!(times[0].abs() < 60, "{times:?}");
        assert!((times[1] - ahead).abs() < 60, "{times:?}");
    }
}

#[tokio::test]
async fn a_name_that_does_not_resolve_and_a_broken_handshake_say_so() {
    let (endpoint, _) = refusing("InternalFailure", 0).await;
    let no_tls = endpoint.replace("http://", "https://");
    for (endpoint, says) in [
        ("http://no-such-host.invalid", "dns error"),
        (no_tls.as_str(), "InvalidContentType"),
    ] {
        let failure = stream_at(endpoint).put(Vec::new()).await;
        let failure = failure.expect_err("nobody answers");
        assert_eq!(TroubleKind::of(&failure), Some(TroubleKind::Network));
        assert!(matches!(failure, CallFailure::Unknown { .. }));
        let text = failure.to_string();
        assert!(text.contains(says) && text.contains("check DNS"), "{text}");
    }
}
