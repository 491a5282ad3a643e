//! The example file with everything in it that is commented out, and the same with
//! one mistake in it: at every key, of every kind.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::BTreeMap;

const EXAMPLE: &str = include_str!("../../configs/tidegate.toml");

/// What the example refers to. `secret` is a file with a secret in it.
pub(crate) const ENVIRONMENT: [(&str, &str); 4] = [
    ("ORDERS_PASSWORD", "pw"),
    ("ACME_ACCESS_KEY_ID", "AKIA"),
    ("ACME_SESSION_TOKEN", "token"),
    ("ACME_EXTERNAL_ID", "external"),
];

/// A file with one mistake in it.
#[derive(Debug)]
pub(crate) struct Broken {
    /// The key that is wrong, as a problem names it.
    pub(crate) key: String,
    /// Its line, counted from 1.
    pub(crate) line: usize,
    /// What is wrong, in two words.
    pub(crate) mistake: &'static str,
    /// The text of the file.
    pub(crate) text: String,
}

/// The example with everything in it; `secret` is a file that holds a secret.
pub(crate) fn whole_example(secret: &str) -> String {
    let active = |line: &str| match line.strip_prefix('#') {
        Some(key) if !key.is_empty() && !key.starts_with(' ') => format!("{key}\n"),
        Some(_) | None => format!("{line}\n"),
    };
    let text: String = EXAMPLE.lines().map(active).collect();
    text.replace("/run/secrets/acme_secret_access_key", secret)
}

/// Every key of it with its line, as a problem names it: `pipelines[0].name`.
fn keys(text: &str) -> Vec<(String, usize)> {
    let mut table = String::new();
    let mut lists: BTreeMap<String, usize> = BTreeMap::new();
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if let Some(name) = line.strip_prefix("[[") {
            let name = name.trim_end_matches("]]");
            let count = lists.entry(name.to_owned()).or_default();
            table = format!("{name}[{count}].");
            *count += 1;
        } else if let Some(name) = line.strip_prefix('[') {
            let name = name.trim_end_matches(']');
            let (first, rest) = name.split_once('.').unwrap_or((name, ""));
            table = match lists.get(first) {
                Some(count) => format!("{first}[{}].{rest}.", count - 1),
                None => format!("{name}."),
            };
        } else if let Some((key, _)) = line.split_once(" = ")
            && !line.starts_with('#')
        {
            found.push((format!("{table}{key}"), index + 1));
        }
    }
    found
}

/// The example, broken at every key: its value is of a wrong type, a key beside it
/// is unknown, and its line is no TOML.
pub(crate) fn at_every_key(secret: &str) -> Vec<Broken> {
    let example = whole_example(secret);
    let lines: Vec<&str> = example.lines().collect();
    let mut broken = Vec::new();
    for (key, line) in keys(&example) {
        let with = |replacement: String| {
            let (before, after) = (&lines[..line - 1], &lines[line..]);
            let text = [&before.join("\n"), &replacement, &after.join("\n")];
            text.map(String::as_str).join("\n")
        };
        let name = key.rsplit('.').next().expect("a key");
        let here = lines[line - 1];
        broken.push(Broken {
            text: with(format!("{name} = [\"hunter2\"]")),
            mistake: "wrong type",
            key: key.clone(),
            line,
        });
        broken.push(Broken {
            text: with(format!("{here}\n{name}_x = \"hunter2\"")),
            mistake: "unknown key",
            key: format!("{key}_x"),
            line: line + 1,
        });
        broken.push(Broken {
            text: with(format!("{name} = = \"hunter2\"")),
            mistake: "no TOML",
            key: String::new(),
            line,
        });
    }
    broken
}
