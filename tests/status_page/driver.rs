//! The driver of the browser: `chromedriver`, which speaks WebDriver over HTTP.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::process::Process;
use crate::scenario::PATIENCE;

/// A running driver.
#[derive(Debug)]
pub(crate) struct Driver {
    process: Process,
    folder: tempfile::TempDir,
    port: u16,
}

impl Driver {
    /// Starts it on a free port.
    pub(crate) async fn start() -> Self {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match Self::try_to_start(deadline).await {
                Ok(started) => return started,
                // It looks for a free port and takes it later: others may be faster.
                Err(said) if said.contains("Address already in use") => {}
                Err(said) => panic!("no driver: {said}"),
            }
        }
    }

    /// The driver, or what it said.
    async fn try_to_start(deadline: Instant) -> Result<Self, String> {
        let folder = tempfile::Builder::new()
            .prefix("tidegate-browser-")
            .tempdir()
            .expect("a folder");
        let log = folder.path().join("driver.log");
        let out = std::fs::File::create(&log).expect("a log file");
        let mut command = Command::new("chromedriver");
        command
            .arg("--port=0")
            // The browser writes nothing anywhere else.
            .env("HOME", folder.path())
            .env("TMPDIR", folder.path())
            .stdin(Stdio::null())
            .stdout(out.try_clone().expect("a log file"))
            .stderr(out);
        let is_there = Command::new("chromedriver").arg("--version").output();
        assert!(
            is_there.is_ok(),
            "chromedriver is missing: run scripts/install-deps"
        );
        let process = Process::start(&mut command);
        loop {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            let port = said
                .split_once("started successfully on port ")
                .and_then(|(_, rest)| rest.split('.').next()?.trim().parse().ok());
            if let Some(port) = port {
                return Ok(Self {
                    process,
                    folder,
                    port,
                });
            }
            if said.contains("Exiting...") || Instant::now() >= deadline {
                return Err(said);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A folder that goes with the driver.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The value that a command answers, or what it says of its failure.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let body = if method == "POST" {
            body.to_string()
        } else {
            String::new()
        };
        let failed = |error: std::io::Error| format!("{method} {path}: {error}");
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).map_err(failed)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).map_err(failed)?;
        let answer = read_answer(&mut stream).map_err(failed)?;
        let mut answer: Value = serde_json::from_slice(&answer)
            .map_err(|error| format!("{method} {path}: no JSON: {error}"))?;
        let value = answer["value"].take();
        match value["error"].as_str() {
            Some(error) => Err(format!("{method} {path}: {error}: {}", value["message"])),
            None => Ok(value),
        }
    }

    /// Opens a browser; answers the path of its session.
    pub(crate) fn open(&self, arguments: &[String]) -> String {
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }}});
        let session = self.ask("POST", "/session", &wanted);
        let session = session.expect("a browser (run scripts/install-deps)");
        format!("/session/{}", session["sessionId"].as_str().expect("an id"))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // With a browser that it has not ended.
        self.process.kill_group();
    }
}

/// The body of an answer, of the length that its head says.
fn read_answer(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    let mut part = [0; 64 << 10];
    loop {
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
        if let Some(end) = end {
            let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
            let length = head.lines().find_map(|line| {
                let value = line.strip_prefix("content-length:")?;
                value.trim().parse::<usize>().ok()
            });
            let body = &answer[end + 4..];
            if length.is_some_and(|length| body.len() >= length) {
                return Ok(body.to_vec());
            }
        }
        match stream.read(&mut part)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            length => answer.extend_from_slice(&part[..length]),
        }
    }
}
