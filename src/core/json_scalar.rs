//! Reads one scalar out of a JSON text without building the rest of it.
//!
//! A partition key usually needs one field of a payload that may be megabytes
//! long. The text is walked up to that field and no further, what lies beside
//! the path is skipped, and numbers keep the digits they were written with.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Why there is no scalar at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoScalar {
    /// The path leads nowhere, or to `null`.
    Missing,
    /// The path leads to an object or an array.
    Container,
}

/// The scalar at `path`: a string without its quotes, a number or a boolean as
/// the JSON text writes it.
///
/// Path steps are names of object members; nothing steps into an array. A text
/// that is not JSON has nothing at any path.
pub(super) fn scalar_at<'json, Name: AsRef<str>>(
    json: &'json str,
    path: &[Name],
) -> Result<Cow<'json, str>, NoScalar> {
    let mut found = None;
    let seek = Seek {
        path,
        found: &mut found,
    };
    // An error only says that the walk stopped early: at the value, which is
    // then in `found`, or where the path leads nowhere.
    let walked = seek.deserialize(&mut serde_json::Deserializer::from_str(json));
    match (found, walked) {
        (Some(value), Ok(()) | Err(_)) => scalar(value.get()),
        (None, Ok(()) | Err(_)) => Err(NoScalar::Missing),
    }
}

fn scalar(json: &str) -> Result<Cow<'_, str>, NoScalar> {
    match json.as_bytes().first() {
        None | Some(b'n') => Err(NoScalar::Missing),
        Some(b'{' | b'[') => Err(NoScalar::Container),
        Some(b'"') if json.contains('\\') => serde_json::from_str(json)
            .map(Cow::Owned)
            .map_err(|_| NoScalar::Missing),
        Some(b'"') => Ok(Cow::Borrowed(json.trim_matches('"'))),
        Some(_) => Ok(Cow::Borrowed(json)),
    }
}

/// Walks down a path and leaves what it finds at the end in `found`.
struct Seek<'walk, 'json, Name> {
    path: &'walk [Name],
    found: &'walk mut Option<&'json RawValue>,
}

impl<'json, Name: AsRef<str>> DeserializeSeed<'json> for Seek<'_, 'json, Name> {
    type Value = ();

    fn deserialize<D: Deserializer<'json>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.path.is_empty() {
            *self.found = Some(<&RawValue>::deserialize(deserializer)?);
            return Ok(());
        }
        deserializer.deserialize_map(self)
    }
}

impl<'json, Name: AsRef<str>> Visitor<'json> for Seek<'_, 'json, Name> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'json>>(self, mut members: A) -> Result<(), A::Error> {
        let Some((name, rest)) = self.path.split_first() else {
            return Ok(());
        };
        while let Some(is_wanted) = members.next_key_seed(NameIs(name.as_ref()))? {
            if is_wanted {
                return members.next_value_seed(Seek {
                    path: rest,
                    found: self.found,
                });
            }
            members.next_value::<IgnoredAny>()?;
        }
        Ok(())
    }
}

/// Compares a member's name without copying it.
struct NameIs<'walk>(&'walk str);

impl<'json> DeserializeSeed<'json> for NameIs<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'json>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for NameIs<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member's name")
    }

    fn visit_str<E>(self, name: &str) -> Result<bool, E> {
        Ok(name == self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn finds(json: &str, path: &str, expected: Result<&str, NoScalar>) {
        let steps: Vec<&str> = path.split('.').collect();
        let found = scalar_at(json, &steps);
        assert_eq!(found.as_deref().map_err(|why| *why), expected);
    }

    #[test]
    fn finds_scalars_as_they_are_written() {
        finds(r#"{"a": "x"}"#, "a", Ok("x"));
        finds(r#"{"a": ""}"#, "a", Ok(""));
        finds(
            r#"{"a": "say \"hi\"\n\u00e9"}"#,
            "a",
            Ok("say \"hi\"\n\u{e9}"),
        );
        finds(
            r#"{"z": [1, {"a": 2}], "a": {"b": {"c": 7}}}"#,
            "a.b.c",
            Ok("7"),
        );
        finds(
            r#"{"a": 123456789012345678901234567890.10}"#,
            "a",
            Ok("123456789012345678901234567890.10"),
        );
        finds(r#"{"a": -1.5e3}"#, "a", Ok("-1.5e3"));
        finds(r#"{"a": true, "b": false}"#, "b", Ok("false"));
        finds(r#"{"caf\u00e9": 1}"#, "caf\u{e9}", Ok("1"));
    }

    #[test]
    fn says_what_is_there_instead() {
        finds(r#"{"a": null}"#, "a", Err(NoScalar::Missing));
        finds(r#"{"b": 1}"#, "a", Err(NoScalar::Missing));
        finds(r#"{"a": 1}"#, "a.b", Err(NoScalar::Missing));
        finds(r#"{"a": [{"b": 1}]}"#, "a.b", Err(NoScalar::Missing));
        finds(r#""text""#, "a", Err(NoScalar::Missing));
        finds("", "a", Err(NoScalar::Missing));
        finds(r#"{"a": {}}"#, "a", Err(NoScalar::Container));
        finds(r#"{"a": [1]}"#, "a", Err(NoScalar::Container));
    }

    #[test]
    fn passes_deep_nesting_beside_the_path() {
        let deep = format!("{}{}", "[".repeat(5_000), "]".repeat(5_000));
        finds(&format!(r#"{{"deep": {deep}, "a": 1}}"#), "a", Ok("1"));
        finds(
            &format!(r#"{{"a": {deep}}}"#),
            "a",
            Err(NoScalar::Container),
        );
    }

    proptest! {
        #[test]
        fn finds_every_string(name in ".*", text in ".*") {
            let json = serde_json::json!({"before": [1, "}"], &*name: {&*name: &*text}, "z": 0});
            let json = json.to_string();
            let found = scalar_at(&json, &[&name, &name]);
            // A name that is one of the neighbours' has been overwritten by it.
            prop_assume!(name != "before" && name != "z");
            prop_assert_eq!(found.as_deref(), Ok(&*text));
        }
    }
}
