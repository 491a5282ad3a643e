//! A payload that has just the fields a partition key needs, in place of one that is
//! too large to be read.

use std::collections::BTreeMap;

/// A member of an object that is being put together.
#[derive(Debug, Default)]
struct Member<'a> {
    /// Its JSON text, if it is a field.
    value: Option<&'a str>,
    /// Its own members, if a path leads through it.
    members: BTreeMap<&'a str, Member<'a>>,
}

/// A JSON object with these fields: the member names down to each, and its JSON text;
/// those without a text are not there.
#[must_use]
pub fn skeleton(paths: &[Vec<String>], fields: &[Option<String>]) -> String {
    let mut root = Member::default();
    for (path, field) in paths.iter().zip(fields) {
        let Some(field) = field else {
            continue;
        };
        let mut place = &mut root;
        for name in path {
            place = place.members.entry(name).or_default();
        }
        place.value = Some(field);
    }
    let mut text = String::new();
    root.write_members(&mut text);
    text
}

impl Member<'_> {
    fn write(&self, text: &mut String) {
        match self.value {
            Some(value) if self.members.is_empty() => text.push_str(value),
            Some(_) | None => self.write_members(text),
        }
    }

    fn write_members(&self, text: &mut String) {
        text.push('{');
        for (place, (name, member)) in self.members.iter().enumerate() {
            if place > 0 {
                text.push(',');
            }
            text.push_str(&serde_json::Value::from(*name).to_string());
            text.push(':');
            member.write(text);
        }
        text.push('}');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_the_fields_and_nothing_else() {
        let path = |names: &str| names.split('.').map(str::to_owned).collect::<Vec<_>>();
        let paths = [
            path("a.b"),
            path("x\"y"),
            path("a.c.d"),
            path("gone"),
            path("a"),
        ];
        let fields = [
            Some("12.50".to_owned()),
            Some("\"text\"".to_owned()),
            Some("true".to_owned()),
            None,
            Some("{}".to_owned()),
        ];
        assert_eq!(
            skeleton(&paths, &fields),
            r#"{"a":{"b":12.50,"c":{"d":true}},"x\"y":"text"}"#
        );
        assert_eq!(skeleton(&[], &[]), "{}");
    }
}
