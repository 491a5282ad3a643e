//! Completions, man pages and progress bars, as a shell and a terminal meet them.
#![cfg(feature = "demo")]
#![allow(
    clippy::expect_used,
    clippy::large_futures,
    reason = "a test says what it expects, and has its thread's stack for itself"
)]

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

use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;

use crate::relay::{PROGRAM, program};
use crate::scenario::{PATIENCE, scenario};
use crate::world::World;

fn output_of(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().expect("it runs");
    let text = String::from_utf8(output.stdout).expect("text");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}\n{said}");
    assert_eq!(said, "", "{text}");
    text
}

/// A shell that completes by the script: what it offers for a line.
fn offered(words: &[&str]) -> Vec<String> {
    let script = output_of(program(&[]).args(["completions", "bash"]));
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("completions");
    std::fs::write(&file, script).expect("a file");
    let list = words
        .iter()
        .map(|word| format!("'{word}'"))
        .collect::<Vec<_>>()
        .join(" ");
    let last = words.len() - 1;
    // As bash calls it: the command, the word that is completed, the one before it.
    let line = format!(
        "source '{}'; COMP_WORDS=({list}); COMP_CWORD={last}; _tidegate tidegate '{}' '{}'; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        file.display(),
        words[last],
        words[last - 1]
    );
    let text = output_of(Command::new("bash").args(["--norc", "-c", &line]));
    text.lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_options_and_values() {
    assert_eq!(offered(&["tidegate", "doc"]), ["doctor"]);
    let options = offered(&["tidegate", "doctor", "--"]);
    assert!(
        options.contains(&"--long-transaction".to_owned()),
        "{options:?}"
    );
    assert_eq!(offered(&["tidegate", "doctor", "--output", "j"]), ["json"]);
    let kinds = offered(&["tidegate", "dlq", "re"]);
    assert!(kinds.contains(&"retry".to_owned()), "{kinds:?}");
}

#[test]
fn every_shell_has_a_script() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = output_of(program(&[]).args(["completions", shell]));
        assert!(
            script.contains("doctor") && script.contains("tidegate"),
            "{shell}"
        );
    }
    let refused = program(&[])
        .args(["completions", "cmd"])
        .output()
        .expect("it runs");
    assert_eq!(refused.status.code(), Some(64));
}

#[test]
fn every_command_has_a_page() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join("man1");
    let mut command = program(&[]);
    command
        .args(["man", "--output", "json", "--out"])
        .arg(&place);
    let said: serde_json::Value = serde_json::from_str(&output_of(&mut command)).expect("JSON");
    let pages: Vec<&str> = said["pages"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|page| page.as_str())
        .collect();
    for page in [
        "tidegate.1",
        "tidegate-run.1",
        "tidegate-doctor.1",
        "tidegate-dlq-retry.1",
    ] {
        assert!(pages.contains(&page), "{page}: {pages:?}");
    }
    for page in pages {
        let text = std::fs::read_to_string(place.join(page)).expect("a page");
        assert!(
            text.contains(".SH NAME") && text.contains(".SH SYNOPSIS"),
            "{page}"
        );
    }
    let own = output_of(program(&[]).arg("man"));
    assert!(
        own.contains(".SH SUBCOMMANDS") && own.contains("tidegate\\-doctor(1)"),
        "{own}"
    );
}

/// Runs the program on a terminal of its own (`script` of util-linux); answers all that
/// it shows.
fn on_a_terminal(environment: &[(String, String)], arguments: &str) -> String {
    let mut command = Command::new("script");
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("TERM", "xterm")
        .envs(environment.iter().cloned())
        .args(["--quiet", "--return", "--command"])
        .arg(format!("stty cols 200; exec {PROGRAM} {arguments}"))
        .arg("/dev/null");
    let output = command.stdin(Stdio::null()).output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}");
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_shows_a_bar_on_a_terminal_alone() {
    scenario(Duration::from_secs(180), async {
        let world = World::new(1).await;
        world.pipeline("events", json!({})).await;
        let relay = world.relay().await;
        let rows = world.publish_many("events", 300, 10, 10).await;
        world.wait_for(&rows, PATIENCE).await;
        let first = rows[0].id;
        let last = rows[299].id;
        let replay = format!("replay --pipeline events --from-id {first} --to-id {last} --wait");
        let settings = world.settings(&[]);
        let (on, arguments) = (settings.clone(), replay.clone());
        let shown = tokio::task::spawn_blocking(move || on_a_terminal(&on, &arguments));
        let shown = shown.await.expect("no panic");
        assert!(
            shown.contains("] ") && shown.contains(" %  "),
            "no bar: {shown:?}"
        );
        assert!(shown.contains("done, 300 rows sent"), "{shown:?}");

        let mut command = program(&settings);
        command.args(replay.split(' '));
        let text = tokio::task::spawn_blocking(move || output_of(&mut command));
        let text = text.await.expect("no panic");
        assert!(
            !text.contains('\u{1b}') && !text.contains(" %  "),
            "{text:?}"
        );
        assert!(text.contains("done, 300 rows sent"), "{text:?}");
        relay.terminate().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_shows_what_it_does_on_a_terminal() {
    scenario(Duration::from_secs(120), async {
        let name = database::empty_database().await;
        let url = database::server().url_as(database::OWNER, &name);
        let settings = vec![("DATABASE_URL".to_owned(), url)];
        let on = settings.clone();
        let shown = tokio::task::spawn_blocking(move || on_a_terminal(&on, "migrate"));
        let shown = shown.await.expect("no panic");
        assert!(
            shown.contains("migrating database \"default\""),
            "{shown:?}"
        );
        assert!(shown.contains("schema tide installed"), "{shown:?}");
        let json = "migrate --output json";
        let shown = tokio::task::spawn_blocking(move || on_a_terminal(&settings, json));
        assert!(
            !shown.await.expect("no panic").contains("migrating"),
            "JSON alone"
        );
    })
    .await;
}
