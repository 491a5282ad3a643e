//! Every query of every dashboard, asked of a real Prometheus that scrapes a relay
//! under load.

use std::time::Duration;

use serde_json::{Value, json};
use tidegate::demo::load::OutboxLoad;
use tokio::time::Instant;

use crate::alerts::alerts;
use crate::dashboards::{dashboards, panels, variables};
use crate::prometheus::{Prometheus, encoded};
use crate::scenario::PATIENCE;
use crate::world::World;

/// Panels that show nothing while all is well, and why.
const EMPTY_IN_HEALTH: [(&str, &str); 3] = [
    (
        "tidegate-overview: Streams in trouble",
        "only trouble has a value above 0",
    ),
    (
        "tidegate-database: Held past the retention",
        "no pipeline holds what is to go",
    ),
    (
        "tidegate-database: Rows removed",
        "no row has outlived its retention",
    ),
];

/// A query as Grafana would ask it, with all of every variable.
fn filled_in(query: &str) -> String {
    let query = query.replace("$__rate_interval", "5s");
    let names = [
        "instance", "tenant", "stream", "shard", "pipeline", "database",
    ];
    let filled = names.iter().fold(query, |query, name| {
        query.replace(&format!("${name}\""), ".*\"")
    });
    assert!(!filled.contains('$'), "a variable is left: {filled}");
    filled
}

/// What is still missing, each with why, but for panels that may be empty.
fn missing(prometheus: &Prometheus, may_be_empty: &[(&str, &str)]) -> Vec<String> {
    let mut missing = Vec::new();
    for (file, dashboard) in dashboards() {
        for panel in panels(&dashboard) {
            for query in &panel.queries {
                match prometheus.query(&filled_in(query)) {
                    Err(error) => panic!("{}: {query}\n{error}", panel.name),
                    Ok(values) if values.iter().any(|value| !value.is_nan()) => {}
                    Ok(_) if may_be_empty.iter().any(|(name, _)| *name == panel.name) => {}
                    Ok(values) => missing.push(format!("{}: {query}: {values:?}", panel.name)),
                }
            }
        }
        for (name, question) in variables(&dashboard) {
            let inner = question
                .strip_prefix("label_values(")
                .and_then(|rest| rest.strip_suffix(')'));
            let (series, label) = inner
                .and_then(|inner| inner.rsplit_once(", "))
                .unwrap_or_else(|| panic!("{file}: {name} asks {question}"));
            let asked = format!(
                "label/{label}/values?match[]={}",
                encoded(&filled_in(series))
            );
            let values = prometheus.api(&asked);
            let values = values.unwrap_or_else(|error| panic!("{file}: {name}: {error}"));
            if values.as_array().is_none_or(Vec::is_empty) {
                missing.push(format!("{file}: ${name} has no values"));
            }
        }
    }
    missing
}

/// Waits until every query has data, but for panels that may be empty.
async fn all_have_data(prometheus: &Prometheus, may_be_empty: &[(&str, &str)]) {
    let deadline = Instant::now() + 2 * PATIENCE;
    loop {
        let missing = missing(prometheus, may_be_empty);
        if missing.is_empty() {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "queries without data:\n{}\n{}",
            missing.join("\n"),
            prometheus.log()
        );
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// A stream that is missing, and rows that have outlived their retention: of an outbox
/// whose pipeline has settled them, and of one whose pipeline is disabled.
async fn bring_trouble(world: &World) {
    let missing = json!({"stream_name": "not-made-yet"});
    world.pipeline("visits", missing).await;
    world.publish("archive", "k", json!({})).await;
    world
        .sql(
            "UPDATE tide.outbox_message AS m SET created_at = m.created_at - interval '25 hours'
            FROM tide.outbox AS o WHERE o.outbox_id = m.outbox_id AND (o.name = 'archive'
                OR o.name = 'orders' AND m.id <= (SELECT min(id) + 50 FROM tide.outbox_message))",
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_returns_data_of_a_relay_under_load() {
    let world = World::new(2).await;
    world.pipeline("orders", json!({"tenant": "acme"})).await;
    world.pipeline("billing", json!({})).await;
    world.pipeline("archive", json!({})).await;
    world.sql("SELECT tide.relay_disable('archive')").await;
    let settings = [
        ("TIDEGATE__RETENTION__INTERVAL", "1s"),
        // One actor is started again, which is not enough for an alert.
        ("TIDEGATE_TEST_FAULTS", "probe.Answered=3:panic"),
    ];
    let relay = world.relay_with(&settings).await;
    let prometheus = Prometheus::start(relay.admin()).await;
    let of = |name: &str| OutboxLoad {
        rows_per_second: Some(100.0),
        ..OutboxLoad::new(name)
    };
    let load = world.load(vec![of("orders"), of("billing")], 7).await;
    all_have_data(&prometheus, &EMPTY_IN_HEALTH).await;
    the_rules_are_evaluated(&prometheus);
    nothing_fires(&prometheus);
    bring_trouble(&world).await;
    all_have_data(&prometheus, &[]).await;
    the_rules_are_evaluated(&prometheus);
    for query in [
        "open_window",
        "probe",
        "save_position",
        "claim",
        "retention_survey",
    ] {
        let calls = format!("tidegate_database_query_seconds_count{{query=\"{query}\"}} > 0");
        assert_eq!(
            prometheus.query(&calls).map(|values| values.len()),
            Ok(1),
            "{query}"
        );
    }
    world.settle(load).await;
    assert_eq!(relay.terminate().await, 0);
}

fn rules(prometheus: &Prometheus) -> Vec<Value> {
    let rules = prometheus.api("rules").expect("rules");
    let groups = rules["groups"].as_array().expect("groups").iter();
    let rules = groups.filter_map(|group| group["rules"].as_array());
    rules.flatten().cloned().collect()
}

/// The server evaluates every alert.
fn the_rules_are_evaluated(prometheus: &Prometheus) {
    let rules = rules(prometheus);
    assert_eq!(rules.len(), alerts().len());
    for rule in rules {
        assert_eq!(rule["health"], "ok", "{rule}");
    }
}

/// No alert fires at a relay that is well.
fn nothing_fires(prometheus: &Prometheus) {
    for rule in rules(prometheus) {
        assert_ne!(rule["state"], "firing", "{rule}");
    }
}

#[test]
fn what_may_be_empty_is_there() {
    let names: Vec<String> = dashboards()
        .iter()
        .flat_map(|(_, dashboard)| panels(dashboard))
        .map(|panel| panel.name)
        .collect();
    for (name, _) in EMPTY_IN_HEALTH {
        assert!(names.iter().any(|known| known == name), "no panel {name}");
    }
}
