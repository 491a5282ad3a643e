//! `tidegate demo` as a user runs it: what it prints, how it ends, and that it
//! leaves nothing.
#![cfg(feature = "demo")]
#![allow(clippy::expect_used, reason = "a test may fail by panicking")]

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::time::Instant;

/// Far more than cleaning up takes, for a machine under load.
const PATIENCE: Duration = Duration::from_secs(60);

/// A temporary directory in which the demo makes all of its own.
fn temporary() -> TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    // PostgreSQL is run by another user if this is root.
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).expect("permissions");
    directory
}

fn demo(temporary: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.arg("demo").args(arguments).env("TMPDIR", temporary);
    for variable in ["DEMO_SECONDS", "CHAOS", "TIDEGATE_CONFIG"] {
        command.env_remove(variable);
    }
    // What a user may have set, and must not reach anything.
    command.env("DATABASE_URL", "postgres://127.0.0.1:1/nothing");
    command.env("AWS_ENDPOINT_URL", "http://127.0.0.1:1");
    command.env("TIDEGATE__LOG__FORMAT", "nonsense");
    command.stdin(Stdio::null());
    command
}

/// Nothing is left in the directory once the watchdogs are done.
fn wait_until_empty(directory: &Path) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left: Vec<_> = fs::read_dir(directory)
            .expect("the directory")
            .flatten()
            .map(|entry| entry.path())
            .collect();
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "{left:?} is left");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn with_chaos_nothing_is_lost_and_the_json_says_so() {
    let temporary = temporary();
    let arguments = ["--seconds", "4", "--chaos", "kill", "--output", "json"];
    let output = demo(temporary.path(), &arguments)
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{}: {printed}\n{said}",
        output.status
    );
    assert_eq!(printed.lines().count(), 1, "{printed}");
    let result: Value = serde_json::from_str(&printed).expect("JSON");
    assert_eq!(result["ok"], true);
    for broken in ["lost", "order_violations", "seq_violations", "unknown"] {
        assert_eq!(result[broken], 0, "{broken} in {printed}");
    }
    let number = |name: &str| result[name].as_f64().unwrap_or_else(|| panic!("{name}"));
    assert!(number("published") > 100.0 && result["published"] == result["delivered"]);
    assert!(number("p50_ms") > 0.0 && number("p50_ms") <= number("p99_ms"));
    assert!((0.0..1.0).contains(&number("throttled_ratio")) && number("duplicates") >= 0.0);
    assert_eq!(
        result["shard_utilisation"].as_array().map(Vec::len),
        Some(4)
    );
    assert_eq!(result["kills"], 3);
    assert_eq!(
        said.matches("killed with SIGKILL and started again")
            .count(),
        3,
        "{said}"
    );
    wait_until_empty(temporary.path());
}

/// Waits until the demo prints a line with this text.
fn wait_for_line(running: &mut Child, text: &str) {
    let out = running.stdout.take().expect("its output");
    let mut lines = BufReader::new(out).lines();
    let found = lines.any(|line| line.expect("a line").contains(text));
    assert!(found, "no line has {text:?}");
    // Nobody reads on: printing to a closed pipe must not disturb it.
}

#[test]
fn interrupted_it_cleans_up() {
    let temporary = temporary();
    let mut command = demo(temporary.path(), &["--seconds", "600"]);
    let mut running = command.stdout(Stdio::piped()).spawn().expect("it runs");
    wait_for_line(&mut running, " s  published ");
    let kill = |signal: &str| {
        let id = running.id().to_string();
        Command::new("sh")
            .args(["-c", "kill -\"$0\" \"$1\"", signal, &id])
            .status()
    };
    assert!(kill("INT").expect("a shell").success());
    let status = running.wait().expect("its end");
    assert_eq!(status.code(), Some(130));
    wait_until_empty(temporary.path());
}

#[test]
fn killed_it_leaves_nothing_either() {
    let temporary = temporary();
    let mut command = demo(temporary.path(), &["--seconds", "600"]);
    let mut running = command.stdout(Stdio::piped()).spawn().expect("it runs");
    wait_for_line(&mut running, " s  published ");
    running.kill().expect("killed");
    running.wait().expect("its end");
    wait_until_empty(temporary.path());
}

#[test]
fn without_a_server_it_says_what_to_install() {
    let temporary = temporary();
    let mut command = demo(temporary.path(), &["--seconds", "1"]);
    let output = command
        .env("TIDEGATE_PG_BIN", temporary.path())
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("TIDEGATE_PG_BIN"), "{said}");
    wait_until_empty(temporary.path());
}
