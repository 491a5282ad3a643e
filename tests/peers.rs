//! `docs/failures-of-peers.md` promises a test for each failure of others: every
//! test it names exists, every test of `peers::` is named there, and what has none
//! says with what it comes.
#![allow(clippy::expect_used, reason = "a test may fail by panicking")]

use std::collections::BTreeSet;
use std::fs;

#[path = "common/named_tests.rs"]
mod named_tests;

use named_tests::{all_tests, is_there, root, tests_in};

const PAGE: &str = "docs/failures-of-peers.md";

/// What a line without a test says.
const LATER: &str = "comes with ";

/// The second column of each line of the page's tables.
fn answers() -> Vec<String> {
    let page = fs::read_to_string(root().join(PAGE)).expect("the page");
    let rows = page.lines().filter(|line| line.starts_with("| "));
    let rows = rows.filter(|line| !line.starts_with("| elsewhere"));
    let answer = |line: &str| {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").collect();
        assert_eq!(cells.len(), 2, "{line}");
        cells[1].trim().to_owned()
    };
    rows.map(answer).collect()
}

fn named_in(answer: &str) -> Vec<&str> {
    answer.split('`').skip(1).step_by(2).collect()
}

#[test]
fn every_test_the_page_names_exists() {
    let files = all_tests();
    let answers = answers();
    assert!(answers.len() > 30, "{} lines", answers.len());
    let mut wrong = Vec::new();
    for answer in &answers {
        let names = named_in(answer);
        if names.is_empty() && !answer.starts_with(LATER) {
            wrong.push(format!("{answer:?} names no test"));
        }
        wrong.extend(
            names
                .into_iter()
                .filter(|name| !is_there(name, &files))
                .map(|name| format!("there is no test {name}")),
        );
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_test_of_a_peers_failure_is_on_the_page() {
    let answers = answers();
    let named: BTreeSet<&str> = answers.iter().flat_map(|answer| named_in(answer)).collect();
    let mut missing = Vec::new();
    for module in ["reading", "writing", "running"] {
        let file = root().join(format!("tests/end_to_end/peers/{module}.rs"));
        let tests = tests_in(&fs::read_to_string(file).expect("a test file"));
        assert!(!tests.is_empty(), "{module}");
        let paths = tests.iter().map(|test| format!("peers::{module}::{test}"));
        missing.extend(paths.filter(|path| !named.contains(path.as_str())));
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn the_checks_themselves_see() {
    let text = "#[tokio::test(flavor = \"multi_thread\")]\nasync fn one() {\n}\n\
                fn none() {}\n#[test]\n#[ignore]\nfn two() {}";
    let names: Vec<String> = tests_in(text).into_iter().collect();
    assert_eq!(names, ["one", "two"]);
    let files = all_tests();
    assert!(is_there(
        "peers::reading::skip_locked_leaves_dead_rows",
        &files
    ));
    assert!(!is_there("order::skip_locked_leaves_dead_rows", &files));
    assert!(!is_there("no_such_test", &files));
    assert!(is_there(
        "core::send_queue::tests::the_second_partial_failure_in_a_row_sends_the_right_records_again",
        &files
    ));
}
