//! `docs/sql.md` against the catalog: every function that a role may be given has its
//! entry with the signature PostgreSQL knows, and nothing else has.

use std::collections::BTreeSet;

use crate::{database, page};

const PAGE: &str = "docs/sql.md";

/// The signatures of what publishers, operators and readers may call.
async fn signatures() -> BTreeSet<String> {
    let pool = database::migrated().await;
    let rows: Vec<String> = sqlx::query_scalar(
        "SELECT DISTINCT format('tide.%s(%s) RETURNS %s', p.proname,
            pg_get_function_arguments(p.oid), pg_get_function_result(p.oid))
        FROM tide.role_rights() AS r
        JOIN pg_proc AS p ON r.object = p.proname || '()'
        WHERE p.pronamespace = 'tide'::regnamespace AND r.privileges LIKE 'EXECUTE%'
            AND string_to_array(r.role, ' ') && '{tide_publisher,tide_operator,tide_reader}'",
    )
    .fetch_all(&pool)
    .await
    .expect("signatures");
    rows.into_iter().collect()
}

/// The signatures of the page: the heading's, and the lines of its last table.
fn documented(page: &str) -> BTreeSet<String> {
    let lines = page.lines().filter_map(|line| {
        line.strip_prefix("    tide.")
            .or_else(|| line.strip_prefix("| `tide."))
    });
    let signature = |line: &str| format!("tide.{}", line.split('`').next().unwrap_or(line));
    lines.map(signature).collect()
}

#[tokio::test]
async fn every_function_of_the_schema_has_its_entry() {
    let (known, documented) = (signatures().await, documented(&page(PAGE)));
    let missing: Vec<&String> = known.difference(&documented).collect();
    let gone: Vec<&String> = documented.difference(&known).collect();
    assert!(known.len() > 30, "{known:#?}");
    assert!(
        missing.is_empty() && gone.is_empty(),
        "{PAGE} lacks {missing:#?}, and has what the schema has not: {gone:#?}"
    );
}

#[test]
fn every_entry_says_what_it_does_who_may_and_how_it_fails() {
    let page = page(PAGE);
    let entries: Vec<&str> = page.split("\n### ").skip(1).collect();
    assert!(entries.len() > 20, "{}", entries.len());
    for entry in entries {
        let entry = entry.split("\n## ").next().unwrap_or(entry);
        assert!(entry.contains("\n    tide."), "no signature: {entry}");
        assert!(entry.contains("Errors: "), "no errors: {entry}");
        assert!(entry.contains("`tide_"), "not said for whom: {entry}");
    }
}
