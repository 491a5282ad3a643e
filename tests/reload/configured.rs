//! A relay with a configuration file that is written anew.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::relay::Relay;
use crate::scenario::PATIENCE;
use crate::world::World;

/// A reload is answered within a few milliseconds; this is how often one looks.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// A configuration file.
pub(crate) struct File {
    folder: tempfile::TempDir,
}

impl File {
    /// A file with this configuration.
    pub(crate) fn with(configuration: &Value) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("tidegate-reload-")
            .tempdir();
        let file = Self {
            folder: folder.expect("a folder"),
        };
        file.write(configuration);
        file
    }

    /// Replaces its content, as a deployment does: at once.
    pub(crate) fn write(&self, configuration: &Value) {
        let text: String = configuration
            .as_object()
            .expect("a table")
            .iter()
            .map(|(key, value)| format!("{key} = {}\n", toml(value)))
            .collect();
        self.write_text(&text);
    }

    /// The same with any text.
    pub(crate) fn write_text(&self, text: &str) {
        let new = self.folder.path().join("new");
        std::fs::write(&new, text).expect("written");
        std::fs::rename(new, self.path()).expect("renamed");
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("tidegate.toml")
    }

    /// Another file beside it.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A relay that reads it, beside what it needs to reach the emulator.
    pub(crate) async fn relay(&self, world: &World, more: &[(&str, &str)]) -> Relay {
        let settings = self.environment(world, more);
        let relay = Relay::start(&settings).await;
        world.keeps_book_of(relay)
    }

    /// The environment of such a relay.
    pub(crate) fn environment(
        &self,
        world: &World,
        more: &[(&str, &str)],
    ) -> Vec<(String, String)> {
        let path = self.path().display().to_string();
        let mut settings: Vec<(String, String)> = world
            .emulator
            .environment()
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        settings.push(("TIDEGATE_CONFIG".to_owned(), path));
        settings.extend(
            more.iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        );
        settings
    }
}

/// A value as an inline value of TOML.
fn toml(value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let members: Vec<String> = members
                .iter()
                .map(|(key, value)| format!("{key} = {}", toml(value)))
                .collect();
            format!("{{ {} }}", members.join(", "))
        }
        Value::Array(elements) => {
            let elements: Vec<String> = elements.iter().map(toml).collect();
            format!("[{}]", elements.join(", "))
        }
        // TOML's texts, numbers and booleans are written like JSON's.
        Value::String(_) | Value::Number(_) | Value::Bool(_) => value.to_string(),
        Value::Null => panic!("TOML has no null"),
    }
}

/// How many reloads have ended since the start, well or not.
pub(crate) fn reloads(relay: &Relay) -> u64 {
    relay.status()["config"]["reloads"]
        .as_u64()
        .expect("a number")
}

/// Asks for a reload and waits for its end; answers what the status says of it.
pub(crate) async fn reload(relay: &Relay) -> Value {
    let before = reloads(relay);
    relay.signal("HUP");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let config = relay.status()["config"].clone();
        if config["reloads"].as_u64() > Some(before) {
            return config;
        }
        assert!(
            Instant::now() < deadline,
            "the reload does not end: {config}"
        );
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Writes a configuration, has it read, and asserts that it was taken.
pub(crate) async fn take(relay: &Relay, file: &File, configuration: &Value) -> Value {
    file.write(configuration);
    let config = reload(relay).await;
    assert_eq!(config["last_reload"]["successful"], true, "{config}");
    assert!((last_reload_successful(relay) - 1.0).abs() < f64::EPSILON);
    config
}

/// Writes a configuration, has it read, and asserts that it was refused and the one
/// before goes on. Answers what is wrong with it.
pub(crate) async fn refuse(relay: &Relay, file: &File, configuration: &Value) -> Vec<String> {
    let before = relay.status()["config"]["hash"].clone();
    file.write(configuration);
    let config = reload(relay).await;
    assert_eq!(config["last_reload"]["successful"], false, "{config}");
    assert_eq!(config["hash"], before);
    assert!(last_reload_successful(relay).abs() < f64::EPSILON);
    let hash = before.as_str().expect("a hash");
    let info = relay.metric("tidegate_config_info", &[("hash", hash)]);
    assert!((info - 1.0).abs() < f64::EPSILON);
    let errors = config["last_reload"]["errors"].as_array().expect("errors");
    errors
        .iter()
        .map(|error| error.as_str().expect("a text").to_owned())
        .collect()
}

fn last_reload_successful(relay: &Relay) -> f64 {
    relay.metric("tidegate_config_last_reload_successful", &[])
}

/// All series that describe something which may come and go, without their values.
/// (Others are of the process, and appear when something happens first.)
pub(crate) fn series(relay: &Relay) -> BTreeSet<String> {
    let (_, text) = relay.get("/metrics").expect("metrics");
    assert_eq!(text.matches("\ntidegate_config_info{").count(), 1, "{text}");
    let describe = [
        "pipeline=",
        "database=",
        "stream=",
        "outbox=",
        "tidegate_actors{",
    ];
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| Some(line.rsplit_once(' ')?.0))
        .filter(|series| describe.iter().any(|label| series.contains(label)))
        .map(without_query)
        .collect()
}

/// Some series of a database begin with the first call of a kind, or with what is seen
/// first: what counts is whether a database has any, as one that is known has.
fn without_query(series: &str) -> String {
    let late = ["tidegate_database_query_", "tidegate_database_horizon_"];
    let is_late = late.iter().any(|name| series.starts_with(name));
    let database = series.split('"').nth(1).filter(|_| is_late);
    database.map_or_else(
        || series.to_owned(),
        |database| format!("tidegate_database_up{{database=\"{database}\"}}"),
    )
}

/// What two sets of series differ in.
pub(crate) fn difference(before: &BTreeSet<String>, after: &BTreeSet<String>) -> String {
    let mut text = String::new();
    for gone in before.difference(after) {
        writeln!(text, "- {gone}").expect("written");
    }
    for new in after.difference(before) {
        writeln!(text, "+ {new}").expect("written");
    }
    text
}

/// How often readers have ended on their own, whatever the cause.
pub(crate) fn reader_restarts(relay: &Relay) -> f64 {
    relay.metric(
        "tidegate_actor_restarts_total",
        &[("actor", "outbox_reader")],
    )
}

/// The epoch a pipeline is owned under.
pub(crate) fn epoch(relay: &Relay, pipeline: &str) -> u64 {
    relay.pipeline(pipeline)["epoch"].as_u64().unwrap_or(0)
}
