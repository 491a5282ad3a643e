//! The alert rules and their tests, run by `promtool`.

use std::collections::BTreeMap;
use std::process::Command;

use crate::{files, path, read};

const RULES: &str = "grafana/alerts/tidegate.yaml";

/// The value behind `key: ` of a line, if it is of that key.
fn value<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let line = line.trim_start().trim_start_matches("- ");
    line.strip_prefix(key)?.strip_prefix(": ")
}

/// Each alert with the lines of its rule.
pub(crate) fn alerts() -> BTreeMap<String, Vec<String>> {
    let mut alerts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut current = None;
    for line in read(RULES).lines() {
        if let Some(name) = value(line, "alert") {
            let is_new = alerts.insert(name.to_owned(), Vec::new()).is_none();
            assert!(is_new, "{RULES} has {name} twice");
            current = Some(name.to_owned());
        }
        if let Some(lines) = current.as_ref().and_then(|name| alerts.get_mut(name)) {
            lines.push(line.to_owned());
        }
    }
    assert!(alerts.len() >= 15, "{alerts:?}");
    alerts
}

fn promtool(arguments: &[&str]) -> String {
    let output = Command::new("promtool")
        .args(arguments)
        .current_dir(path("grafana/alerts"))
        .output()
        .expect("promtool, which `make deps` installs");
    let (out, err) = (&output.stdout, &output.stderr);
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(out),
        String::from_utf8_lossy(err)
    );
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
    said
}

#[test]
fn promtool_accepts_the_rules() {
    let said = promtool(&["check", "rules", "tidegate.yaml"]);
    let count = format!("{} rules found", alerts().len());
    assert!(said.contains(&count), "{said}");
}

#[test]
fn every_alert_fires_and_stays_silent_where_it_should() {
    let tests = files("grafana/alerts/tests", ".yaml");
    let mut cases: BTreeMap<String, [usize; 2]> = BTreeMap::new();
    for file in &tests {
        let mut current = String::new();
        for line in read(file).lines() {
            if let Some(name) = value(line, "alertname") {
                name.clone_into(&mut current);
            }
            if line.trim_start().starts_with("exp_alerts:") {
                let is_silent = line.trim_end().ends_with("[]");
                cases.entry(current.clone()).or_default()[usize::from(is_silent)] += 1;
            }
        }
    }
    for alert in alerts().keys() {
        let [firing, silent] = cases.remove(alert).unwrap_or_default();
        assert!(
            firing > 0 && silent > 0,
            "grafana/alerts/tests has {firing} cases in which {alert} fires and {silent} in which it is silent: each needs one"
        );
    }
    assert!(
        cases.is_empty(),
        "cases of alerts that are not there: {cases:?}"
    );
    let relative = tests
        .iter()
        .map(|file| file.trim_start_matches("grafana/alerts/"));
    let arguments: Vec<&str> = ["test", "rules"].into_iter().chain(relative).collect();
    let said = promtool(&arguments);
    assert_eq!(said.matches("SUCCESS").count(), tests.len(), "{said}");
}

#[test]
fn every_alert_says_how_bad_it_is_and_where_to_read_on() {
    for (alert, lines) in alerts() {
        let one = |key: &str| {
            let mut values = lines.iter().filter_map(|line| value(line, key));
            let found = values.next();
            found
                .unwrap_or_else(|| panic!("{RULES}: {alert} has no {key}"))
                .to_owned()
        };
        let severity = one("severity");
        assert!(
            ["critical", "warning"].contains(&severity.as_str()),
            "{alert}: {severity}"
        );
        assert!(
            !one("summary").is_empty() && !one("description").is_empty(),
            "{alert}"
        );
        let runbook = one("runbook_url");
        assert_eq!(runbook, format!("docs/runbooks/{alert}.md"), "{alert}");
        assert!(path(&runbook).is_file(), "{alert} has no page {runbook}");
        let row = format!("| [{alert}](runbooks/{alert}.md) | {severity} |");
        assert!(
            read("docs/dashboards.md").contains(&row),
            "docs/dashboards.md has no row {row}"
        );
    }
}
