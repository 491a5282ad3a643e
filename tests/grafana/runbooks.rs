//! The runbooks: one for each alert, whole, with SQL that runs.

use crate::alerts::alerts;
use crate::world::World;
use crate::{files, path, read};

#[test]
fn every_runbook_is_of_an_alert_and_whole() {
    let alerts = alerts();
    for file in files("docs/runbooks", ".md") {
        let name = file
            .trim_start_matches("docs/runbooks/")
            .trim_end_matches(".md");
        assert!(alerts.contains_key(name), "{file} is of no alert");
        let text = read(&file);
        for part in ["## What it means", "## What to look at", "## What to do"] {
            let (_, after) = text
                .split_once(part)
                .unwrap_or_else(|| panic!("{file}: no {part}"));
            let body = after.split("\n## ").next().unwrap_or_default();
            assert!(body.trim().len() > 60, "{file}: {part} says nothing");
        }
        for link in text.split("](").skip(1) {
            let to = link.split([')', '#']).next().unwrap_or_default();
            let to = path("docs/runbooks").join(to);
            assert!(to.is_file(), "{file} links {}", to.display());
        }
    }
}

/// `O` and `P` stand for an outbox and a pipeline.
#[tokio::test(flavor = "multi_thread")]
async fn the_queries_of_the_runbooks_run() {
    let world = World::new(1).await;
    world.outbox("O").await;
    world.set_pipeline("P", "O", serde_json::json!({})).await;
    let mut queries = 0;
    for file in files("docs/runbooks", ".md") {
        for block in read(&file).split("```sql\n").skip(1) {
            let sql = block.split("```").next().unwrap_or_default();
            assert!(sql.trim_start().starts_with("SELECT"), "{file}: {sql}");
            world.sql(sql).await;
            queries += 1;
        }
    }
    assert!(queries >= 5, "{queries} queries found");
}
