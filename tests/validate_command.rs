//! `tidegate validate`, `validate --diff` and `run --check`, as an operator meets
//! them: the real program, its output and its exit codes.
#![cfg(feature = "demo")]
#![allow(clippy::expect_used, reason = "a test says what it expects")]

#[path = "common/broken_file.rs"]
mod broken_file;
#[path = "common/database.rs"]
mod database;
#[path = "common/process.rs"]
mod process;
#[path = "common/relay.rs"]
mod relay;
#[path = "common/scenario.rs"]
mod scenario;

#[path = "validate_command/check.rs"]
mod check;
#[path = "validate_command/plans.rs"]
mod plans;
#[path = "validate_command/running.rs"]
mod running;

use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

/// Files of one test, removed with it.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path
    }
}

/// What the program said.
struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Said {
    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).expect("one JSON object")
    }
}

/// Runs the program; it inherits nothing.
fn tidegate(arguments: &[&str], environment: &[(&str, &str)]) -> Said {
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .env_clear()
        .envs(environment.iter().copied())
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("it runs");
    Said {
        code: output.status.code().expect("an exit code"),
        out: String::from_utf8(output.stdout).expect("text"),
        err: String::from_utf8(output.stderr).expect("text"),
    }
}

fn validate(text: &str, more: &[&str]) -> Said {
    let folder = Folder::new();
    let file = folder.file("tidegate.toml", text);
    let mut arguments = vec!["validate", "--config", file.to_str().expect("text")];
    arguments.extend(more);
    tidegate(&arguments, &broken_file::ENVIRONMENT)
}

#[test]
fn a_mistake_at_any_key_is_named_with_its_line() {
    let folder = Folder::new();
    let secret = folder.file("secret", "from-a-file\n");
    let secret = secret.to_str().expect("text");
    let whole = validate(&broken_file::whole_example(secret), &[]);
    assert_eq!(whole.code, 0, "{}", whole.err);
    let all = broken_file::at_every_key(secret);
    assert!(all.len() > 180, "{} files", all.len());
    for broken in all {
        let what = format!("{}: {} at line {}", broken.mistake, broken.key, broken.line);
        let said = validate(&broken.text, &["--output", "json"]);
        assert_eq!(said.code, 78, "{what}");
        let problems = said.json()["problems"].clone();
        let is_it = |problem: &&Value| {
            let is_key = broken.key.is_empty() || problem["key"] == *broken.key;
            is_key && problem["line"] == broken.line
        };
        let found = problems.as_array().expect("a list").iter().find(is_it);
        let problem = found.unwrap_or_else(|| panic!("{what}: not in {problems:#}"));
        let expected = problem["expected"].as_str().expect("a text");
        assert!(!expected.is_empty(), "{what}");
        let is_secret = ["url", "access", "token", "external_id"];
        if is_secret.iter().any(|word| broken.key.contains(word)) && broken.mistake == "wrong type"
        {
            assert!(!said.out.contains("hunter2"), "{what}: {}", said.out);
        }
    }
}

#[test]
fn all_mistakes_are_named_at_once_in_the_order_of_the_file() {
    let text = "[limits]\nmemory = 5\n[[databases]]\nname = \"a\"\nurl = \"postgres://h/d\"\n\
                [admin]\nlisen = \"x\"\n[[pipelines]]\nname = \"p\"\nbatch_size = 501\n";
    let said = validate(text, &[]);
    assert_eq!((said.code, said.out.as_str()), (78, ""));
    let lines: Vec<&str> = said.err.lines().collect();
    let expected = [
        "tidegate: the configuration has 5 problem(s):",
        "  line 2: limits.memory: got 5; expected a size with a unit",
        "  line 7: admin.lisen: unknown key; expected listen, perhaps",
        "  line 8: pipelines[0].outbox: missing; expected the name of the outbox",
        "  line 8: pipelines[0].stream_name: missing; expected the name of the Kinesis stream",
        "  line 10: pipelines[0].batch_size: got 501; expected a whole number from 1 to 500",
    ];
    assert_eq!(lines.len(), expected.len(), "{}", said.err);
    for (line, expected) in lines.iter().zip(expected) {
        assert!(
            line.starts_with(expected),
            "{line} does not begin with {expected}"
        );
    }
}

#[test]
fn a_variable_that_is_wrong_is_named() {
    let environment = [
        ("DATABASE_URL", "postgres://h/d"),
        ("TIDEGATE__LIMITS__DRAIN_GRACE", "20"),
    ];
    let said = tidegate(&["validate"], &environment);
    assert_eq!(said.code, 78);
    let expected = "environment variable TIDEGATE__LIMITS__DRAIN_GRACE: limits.drain_grace: got";
    assert!(said.err.contains(expected), "{}", said.err);
    let json = tidegate(&["validate", "--output", "json"], &environment).json();
    assert_eq!(json["problems"][0]["variable"], environment[1].0);
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let said = tidegate(&["validate", "--config", "/no/such/file.toml"], &[]);
    assert_eq!(said.code, 78);
    assert!(said.err.contains("/no/such/file.toml"), "{}", said.err);
}
