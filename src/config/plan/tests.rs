//! The rules of the diff: every key has a class and behaves so, and nothing but
//! what uses a changed value is touched.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::config::environment::Environment;
use crate::config::settings::Settings;
use crate::config::settings_reader;
use crate::config::table::{Report, Typing};
use crate::core::ports::PipelineRow;

mod applying;
mod keys;

const EXAMPLE: &str = include_str!("../../../configs/tidegate.toml");

/// The example with everything in it that is commented out.
fn whole_example() -> Value {
    let active = |line: &str| match line.strip_prefix('#') {
        Some(key) if !key.is_empty() && !key.starts_with(' ') => format!("{key}\n"),
        Some(_) | None => format!("{line}\n"),
    };
    let text: String = EXAMPLE.lines().map(active).collect();
    let file = config::File::from_str(&text, config::FileFormat::Toml);
    let built = config::Config::builder().add_source(file).build();
    built
        .and_then(config::Config::try_deserialize)
        .expect("TOML")
}

/// The example with a second, plain database and pipeline beside it, and with
/// pipelines[0] taking what it can from elsewhere.
fn base() -> Value {
    let mut tree = whole_example();
    tree["databases"][0]["url"] = json!("postgres://localhost/orders");
    tree["databases"]
        .as_array_mut()
        .expect("a list")
        .push(json!({
            "name": "other", "url": "postgres://localhost/other",
        }));
    tree["cluster"]["database"] = json!("other");
    let pipelines = tree["pipelines"].as_array_mut().expect("a list");
    pipelines.push(json!({
        "name": "other", "outbox": "other", "database": "other", "stream_name": "other",
    }));
    let first = pipelines[0].as_object_mut().expect("a table");
    for key in ["stream_arn", "region", "endpoint_url", "weight"] {
        first.remove(key).expect("in the example");
    }
    for key in [
        "access_key_id",
        "secret_access_key",
        "session_token",
        "external_id",
    ] {
        first.insert(key.to_owned(), json!("one"));
    }
    tree["tenants"][0]["weight"] = json!(3);
    tree
}

/// The settings of a tree; `None` if they are not acceptable.
fn settings(tree: &Value) -> Option<Settings> {
    let report = Report::new(Typing::FromText);
    let settings = settings_reader::read(tree, Environment::default(), &report);
    let is_good = report.into_problems().is_empty() && settings.validate().is_empty();
    is_good.then_some(settings)
}

fn key(database: &str, name: &str) -> PipelineKey {
    PipelineKey {
        database: database.into(),
        name: name.into(),
    }
}

fn row(name: &str, config: Value) -> PipelineRow {
    PipelineRow {
        name: name.to_owned(),
        outbox: "events".to_owned(),
        consumer_group: String::new(),
        config: Ok(config),
        enabled: true,
        version: 1,
    }
}

/// A state of the settings of a tree and these rows in database `orders`.
fn state(tree: &Value, rows: &[PipelineRow]) -> Desired {
    let settings = settings(tree).expect("good settings");
    let catalogs = BTreeMap::from([(Arc::from("orders"), rows.to_vec())]);
    Desired::new(Arc::new(settings), &catalogs.into())
}

#[test]
fn pipelines_of_a_database_start_change_and_stop() {
    let config = |batch: u32| json!({"stream_name": "s", "batch_size": batch});
    let tree = base();
    let nothing = state(&tree, &[]);
    let one = state(&tree, &[row("a", config(1))]);
    let changed = state(&tree, &[row("a", config(2))]);
    let invalid = state(&tree, &[row("a", config(501))]);
    let a = key("orders", "a");
    let step = |old: &Desired, new: &Desired| diff(old, new).pipelines[&a].clone();
    assert_eq!(step(&nothing, &one), Step::Start);
    let keys = vec!["batch_size"];
    assert_eq!(step(&one, &changed), Step::Change { keys });
    assert_eq!(step(&one, &nothing), Step::Stop);
    assert_eq!(step(&invalid, &nothing), Step::Stop);
    assert_eq!(step(&invalid, &one), Step::Start);
    assert!(diff(&invalid, &invalid).is_empty());
    let Step::Invalid { reason } = step(&one, &invalid) else {
        panic!("it is invalid");
    };
    assert!(reason.contains("batch_size"), "{reason}");
    let others = diff(&one, &invalid).pipelines;
    let is_kept = |(key, step): (&PipelineKey, &Step)| *key == a || *step == Step::Keep;
    assert!(others.iter().all(is_kept), "one bad pipeline is alone");
}

#[test]
fn a_definition_that_moves_as_it_is_or_is_set_again_is_kept() {
    let config = json!({"stream_name": "s", "rate_limit": {"max_messages_per_second": 5}});
    let mut in_file = base();
    let mut definition = config.clone();
    for (key, value) in [("name", "a"), ("outbox", "events"), ("database", "orders")] {
        definition[key] = json!(value);
    }
    let pipelines = in_file["pipelines"].as_array_mut().expect("a list");
    pipelines.push(definition);
    let mut again = row("a", config.clone());
    again.version = 2;
    let in_database = state(&base(), &[row("a", config)]);
    assert!(diff(&in_database, &state(&base(), &[again])).is_empty());
    assert!(diff(&in_database, &state(&in_file, &[])).is_empty());
}

#[test]
fn a_restart_names_only_what_made_it_necessary() {
    let one = row("a", json!({"stream_name": "s", "batch_size": 1}));
    let two = row(
        "a",
        json!({"stream_name": "s", "batch_size": 2, "format": "payload", "partition_key": "k"}),
    );
    let plan = diff(&state(&base(), &[one]), &state(&base(), &[two]));
    let because = vec!["partition_key", "format"];
    let expected = Step::Restart { because };
    assert_eq!(plan.pipelines[&key("orders", "a")], expected);
}

#[test]
fn a_database_that_goes_takes_its_pipelines_with_it() {
    let rows = [row("a", json!({"stream_name": "s"}))];
    let mut without = base();
    without["databases"]
        .as_array_mut()
        .expect("a list")
        .remove(0);
    without["pipelines"]
        .as_array_mut()
        .expect("a list")
        .remove(0);
    let plan = diff(&state(&base(), &rows), &state(&without, &rows));
    assert_eq!(plan.pipelines[&key("orders", "a")], Step::Stop);
    assert_eq!(plan.pipelines[&key("other", "other")], Step::Keep);
    let gone = SettingChange::Database {
        name: "orders".into(),
        step: DatabaseStep::Stop,
    };
    assert_eq!(plan.settings, [gone]);
}
