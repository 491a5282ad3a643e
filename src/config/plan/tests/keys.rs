//! Every key of the example file has a class, and changes as it says.

use super::*;

/// The paths of all values that are no tables; `[]` for a place in a list.
fn leaves(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    if let Some(members) = value.as_object() {
        let dot = if path.is_empty() { "" } else { "." };
        for (key, member) in members {
            leaves(member, &format!("{path}{dot}{key}"), found);
        }
    } else if let Some(list) = value.as_array() {
        for element in list {
            leaves(element, &format!("{path}[]"), found);
        }
    } else {
        found.insert(path.to_owned());
    }
}

fn classified() -> BTreeSet<String> {
    CLASSES.iter().map(|(key, _)| (*key).to_owned()).collect()
}

/// A key, and values to put at JSON pointers for it to be another.
pub(super) type Change = (&'static str, Vec<(String, Value)>);

/// Another value for every key.
pub(super) fn changes() -> Vec<Change> {
    let role = "arn:aws:iam::123456789012:role/other";
    let arn = "arn:aws:kinesis:eu-west-1:123456789012:stream/pg-tide-events";
    let values = [
        ("databases[].name", json!("moved")),
        ("databases[].url", json!("postgres://x/y")),
        ("databases[].max_connections", json!(9)),
        ("databases[].statement_timeout", json!("9s")),
        ("databases[].prepared_statements", json!(false)),
        ("admin.listen", json!("127.0.0.1:9")),
        ("cluster.node_id", json!("b")),
        ("cluster.lease", json!("9s")),
        ("cluster.database", json!("orders")),
        ("limits.memory", json!("99MiB")),
        ("limits.pipeline_rows", json!(9)),
        ("limits.pipeline_bytes", json!("9MiB")),
        ("limits.drain_grace", json!("9s")),
        ("log.format", json!("json")),
        ("log.filter", json!("debug")),
        ("probe.min_interval", json!("9ms")),
        ("probe.max_interval", json!("9s")),
        ("retention.interval", json!("9s")),
        ("retention.batch_rows", json!(9)),
        ("retention.pause", json!("9s")),
        ("kinesis.endpoint_url", json!("http://x")),
        ("kinesis.region", json!("eu-west-1")),
        ("kinesis.operation_timeout", json!("9s")),
        ("kinesis.connect_timeout", json!("9s")),
        ("kinesis.shard_refresh", json!("9s")),
        ("kinesis.shard_budget.records_per_second", json!(9)),
        ("kinesis.shard_budget.bytes_per_second", json!("9KiB")),
        ("kinesis.shard_budget.fraction", json!(0.9)),
        ("streams[].name", json!("another")),
        ("streams[].endpoint_url", json!("http://y")),
        ("streams[].shard_budget.records_per_second", json!(9)),
        ("streams[].shard_budget.bytes_per_second", json!("9KiB")),
        ("streams[].shard_budget.fraction", json!(0.9)),
        ("tenants[].name", json!("another")),
        ("tenants[].weight", json!(9)),
        ("tenants[].max_messages_per_second", json!(9)),
        ("tenants[].max_bytes_per_second", json!(9)),
        ("tenants[].burst", json!(9)),
        ("tenants[].max_in_flight_bytes", json!("9MiB")),
        ("pipelines[].name", json!("another")),
        ("pipelines[].outbox", json!("another")),
        ("pipelines[].database", json!("other")),
        ("pipelines[].consumer_group", json!("another")),
        ("pipelines[].sink_type", Value::Null),
        ("pipelines[].stream_name", json!("another")),
        ("pipelines[].stream_arn", json!(arn)),
        ("pipelines[].region", json!("eu-west-1")),
        ("pipelines[].partition_key", json!("{event_id}")),
        ("pipelines[].format", json!("payload")),
        ("pipelines[].batch_size", json!(9)),
        ("pipelines[].tenant", json!("another")),
        ("pipelines[].weight", json!(9)),
        ("pipelines[].access_key_id", json!("two")),
        ("pipelines[].secret_access_key", json!("two")),
        ("pipelines[].session_token", json!("two")),
        ("pipelines[].role_arn", json!(role)),
        ("pipelines[].external_id", json!("two")),
        ("pipelines[].endpoint_url", json!("http://z")),
        ("pipelines[].ordering", Value::Null),
        ("pipelines[].aggregation", json!("ndjson")),
        ("pipelines[].aggregation_max_bytes", json!(9_000)),
        ("pipelines[].compression", json!("zstd")),
        ("pipelines[].on_poison", json!("halt")),
        ("pipelines[].on_missing", json!({"default": "x"})),
        ("pipelines[].rate_limit.enabled", json!(false)),
        ("pipelines[].rate_limit.max_messages_per_second", json!(9)),
        ("pipelines[].rate_limit.burst_size", json!(9)),
        ("pipelines[].rate_limit.max_bytes_per_second", json!(9)),
    ];
    let change = |(key, value): (&'static str, Value)| {
        let pointer = format!("/{}", key.replace("[]", "/0").replace('.', "/"));
        let mut puts = vec![(pointer, value.clone())];
        if key == "databases[].name" {
            puts.push(("/pipelines/0/database".to_owned(), value));
        }
        (key, puts)
    };
    values.into_iter().map(change).collect()
}

/// Puts values at JSON pointers, whether there is something or not.
pub(super) fn put(tree: &mut Value, values: &[(String, Value)]) {
    for (pointer, value) in values {
        let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
        let parent = tree.pointer_mut(parent).expect("a table there");
        parent[key] = value.clone();
    }
}

#[test]
fn every_key_of_the_example_has_a_class() {
    let mut keys = BTreeSet::new();
    leaves(&whole_example(), "", &mut keys);
    assert_eq!(classified(), keys, "left: CLASSES; right: the example file");
    assert_eq!(classified().len(), CLASSES.len(), "every key once");
    let known = Settings::known_keys();
    let is_table = |key: &&String| {
        let inside = [format!("{key}."), format!("{key}[")];
        let is_inside = |other: &String| inside.iter().any(|start| other.starts_with(start));
        known.iter().any(is_inside)
    };
    let leaves: BTreeSet<String> = known.iter().filter(|key| !is_table(key)).cloned().collect();
    assert_eq!(classified(), leaves, "left: CLASSES; right: what is read");
}

/// What a plan amounts to, in terms of classes.
fn classes_of(plan: &Plan) -> BTreeSet<Class> {
    let mut found = BTreeSet::new();
    found.extend((!plan.refused.is_empty()).then_some(Class::NeedsNewProcess));
    for change in &plan.settings {
        found.insert(match change {
            SettingChange::Value { .. } => Class::InPlace,
            SettingChange::Database { step, .. } => match step {
                DatabaseStep::Start | DatabaseStep::Stop => Class::Names,
                DatabaseStep::Restart { .. } => Class::RestartsDatabase,
            },
        });
    }
    let has_restarted = found.contains(&Class::RestartsDatabase);
    for step in plan.pipelines.values() {
        found.extend(match step {
            Step::Start | Step::Stop => Some(Class::Names),
            Step::Restart { .. } if has_restarted => Some(Class::RestartsDatabase),
            Step::Restart { .. } => Some(Class::RestartsPipeline),
            Step::Change { .. } => Some(Class::InPlace),
            Step::Keep => None,
            Step::Invalid { reason } => panic!("{reason}"),
        });
    }
    if found.is_empty() {
        found.insert(Class::NoEffect);
    }
    found
}

#[test]
fn every_key_changes_as_its_class_says() {
    let rows = [row("of-database", json!({"stream_name": "elsewhere"}))];
    let old = state(&base(), &rows);
    let mut tried = BTreeSet::new();
    for (name, values) in changes() {
        tried.insert(name.to_owned());
        let mut tree = base();
        put(&mut tree, &values);
        let rows = match name {
            // The rows of a database that is called otherwise are not read yet.
            "databases[].name" => &[][..],
            _ => &rows[..],
        };
        let plan = diff(&old, &state(&tree, rows));
        let class = class_of(name).expect("a class");
        if name == "streams[].name" || name == "tenants[].name" {
            // Their pipelines are then like all that are not named.
            assert!(!plan.is_empty() && plan.refused.is_empty(), "{name}");
        } else {
            let expected = BTreeSet::from([class]);
            assert_eq!(classes_of(&plan), expected, "{name}: {plan:?}");
        }
        // What is there for one thing touches that and nothing else.
        let may_touch: &[&str] = match name.split(['.', '[']).next() {
            Some("databases") => &["events-to-kinesis", "of-database"],
            Some("streams" | "tenants") => &["events-to-kinesis"],
            Some("pipelines") => &["events-to-kinesis", "another"],
            Some(_) | None => &["events-to-kinesis", "of-database", "other"],
        };
        for (key, step) in &plan.pipelines {
            let is_touched = *step != Step::Keep;
            let may = may_touch.contains(&&*key.name);
            assert!(!is_touched || may, "{name}: {key} {step:?}");
        }
        let is_it = |problem: &ConfigProblem| problem.key == name;
        assert!(plan.refused.iter().all(is_it), "{name}: {plan:?}");
    }
    assert_eq!(tried, classified());
}

#[test]
fn what_is_refused_says_what_to_do() {
    let mut tree = base();
    tree["admin"]["listen"] = json!("0.0.0.0:1");
    let plan = diff(&state(&base(), &[]), &state(&tree, &[]));
    let said: Vec<String> = plan.refused.iter().map(ToString::to_string).collect();
    let expected = "admin.listen: changed from 127.0.0.1:9464 to 0.0.0.0:1; expected no change, \
                    or a restart of the process: a running relay does not leave its port";
    assert_eq!(said, [expected]);
}

#[test]
fn a_value_written_otherwise_is_the_same_value() {
    let mut tree = base();
    let same = [
        ("/limits/memory", json!("262144KiB")),
        ("/limits/drain_grace", json!("20000ms")),
        ("/pipelines/0/batch_size", Value::Null),
        ("/pipelines/0/format", Value::Null),
        ("/pipelines/0/rate_limit/enabled", Value::Null),
        (
            "/pipelines/0/rate_limit/max_bytes_per_second",
            json!(524_288),
        ),
        ("/pipelines/1/partition_key", json!("{dedup_key}")),
    ];
    put(
        &mut tree,
        &same.map(|(pointer, value)| (pointer.to_owned(), value)),
    );
    assert!(diff(&state(&base(), &[]), &state(&tree, &[])).is_empty());
}

#[test]
fn the_documentation_has_the_class_of_every_key() {
    let text = include_str!("../../../../docs/configuration-reload.md");
    let documented: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("| `"))
        .collect();
    let is_key = |line: &&&str| !line.starts_with("| `tidegate");
    let documented: Vec<&&str> = documented.iter().filter(is_key).collect();
    let expected: Vec<String> = CLASSES
        .iter()
        .map(|(key, class)| format!("| `{key}` | {} |", class.name()))
        .collect();
    assert_eq!(documented.len(), expected.len());
    for (documented, expected) in documented.iter().zip(&expected) {
        assert_eq!(**documented, expected);
    }
    for class in Class::ALL {
        let row = format!("\n| {} | ", class.name());
        assert!(text.contains(&row), "{row}");
    }
}
