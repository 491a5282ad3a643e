//! A Prometheus of the test's own: a temporary directory and a free port.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::path;
use crate::process::Process;
use crate::scenario::PATIENCE;

/// A running server that scrapes one relay twice a second and knows the alerts.
pub(crate) struct Prometheus {
    process: Process,
    address: SocketAddr,
    folder: tempfile::TempDir,
}

impl Prometheus {
    pub(crate) async fn start(relay: SocketAddr) -> Self {
        // Somebody may take the port before the server does.
        for _ in 0..5 {
            if let Some(started) = Self::try_start(relay).await {
                return started;
            }
        }
        panic!("no Prometheus on five free ports");
    }

    async fn try_start(relay: SocketAddr) -> Option<Self> {
        let folder = tempfile::Builder::new()
            .prefix("tidegate-prometheus-")
            .tempdir()
            .expect("a folder");
        let rules = path("grafana/alerts/tidegate.yaml");
        let configuration = format!(
            "global: {{scrape_interval: 500ms, evaluation_interval: 500ms}}\n\
             rule_files: ['{}']\n\
             scrape_configs: [{{job_name: tidegate, static_configs: [{{targets: ['{relay}']}}]}}]\n",
            rules.display()
        );
        let file = folder.path().join("prometheus.yml");
        fs::write(&file, configuration).expect("a configuration");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        drop(listener);
        let log = File::create(folder.path().join("log")).expect("a log file");
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.path().join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .stdout(log.try_clone().expect("a log file"))
            .stderr(log);
        let mut started = Self {
            process: Process::start(&mut command),
            address,
            folder,
        };
        let deadline = Instant::now() + PATIENCE;
        while !matches!(started.get("/-/ready"), Ok((200, _))) {
            if !started.process.is_running() {
                eprintln!("{}", started.log());
                return None;
            }
            assert!(
                Instant::now() < deadline,
                "it is not ready: {}",
                started.log()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Some(started)
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// What an instant query answers now: one value for each series.
    pub(crate) fn query(&self, query: &str) -> Result<Vec<f64>, String> {
        let data = self.api(&format!("query?query={}", encoded(query)))?;
        let series = data["result"].as_array().cloned().unwrap_or_default();
        let value = |one: &Value| one["value"][1].as_str().and_then(|text| text.parse().ok());
        Ok(series.iter().filter_map(value).collect())
    }

    /// The data of an answer of the API.
    pub(crate) fn api(&self, question: &str) -> Result<Value, String> {
        let (_, body) = self
            .get(&format!("/api/v1/{question}"))
            .map_err(|error| error.to_string())?;
        let answer: Value =
            serde_json::from_str(&body).map_err(|error| format!("{error}: {body}"))?;
        if answer["status"] == "success" {
            Ok(answer["data"].clone())
        } else {
            Err(body)
        }
    }

    /// HTTP 1.0: the answer is not in chunks.
    fn get(&self, path: &str) -> std::io::Result<(u16, String)> {
        let patience = Duration::from_secs(10);
        let mut stream = TcpStream::connect_timeout(&self.address, patience)?;
        stream.set_read_timeout(Some(patience))?;
        write!(stream, "GET {path} HTTP/1.0\r\nhost: prometheus\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let wrong = || std::io::Error::other(format!("not HTTP: {answer:?}"));
        let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(wrong)?;
        let code = head
            .split_whitespace()
            .nth(1)
            .and_then(|code| code.parse().ok());
        Ok((code.ok_or_else(wrong)?, body.to_owned()))
    }
}

/// A text as part of a URL.
pub(crate) fn encoded(text: &str) -> String {
    let bytes = text.bytes().map(|byte| {
        if byte.is_ascii_alphanumeric() {
            char::from(byte).to_string()
        } else {
            format!("%{byte:02X}")
        }
    });
    bytes.collect()
}
