//! The image and the example for Compose, as far as they can be judged without an
//! engine: their files against the repository, and what they start as real processes.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::large_futures,
    reason = "a test says what it expects"
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

#[path = "image/compose.rs"]
mod compose;
#[path = "image/dockerfile.rs"]
mod dockerfile;
#[path = "image/health.rs"]
mod health;
#[path = "image/running.rs"]
mod running;
#[path = "image/yaml.rs"]
mod yaml;

use std::path::{Path, PathBuf};
use std::process::Command;

/// A path in the repository.
fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn text(path: &str) -> String {
    let text = std::fs::read_to_string(repository(path));
    text.unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What the program said.
#[derive(Debug)]
struct Said {
    code: i32,
    out: String,
    err: String,
}

fn said(command: &mut Command) -> Said {
    let output = command.output().expect("it runs");
    Said {
        code: output.status.code().expect("an exit code"),
        out: String::from_utf8(output.stdout).expect("text"),
        err: String::from_utf8(output.stderr).expect("text"),
    }
}

/// Runs the program with this environment and nothing else.
fn tidegate(arguments: &[&str], environment: &[(String, String)]) -> Said {
    said(relay::program(environment).args(arguments))
}
