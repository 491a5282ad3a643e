//! As much of YAML as the files here use: block mappings and lists, lists in
//! brackets, quoted and plain texts, `|`. Anything else is refused, so that nothing is
//! read differently from how Compose reads it.

use serde_json::{Map, Value};

struct Lines<'a> {
    lines: Vec<&'a str>,
    next: usize,
}

/// The document; every scalar is a text.
pub(crate) fn parse(text: &str) -> Value {
    let mut lines = Lines {
        lines: text.lines().collect(),
        next: 0,
    };
    let value = block(&mut lines, 0);
    assert_eq!(lines.peek(), None, "indented less than it began");
    value
}

impl<'a> Lines<'a> {
    /// The next line that says something: its indentation and its text.
    fn peek(&mut self) -> Option<(usize, &'a str)> {
        while let Some(line) = self.lines.get(self.next) {
            let text = line.trim();
            if !text.is_empty() && !text.starts_with('#') {
                return Some((line.len() - line.trim_start().len(), text));
            }
            self.next += 1;
        }
        None
    }
}

fn block(lines: &mut Lines<'_>, indentation: usize) -> Value {
    let mut map = Map::new();
    let mut list = Vec::new();
    while let Some((at, text)) = lines.peek() {
        if at < indentation {
            break;
        }
        assert_eq!(at, indentation, "a strange indentation: {text}");
        lines.next += 1;
        if let Some(item) = text.strip_prefix("- ") {
            list.push(scalar(lines, at, item));
            continue;
        }
        let (key, rest) = text.split_once(':').expect(text);
        let rest = rest.trim();
        let value = match lines.peek() {
            Some((deeper, _)) if rest.is_empty() && deeper > at => block(lines, deeper),
            _ => scalar(lines, at, rest),
        };
        let twice = map.insert(key.to_owned(), value);
        assert!(twice.is_none(), "a second {key}");
    }
    assert!(map.is_empty() || list.is_empty(), "a list within a mapping");
    if list.is_empty() {
        Value::Object(map)
    } else {
        Value::Array(list)
    }
}

fn scalar(lines: &mut Lines<'_>, indentation: usize, text: &str) -> Value {
    if text == "|" {
        return literal(lines, indentation);
    }
    if text.starts_with(['[', '"']) {
        return serde_json::from_str(text).expect(text);
    }
    let special = ['&', '*', '{', '!', '>', '\'', '%', '@', '`', '|'];
    assert!(!text.starts_with(special), "not known here: {text}");
    assert!(!text.contains(" #"), "a comment behind a value: {text}");
    assert!(!text.contains(": "), "a mapping within a list: {text}");
    if text.is_empty() {
        return Value::Null;
    }
    Value::String(text.to_owned())
}

fn literal(lines: &mut Lines<'_>, indentation: usize) -> Value {
    let mut text = String::new();
    let mut margin = None;
    while let Some(line) = lines.lines.get(lines.next) {
        let at = line.len() - line.trim_start().len();
        if !line.trim().is_empty() && at <= indentation {
            break;
        }
        let margin = *margin.get_or_insert(at);
        text.push_str(line.get(margin..).unwrap_or_default());
        text.push('\n');
        lines.next += 1;
    }
    Value::String(format!("{}\n", text.trim_end()))
}

#[test]
fn reads_what_the_files_use() {
    let text = "# first\na:\n  b: x:1\n\n  c: [\"1\", \"2\"]\n  # middle\n  d:\n    - \"p: q\"\n    - |\n      \
                one # kept\n        two\n      three\n    - r\ne:\nf: \"5\"\n";
    let expected = serde_json::json!({
        "a": {
            "b": "x:1",
            "c": ["1", "2"],
            "d": ["p: q", "one # kept\n  two\nthree\n", "r"],
        },
        "e": null,
        "f": "5",
    });
    assert_eq!(parse(text), expected);
}

#[test]
#[should_panic(expected = "not known here")]
fn refuses_what_it_does_not_know() {
    parse("a: &anchor b\n");
}
