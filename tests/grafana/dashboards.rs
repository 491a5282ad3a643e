//! The dashboards as files: whole, told apart, and every panel says what to do.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::{files, read};

/// A panel that asks something.
pub(crate) struct Panel {
    /// Its dashboard's uid and its title.
    pub(crate) name: String,
    pub(crate) queries: Vec<String>,
    shown: Value,
}

pub(crate) fn dashboards() -> Vec<(String, Value)> {
    let files = files("grafana/dashboards", ".json").into_iter();
    let parsed = files.map(|file| {
        let dashboard = serde_json::from_str(&read(&file));
        let dashboard = dashboard.unwrap_or_else(|error| panic!("{file}: {error}"));
        (file, dashboard)
    });
    parsed.collect()
}

fn text<'a>(of: &'a Value, key: &str) -> &'a str {
    of[key].as_str().unwrap_or_default()
}

fn list(of: &Value) -> impl Iterator<Item = &Value> {
    of.as_array().into_iter().flatten()
}

pub(crate) fn panels(dashboard: &Value) -> Vec<Panel> {
    let asking = list(&dashboard["panels"]).filter(|panel| panel["type"] != "row");
    let panels = asking.map(|panel| Panel {
        name: format!("{}: {}", text(dashboard, "uid"), text(panel, "title")),
        queries: list(&panel["targets"])
            .map(|target| text(target, "expr").to_owned())
            .collect(),
        shown: panel.clone(),
    });
    panels.collect()
}

/// The variables that ask the data source: name and question.
pub(crate) fn variables(dashboard: &Value) -> Vec<(String, String)> {
    let all = list(&dashboard["templating"]["list"]);
    let asking = all.filter(|variable| variable["type"] == "query");
    asking
        .map(|variable| {
            (
                text(variable, "name").to_owned(),
                text(&variable["query"], "query").to_owned(),
            )
        })
        .collect()
}

#[test]
fn every_dashboard_is_told_apart_and_takes_its_variables() {
    let dashboards = dashboards();
    assert!(dashboards.len() >= 4);
    let mut uids = BTreeSet::new();
    let mut titles = BTreeSet::new();
    for (file, dashboard) in &dashboards {
        let uid = text(dashboard, "uid");
        assert_eq!(
            *file,
            format!("grafana/dashboards/{uid}.json"),
            "the file is named by the uid"
        );
        assert!(uids.insert(uid), "{file}: {uid} is taken");
        assert!(
            titles.insert(text(dashboard, "title")),
            "{file}: its title is taken"
        );
        assert!(
            dashboard.get("id").is_none_or(Value::is_null),
            "{file}: id is of one server"
        );
        let variables = list(&dashboard["templating"]["list"]);
        let names: BTreeSet<&str> = variables.map(|variable| text(variable, "name")).collect();
        for name in ["datasource", "instance", "stream"] {
            assert!(names.contains(name), "{file} has no variable {name}");
        }
        let whole = dashboard.to_string();
        for name in names {
            let uses = [format!("${name}\\\""), format!("${{{name}}}")];
            let is_used = uses.iter().any(|form| whole.contains(form.as_str()));
            assert!(is_used, "{file}: nothing uses ${name}");
        }
    }
}

#[test]
fn every_panel_says_what_to_do() {
    for (file, dashboard) in dashboards() {
        let mut ids = BTreeSet::new();
        let panels = panels(&dashboard);
        assert!(panels.len() >= 10, "{file}");
        for panel in panels {
            let Panel {
                name,
                queries,
                shown,
            } = &panel;
            assert!(ids.insert(shown["id"].as_i64()), "{name}: its id is taken");
            assert!(
                text(shown, "description").len() > 30,
                "{name} has no description"
            );
            let defaults = &shown["fieldConfig"]["defaults"];
            assert!(!text(defaults, "unit").is_empty(), "{name} has no unit");
            assert!(
                list(&defaults["thresholds"]["steps"]).count() > 0,
                "{name} has no thresholds"
            );
            assert!(!queries.is_empty(), "{name} asks nothing");
            for query in queries {
                let ranges = query.matches('[').count();
                assert_eq!(
                    query.matches("[$__rate_interval]").count(),
                    ranges,
                    "{name}: a rate is over $__rate_interval: {query}"
                );
                assert!(
                    query.contains("$instance"),
                    "{name}: {query} is not of $instance"
                );
            }
            for target in list(&shown["targets"]) {
                assert_eq!(target["datasource"]["uid"], "${datasource}", "{name}");
            }
        }
    }
}

/// The runbooks that panels name.
#[test]
fn every_runbook_that_a_panel_names_is_there() {
    let runbooks = files("docs/runbooks", ".md");
    let mut named = 0;
    for (file, dashboard) in dashboards() {
        for part in dashboard.to_string().split("unbook Tidegate").skip(1) {
            let end = part.find(|letter: char| !letter.is_ascii_alphanumeric());
            let name = &part[..end.unwrap_or(part.len())];
            let page = format!("docs/runbooks/Tidegate{name}.md");
            assert!(runbooks.contains(&page), "{file} names {page}");
            named += 1;
        }
    }
    assert!(named >= 8, "{named}");
}
