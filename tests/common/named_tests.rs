//! The tests of this crate by name, for pages that promise a test for what they say.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

pub(crate) fn root() -> &'static Path {
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
pub(crate) fn tests_in(text: &str) -> BTreeSet<String> {
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
pub(crate) fn is_there(path: &str, files: &[(PathBuf, BTreeSet<String>)]) -> bool {
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

pub(crate) fn all_tests() -> Vec<(PathBuf, BTreeSet<String>)> {
    let files = ["src", "tests"].map(|folder| sources(&root().join(folder)));
    let read = |file: PathBuf| {
        let tests = tests_in(&fs::read_to_string(&file).expect("a source file"));
        (file, tests)
    };
    files.into_iter().flatten().map(read).collect()
}
