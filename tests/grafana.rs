//! The alerts, runbooks and dashboards: every name in them is a metric, every alert
//! is told how to be answered and shown to fire and to stay silent, and every query
//! returns data of a running relay.
//!
//! `promtool` and `prometheus` are Debian's (`make deps`).

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::large_futures,
    reason = "a test says what it expects, and has its thread's stack for itself"
)]
#![allow(
    clippy::zombie_processes,
    reason = "the watchdog outlives the test process on purpose"
)]
#![cfg(feature = "demo")]

#[path = "common/database.rs"]
mod database;
#[path = "common/process.rs"]
mod process;
#[path = "common/relay.rs"]
mod relay;
#[path = "common/scenario.rs"]
mod scenario;
#[path = "common/world.rs"]
mod world;

#[path = "grafana/alerts.rs"]
mod alerts;
#[path = "grafana/dashboards.rs"]
mod dashboards;
#[path = "grafana/feeds.rs"]
mod feeds;
#[path = "grafana/names.rs"]
mod names;
#[path = "grafana/prometheus.rs"]
mod prometheus;
#[path = "grafana/queries.rs"]
mod queries;
#[path = "grafana/runbooks.rs"]
mod runbooks;

use std::fs;
use std::path::{Path, PathBuf};

fn path(of: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(of)
}

fn read(of: &str) -> String {
    fs::read_to_string(path(of)).unwrap_or_else(|error| panic!("{of}: {error}"))
}

/// The files of a folder with this extension, by their paths in the repository.
fn files(folder: &str, extension: &str) -> Vec<String> {
    let entries = fs::read_dir(path(folder)).unwrap_or_else(|error| panic!("{folder}: {error}"));
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let mut found: Vec<String> = names
        .filter_map(|name| name.to_str().map(ToOwned::to_owned))
        .filter(|name| name.ends_with(extension))
        .map(|name| format!("{folder}/{name}"))
        .collect();
    found.sort();
    assert!(!found.is_empty(), "no *{extension} in {folder}");
    found
}
