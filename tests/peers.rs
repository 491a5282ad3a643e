//! `docs/failures-of-peers.md` promises a test for each failure of others: every
//! test it names exists, every test of `peers::` is named there, and what has none
//! says with what it comes.
#![allow(clippy::expect_used, reason = "a test may fail by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const PAGE: &str = "docs/failures-of-peers.md";

/// What a line without a test says.
const LATER: &str = "comes with ";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// The names of the test functions in a text.
fn tests_in(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut is_marked = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with("#[test") || line.starts_with("#[tokio::test") {
            is_marked = true;
        } else if !line.starts_with("#[") && is_marked {
            is_marked = false;
            let signature = line.strip_prefix("async ").unwrap_or(line);
            let name = signature
                .strip_prefix("fn ")
                .and_then(|rest| rest.split('(').next());
            found.extend(name.map(str::to_owned));
        }
    }
    found
}

/// Where a test may stand, from its path: its module's file, or any file.
fn is_there(path: &str, files: &[(PathBuf, BTreeSet<String>)]) -> bool {
    let mut steps: Vec<&str> = path.split("::").collect();
    let name = steps.pop().expect("a name");
    steps.retain(|step| *step != "tests");
    let in_module = |file: &Path| {
        let mut parts: Vec<String> = file
            .with_extension("")
            .iter()
            .map(|part| part.to_string_lossy().into_owned())
            .collect();
        parts.retain(|part| part != "tests");
        steps.is_empty()
            || parts.ends_with(
                &steps
                    .iter()
                    .map(|step| (*step).to_owned())
                    .collect::<Vec<_>>(),
            )
    };
    files
        .iter()
        .any(|(file, tests)| in_module(file) && tests.contains(name))
}

fn all_tests() -> Vec<(PathBuf, BTreeSet<String>)> {
    let files = ["src", "tests"].map(|folder| sources(&root().join(folder)));
    let read = |file: PathBuf| {
        let tests = tests_in(&fs::read_to_string(&file).expect("a source file"));
        (file, tests)
    };
    files.into_iter().flatten().map(read).collect()
}

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
