//! Every query of every dashboard, asked of a real Prometheus that scrapes a relay
//! under load.

use std::time::Duration;

use serde_json::json;
use tidegate::demo::load::OutboxLoad;
use tokio::time::Instant;

use crate::alerts::alerts;
use crate::dashboards::{dashboards, panels, variables};
use crate::prometheus::{Prometheus, encoded};
use crate::scenario::PATIENCE;
use crate::world::World;

/// Panels that show nothing while all is well, and why. Their queries must be
/// understood all the same.
const EMPTY_IN_HEALTH: [(&str, &str); 4] = [
    (
        "tidegate-overview: Streams in trouble",
        "only trouble has a value above 0",
    ),
    (
        "tidegate-overview: Restarts of actors",
        "no actor was restarted",
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

/// What is still missing, each with why.
fn missing(prometheus: &Prometheus) -> Vec<String> {
    let mut missing = Vec::new();
    for (file, dashboard) in dashboards() {
        for panel in panels(&dashboard) {
            for query in &panel.queries {
                match prometheus.query(&filled_in(query)) {
                    Err(error) => panic!("{}: {query}\n{error}", panel.name),
                    Ok(values) if values.iter().any(|value| !value.is_nan()) => {}
                    Ok(_) if EMPTY_IN_HEALTH.iter().any(|(name, _)| *name == panel.name) => {}
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

#[tokio::test(flavor = "multi_thread")]
async fn every_query_returns_data_of_a_relay_under_load() {
    let world = World::new(2).await;
    world.pipeline("orders", json!({"tenant": "acme"})).await;
    world.pipeline("billing", json!({})).await;
    let relay = world
        .relay_with(&[("TIDEGATE__RETENTION__INTERVAL", "1s")])
        .await;
    let prometheus = Prometheus::start(relay.admin()).await;
    let of = |name: &str| OutboxLoad {
        rows_per_second: Some(100.0),
        ..OutboxLoad::new(name)
    };
    let load = world.load(vec![of("orders"), of("billing")], 7).await;
    let deadline = Instant::now() + 2 * PATIENCE;
    loop {
        let missing = missing(&prometheus);
        if missing.is_empty() {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "queries without data:\n{}\n{}",
            missing.join("\n"),
            prometheus.log()
        );
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    the_rules_are_well(&prometheus);
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

/// The server evaluates every alert, and none fires at a relay that is well.
fn the_rules_are_well(prometheus: &Prometheus) {
    let rules = prometheus.api("rules").expect("rules");
    let groups = rules["groups"].as_array().expect("groups").iter();
    let rules: Vec<_> = groups
        .filter_map(|group| group["rules"].as_array())
        .flatten()
        .collect();
    assert_eq!(rules.len(), alerts().len());
    for rule in rules {
        assert_eq!(rule["health"], "ok", "{rule}");
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
