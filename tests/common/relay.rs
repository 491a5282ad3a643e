//! The real program as a child process, its admin port and its log.
//!
//! When a test fails while a relay exists, the relay's status and the end of its
//! log are printed with the failure.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::process::Process;
use crate::scenario::{PATIENCE, until};

/// How much of a log is printed when a test fails.
const LOG_TAIL_LINES: usize = 40;

/// SIGHUP and SIGTERM.
const HEARD: [u32; 2] = [1, 15];

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_tidegate");

/// A command line of the program that inherits nothing but the path: no settings
/// and no credentials of whoever runs the tests.
pub(crate) fn program(environment: &[(String, String)]) -> Command {
    let mut command = Command::new(PROGRAM);
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .envs(environment.iter().cloned())
        .stdin(Stdio::null());
    command
}

/// What the relays of one world said of themselves before they ended.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    said: Mutex<Said>,
}

/// The sums over relays.
#[derive(Debug, Clone, Default)]
pub(crate) struct Said {
    /// Relays started, and of these the ones that said everything.
    pub(crate) relays: u32,
    pub(crate) complete: u32,
    /// Rows confirmed, and rows parked and not delivered since, of all pipelines.
    pub(crate) delivered: f64,
    pub(crate) parked: f64,
}

impl Ledger {
    pub(crate) fn said(&self) -> Said {
        self.said.lock().expect("not poisoned").clone()
    }

    /// A pipeline was disabled, and its counters went with it: the metrics do not say
    /// everything.
    pub(crate) fn lost_counters(&self) {
        self.add(|said| said.relays += 1);
    }

    fn add(&self, add: impl FnOnce(&mut Said)) {
        add(&mut self.said.lock().expect("not poisoned"));
    }
}

/// A running relay. It is killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Relay {
    process: Process,
    folder: tempfile::TempDir,
    admin: Option<SocketAddr>,
    ended: bool,
    ledger: Arc<Ledger>,
}

impl Relay {
    /// Starts `tidegate run`; it answers on its admin port when this returns.
    pub(crate) async fn start(environment: &[(String, String)]) -> Self {
        let mut relay = Self::start_unready(environment);
        relay.wait_for_admin().await;
        relay
    }

    /// Starts `tidegate run` and waits for nothing.
    pub(crate) fn start_unready(environment: &[(String, String)]) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("tidegate-relay-")
            .tempdir()
            .expect("a folder");
        let log = File::create(folder.path().join("log")).expect("a log file");
        let mut command = program(environment);
        command
            .arg("run")
            .stdout(log.try_clone().expect("a log file"))
            .stderr(log);
        Self {
            process: Process::start(&mut command),
            folder,
            admin: None,
            ended: false,
            ledger: Arc::default(),
        }
    }

    async fn wait_for_admin(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while self.admin.is_none() {
            assert!(self.process.is_running(), "the relay ended at its start");
            assert!(Instant::now() < deadline, "the relay has no admin port");
            self.admin = self.log().split_once("admin=").and_then(|(_, rest)| {
                let address = rest.split_whitespace().next()?;
                address.parse().ok()
            });
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    // === What it says ===

    /// Its log so far.
    pub(crate) fn log(&self) -> String {
        fs::read(self.log_path()).map_or_else(
            |error| format!("(no log: {error})"),
            |bytes| String::from_utf8_lossy(&bytes).into_owned(),
        )
    }

    /// How many lines of its log have all of these words.
    pub(crate) fn log_lines(&self, words: &[&str]) -> usize {
        let log = self.log();
        log.lines()
            .filter(|line| words.iter().all(|word| line.contains(word)))
            .count()
    }

    /// The lines of its log that have this text.
    pub(crate) fn lines_with(&self, text: &str) -> Vec<String> {
        let log = self.log();
        let lines = log.lines().filter(|line| line.contains(text));
        lines.map(str::to_owned).collect()
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// The answer to a GET on its admin port: status code and body.
    pub(crate) fn get(&self, path: &str) -> Result<(u16, String), String> {
        let admin = self.admin.ok_or("it has no admin port")?;
        http_get(admin, path).map_err(|error| format!("GET {path}: {error}"))
    }

    /// Where its admin port listens.
    pub(crate) fn admin(&self) -> SocketAddr {
        self.admin.expect("an admin port")
    }

    /// `/api/status`.
    pub(crate) fn status(&self) -> Value {
        let body = match self.get("/api/status") {
            Ok((200, body)) => body,
            other => panic!("no status: {other:?}"),
        };
        serde_json::from_str(&body).expect("a status in JSON")
    }

    /// A pipeline in `/api/status`; null when it is not there.
    pub(crate) fn pipeline(&self, name: &str) -> Value {
        let status = self.status();
        let pipelines = status["pipelines"].as_array();
        let found = pipelines.and_then(|all| all.iter().find(|entry| entry["name"] == name));
        found.cloned().unwrap_or_default()
    }

    /// The state of a pipeline in `/api/status`; empty when it is not there.
    pub(crate) fn state(&self, pipeline: &str) -> String {
        let state = &self.pipeline(pipeline)["state"];
        state.as_str().unwrap_or_default().to_owned()
    }

    /// `/metrics`.
    pub(crate) fn metrics(&self) -> String {
        match self.get("/metrics") {
            Ok((200, body)) => body,
            other => panic!("no metrics: {other:?}"),
        }
    }

    /// The sum of the series of a metric that have all of these labels; 0 when
    /// there is none.
    pub(crate) fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        sum_of(&self.metrics(), name, labels)
    }

    /// How often actors of a kind were restarted after a panic.
    pub(crate) fn panics(&self, actor: &str) -> f64 {
        let labels = [("actor", actor), ("cause", "panic")];
        self.metric("tidegate_actor_restarts_total", &labels)
    }

    /// Its resident memory in bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        resident_bytes(&self.status_path()).expect("a running process")
    }

    /// Where the operating system tells of its process.
    pub(crate) fn status_path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/status", self.process.id()))
    }

    /// How many file descriptors it holds.
    pub(crate) fn descriptors(&self) -> usize {
        let path = format!("/proc/{}/fd", self.process.id());
        fs::read_dir(path).expect("a running process").count()
    }

    /// How many threads it has.
    pub(crate) fn threads(&self) -> usize {
        let path = format!("/proc/{}/task", self.process.id());
        fs::read_dir(path).expect("a running process").count()
    }

    // === Ends ===

    /// Waits until a pipeline is in a state.
    pub(crate) async fn wait_for_state(&self, pipeline: &str, state: &str) {
        until(&format!("{pipeline} is {state}"), PATIENCE, || {
            self.state(pipeline) == state
        })
        .await;
    }

    /// Waits until it hears SIGHUP and SIGTERM, as soon as it can after its start.
    pub(crate) async fn wait_for_handlers(&self) {
        let path = format!("/proc/{}/status", self.process.id());
        let hears = || {
            let text = fs::read_to_string(&path).unwrap_or_default();
            let caught = text.lines().find_map(|line| line.strip_prefix("SigCgt:"));
            let caught = u64::from_str_radix(caught.unwrap_or_default().trim(), 16).unwrap_or(0);
            let bits = HEARD
                .iter()
                .fold(0, |bits, signal| bits | 1 << (signal - 1));
            caught & bits == bits
        };
        let deadline = Instant::now() + PATIENCE;
        while !hears() {
            assert!(Instant::now() < deadline, "it does not hear signals");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.process.kill();
        self.ended = true;
    }

    /// Waits for the end; answers the exit code.
    pub(crate) async fn exit_code(mut self, patience: Duration) -> i32 {
        self.end(patience).await
    }

    /// The same, with its log kept.
    pub(crate) async fn end(&mut self, patience: Duration) -> i32 {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(code) = self.process.exit_code() {
                self.ended = true;
                return code;
            }
            assert!(
                Instant::now() < deadline,
                "the relay has not ended within {patience:?}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Its last words go into this ledger.
    pub(crate) fn in_ledger(mut self, ledger: &Arc<Ledger>) -> Self {
        self.ledger = Arc::clone(ledger);
        ledger.add(|said| said.relays += 1);
        self
    }

    /// Asserts that every row it has read is accounted for, as soon as its figures
    /// stand still: `read = delivered + parked + in flight + given up`.
    pub(crate) async fn balance(&self) {
        let replaced = [("actor", "stage")];
        if self.metric("tidegate_actor_restarts_total", &replaced) > 0.0 {
            // What lies in a blocked thread is neither sent nor given up.
            return;
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let books = self.books();
            let differs = |(_, [read, rest @ ..]): &(&String, &[f64; 6])| {
                (read - rest.iter().sum::<f64>()).abs() > 0.5
            };
            let Some(wrong) = books.iter().find(differs) else {
                let sum = |place: usize| books.values().map(|figures| figures[place]).sum::<f64>();
                // A letter that was delivered after all counts as both.
                let letters = [("source", "letter")];
                let resent = self.metric("tidegate_rows_resent_total", &letters);
                let (delivered, parked) = (sum(1), sum(2) - resent);
                self.ledger.add(|said| {
                    said.complete += 1;
                    said.delivered += delivered;
                    said.parked += parked;
                });
                return;
            };
            assert!(
                Instant::now() < deadline,
                "the metrics of a pipeline do not add up, \
                 [read, delivered, parked, in flight, returned, vanished]: {wrong:?}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Of each pipeline, the rows read, delivered, parked, in flight, returned and
    /// vanished.
    fn books(&self) -> BTreeMap<String, [f64; 6]> {
        let families = [
            "tidegate_rows_read_total",
            "tidegate_rows_delivered_total",
            "tidegate_rows_parked_total",
            "tidegate_in_flight_rows",
            "tidegate_rows_returned_total",
            "tidegate_rows_vanished_total",
        ];
        let Ok((200, body)) = self.get("/metrics") else {
            panic!("no metrics");
        };
        let mut books: BTreeMap<String, [f64; 6]> = BTreeMap::new();
        for line in body.lines() {
            let Some((series, value)) = line.rsplit_once(' ') else {
                continue;
            };
            let Some((family, labels)) = series.split_once('{') else {
                continue;
            };
            let Some(place) = families.iter().position(|known| *known == family) else {
                continue;
            };
            let pipeline = labels.split_once("pipeline=\"").expect("a pipeline").1;
            let pipeline = pipeline.split('"').next().unwrap_or_default();
            let figures = books.entry(pipeline.to_owned()).or_default();
            figures[place] += value.parse::<f64>().expect("a number");
        }
        books
    }

    /// SIGTERM, once its books balance; answers the exit code.
    pub(crate) async fn terminate(self) -> i32 {
        self.balance().await;
        self.signal("TERM");
        self.exit_code(PATIENCE).await
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if !std::thread::panicking() || self.ended {
            return;
        }
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n");
        eprintln!(
            "--- relay {}: {:?}\n--- its status: {:?}\n--- its log ends:\n{tail}\n---",
            self.process.id(),
            self.process.exit_code(),
            self.get("/api/status"),
        );
    }
}

/// The resident memory of a process that is told of there.
pub(crate) fn resident_bytes(status: &Path) -> Option<u64> {
    let text = fs::read_to_string(status).ok()?;
    let line = text.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

fn http_get(admin: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let patience = Duration::from_secs(5);
    let mut stream = TcpStream::connect_timeout(&admin, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: relay\r\nconnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let wrong = || std::io::Error::other(format!("not HTTP: {answer:?}"));
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(wrong)?;
    let code = head.split_whitespace().nth(1).ok_or_else(wrong)?;
    let code = code.parse().map_err(|_| wrong())?;
    Ok((code, body.to_owned()))
}

/// The sum of the series of a metric in `/metrics` that have all of these labels; 0 when
/// there is none.
pub(crate) fn sum_of(metrics: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    let series = metrics.lines().filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let (family, with) = series.split_once('{').unwrap_or((series, ""));
        let has = |(label, value): &(&str, &str)| with.contains(&format!("{label}=\"{value}\""));
        let is_wanted = family == name && labels.iter().all(has);
        is_wanted.then(|| value.parse::<f64>().expect("a number"))
    });
    series.sum()
}
