//! `tidegate healthcheck` against relays that run, hang, are spoiled and are gone.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use super::*;
use crate::relay::Relay;
use crate::scenario::{PATIENCE, until};

/// A port that nobody listens on.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    listener.local_addr().expect("an address").port()
}

pub(crate) fn pair(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

/// Settings of a relay whose stream is nowhere.
fn settings(database: &str, more: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut all = vec![
        pair(
            "DATABASE_URL",
            &database::server().url_as(database::OWNER, database),
        ),
        pair("AWS_REGION", "us-east-1"),
        pair("AWS_EC2_METADATA_DISABLED", "true"),
    ];
    all.extend(more.iter().map(|(name, value)| pair(name, value)));
    all
}

#[tokio::test]
async fn tells_a_relay_that_works_from_one_that_hangs_or_is_gone() {
    let database = database::migrated_database().await;
    let port = free_port();
    let listen = format!("0.0.0.0:{port}");
    let environment = settings(&database, &[("TIDEGATE__ADMIN__LISTEN", &listen)]);

    let before = tidegate(&["healthcheck"], &environment);
    assert_eq!(before.code, 1, "{before:?}");
    let address = format!("127.0.0.1:{port}");
    assert!(before.err.contains(&address), "{before:?}");
    assert!(before.err.contains("refused"), "{before:?}");

    let mut relay = Relay::start(&environment).await;
    let live = tidegate(&["healthcheck"], &environment);
    assert_eq!(live.code, 0, "{live:?}");
    assert_eq!(live.out, format!("the relay at {address} is live\n"));
    until("it is ready", PATIENCE, || {
        tidegate(&["healthcheck", "--ready"], &environment).code == 0
    })
    .await;

    relay.signal("STOP");
    let hangs = tidegate(&["healthcheck", "--timeout", "300ms"], &environment);
    relay.signal("CONT");
    assert_eq!(hangs.code, 1, "{hangs:?}");
    assert!(hangs.err.contains("does not answer in time"), "{hangs:?}");
    until("it is live again", PATIENCE, || {
        tidegate(&["healthcheck"], &environment).code == 0
    })
    .await;

    relay.signal("TERM");
    assert_eq!(relay.end(PATIENCE).await, 0);
    let after = tidegate(&["healthcheck", "--output", "json"], &environment);
    assert_eq!(after.code, 1, "{after:?}");
    let after: serde_json::Value = serde_json::from_str(&after.out).expect("JSON");
    assert_eq!(after["ok"], false);
}

/// A reload would refuse the file and the relay go on: so must its check.
#[tokio::test]
async fn a_file_that_is_spoiled_while_the_relay_runs_is_no_illness() {
    let database = database::migrated_database().await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("tidegate.toml");
    let path = file.to_str().expect("text");
    let listen = format!("[admin]\nlisten = \"127.0.0.1:{}\"\n", free_port());
    std::fs::write(&file, &listen).expect("a file");
    let environment = settings(&database, &[("TIDEGATE_CONFIG", path)]);
    let relay = Relay::start(&environment).await;
    assert_eq!(tidegate(&["healthcheck"], &environment).code, 0);

    std::fs::write(&file, format!("{listen}[limits]\nmemory = 5\nmore = 1\n")).expect("a file");
    assert_eq!(tidegate(&["validate"], &environment).code, 78);
    let spoiled = tidegate(&["healthcheck"], &environment);
    assert_eq!(spoiled.code, 0, "{spoiled:?}");

    // Only what it needs itself can keep it from asking.
    std::fs::write(&file, "[admin]\nlisten = \"here\"\n").expect("a file");
    let lost = tidegate(&["healthcheck"], &environment);
    assert_eq!(lost.code, 78, "{lost:?}");
    assert!(lost.err.contains("line 2: admin.listen"), "{lost:?}");
    std::fs::write(&file, "[admin]\nlisten = \"127.0.0.1:0\"\n").expect("a file");
    let any = tidegate(&["healthcheck"], &environment);
    assert_eq!(any.code, 1, "{any:?}");
    assert!(any.err.contains("port 0"), "{any:?}");
    drop(relay);
}

/// Answers every request so, and gives the first lines of them.
fn answering(status: &'static str, body: &'static str) -> (SocketAddr, impl Fn() -> String) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let (asked, requests) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            // It may come in pieces.
            let (mut request, mut byte) = (Vec::new(), [0]);
            while !request.ends_with(b"\r\n\r\n") {
                stream.read_exact(&mut byte).expect("a request");
                request.push(byte[0]);
            }
            let request = String::from_utf8_lossy(&request);
            let first = request.lines().next().unwrap_or_default().to_owned();
            if asked.send(first).is_err() {
                return;
            }
            write!(
                stream,
                "HTTP/1.1 {status}\r\nconnection: close\r\n\r\n{body}"
            )
            .expect("sent");
        }
    });
    let next = move || {
        requests
            .recv_timeout(Duration::from_secs(5))
            .expect("asked")
    };
    (address, next)
}

#[test]
fn a_relay_that_is_not_well_says_why() {
    let (address, asked) = answering("503 Service Unavailable", "{\"phase\":\"draining\"}");
    let environment = [pair("TIDEGATE__ADMIN__LISTEN", &address.to_string())];
    let drains = tidegate(&["healthcheck", "--ready"], &environment);
    assert_eq!(asked(), "GET /readyz HTTP/1.0");
    assert_eq!(drains.code, 1, "{drains:?}");
    assert!(
        drains.err.contains("not ready: HTTP status 503"),
        "{drains:?}"
    );
    assert!(drains.err.contains("draining"), "{drains:?}");
    let stuck = tidegate(&["healthcheck"], &environment);
    assert_eq!(asked(), "GET /livez HTTP/1.0");
    assert_eq!(stuck.code, 1, "{stuck:?}");
    assert!(stuck.err.contains("not live: HTTP status 503"), "{stuck:?}");
}
