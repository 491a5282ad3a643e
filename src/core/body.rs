//! Record bodies: the bytes a consumer gets.
//!
//! | format | body |
//! |---|---|
//! | `native` | a JSON object `id`, `seq`, `event_id`, `outbox`, `key`, `created_at`, `headers`, `payload`, in this order; `key` is the partition key |
//! | `payload` | the payload alone |
//! | `cloudevents` | CloudEvents 1.0, structured JSON (below) |
//!
//! A CloudEvent has `id` = the event id, `source` = `/tidegate/<outbox>`, `type`
//! = the row's header `ce_type`, else `type`, else `tidegate.outbox.event`,
//! `subject` = the partition key, `time` = when the row was inserted, and two
//! extension attributes: `seq`, by which a consumer drops repeated records, and
//! `outboxid`, the row's id (a string, since a CloudEvents integer has 32 bits).
//!
//! Payload and headers are spliced in as the database printed them, never
//! parsed. A body is written into one buffer of the size it will have.

use std::fmt;
use std::str::FromStr;

use super::json_scalar::scalar_at;
use super::position::Seq;
use super::row::OutboxRow;
use super::short_text::ShortText;

/// The `type` of a CloudEvent whose row names none.
pub const DEFAULT_EVENT_TYPE: &str = "tidegate.outbox.event";

/// How a row becomes the data of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum BodyFormat {
    /// A JSON object with all there is to know of the row.
    #[default]
    Native,
    /// The payload alone.
    Payload,
    /// A CloudEvent in structured JSON.
    CloudEvents,
}

/// A text that names no format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown format {text:?} (allowed are native, payload, cloudevents)")]
pub struct UnknownFormat {
    /// The text.
    pub text: String,
}

/// What a body says of a row beside what the row holds.
#[derive(Debug, Clone, Copy)]
pub struct BodyContext<'a> {
    /// Its place in the delivery order.
    pub seq: Seq,
    /// Its event id.
    pub event_id: &'a str,
    /// The name of its outbox.
    pub outbox: &'a str,
    /// Its partition key.
    pub key: &'a str,
}

// === impl BodyFormat ===

impl BodyFormat {
    /// All formats.
    pub const ALL: [Self; 3] = [Self::Native, Self::Payload, Self::CloudEvents];

    /// Its name in a configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Payload => "payload",
            Self::CloudEvents => "cloudevents",
        }
    }

    /// Makes a row into a body.
    #[must_use]
    pub fn write(self, row: OutboxRow, context: &BodyContext<'_>) -> String {
        match self {
            Self::Native => native(&row, context),
            Self::Payload => row.payload,
            Self::CloudEvents => cloud_event(&row, context),
        }
    }
}

impl fmt::Display for BodyFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for BodyFormat {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Self, UnknownFormat> {
        Self::ALL
            .into_iter()
            .find(|format| format.as_str() == text)
            .ok_or_else(|| UnknownFormat {
                text: text.to_owned(),
            })
    }
}

// === The formats ===

/// A piece of a body. Pieces are measured, then written.
enum Piece<'a> {
    /// JSON text, as it is.
    Json(&'a str),
    /// The inside of a JSON string, to be escaped.
    Text(&'a str),
    /// A part of a URI's path, to be percent-encoded.
    PathSegment(&'a str),
}

fn native(row: &OutboxRow, context: &BodyContext<'_>) -> String {
    let (id, seq) = (ShortText::of(row.id), ShortText::of(context.seq));
    let created_at = ShortText::of(row.created_at);
    join(&[
        Piece::Json("{\"id\":"),
        Piece::Json(id.as_str()),
        Piece::Json(",\"seq\":\""),
        Piece::Json(seq.as_str()),
        Piece::Json("\",\"event_id\":\""),
        Piece::Text(context.event_id),
        Piece::Json("\",\"outbox\":\""),
        Piece::Text(context.outbox),
        Piece::Json("\",\"key\":\""),
        Piece::Text(context.key),
        Piece::Json("\",\"created_at\":\""),
        Piece::Json(created_at.as_str()),
        Piece::Json("\",\"headers\":"),
        Piece::Json(&row.headers),
        Piece::Json(",\"payload\":"),
        Piece::Json(&row.payload),
        Piece::Json("}"),
    ])
}

fn cloud_event(row: &OutboxRow, context: &BodyContext<'_>) -> String {
    let header = |name| {
        scalar_at(&row.headers, &[name])
            .ok()
            .filter(|text| !text.is_empty())
    };
    let event_type = header("ce_type")
        .or_else(|| header("type"))
        .unwrap_or(DEFAULT_EVENT_TYPE.into());
    let (id, seq) = (ShortText::of(row.id), ShortText::of(context.seq));
    let created_at = ShortText::of(row.created_at);
    join(&[
        Piece::Json("{\"specversion\":\"1.0\",\"id\":\""),
        Piece::Text(context.event_id),
        Piece::Json("\",\"source\":\"/tidegate/"),
        Piece::PathSegment(context.outbox),
        Piece::Json("\",\"type\":\""),
        Piece::Text(&event_type),
        Piece::Json("\",\"subject\":\""),
        Piece::Text(context.key),
        Piece::Json("\",\"time\":\""),
        Piece::Json(created_at.as_str()),
        Piece::Json("\",\"datacontenttype\":\"application/json\",\"seq\":\""),
        Piece::Json(seq.as_str()),
        Piece::Json("\",\"outboxid\":\""),
        Piece::Json(id.as_str()),
        Piece::Json("\",\"data\":"),
        Piece::Json(&row.payload),
        Piece::Json("}"),
    ])
}

/// The text of all pieces, in a buffer of its exact size: it becomes the record's data
/// without being copied.
fn join(pieces: &[Piece<'_>]) -> String {
    let mut body = String::new();
    body.reserve_exact(pieces.iter().map(Piece::length).sum());
    for piece in pieces {
        piece.push_to(&mut body);
    }
    body
}

// === impl Piece ===

impl Piece<'_> {
    /// How many bytes it is written as.
    fn length(&self) -> usize {
        match self {
            Self::Json(json) => json.len(),
            Self::Text(text) => text.bytes().map(escaped_length).sum(),
            Self::PathSegment(text) => text
                .bytes()
                .map(|byte| if is_unreserved(byte) { 1 } else { 3 })
                .sum(),
        }
    }

    fn push_to(&self, body: &mut String) {
        match self {
            Self::Json(json) => body.push_str(json),
            Self::Text(text) => push_escaped(body, text),
            Self::PathSegment(text) => push_percent_encoded(body, text),
        }
    }
}

/// How many bytes a byte of a text takes in a JSON string.
const fn escaped_length(byte: u8) -> usize {
    match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' => 2,
        0..0x20 => 6,
        _ => 1,
    }
}

/// Adds the inside of a JSON string (RFC 8259, section 7): quotes, backslashes and
/// control characters are escaped, everything else stays UTF-8.
fn push_escaped(body: &mut String, text: &str) {
    let mut clean_from = 0;
    for (index, byte) in text.bytes().enumerate() {
        if escaped_length(byte) == 1 {
            continue;
        }
        body.push_str(&text[clean_from..index]);
        clean_from = index + 1;
        match byte {
            b'"' => body.push_str("\\\""),
            b'\\' => body.push_str("\\\\"),
            b'\n' => body.push_str("\\n"),
            b'\r' => body.push_str("\\r"),
            b'\t' => body.push_str("\\t"),
            control => body.push_str(ShortText::of(format_args!("\\u{control:04x}")).as_str()),
        }
    }
    body.push_str(&text[clean_from..]);
}

/// Whether it stands for itself in a URI (RFC 3986, section 2.3).
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Adds a segment of a URI's path: everything but unreserved characters is
/// percent-encoded.
fn push_percent_encoded(body: &mut String, text: &str) {
    for byte in text.bytes() {
        if is_unreserved(byte) {
            body.push(byte.into());
        } else {
            body.push_str(ShortText::of(format_args!("%{byte:02X}")).as_str());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::position::WindowNumber;
    use crate::core::timestamp::Timestamp;
    use proptest::prelude::*;
    use serde_json::{Value, json};
    use std::time::Duration;

    const EVENT_ID: &str = "01234567-89ab-8def-8000-000000000007";
    const SEQ: Seq = Seq {
        window: WindowNumber(3),
        id: 7,
    };
    const SEQ_TEXT: &str = "00000000000003-0000000000000000007";

    fn row(headers: &str, payload: &str) -> OutboxRow {
        OutboxRow {
            id: 7,
            dedup_key: None,
            payload: payload.to_owned(),
            headers: headers.to_owned(),
            created_at: Timestamp::from_unix_micros(1_767_323_045_678_901),
            age: Duration::ZERO,
        }
    }

    fn write(format: BodyFormat, row: &OutboxRow, outbox: &str, key: &str) -> String {
        let context = BodyContext {
            seq: SEQ,
            event_id: EVENT_ID,
            outbox,
            key,
        };
        format.write(row.clone(), &context)
    }

    #[test]
    fn native_is_laid_out_as_documented() {
        let row = row(r#"{"h": 1}"#, r#"{"n":   1.10}"#);
        let body = write(BodyFormat::Native, &row, "events", "a\"b");
        let expected = format!(
            r#"{{"id":7,"seq":"{SEQ_TEXT}","event_id":"{EVENT_ID}","outbox":"events","key":"a\"b","created_at":"2026-01-02T03:04:05.678901Z","headers":{{"h": 1}},"payload":{{"n":   1.10}}}}"#
        );
        assert_eq!(body, expected);
    }

    #[test]
    fn payload_is_the_payload() {
        let row = row("{}", r#"[1, "two"]"#);
        assert_eq!(
            write(BodyFormat::Payload, &row, "events", "k"),
            r#"[1, "two"]"#
        );
    }

    #[test]
    fn a_cloud_event_has_the_attributes_of_the_standard() {
        let row = row(r#"{"type": "order.created"}"#, r#"{"n": 1}"#);
        let body = write(BodyFormat::CloudEvents, &row, "my events", "k\u{1}");
        let event: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(
            event,
            json!({
                "specversion": "1.0", "id": EVENT_ID, "source": "/tidegate/my%20events",
                "type": "order.created", "subject": "k\u{1}",
                "time": "2026-01-02T03:04:05.678901Z", "datacontenttype": "application/json",
                "seq": SEQ_TEXT, "outboxid": "7", "data": {"n": 1},
            })
        );
    }

    #[test]
    fn a_cloud_event_takes_its_type_from_the_headers() {
        let type_of = |headers: &str| {
            let body = write(BodyFormat::CloudEvents, &row(headers, "1"), "events", "k");
            let event: Value = serde_json::from_str(&body).expect("JSON");
            event["type"].as_str().expect("a text").to_owned()
        };
        assert_eq!(type_of(r#"{"type": "a", "ce_type": "b"}"#), "b");
        assert_eq!(type_of(r#"{"type": "a", "ce_type": ""}"#), "a");
        assert_eq!(type_of("{}"), DEFAULT_EVENT_TYPE);
        assert_eq!(type_of(r#"{"type": null}"#), DEFAULT_EVENT_TYPE);
        assert_eq!(type_of(r#"{"type": ["a"]}"#), DEFAULT_EVENT_TYPE);
    }

    #[test]
    fn names_parse_back() {
        for format in BodyFormat::ALL {
            assert_eq!(format.to_string().parse(), Ok(format));
        }
        let error = "avro".parse::<BodyFormat>().expect_err("unknown");
        assert_eq!(
            error.to_string(),
            "unknown format \"avro\" (allowed are native, payload, cloudevents)"
        );
    }

    proptest! {
        #[test]
        fn bodies_are_valid_json_for_any_text(
            outbox in "\\PC*|.*", key in any::<String>(), header in any::<String>(), text in any::<String>(),
        ) {
            let row = row(&json!({"type": header}).to_string(), &json!({"t": text}).to_string());
            let native: Value =
                serde_json::from_str(&write(BodyFormat::Native, &row, &outbox, &key)).expect("JSON");
            prop_assert_eq!(&native["key"], &json!(key));
            prop_assert_eq!(&native["outbox"], &json!(outbox));
            prop_assert_eq!(&native["headers"]["type"], &json!(header));
            prop_assert_eq!(&native["payload"]["t"], &json!(text));
            let event: Value =
                serde_json::from_str(&write(BodyFormat::CloudEvents, &row, &outbox, &key)).expect("JSON");
            prop_assert_eq!(&event["subject"], &json!(key));
            prop_assert_eq!(&event["data"], &json!({"t": text}));
        }

        #[test]
        fn a_body_fills_its_buffer_exactly(outbox in any::<String>(), key in any::<String>()) {
            let row = row("{}", "{}");
            for format in [BodyFormat::Native, BodyFormat::CloudEvents] {
                let body = write(format, &row, &outbox, &key);
                prop_assert_eq!(body.capacity(), body.len());
            }
        }
    }
}
