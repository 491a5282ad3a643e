//! `docs/configuration.md` is made of what the program knows: the keys it asks for,
//! what it says of a value that is wrong, and the explanations of
//! `configs/tidegate.toml`.
//!
//! After a change of either: `WRITE_DOCS=1 cargo test --features demo --test reference`
//! writes the page anew.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Value, json};
use tidegate::config::{ConfigError, Environment, Settings};

use crate::page;

const PAGE: &str = "docs/configuration.md";

const HEAD: &str = "# Configuration reference

Every key of the configuration file. This page is generated from the program and from
[`configs/tidegate.toml`](../configs/tidegate.toml), and a test checks it.

Defaults come first, then the file (`--config`, or `TIDEGATE_CONFIG`), then the environment.
A variable is `TIDEGATE__`, the section and the key, with two underscores between them; keys of
lists (`[[...]]`) have none. With `DATABASE_URL` and the usual AWS environment no file is needed.
Durations and sizes need a unit (`50ms`, `64MiB`). Unknown keys are refused; `tidegate validate`
names everything that is wrong, with its line. What a reload does with each key:
[configuration-reload.md](configuration-reload.md).

The keys of a pipeline are the same in `tide.relay_set_outbox()` from `sink_type` on, except
`endpoint_url`, which only the file may have.
";

/// What the example says of a key.
struct Explained {
    meaning: String,
    value: String,
    is_default: bool,
}

/// The name of a section in an example's line, and whether it is one of a list.
fn section(line: &str) -> Option<String> {
    let line = line.strip_prefix('#').unwrap_or(line);
    if let Some(name) = line.strip_prefix("[[") {
        return Some(format!("{}[]", name.strip_suffix("]]")?));
    }
    let name = line.strip_prefix('[')?.strip_suffix(']')?;
    let lists = ["streams.", "pipelines."];
    let in_list = lists.iter().find_map(|list| {
        let rest = name.strip_prefix(list)?;
        Some(format!("{}[].{rest}", list.trim_end_matches('.')))
    });
    Some(in_list.unwrap_or_else(|| name.to_owned()))
}

/// Every key of the example by its path.
fn explained() -> BTreeMap<String, Explained> {
    let mut found = BTreeMap::new();
    let (mut place, mut meaning, mut was_key) = (String::new(), String::new(), false);
    for line in page("configs/tidegate.toml").lines() {
        if line.is_empty() || line.starts_with("# ===") {
            meaning.clear();
            was_key = false;
        } else if let Some(words) = line.strip_prefix("# ") {
            if was_key {
                meaning.clear();
                was_key = false;
            }
            meaning.push_str(words);
            meaning.push(' ');
        } else if let Some(name) = section(line) {
            meaning.clear();
            place = name;
        } else if let Some((key, value)) = line.split_once(" = ") {
            let explained = Explained {
                meaning: meaning.trim().to_owned(),
                value: value.to_owned(),
                is_default: !key.starts_with('#'),
            };
            found.insert(
                format!("{place}.{}", key.trim_start_matches('#')),
                explained,
            );
            was_key = true;
        }
    }
    found
}

/// Settings with nothing but one value, at this path.
fn with(path: &str, value: &Value) -> Value {
    let Some((first, rest)) = path.split_once('.') else {
        return json!({path: value});
    };
    let inner = with(rest, value);
    match first.strip_suffix("[]") {
        Some(list) => json!({list: [inner]}),
        None => json!({first: inner}),
    }
}

/// What the program says it expects at a key, of the first value it refuses there.
fn accepted(path: &str) -> String {
    let at = path.replace("[]", "[0]");
    for wrong in [json!("?! ?"), json!([1])] {
        let text = toml(&with(path, &wrong));
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("tidegate.toml");
        std::fs::write(&file, text).expect("written");
        let environment = Environment::from_iter([("DATABASE_URL", "postgres://localhost/app")]);
        let problems = match Settings::load(Some(&file), environment) {
            Ok(_) => Vec::new(),
            Err(ConfigError::Invalid(problems)) => problems,
            Err(ConfigError::File { path, reason }) => panic!("{path}: {reason}"),
        };
        let problem = problems.into_iter().find(|problem| problem.key == at);
        if let Some(problem) = problem {
            // What a parser adds is about the wrong value.
            let parser = |text: &str| text.split(" (").next().map(str::to_owned);
            let expected = problem.expected;
            let is_parsed =
                expected.starts_with("a key template") || expected.starts_with("directives");
            return if is_parsed {
                parser(&expected).expect("a part")
            } else {
                expected
            };
        }
    }
    panic!("{path} takes everything");
}

/// A tree of one member each as inline TOML.
fn toml(value: &Value) -> String {
    fn inline(value: &Value) -> String {
        match value {
            Value::Object(members) => {
                let members = members
                    .iter()
                    .map(|(key, value)| format!("{key} = {}", inline(value)));
                format!("{{ {} }}", members.collect::<Vec<_>>().join(", "))
            }
            Value::Array(list) => {
                format!(
                    "[{}]",
                    list.iter().map(inline).collect::<Vec<_>>().join(", ")
                )
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.to_string(),
        }
    }
    let members = value.as_object().into_iter().flatten();
    members
        .map(|(key, value)| format!("{key} = {}\n", inline(value)))
        .collect()
}

/// The section a key belongs to, and the key in it.
fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('.').expect("a key in a section")
}

fn heading(section: &str) -> String {
    match section.split_once("[]") {
        Some((list, "")) => format!("{list}\n\n`[[{list}]]`"),
        Some((list, rest)) => {
            let name = format!("{list}{rest}");
            format!("{name}\n\n`[{name}]`, of the `[[{list}]]` before it")
        }
        None => format!("{section}\n\n`[{section}]`"),
    }
}

fn generated() -> String {
    let explained = explained();
    let known = Settings::known_keys();
    // A path that others lie under is a section, not a key.
    let is_section = |path: &str| {
        let parts = [format!("{path}."), format!("{path}[].")];
        known
            .iter()
            .any(|other| parts.iter().any(|part| other.starts_with(part.as_str())))
    };
    let mut sections: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for path in known.iter().filter(|path| !is_section(path)) {
        let (section, key) = split(path);
        sections.entry(section).or_default().push(key);
    }
    let mut text = HEAD.to_owned();
    for (section, keys) in sections {
        let heading = heading(section);
        write!(
            text,
            "\n## {heading}\n\n| key | takes | default | meaning |\n|---|---|---|---|\n"
        )
        .expect("written");
        for key in keys {
            let path = format!("{section}.{key}");
            let example = explained.get(&path);
            let variable = if section.contains("[]") {
                String::new()
            } else {
                format!("<br>`TIDEGATE__{}`", path.replace('.', "__").to_uppercase())
            };
            let (default, meaning) = match example {
                Some(one) if one.is_default => (format!("`{}`", one.value), one.meaning.as_str()),
                Some(one) => (format!("such as `{}`", one.value), one.meaning.as_str()),
                None => (String::new(), "see the key that it belongs to"),
            };
            let row =
                [accepted(&path), default, meaning.to_owned()].map(|cell| cell.replace('|', "\\|"));
            writeln!(text, "| `{key}`{variable} | {} |", row.join(" | ")).expect("written");
        }
    }
    text
}

#[test]
fn the_page_of_the_configuration_is_what_the_program_says() {
    let generated = generated();
    if std::env::var_os("WRITE_DOCS").is_some() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
        std::fs::write(path, &generated).expect("written");
    }
    let written = page(PAGE);
    let differs = generated
        .lines()
        .zip(written.lines())
        .find(|(new, old)| new != old);
    assert!(
        generated == written,
        "{PAGE} is out of date: run WRITE_DOCS=1 cargo test --features demo --test reference; \
         the first difference: {differs:#?}"
    );
}

/// No key goes without an explanation and what it takes.
#[test]
fn every_key_is_explained() {
    let text = generated();
    let mut keys = 0;
    for line in text.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        assert_eq!(cells.len(), 4, "{line}");
        assert!(!cells[1].is_empty(), "{line}");
        assert!(
            !cells[3].is_empty(),
            "no explanation in configs/tidegate.toml: {line}"
        );
        keys += 1;
    }
    assert!(keys > 50, "{keys} keys");
}
