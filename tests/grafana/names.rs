//! Names of metrics, and who uses them.

use std::collections::BTreeSet;

use crate::{files, read};

/// The metrics that `docs/metrics.md` lists: `tests/metrics_table.rs` holds it
/// against the registry.
pub(crate) fn documented() -> BTreeSet<String> {
    let rows = read("docs/metrics.md");
    let rows = rows.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| row.split('`').next())
        .filter(|name| name.starts_with("tidegate_") || name.starts_with("process_"))
        .map(ToOwned::to_owned)
        .collect()
}

/// What looks like a metric of ours in a text, without the suffixes of histograms.
pub(crate) fn used(text: &str) -> BTreeSet<String> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    words
        .filter(|word| word.starts_with("tidegate_") || word.starts_with("process_"))
        .map(|word| {
            let base = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|suffix| word.strip_suffix(suffix));
            base.unwrap_or(word).to_owned()
        })
        .collect()
}

#[test]
fn every_metric_that_is_used_is_documented() {
    let documented = documented();
    assert!(documented.len() > 40, "{documented:?}");
    let mut of = files("grafana/alerts", ".yaml");
    of.extend(files("grafana/alerts/tests", ".yaml"));
    of.extend(files("docs/runbooks", ".md"));
    of.extend(files("grafana/dashboards", ".json"));
    for file in of {
        for name in used(&read(&file)) {
            assert!(
                documented.contains(&name),
                "{file} uses {name}, which docs/metrics.md does not list"
            );
        }
    }
}

#[test]
fn every_runbook_that_the_table_links_is_there() {
    let page = read("docs/metrics.md");
    let runbooks = files("docs/runbooks", ".md");
    for link in page.split("(runbooks/").skip(1) {
        let name = link.split(')').next().unwrap_or_default();
        let file = format!("docs/runbooks/{name}");
        assert!(
            name.is_empty() || runbooks.contains(&file),
            "docs/metrics.md links {file}"
        );
    }
}
