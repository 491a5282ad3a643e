//! The shape of the source: which module may use which, what the core may not
//! name, and how long a file may be.
//!
//! ```text
//! core < config < { postgres, kinesis, admin/metrics, admin/status } < actors < admin < cli < main
//! ```
//!
//! A file may use what stands before it and its own group; the demo may use
//! anything, and nothing but `cli` and `main` may use the demo.
#![allow(clippy::expect_used, reason = "a test may fail by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

/// The longest a source file may be. A file that reaches it holds two nouns.
const MOST_LINES: usize = 500;

/// Names that stand for the outside: the core has none of them.
const OUTSIDE: [&str; 7] = [
    "actix",
    "tokio",
    "sqlx",
    "aws_",
    "prometheus",
    "SystemTime",
    "Instant",
];

/// A place in the order, and a group of files within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layer {
    rank: u8,
    group: &'static str,
}

/// The layer of a module, given by its path from the crate's root.
fn layer(module: &[&str]) -> Option<Layer> {
    let (rank, group) = match module {
        ["core", ..] => (0, "core"),
        ["config", ..] => (1, "config"),
        ["postgres", ..] => (2, "postgres"),
        ["kinesis", ..] => (2, "kinesis"),
        ["admin", "metrics" | "status", ..] => (2, "admin/metrics, admin/status"),
        ["actors", ..] => (3, "actors"),
        ["admin", ..] => (4, "admin"),
        ["demo", ..] => (5, "demo"),
        ["cli", ..] => (6, "cli"),
        ["main", ..] => (7, "main"),
        _ => return None,
    };
    Some(Layer { rank, group })
}

fn may_use(user: Layer, used: Layer) -> bool {
    user.group == used.group || used.rank < user.rank
}

fn sources(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// A file's text without its comment lines.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).expect("a source file");
    let is_code = |line: &&str| !line.trim_start().starts_with("//");
    text.lines()
        .filter(is_code)
        .map(|line| format!("{line}\n"))
        .collect()
}

/// A file's module path: `src/admin/metrics/shard.rs` is `admin`, `metrics`,
/// `shard`.
fn module_of(path: &Path) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let inside = path
        .strip_prefix(&root)
        .expect("a path in src")
        .with_extension("");
    let parts = inside
        .iter()
        .map(|part| part.to_string_lossy().into_owned());
    parts.filter(|part| part != "mod").collect()
}

/// The module paths, up to two steps long, that a text names after `crate::` or
/// `tidegate::`.
fn used_modules(code: &str) -> Vec<Vec<String>> {
    let starts = code
        .match_indices("crate::")
        .chain(code.match_indices("tidegate::"));
    starts
        .flat_map(|(start, marker)| tree_paths(&code[start + marker.len()..], 2))
        .collect()
}

/// The first `depth` steps of every path in a use tree that `text` begins with.
fn tree_paths(text: &str, depth: usize) -> Vec<Vec<String>> {
    let text = text.trim_start();
    if depth == 0 {
        return vec![Vec::new()];
    }
    if let Some(inside) = text.strip_prefix('{') {
        return branches(inside)
            .into_iter()
            .flat_map(|branch| tree_paths(branch, depth))
            .collect();
    }
    let end = text
        .find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let deeper = match rest.strip_prefix("::") {
        Some(rest) => tree_paths(rest, depth - 1),
        None => vec![Vec::new()],
    };
    let joined = |steps: Vec<String>| [vec![name.to_owned()], steps].concat();
    deeper.into_iter().map(joined).collect()
}

/// The branches of a use tree, given from behind its opening brace.
fn branches(inside: &str) -> Vec<&str> {
    let (mut depth, mut start, mut found) = (0_usize, 0, Vec::new());
    for (index, character) in inside.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => {
                found.push(inside[start..index].trim());
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                found.push(inside[start..index].trim());
                start = index + 1;
            }
            _ => {}
        }
    }
    found.retain(|branch| !branch.is_empty());
    found
}

/// Whether `word` stands in `code` where a name begins and, unless it ends in
/// an underscore, where a name ends.
fn names(code: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(start, _)| {
        let before = code[..start].chars().next_back();
        let after = code[start + word.len()..].chars().next();
        let ends = word.ends_with('_') || !after.is_some_and(is_part);
        !before.is_some_and(is_part) && ends
    })
}

#[test]
fn modules_use_only_what_stands_before_them() {
    let mut wrong = Vec::new();
    for path in sources("src") {
        let module = module_of(&path);
        let module: Vec<&str> = module.iter().map(String::as_str).collect();
        // The crate's root only lists its modules.
        if module == ["lib"] {
            continue;
        }
        let user = layer(&module).unwrap_or_else(|| panic!("{} has no layer", path.display()));
        for used in used_modules(&code(&path)) {
            let used: Vec<&str> = used.iter().map(String::as_str).collect();
            if let Some(used_layer) = layer(&used)
                && !may_use(user, used_layer)
            {
                wrong.push(format!("{} uses {}", path.display(), used.join("::")));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_core_names_nothing_of_the_outside() {
    let mut wrong = Vec::new();
    for path in sources("src/core") {
        let code = code(&path);
        for word in OUTSIDE.iter().filter(|word| names(&code, word)) {
            wrong.push(format!("{} names {word}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn files_are_short() {
    let mut long = Vec::new();
    for path in ["src", "tests", "benches"].into_iter().flat_map(sources) {
        let lines = fs::read_to_string(&path)
            .expect("a source file")
            .lines()
            .count();
        if lines > MOST_LINES {
            long.push(format!("{} has {lines} lines", path.display()));
        }
    }
    assert!(long.is_empty(), "{long:#?}");
}

#[test]
fn the_checks_themselves_see() {
    let code = "use crate::{actors::{self, Supervisor}, config, core::row::OutboxRow};\n\
                fn f() -> crate::admin::status::Phase {}";
    assert_eq!(
        used_modules(code),
        [
            vec!["actors", "self"],
            vec!["actors", "Supervisor"],
            vec!["config"],
            vec!["core", "row"],
            vec!["admin", "status"],
        ]
    );
    let at = |module: &[&str]| layer(module).expect("a layer");
    assert!(may_use(at(&["actors"]), at(&["admin", "metrics"])));
    assert!(may_use(at(&["admin", "server"]), at(&["actors"])));
    assert!(!may_use(at(&["actors"]), at(&["admin", "server"])));
    assert!(!may_use(at(&["kinesis"]), at(&["postgres"])));
    assert!(!may_use(at(&["core"]), at(&["config"])));
    assert!(names("use tokio::sync", "tokio") && names("aws_config::x", "aws_"));
    assert!(!names("Instantly", "Instant") && !names("my_tokio", "tokio"));
    assert!(sources("src").len() > 10);
}
