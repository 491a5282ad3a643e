//! Reads tables of keys and collects everything that is wrong with them.
//!
//! A deserializer stops at its first error; somebody with five mistakes would
//! need five runs to find them. A [`Table`] is asked for each of its keys in
//! turn, notes what is wrong, and at [`Table::finish`] refuses what nobody asked
//! for. What was asked for is remembered: it is the list of known keys, from
//! which error messages and the test of the example file are made.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::{Map, Value};

use super::byte_size::{ByteSize, EXPECTED_SIZE};
use super::environment::Environment;
use super::human_duration::{EXPECTED_DURATION, HumanDuration};
use super::problem::ConfigProblem;

/// How a text stands for a number or a boolean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Typing {
    /// It does not.
    Strict,
    /// It may: environment variables have no other type than text.
    FromText,
}

/// What is found while a configuration is read.
#[derive(Debug)]
pub(super) struct Report {
    typing: Typing,
    problems: RefCell<Vec<ConfigProblem>>,
    known_keys: RefCell<BTreeSet<String>>,
}

impl Report {
    pub(super) fn new(typing: Typing) -> Self {
        Self {
            typing,
            problems: RefCell::default(),
            known_keys: RefCell::default(),
        }
    }

    pub(super) fn add(&self, problem: ConfigProblem) {
        self.problems.borrow_mut().push(problem);
    }

    pub(super) fn into_problems(self) -> Vec<ConfigProblem> {
        self.problems.into_inner()
    }

    /// The path of every key that was asked for, `[]` for each place in a list.
    pub(super) fn into_known_keys(self) -> BTreeSet<String> {
        self.known_keys.into_inner()
    }
}

/// The keys of one table.
#[derive(Debug)]
pub(super) struct Table<'v, 'r> {
    path: String,
    members: Option<&'v Map<String, Value>>,
    asked: Vec<&'static str>,
    report: &'r Report,
}

impl<'v, 'r> Table<'v, 'r> {
    /// A table at `path` (empty for the root).
    pub(super) fn new(path: &str, value: Option<&'v Value>, report: &'r Report) -> Self {
        let members = value.and_then(Value::as_object);
        if let (Some(value), None) = (value, members) {
            let key = if path.is_empty() {
                "configuration"
            } else {
                path
            };
            report.add(ConfigProblem::new(key, got(value), "a table of keys"));
        }
        Self {
            path: path.to_owned(),
            members,
            asked: Vec::new(),
            report,
        }
    }

    /// The path of one of its keys.
    pub(super) fn key_path(&self, key: &str) -> String {
        if self.path.is_empty() {
            return key.to_owned();
        }
        format!("{}.{key}", self.path)
    }

    /// Notes that the value of a key is not acceptable.
    pub(super) fn refuse(&self, key: &str, given: impl Into<String>, expected: impl Into<String>) {
        self.report
            .add(ConfigProblem::new(self.key_path(key), given, expected));
    }

    /// Notes that a key is needed.
    pub(super) fn missing(&self, key: &str, expected: impl Into<String>) {
        self.refuse(key, "missing", expected);
    }

    /// The value of a key; `null` counts as absent.
    pub(super) fn value(&mut self, key: &'static str) -> Option<&'v Value> {
        if !self.asked.contains(&key) {
            self.asked.push(key);
        }
        let known = generic(&self.key_path(key));
        self.report.known_keys.borrow_mut().insert(known);
        self.members?.get(key).filter(|value| !value.is_null())
    }

    /// A table inside this one; an absent one has no keys.
    pub(super) fn table(&mut self, key: &'static str) -> Table<'v, 'r> {
        let value = self.value(key);
        Table::new(&self.key_path(key), value, self.report)
    }

    /// A list of tables inside this one.
    pub(super) fn tables(&mut self, key: &'static str) -> Vec<Table<'v, 'r>> {
        let Some(value) = self.value(key) else {
            return Vec::new();
        };
        let Some(list) = value.as_array() else {
            // Not what it is: a list of databases given as text holds passwords.
            let given = format!("got {}", kind(value));
            self.refuse(key, given, format!("a list of tables: [[{key}]]"));
            return Vec::new();
        };
        let path = |index| format!("{}[{index}]", self.key_path(key));
        let table = |(index, value)| Table::new(&path(index), Some(value), self.report);
        list.iter().enumerate().map(table).collect()
    }

    /// The value of a key, if `read` accepts it.
    fn read<T>(
        &mut self,
        key: &'static str,
        expected: impl Into<String>,
        read: impl FnOnce(&'v Value) -> Option<T>,
    ) -> Option<T> {
        let value = self.value(key)?;
        let read = read(value);
        if read.is_none() {
            self.refuse(key, got(value), expected);
        }
        read
    }

    /// A name: 1 to 128 characters, none of them a control character.
    pub(super) fn name(&mut self, key: &'static str) -> Option<&'v str> {
        self.read(key, "a text of 1 to 128 characters", |value| {
            let is_name = |text: &&str| {
                (1..=128).contains(&text.chars().count()) && !text.contains(char::is_control)
            };
            value.as_str().filter(is_name)
        })
    }

    /// A name that has to be given; `expected` says what for.
    pub(super) fn required_name(&mut self, key: &'static str, expected: &str) -> Option<&'v str> {
        if self.value(key).is_none() {
            self.missing(key, expected);
        }
        self.name(key)
    }

    /// A text that `parse` accepts; its error is shown as what was expected.
    pub(super) fn parsed<T, E: Display>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let text = self.value(key)?;
        let Some(text) = text.as_str() else {
            self.refuse(key, got(text), "a text");
            return None;
        };
        parse(text)
            .map_err(|error| self.refuse(key, format!("got {text:?}"), error.to_string()))
            .ok()
    }

    /// A secret text, its references resolved. Never shown in a problem.
    pub(super) fn secret(
        &mut self,
        key: &'static str,
        environment: &Environment,
    ) -> Option<String> {
        let value = self.value(key)?;
        let Some(text) = value.as_str().filter(|text| !text.is_empty()) else {
            self.refuse(
                key,
                "no text, or an empty one",
                "a text, ${env:NAME} or ${file:/path}",
            );
            return None;
        };
        environment
            .resolve(text)
            .map_err(|error| {
                self.refuse(
                    key,
                    format!("refers to {error}"),
                    "a reference that can be resolved",
                );
            })
            .ok()
    }

    /// One of a few texts.
    pub(super) fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let names: Vec<String> = choices
            .iter()
            .map(|(name, _)| format!("{name:?}"))
            .collect();
        self.read(key, names.join(" or "), |value| {
            let text = value.as_str()?;
            choices
                .iter()
                .find(|(name, _)| *name == text)
                .map(|(_, choice)| *choice)
        })
    }

    pub(super) fn boolean(&mut self, key: &'static str) -> Option<bool> {
        let from_text = self.report.typing == Typing::FromText;
        self.read(key, "true or false", |value| match value.as_str() {
            Some(text) if from_text => text.parse().ok(),
            Some(_) | None => value.as_bool(),
        })
    }

    /// A whole number within a range.
    pub(super) fn integer(&mut self, key: &'static str, range: RangeInclusive<u32>) -> Option<u32> {
        let from_text = self.report.typing == Typing::FromText;
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        self.read(key, expected, |value| {
            let number = match value.as_str() {
                Some(text) if from_text => text.parse().ok(),
                Some(_) | None => value.as_u64().or_else(|| whole(value.as_f64()?)),
            };
            u32::try_from(number?)
                .ok()
                .filter(|number| range.contains(number))
        })
    }

    /// A number above zero, at most `most`.
    pub(super) fn positive(&mut self, key: &'static str, most: f64) -> Option<f64> {
        let from_text = self.report.typing == Typing::FromText;
        self.read(key, format!("a number above 0, at most {most}"), |value| {
            let number = match value.as_str() {
                Some(text) if from_text => text.parse().ok(),
                Some(_) | None => value.as_f64(),
            };
            number.filter(|number| *number > 0.0 && *number <= most)
        })
    }

    /// A size with a unit, at least `least`.
    pub(super) fn size(&mut self, key: &'static str, least: ByteSize) -> Option<ByteSize> {
        let expected = format!("{EXPECTED_SIZE}, at least {least}");
        self.read(key, expected, |value| {
            value.as_str()?.parse().ok().filter(|size| *size >= least)
        })
    }

    /// A size with a unit, or a whole number of bytes where the key's name says
    /// that it counts bytes; at least 1.
    pub(super) fn size_or_bytes(&mut self, key: &'static str) -> Option<u64> {
        let expected = format!("a whole number of bytes above 0, or {EXPECTED_SIZE}");
        self.read(key, expected, |value| {
            let bytes = match value.as_str() {
                Some(text) => text.parse().ok().map(ByteSize::bytes),
                None => value.as_u64(),
            };
            bytes.filter(|bytes| *bytes > 0)
        })
    }

    /// A size with a unit, or a whole number of bytes where the key's name says
    /// that it counts bytes, within a range.
    pub(super) fn bytes_within(
        &mut self,
        key: &'static str,
        range: RangeInclusive<usize>,
    ) -> Option<usize> {
        let (least, most) = (range.start(), range.end());
        let expected =
            format!("a whole number of bytes from {least} to {most}, or {EXPECTED_SIZE}");
        self.read(key, expected, |value| {
            let bytes = match value.as_str() {
                Some(text) => text.parse().ok().map(ByteSize::bytes),
                None => value.as_u64(),
            };
            let bytes = usize::try_from(bytes?).ok();
            bytes.filter(|bytes| range.contains(bytes))
        })
    }

    /// A duration with units within a range.
    pub(super) fn duration(
        &mut self,
        key: &'static str,
        range: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let (least, most) = (HumanDuration(*range.start()), HumanDuration(*range.end()));
        let expected = format!("{EXPECTED_DURATION}, from {least} to {most}");
        self.read(key, expected, |value| {
            let HumanDuration(duration) = value.as_str()?.parse().ok()?;
            range.contains(&duration).then_some(duration)
        })
    }

    /// Refuses every key that nobody asked for.
    pub(super) fn finish(self) {
        for (key, _) in self.members.into_iter().flatten() {
            if self.asked.contains(&key.as_str()) {
                continue;
            }
            let allowed = self.asked.join(", ");
            let expected = match nearest(key, &self.asked) {
                Some(near) => format!("{near}, perhaps (allowed are {allowed})"),
                None => format!("one of {allowed}"),
            };
            self.refuse(key, "unknown key", expected);
        }
    }
}

/// What a value looks like in a problem.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Array(_) => "a list",
        Value::Object(_) => "a table",
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
    }
}

fn got(value: &Value) -> String {
    match value {
        Value::Array(_) => "got a list".to_owned(),
        Value::Object(_) => "got a table".to_owned(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            format!("got {value}")
        }
    }
}

/// A float that is a whole number, as `jsonb` may print one (`100.0`).
fn whole(number: f64) -> Option<u64> {
    let text = (number.fract() == 0.0 && number >= 0.0).then(|| format!("{number:.0}"))?;
    text.parse().ok()
}

/// A path with `[]` for every place in a list.
fn generic(path: &str) -> String {
    path.split('[')
        .enumerate()
        .map(|(index, part)| match (index, part.split_once(']')) {
            (0, _) | (_, None) => part.to_owned(),
            (_, Some((_, rest))) => format!("[]{rest}"),
        })
        .collect()
}

/// The known key that is at most two edits away, the nearest of them.
fn nearest(key: &str, known: &[&'static str]) -> Option<&'static str> {
    let distances = known
        .iter()
        .map(|candidate| (edits(key, candidate), *candidate));
    let (distance, candidate) = distances.min()?;
    (distance <= 2 || candidate.starts_with(key)).then_some(candidate)
}

/// How many single-character edits lead from one text to the other
/// (Levenshtein distance).
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (from_index, from_character) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = from_index + 1;
        for (to_index, to_character) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(from_character != *to_character);
            diagonal = row[to_index + 1];
            row[to_index + 1] = replaced.min(diagonal + 1).min(row[to_index] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn collects_every_problem() {
        let value = json!({"a": 0, "b": "5", "lisen": 1, "c": ["x"], "d": "50"});
        let report = Report::new(Typing::Strict);
        let mut table = Table::new("t", Some(&value), &report);
        assert_eq!(table.integer("a", 1..=9), None);
        assert_eq!(table.integer("b", 1..=9), None);
        assert_eq!(table.name("c"), None);
        assert_eq!(
            table.duration("d", Duration::ZERO..=Duration::from_secs(1)),
            None
        );
        assert_eq!(table.name("listen"), None);
        table.finish();
        let problems: Vec<String> = report
            .into_problems()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            problems,
            [
                "t.a: got 0; expected a whole number from 1 to 9",
                "t.b: got \"5\"; expected a whole number from 1 to 9",
                "t.c: got a list; expected a text of 1 to 128 characters",
                "t.d: got \"50\"; expected a duration with units (h, m, s, ms) such as \"50ms\", \
                 \"4s\" or \"1m30s\", from 0ms to 1s",
                "t.lisen: unknown key; expected listen, perhaps (allowed are a, b, c, d, listen)",
            ]
        );
    }

    #[test]
    fn text_stands_for_numbers_when_it_comes_from_the_environment() {
        let value = json!({"a": "5", "b": "true", "c": "0.5", "d": 5.0});
        let report = Report::new(Typing::FromText);
        let mut table = Table::new("", Some(&value), &report);
        assert_eq!(table.integer("a", 1..=9), Some(5));
        assert_eq!(table.boolean("b"), Some(true));
        assert_eq!(table.positive("c", 1.0), Some(0.5));
        assert_eq!(table.integer("d", 1..=9), Some(5));
        table.finish();
        assert_eq!(report.into_problems(), []);
    }

    #[test]
    fn remembers_what_was_asked_for() {
        let value = json!({"list": [{}, {}]});
        let report = Report::new(Typing::Strict);
        for mut table in Table::new("", Some(&value), &report).tables("list") {
            assert_eq!(table.table("inner").name("key"), None);
        }
        let expected = ["list", "list[].inner", "list[].inner.key"];
        assert_eq!(report.into_known_keys(), expected.map(str::to_owned).into());
    }
}
