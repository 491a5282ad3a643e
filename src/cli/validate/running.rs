//! What a running relay runs by, asked at its admin port.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::cli::Failure;
use crate::config::settings::Settings;
use crate::config::shown;
use crate::core::ports::PipelineRow;

/// How long the relay may take to answer: its admin port has a thread of its own.
const PATIENCE: Duration = Duration::from_secs(5);

/// The longest answer that is read: 64 MiB are tens of thousands of pipelines.
const LONGEST: u64 = 64 << 20;

/// Settings, and the definitions of each database.
type Loaded = (Settings, BTreeMap<Arc<str>, Vec<PipelineRow>>);

/// Where a relay that listens there can be reached from this machine.
pub(super) fn address_of(mut listen: SocketAddr) -> String {
    if listen.ip().is_unspecified() {
        listen.set_ip(match listen.ip() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        });
    }
    listen.to_string()
}

/// Asks the relay at this address what it runs by.
pub(super) fn loaded(address: &str) -> Result<Loaded, Failure> {
    let failed = |reason: String| {
        Failure::Failed(format!(
            "the relay at {address} cannot be asked what it runs by: {reason}; \
             name its admin port with --against http://HOST:PORT, or the file it runs by \
             with --against FILE"
        ))
    };
    let body = get(address, "/api/config").map_err(failed)?;
    let answer: Value = serde_json::from_str(&body)
        .map_err(|error| failed(format!("its answer is no JSON ({error})")))?;
    let version = answer["version"].as_str().unwrap_or("unknown");
    let strange = |what: String| failed(format!("it is of version {version}: {what}"));
    let settings = shown::read(&answer["settings"]).map_err(|problems| {
        let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        strange(problems.join("; "))
    })?;
    let catalogs = shown::read_catalogs(&answer["catalogs"])
        .ok_or_else(|| strange("its pipelines cannot be read".to_owned()))?;
    Ok((settings, catalogs))
}

/// The body of a good answer. HTTP/1.0: the answer ends with the connection.
fn get(address: &str, path: &str) -> Result<String, String> {
    let said = |error: std::io::Error| error.to_string();
    let mut addresses = address.to_socket_addrs().map_err(said)?;
    let socket = addresses.next().ok_or("no such host")?;
    let mut stream = TcpStream::connect_timeout(&socket, PATIENCE).map_err(said)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(said)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(said)?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").map_err(said)?;
    let mut answer = String::new();
    let bounded = stream.take(LONGEST).read_to_string(&mut answer);
    bounded.map_err(said)?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or("it is no HTTP server")?;
    let status = head.split_whitespace().nth(1).unwrap_or_default();
    match status {
        "200" => Ok(body.to_owned()),
        "503" => Err("it is still starting".to_owned()),
        "404" => Err("it is of a version that does not tell".to_owned()),
        other => Err(format!("it answers with HTTP status {other}")),
    }
}
