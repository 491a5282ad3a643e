//! The table of `docs/kinesis.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::named_tests::{all_tests, is_there, root};

const PAGE: &str = "docs/kinesis.md";

/// A line of the table: its number, the claim, its tests.
type Claim = (String, String, Vec<String>);

/// The page up to its table, and the lines of the table.
fn parts(page: &str) -> (&str, Vec<Claim>) {
    let (text, table) = page
        .split_once("\n## Tests of these claims\n")
        .expect("a table");
    let rows = table
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| # "));
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        assert_eq!(cells.len(), 3, "{line}");
        let tests = cells[2]
            .split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect();
        (cells[0].to_owned(), cells[1].to_owned(), tests)
    };
    (text, rows.map(row).collect())
}

/// The numbers in brackets of a text.
fn numbers(text: &str) -> BTreeSet<String> {
    let after = text
        .split('[')
        .skip(1)
        .filter_map(|rest| rest.split_once(']'));
    let numbers = after.map(|(inside, _)| inside);
    numbers
        .filter(|inside| inside.parse::<u32>().is_ok())
        .map(str::to_owned)
        .collect()
}

/// What is wrong with a page.
fn faults(page: &str) -> Vec<String> {
    let (text, rows) = parts(page);
    let files = all_tests();
    let mut wrong = Vec::new();
    let mut claims = BTreeMap::new();
    for (number, claim, tests) in rows {
        if tests.is_empty() {
            wrong.push(format!("claim {number} names no test"));
        }
        let missing = tests.iter().filter(|name| !is_there(name, &files));
        wrong.extend(missing.map(|name| format!("claim {number}: there is no test {name}")));
        if claims.insert(number.clone(), claim).is_some() {
            wrong.push(format!("claim {number} stands there twice"));
        }
    }
    let in_text = numbers(text);
    let in_table: BTreeSet<String> = claims.into_keys().collect();
    wrong.extend(
        in_text
            .difference(&in_table)
            .map(|n| format!("[{n}] is not in the table")),
    );
    wrong.extend(
        in_table
            .difference(&in_text)
            .map(|n| format!("[{n}] is not in the text")),
    );
    wrong
}

#[test]
fn every_claim_of_the_page_has_a_test_that_exists() {
    let page = fs::read_to_string(root().join(PAGE)).expect("the page");
    assert!(parts(&page).1.len() >= 25, "the table is short");
    let wrong = faults(&page);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_check_sees_each_fault() {
    let page = "It flies [1]. It sings [3].\n## Tests of these claims\n\
        | # | claim | test |\n|---|---|---|\n\
        | 1 | it flies | `no_such_test` |\n\
        | 1 | it flies | none |\n\
        | 2 | it swims | `the_check_sees_each_fault` |\n";
    assert_eq!(
        faults(page),
        [
            "claim 1: there is no test no_such_test",
            "claim 1 names no test",
            "claim 1 stands there twice",
            "[3] is not in the table",
            "[2] is not in the text",
        ]
    );
}

/// The parameters of the page that the project was asked to make true, and the
/// errors it speaks of.
#[test]
fn the_page_has_each_parameter_and_each_error() {
    let page = fs::read_to_string(root().join(PAGE)).expect("the page");
    let parameters = [
        "sink_type",
        "stream_name",
        "region",
        "partition_key",
        "access_key_id",
        "secret_access_key",
        "batch_size",
    ];
    for parameter in parameters {
        assert!(
            page.contains(&format!("\n| `{parameter}` |")),
            "no row for {parameter}"
        );
    }
    for error in [
        "Stream not found",
        "ProvisionedThroughputExceededException",
        "Access Denied",
    ] {
        assert!(
            page.contains(&format!("\n### \"{error}\"\n")),
            "no section for {error}"
        );
    }
}
