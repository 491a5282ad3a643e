//! Partition key templates: which text decides the shard of a row.
//!
//! A template is literal text and variables in braces; `{{` and `}}` stand for
//! the braces themselves:
//!
//! | variable | value |
//! |---|---|
//! | `{dedup_key}` | the publisher's key, the event id when it gave none |
//! | `{outbox}`, `{stream_table}` | the outbox's name |
//! | `{event_id}` | the event's id, unique per row |
//! | `{tenant}` | the pipeline's tenant |
//! | `{headers.NAME}` | a header; everything after the first dot is its name |
//! | `{payload.path.to.field}` | a field of the payload, by member names |
//!
//! A field renders bare when it is a string, as its JSON text when it is a
//! number or a boolean. Anything else has no rendering: the row is then held
//! and named, never sent under a made-up key.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use super::json_scalar::{NoScalar, scalar_at};
use super::row::OutboxRow;

/// What may stand in braces, for error messages.
pub const ALLOWED_VARIABLES: &str = "{dedup_key}, {stream_table}, {outbox}, {event_id}, \
    {tenant}, {headers.NAME}, {payload.path.to.field}; write {{ and }} for literal braces";

/// A template as it was parsed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KeyTemplate {
    source: String,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Part {
    Literal(String),
    DedupKey,
    Outbox,
    EventId,
    Tenant,
    Header(String),
    Payload(Vec<String>),
}

/// Why a text is not a template. Positions count characters from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// There is nothing in it.
    #[error("the template is empty; allowed are text and {ALLOWED_VARIABLES}")]
    Empty,
    /// No variable has this name.
    #[error("unknown variable {name:?} at character {position}; allowed are {ALLOWED_VARIABLES}")]
    UnknownVariable {
        /// What stands in the braces.
        name: String,
        /// Where its opening brace is.
        position: usize,
    },
    /// A path has a step without a name.
    #[error(
        "variable {name:?} at character {position} has an empty name in its path; \
         allowed are {ALLOWED_VARIABLES}"
    )]
    EmptyPathStep {
        /// What stands in the braces.
        name: String,
        /// Where its opening brace is.
        position: usize,
    },
    /// A brace is never closed.
    #[error("the brace at character {position} is not closed; allowed are {ALLOWED_VARIABLES}")]
    Unclosed {
        /// Where it is.
        position: usize,
    },
    /// A closing brace has no opening one.
    #[error("the brace at character {position} closes nothing; allowed are {ALLOWED_VARIABLES}")]
    Unopened {
        /// Where it is.
        position: usize,
    },
}

/// Why a variable has no value in a row.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VariableError {
    /// The field is not there, or null.
    #[error("{name} is missing or null")]
    Missing {
        /// The variable, without braces.
        name: String,
    },
    /// The field is an object or an array.
    #[error("{name} is an object or an array")]
    NotScalar {
        /// The variable, without braces.
        name: String,
    },
}

/// What a template may use besides the row itself.
#[derive(Debug, Clone, Copy)]
pub struct KeyContext<'a> {
    /// The outbox's name.
    pub outbox: &'a str,
    /// The pipeline's tenant.
    pub tenant: &'a str,
    /// The row's event id.
    pub event_id: &'a str,
    /// What stands for a field that is missing or null, if anything may.
    pub missing: Option<&'a str>,
}

// === impl KeyTemplate ===

impl KeyTemplate {
    /// The text of the default template.
    pub const DEFAULT: &'static str = "{dedup_key}";

    /// The template as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.source
    }

    /// The payload fields it needs, by their member names.
    #[must_use]
    pub fn payload_paths(&self) -> Vec<Vec<String>> {
        let path = |part: &Part| match part {
            Part::Payload(path) => Some(path.clone()),
            Part::Literal(_)
            | Part::DedupKey
            | Part::Outbox
            | Part::EventId
            | Part::Tenant
            | Part::Header(_) => None,
        };
        self.parts.iter().filter_map(path).collect()
    }

    /// Renders the key of a row. The result may be empty or too long: the
    /// caller judges it.
    ///
    /// # Errors
    /// A header or payload field the template names has no scalar value.
    pub fn render<'a>(
        &self,
        row: &'a OutboxRow,
        context: &KeyContext<'a>,
    ) -> Result<Cow<'a, str>, VariableError> {
        if let [Part::DedupKey] = self.parts.as_slice() {
            let key = row.dedup_key.as_deref().unwrap_or(context.event_id);
            return Ok(Cow::Borrowed(key));
        }
        let mut key = String::new();
        for part in &self.parts {
            match part {
                Part::Literal(text) => key.push_str(text),
                Part::DedupKey => {
                    key.push_str(row.dedup_key.as_deref().unwrap_or(context.event_id));
                }
                Part::Outbox => key.push_str(context.outbox),
                Part::EventId => key.push_str(context.event_id),
                Part::Tenant => key.push_str(context.tenant),
                Part::Header(name) => {
                    let value = scalar_at(&row.headers, &[name]);
                    let name = || format!("headers.{name}");
                    push_value(&mut key, value, context, name)?;
                }
                Part::Payload(path) => {
                    let value = scalar_at(&row.payload, path);
                    let name = || format!("payload.{}", path.join("."));
                    push_value(&mut key, value, context, name)?;
                }
            }
        }
        Ok(Cow::Owned(key))
    }
}

fn push_value(
    key: &mut String,
    value: Result<impl AsRef<str>, NoScalar>,
    context: &KeyContext<'_>,
    name: impl FnOnce() -> String,
) -> Result<(), VariableError> {
    match (value, context.missing) {
        (Ok(value), _) => key.push_str(value.as_ref()),
        (Err(NoScalar::Missing), Some(default)) => key.push_str(default),
        (Err(NoScalar::Missing), None) => return Err(VariableError::Missing { name: name() }),
        (Err(NoScalar::Container), _) => return Err(VariableError::NotScalar { name: name() }),
    }
    Ok(())
}

impl Default for KeyTemplate {
    fn default() -> Self {
        Self {
            source: Self::DEFAULT.to_owned(),
            parts: vec![Part::DedupKey],
        }
    }
}

impl fmt::Display for KeyTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

impl FromStr for KeyTemplate {
    type Err = TemplateError;

    fn from_str(source: &str) -> Result<Self, TemplateError> {
        if source.is_empty() {
            return Err(TemplateError::Empty);
        }
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = source.char_indices().enumerate().peekable();
        while let Some((index, (start, character))) = rest.next() {
            let position = index + 1;
            let doubled = rest.peek().is_some_and(|(_, (_, next))| *next == character);
            match character {
                '{' | '}' if doubled => {
                    literal.push(character);
                    rest.next();
                }
                '{' => {
                    let inside = &source[start + 1..];
                    let Some(length) = inside.find(['{', '}']) else {
                        return Err(TemplateError::Unclosed { position });
                    };
                    if inside[length..].starts_with('{') {
                        return Err(TemplateError::Unclosed { position });
                    }
                    if !literal.is_empty() {
                        parts.push(Part::Literal(std::mem::take(&mut literal)));
                    }
                    parts.push(variable(&inside[..length], position)?);
                    while rest
                        .next_if(|(_, (at, _))| *at <= start + 1 + length)
                        .is_some()
                    {}
                }
                '}' => return Err(TemplateError::Unopened { position }),
                other => literal.push(other),
            }
        }
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        Ok(Self {
            source: source.to_owned(),
            parts,
        })
    }
}

fn variable(name: &str, position: usize) -> Result<Part, TemplateError> {
    let empty_step = || TemplateError::EmptyPathStep {
        name: name.to_owned(),
        position,
    };
    match name {
        "dedup_key" => return Ok(Part::DedupKey),
        "outbox" | "stream_table" => return Ok(Part::Outbox),
        "event_id" => return Ok(Part::EventId),
        "tenant" => return Ok(Part::Tenant),
        "headers" | "payload" => return Err(empty_step()),
        _ => {}
    }
    if let Some(header) = name.strip_prefix("headers.") {
        if header.is_empty() {
            return Err(empty_step());
        }
        return Ok(Part::Header(header.to_owned()));
    }
    if let Some(path) = name.strip_prefix("payload.") {
        if path.split('.').any(str::is_empty) {
            return Err(empty_step());
        }
        return Ok(Part::Payload(path.split('.').map(str::to_owned).collect()));
    }
    Err(TemplateError::UnknownVariable {
        name: name.to_owned(),
        position,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::timestamp::Timestamp;
    use proptest::prelude::*;
    use std::time::Duration;

    const CONTEXT: KeyContext<'static> = KeyContext {
        outbox: "events",
        tenant: "acme",
        event_id: "the-event-id",
        missing: None,
    };

    fn row(dedup_key: Option<&str>) -> OutboxRow {
        OutboxRow {
            id: 7,
            dedup_key: dedup_key.map(str::to_owned),
            payload: r#"{"order": {"id": 42, "open": true, "lines": [1]}, "none": null}"#
                .to_owned(),
            headers: r#"{"region": "eu", "a.b": "dotted"}"#.to_owned(),
            created_at: Timestamp::from_unix_micros(1_767_323_045_678_901),
            age: Duration::ZERO,
        }
    }

    #[track_caller]
    fn renders(template: &str, expected: &str) {
        let parsed: KeyTemplate = template.parse().expect("a template");
        assert_eq!(parsed.to_string(), template);
        assert_eq!(
            parsed.render(&row(Some("k1")), &CONTEXT).as_deref(),
            Ok(expected)
        );
    }

    #[track_caller]
    fn refuses(template: &str, expected: TemplateError) {
        assert_eq!(template.parse::<KeyTemplate>(), Err(expected));
    }

    #[test]
    fn renders_every_variable() {
        renders("{dedup_key}", "k1");
        renders(
            "{stream_table}|{outbox}|{event_id}|{tenant}",
            "events|events|the-event-id|acme",
        );
        renders("{headers.region}-{headers.a.b}", "eu-dotted");
        renders("{payload.order.id}/{payload.order.open}", "42/true");
        renders("{{{dedup_key}}} {{x}}", "{k1} {x}");
        renders("\u{e9}{tenant}\u{65e5}", "\u{e9}acme\u{65e5}");
        renders("fixed", "fixed");
    }

    #[test]
    fn the_event_id_stands_for_an_absent_dedup_key() {
        let row = row(None);
        let key = KeyTemplate::default().render(&row, &CONTEXT);
        assert_eq!(key.as_deref(), Ok("the-event-id"));
        assert_eq!(KeyTemplate::DEFAULT.parse(), Ok(KeyTemplate::default()));
    }

    #[test]
    fn names_the_variable_without_a_value() {
        let error = |template: &str| {
            template
                .parse::<KeyTemplate>()
                .expect("a template")
                .render(&row(None), &CONTEXT)
                .expect_err("no value")
        };
        let missing = |name: &str| VariableError::Missing {
            name: name.to_owned(),
        };
        assert_eq!(error("{headers.absent}"), missing("headers.absent"));
        assert_eq!(error("{payload.none}"), missing("payload.none"));
        assert_eq!(
            error("{payload.order.id.deeper}"),
            missing("payload.order.id.deeper")
        );
        let not_scalar = |name: &str| VariableError::NotScalar {
            name: name.to_owned(),
        };
        assert_eq!(error("{payload.order}"), not_scalar("payload.order"));
        assert_eq!(
            error("{payload.order.lines}"),
            not_scalar("payload.order.lines")
        );
    }

    #[test]
    fn a_default_stands_for_what_is_missing_and_for_nothing_else() {
        let context = KeyContext {
            missing: Some("unknown"),
            ..CONTEXT
        };
        let row = row(None);
        let render = |template: &str| {
            let template: KeyTemplate = template.parse().expect("a template");
            template.render(&row, &context)
        };
        assert_eq!(
            render("{headers.absent}/{payload.none}/{payload.order.id}").as_deref(),
            Ok("unknown/unknown/42")
        );
        let name = "payload.order".to_owned();
        assert_eq!(
            render("{payload.order}"),
            Err(VariableError::NotScalar { name })
        );
    }

    #[test]
    fn refuses_what_is_no_template() {
        let unknown = |name: &str, position| TemplateError::UnknownVariable {
            name: name.to_owned(),
            position,
        };
        let empty_step = |name: &str, position| TemplateError::EmptyPathStep {
            name: name.to_owned(),
            position,
        };
        refuses("", TemplateError::Empty);
        refuses("{}", unknown("", 1));
        refuses("\u{e9}\u{e9}-{dedupkey}", unknown("dedupkey", 4));
        refuses("{ dedup_key }", unknown(" dedup_key ", 1));
        refuses("{headers}", empty_step("headers", 1));
        refuses("{headers.}", empty_step("headers.", 1));
        refuses("a{payload.x..y}", empty_step("payload.x..y", 2));
        refuses("a{dedup_key", TemplateError::Unclosed { position: 2 });
        refuses("{dedup{tenant}", TemplateError::Unclosed { position: 1 });
        refuses("{tenant} }", TemplateError::Unopened { position: 10 });
        let message = unknown("dedupkey", 4).to_string();
        assert!(message.contains("\"dedupkey\" at character 4"), "{message}");
        assert!(message.contains("{dedup_key}, {stream_table}"), "{message}");
    }

    proptest! {
        #[test]
        fn literal_text_renders_as_itself(text in ".+") {
            let escaped = text.replace('{', "{{").replace('}', "}}");
            let template: KeyTemplate = escaped.parse().expect("a template");
            let row = row(None);
            prop_assert_eq!(template.render(&row, &CONTEXT), Ok(text.into()));
        }

        #[test]
        fn any_dedup_key_renders_bare(key in ".*", before in "[^{}]*", after in "[^{}]*") {
            let template: KeyTemplate = format!("{before}{{dedup_key}}{after}").parse().expect("a template");
            let row = row(Some(&key));
            let rendered = template.render(&row, &CONTEXT);
            prop_assert_eq!(rendered, Ok(format!("{before}{key}{after}").into()));
        }

        #[test]
        fn parsing_never_panics(text in "[{}a-z.\u{e9}]*") {
            if let Ok(template) = text.parse::<KeyTemplate>() {
                prop_assert_eq!(template.as_str(), text);
            }
        }
    }
}
