//! Questions to the admin port of a relay, by commands that are not the relay.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

use clap::Args;
use serde_json::Value;
use tokio::time::Instant;

use super::Failure;
use crate::config::admin_listen::admin_listen;
use crate::config::environment::Environment;

/// How long an answer may take: the admin port has a thread of its own, so it is there
/// in milliseconds, however busy the relay is.
const PATIENCE: Duration = Duration::from_secs(5);

/// The longest answer that is read: 64 MiB are tens of thousands of pipelines.
const LONGEST: usize = 64 << 20;

/// What the relay answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    /// The HTTP status.
    pub(super) status: u16,
    pub(super) body: String,
}

/// Which relay is asked.
#[derive(Debug, Clone, Args)]
pub(super) struct Relay {
    /// Ask the relay whose admin port is there, as in http://127.0.0.1:9464. (Default:
    /// admin.listen of the configuration, on this machine)
    #[arg(long, value_name = "URL")]
    relay: Option<String>,
}

impl Relay {
    /// Whether one was named.
    pub(super) const fn is_given(&self) -> bool {
        self.relay.is_some()
    }

    /// Its host and port. Only `admin.listen` is read of the configuration.
    pub(super) fn address(&self, file: Option<&Path>) -> Result<String, Failure> {
        if let Some(url) = &self.relay {
            let address = url.trim_start_matches("http://").trim_end_matches('/');
            return Ok(address.to_owned());
        }
        let listen = admin_listen(file, &Environment::of_process())?;
        if listen.port() == 0 {
            return Err(Failure::Failed(
                "admin.listen has port 0, so nobody knows where the relay listens; give it a port, or use --relay"
                    .to_owned(),
            ));
        }
        Ok(address_of(listen))
    }
}

/// What a relay answers, as JSON.
pub(super) fn json_of(address: &str, path: &str) -> Result<Value, Failure> {
    let failed = |reason: &str| {
        Failure::Failed(format!(
            "no relay answers at {address} (admin.listen): {reason}"
        ))
    };
    let answer = ask(address, path, PATIENCE).map_err(|reason| failed(&reason))?;
    if answer.status != 200 {
        let Answer { status, body } = answer;
        let what = match status {
            404 => "it is an older release, or no relay of ours".to_owned(),
            _ => body.trim().to_owned(),
        };
        return Err(failed(&format!("HTTP status {status}: {what}")));
    }
    serde_json::from_str(&answer.body).map_err(|error| failed(&format!("no JSON: {error}")))
}

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

/// The answer to a GET that comes within `patience`. HTTP/1.0: the answer ends with
/// the connection.
pub(super) fn ask(address: &str, path: &str, patience: Duration) -> Result<Answer, String> {
    let said = |error: std::io::Error| error.to_string();
    let deadline = Instant::now() + patience;
    let mut addresses = address.to_socket_addrs().map_err(said)?;
    let socket = addresses.next().ok_or("no such host")?;
    let mut stream = TcpStream::connect_timeout(&socket, patience).map_err(said)?;
    stream
        .set_write_timeout(Some(left(deadline)?))
        .map_err(said)?;
    // In one piece: a formatted write would send every part by itself.
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(said)?;
    let mut answer = Vec::new();
    let mut part = [0; 16 << 10];
    loop {
        stream
            .set_read_timeout(Some(left(deadline)?))
            .map_err(said)?;
        let length = match stream.read(&mut part) {
            Ok(0) => break,
            Ok(length) => length,
            // How a time-out of a read shows itself.
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(said(error)),
        };
        answer.extend_from_slice(&part[..length]);
        if answer.len() > LONGEST {
            return Err(format!("its answer is longer than {LONGEST} bytes"));
        }
    }
    parse(&answer).ok_or_else(|| "it is no HTTP server".to_owned())
}

/// The time until a deadline, more than none.
fn left(deadline: Instant) -> Result<Duration, String> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err("it does not answer in time".to_owned());
    }
    Ok(left)
}

fn parse(answer: &[u8]) -> Option<Answer> {
    let answer = std::str::from_utf8(answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let mut words = head.split_whitespace();
    let is_http = words.next()?.starts_with("HTTP/");
    let status = words.next()?.parse().ok()?;
    is_http.then(|| Answer {
        status,
        body: body.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    const SHORT: Duration = Duration::from_millis(200);

    /// A server that answers one connection with these bytes and keeps it open if
    /// `stays`.
    fn server(answer: &'static str, stays: bool) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut request = [0; 1024];
            let length = stream.read(&mut request).expect("a request");
            assert!(request[..length].starts_with(b"GET /livez HTTP/1.0\r\n"));
            stream.write_all(answer.as_bytes()).expect("sent");
            while stays && !matches!(stream.read(&mut request), Ok(0) | Err(_)) {}
        });
        address
    }

    fn answer(text: &'static str, stays: bool) -> Result<Answer, String> {
        ask(&server(text, stays), "/livez", SHORT)
    }

    #[test]
    fn a_status_and_a_body_are_read() {
        let given = answer("HTTP/1.0 503 No\r\na: b\r\n\r\nbody\r\n\r\nmore", false);
        assert_eq!(
            given,
            Ok(Answer {
                status: 503,
                body: "body\r\n\r\nmore".to_owned()
            })
        );
    }

    #[test]
    fn what_is_no_answer_is_said() {
        let no_server = Err("it is no HTTP server".to_owned());
        assert_eq!(answer("SSH-2.0-x\r\n\r\n", false), no_server);
        assert_eq!(answer("HTTP/1.0 200 OK\r\n", false), no_server);
        assert_eq!(answer("", false), no_server);
        let late = Err("it does not answer in time".to_owned());
        assert_eq!(answer("HTTP/1.0 200 OK\r\n\r\n", true), late);
    }

    #[test]
    fn a_wildcard_address_is_reached_at_home() {
        for (listen, reached) in [
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("[::]:1", "[::1]:1"),
            ("10.0.0.1:1", "10.0.0.1:1"),
        ] {
            assert_eq!(address_of(listen.parse().expect("an address")), reached);
        }
    }
}
