//! What the page calls trouble is what wakes somebody.

use std::fs;

use tidegate::admin::server::LIVE_WITHIN;

fn text(path: &str) -> String {
    let path = format!("{}/{path}", env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The value of a constant of the page.
fn constant(script: &str, name: &str) -> String {
    let begin = format!("export const {name} = ");
    let line = script.lines().find_map(|line| line.strip_prefix(&begin));
    let value = line.unwrap_or_else(|| panic!("no {name}"));
    value.trim_end_matches(';').to_owned()
}

#[test]
fn the_bounds_of_the_page_are_those_of_the_alerts() {
    let script = text("src/admin/page/findings.js");
    let alerts = text("grafana/alerts/tidegate.yaml");
    let minutes = constant(&script, "RESTARTS_SECONDS");
    assert_eq!(minutes, "15 * 60");
    for (alert, bound) in [
        (
            "max by (database, pipeline, tenant, stream) (tidegate_lag_oldest_seconds) > ",
            "OLD_SECONDS",
        ),
        (
            "max by (stream, shard) (sum by (stream, shard, resource) (tidegate_shard_budget_utilisation_ratio)) > ",
            "NEAR_BUDGET",
        ),
        (
            "sum by (instance, actor) (increase(tidegate_actor_restarts_total[15m])) > ",
            "MANY_RESTARTS",
        ),
    ] {
        let expected = format!("{alert}{}\n", constant(&script, bound));
        assert!(alerts.contains(&expected), "no alert has {expected}");
    }
    let silent = constant(&script, "SILENT_SECONDS");
    assert_eq!(silent, LIVE_WITHIN.as_secs().to_string());
}

#[test]
fn every_runbook_that_the_page_names_is_there() {
    let script = text("src/admin/page/findings.js");
    let names: Vec<&str> = script
        .split('"')
        .filter(|word| word.starts_with("Tidegate"))
        .collect();
    assert!(names.len() > 10, "{names:?}");
    for name in names {
        text(&format!("docs/runbooks/{name}.md"));
    }
}
