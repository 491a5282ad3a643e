//! Makes a row ready to send: its event id, partition key, hash and body.
//!
//! A row that cannot be made ready is poison. It is named, and parked or held as
//! its pipeline says, never skipped and never sent in a changed form.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;

use super::aggregation::Aggregation;
use super::body::{BodyContext, BodyFormat};
use super::compression::Compression;
use super::event_id::event_id;
use super::ports::Outbox;
use super::position::{Seq, WindowNumber};
use super::row::{Envelope, OutboxRow};
use super::shard_map::hash_key;
use super::template::{KeyContext, KeyTemplate, VariableError};

/// The most Unicode characters (not bytes) a partition key may have, as the
/// Kinesis API states for `PartitionKey`.
pub const MAX_KEY_CHARACTERS: usize = 256;

/// Why a row can never become a record of its stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Poison {
    /// The key template renders to nothing.
    #[error("the partition key is empty (expected 1 to {MAX_KEY_CHARACTERS} characters)")]
    KeyEmpty,
    /// The key template renders to more than a key may have.
    #[error("the partition key has {characters} characters (expected 1 to {MAX_KEY_CHARACTERS})")]
    KeyTooLong {
        /// How many Unicode characters it has.
        characters: usize,
    },
    /// The key template names a field that the row lacks.
    #[error("the partition key needs {name}, which is missing or null")]
    VariableMissing {
        /// The variable, such as `payload.order.id`.
        name: String,
    },
    /// The key template names a field that has members of its own.
    #[error(
        "the partition key needs {name}, which is an object or an array \
         (expected a string, a number or a boolean)"
    )]
    VariableNotScalar {
        /// The variable, such as `payload.order`.
        name: String,
    },
    /// The headers are no JSON object.
    #[error(
        "the headers are a JSON {what} (expected an object): publish through \
         tide.outbox_publish(), which checks them"
    )]
    HeadersNotObject {
        /// Its partition key.
        key: Arc<str>,
        /// What they are.
        what: &'static str,
    },
    /// Data and key together weigh more than can be sent.
    #[error("the record weighs {bytes} bytes with its key (at most {limit} can be sent)")]
    RecordTooLarge {
        /// Its partition key.
        key: Arc<str>,
        /// What it weighs.
        bytes: usize,
        /// What the stream takes, or what is tried to compress.
        limit: usize,
    },
}

impl Poison {
    /// A stable name of the reason, for metrics, statuses and dead letters.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::KeyEmpty => "key_empty",
            Self::KeyTooLong { .. } => "key_too_long",
            Self::VariableMissing { .. } => "variable_missing",
            Self::VariableNotScalar { .. } => "variable_not_scalar",
            Self::HeadersNotObject { .. } => "headers_not_object",
            Self::RecordTooLarge { .. } => "record_too_large",
        }
    }

    /// The row's partition key, if it has one that the stream takes.
    #[must_use]
    pub const fn key(&self) -> Option<&Arc<str>> {
        match self {
            Self::KeyEmpty
            | Self::KeyTooLong { .. }
            | Self::VariableMissing { .. }
            | Self::VariableNotScalar { .. } => None,
            Self::HeadersNotObject { key, .. } | Self::RecordTooLarge { key, .. } => Some(key),
        }
    }
}

impl From<VariableError> for Poison {
    fn from(error: VariableError) -> Self {
        match error {
            VariableError::Missing { name } => Self::VariableMissing { name },
            VariableError::NotScalar { name } => Self::VariableNotScalar { name },
        }
    }
}

/// The largest payload that compression is tried on, in bytes: as much as the largest
/// record that any stream takes. A row is in memory as it is before it is compressed.
pub const MOST_TO_COMPRESS: usize = 10 * 1024 * 1024;

/// Renders the rows of one pipeline.
#[derive(Debug, Clone)]
pub struct Renderer {
    /// What the partition key is made of.
    pub template: KeyTemplate,
    /// What the data is made of.
    pub format: BodyFormat,
    /// Whether the row will share a record, and in what form.
    pub aggregation: Aggregation,
    /// How the data, or the record it will share, is compressed.
    pub compression: Compression,
    /// The outbox the rows are from.
    pub outbox: Outbox,
    /// The pipeline's tenant.
    pub tenant: Arc<str>,
    /// What stands for a variable that the row lacks, if anything may.
    pub on_missing: Option<Arc<str>>,
    /// The most a record may weigh, data plus key, compressed, in bytes: what the
    /// stream says of itself.
    pub max_record_bytes: usize,
}

impl Renderer {
    /// Renders a row that was read in window `window`.
    ///
    /// # Errors
    /// The row is poison: the same row fails the same way every time, until the
    /// pipeline's template or the stream's limit is changed.
    pub fn render(&self, row: OutboxRow, window: WindowNumber) -> Result<Envelope, Poison> {
        let seq = Seq { window, id: row.id };
        let mut id_buffer = uuid::Uuid::encode_buffer();
        let event_id: &str = self.event_id(&row, &mut id_buffer);
        let key: Arc<str> = self.key_of(&row, event_id)?.into();
        if let Some(what) = no_object(&row.headers) {
            return Err(Poison::HeadersNotObject { key, what });
        }
        let mut body = self.format.write(
            row,
            &BodyContext {
                seq,
                event_id,
                outbox: &self.outbox.name,
                key: &key,
            },
        );
        let (body, bytes) = match self.aggregation {
            Aggregation::None | Aggregation::Kpl => {
                let body = self.compression.compress(body.into());
                let bytes = body.len();
                (body, bytes)
            }
            // A line, compressed together with others: how far is seen only where it
            // matters.
            Aggregation::Ndjson => {
                body.push('\n');
                let body = Bytes::from(body);
                let is_large = body.len() + key.len() > self.max_record_bytes;
                let bytes = if is_large {
                    self.compression.compress(body.clone()).len()
                } else {
                    body.len()
                };
                (body, bytes)
            }
        };
        let bytes = bytes + key.len();
        let envelope = Envelope {
            seq,
            hash: hash_key(&key),
            key,
            body,
        };
        if bytes > self.max_record_bytes {
            return Err(Poison::RecordTooLarge {
                key: envelope.key,
                bytes,
                limit: self.max_record_bytes,
            });
        }
        Ok(envelope)
    }

    /// A payload larger than this is not worth reading, in bytes: every body holds the
    /// payload as it is.
    #[must_use]
    pub fn largest_payload(&self) -> usize {
        match self.compression {
            Compression::None => self.max_record_bytes,
            Compression::Gzip | Compression::Zstd => self.max_record_bytes.max(MOST_TO_COMPRESS),
        }
    }

    /// What is wrong with a row whose payload alone weighs `payload_bytes`, more than
    /// [`Self::largest_payload`]. `row` has of its payload
    /// what the key needs.
    #[must_use]
    pub fn too_large(&self, row: &OutboxRow, payload_bytes: usize) -> Poison {
        let mut id_buffer = uuid::Uuid::encode_buffer();
        match self.key_of(row, self.event_id(row, &mut id_buffer)) {
            Err(poison) => poison,
            Ok(key) => Poison::RecordTooLarge {
                bytes: payload_bytes + key.len(),
                key: key.into(),
                limit: self.largest_payload(),
            },
        }
    }

    fn event_id<'a>(&self, row: &OutboxRow, buffer: &'a mut [u8]) -> &'a str {
        event_id(self.outbox.uuid, row.id)
            .hyphenated()
            .encode_lower(buffer)
    }

    fn key_of<'a>(&'a self, row: &'a OutboxRow, event_id: &'a str) -> Result<Cow<'a, str>, Poison> {
        let context = KeyContext {
            outbox: &self.outbox.name,
            tenant: &self.tenant,
            event_id,
            missing: self.on_missing.as_deref(),
        };
        let key = self.template.render(row, &context)?;
        check_key(&key)?;
        Ok(key)
    }
}

/// What a JSON value is, as the database prints it, if it is no object. The functions that
/// publish take nothing else; who inserts into the table itself is not checked.
fn no_object(json: &str) -> Option<&'static str> {
    match json.as_bytes().first() {
        Some(b'{') => None,
        Some(b'[') => Some("array"),
        Some(b'"') => Some("string"),
        Some(b't' | b'f') => Some("boolean"),
        Some(b'n') => Some("null"),
        _ => Some("number"),
    }
}

fn check_key(key: &str) -> Result<(), Poison> {
    if key.is_empty() {
        return Err(Poison::KeyEmpty);
    }
    // A character has at least one byte: most keys need no count.
    if key.len() <= MAX_KEY_CHARACTERS {
        return Ok(());
    }
    let characters = key.chars().count();
    if characters > MAX_KEY_CHARACTERS {
        return Err(Poison::KeyTooLong { characters });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::ports::OutboxId;
    use crate::core::timestamp::Timestamp;
    use proptest::prelude::*;
    use std::time::Duration;
    use uuid::Uuid;

    fn renderer(template: &str) -> Renderer {
        Renderer {
            template: template.parse().expect("a template"),
            format: BodyFormat::Native,
            aggregation: Aggregation::None,
            compression: Compression::None,
            outbox: Outbox {
                id: OutboxId(1),
                name: "events".into(),
                uuid: Uuid::from_u128(0x0123_4567_89ab_4def_8123_4567_89ab_cdef),
            },
            tenant: "default".into(),
            on_missing: None,
            max_record_bytes: 1 << 20,
        }
    }

    fn row(dedup_key: Option<&str>) -> OutboxRow {
        OutboxRow {
            id: 42,
            dedup_key: dedup_key.map(str::to_owned),
            payload: r#"{"a": 1}"#.to_owned(),
            headers: "{}".to_owned(),
            created_at: Timestamp::from_unix_micros(1_767_323_045_678_901),
            age: Duration::ZERO,
        }
    }

    #[test]
    fn renders_a_row() {
        let envelope = renderer("{dedup_key}")
            .render(row(Some("k")), WindowNumber(5))
            .expect("rendered");
        assert_eq!(
            envelope.seq,
            Seq {
                window: WindowNumber(5),
                id: 42
            }
        );
        assert_eq!(&*envelope.key, "k");
        assert_eq!(envelope.hash, hash_key("k"));
        let body: serde_json::Value = serde_json::from_slice(&envelope.body).expect("JSON");
        assert_eq!(body["seq"], envelope.seq.to_string());
        assert_eq!(body["event_id"], "01234567-89ab-8def-8000-00000000002a");
    }

    #[test]
    fn headers_that_are_no_object_are_never_sent() {
        let formats = [
            BodyFormat::Native,
            BodyFormat::Payload,
            BodyFormat::CloudEvents,
        ];
        for format in formats {
            let renderer = Renderer {
                format,
                ..renderer("{dedup_key}")
            };
            for (headers, what) in [
                ("[]", "array"),
                ("5", "number"),
                ("-1.5", "number"),
                ("\"a\"", "string"),
                ("true", "boolean"),
                ("null", "null"),
            ] {
                let mut row = row(Some("k"));
                headers.clone_into(&mut row.headers);
                let poison = renderer.render(row, WindowNumber(5)).expect_err(headers);
                let key: Arc<str> = "k".into();
                assert_eq!(poison.key(), Some(&key), "its key can be blocked");
                assert_eq!(poison, Poison::HeadersNotObject { key, what });
            }
        }
    }

    #[test]
    fn a_row_without_a_key_goes_by_its_event_id() {
        let envelope = renderer("{dedup_key}")
            .render(row(None), WindowNumber(5))
            .expect("rendered");
        assert_eq!(&*envelope.key, "01234567-89ab-8def-8000-00000000002a");
    }

    #[test]
    fn a_key_has_1_to_256_characters_of_any_width() {
        for character in ["a", "\u{e9}", "\u{65e5}", "\u{1f30a}"] {
            let render = |count| {
                renderer("{dedup_key}").render(row(Some(&character.repeat(count))), WindowNumber(1))
            };
            assert_eq!(
                render(256).map(|envelope| envelope.key.chars().count()),
                Ok(256)
            );
            assert_eq!(render(257), Err(Poison::KeyTooLong { characters: 257 }));
        }
        assert_eq!(
            renderer("{dedup_key}").render(row(Some("")), WindowNumber(1)),
            Err(Poison::KeyEmpty)
        );
    }

    #[test]
    fn the_key_counts_against_the_limit_of_a_record() {
        let mut renderer = renderer("{dedup_key}");
        let weight = renderer
            .render(row(Some("k")), WindowNumber(1))
            .expect("rendered")
            .weight();
        renderer.max_record_bytes = weight;
        assert!(renderer.render(row(Some("k")), WindowNumber(1)).is_ok());
        renderer.max_record_bytes = weight - 1;
        assert_eq!(
            renderer.render(row(Some("k")), WindowNumber(1)),
            Err(Poison::RecordTooLarge {
                key: "k".into(),
                bytes: weight,
                limit: weight - 1
            })
        );
    }

    #[test]
    fn compressed_data_counts_against_the_limit_of_a_record() {
        use crate::core::compression::decode::decompress;
        let large = OutboxRow {
            payload: format!("\"{}\"", "x".repeat(5_000)),
            ..row(Some("k"))
        };
        for aggregation in Aggregation::ALL {
            for compression in Compression::ALL {
                let renderer = Renderer {
                    aggregation,
                    compression,
                    max_record_bytes: 1_000,
                    ..renderer("{dedup_key}")
                };
                let rendered = renderer.render(large.clone(), WindowNumber(1));
                if compression == Compression::None {
                    let error = rendered.expect_err("too large");
                    assert_eq!(error.code(), "record_too_large");
                    continue;
                }
                let body = rendered.expect("small enough").body;
                let (is_line, plain) = match aggregation {
                    Aggregation::Ndjson => (true, body.to_vec()),
                    Aggregation::None | Aggregation::Kpl => {
                        (false, decompress(compression, &body).expect("compressed"))
                    }
                };
                assert_eq!(plain.ends_with(b"}\n"), is_line);
                let json: serde_json::Value = serde_json::from_slice(&plain).expect("JSON");
                assert_eq!(json["id"], 42);
            }
        }
    }

    #[test]
    fn poison_names_its_reason() {
        let missing = renderer("{payload.b}")
            .render(row(None), WindowNumber(1))
            .expect_err("poison");
        assert_eq!(missing.code(), "variable_missing");
        assert_eq!(
            missing.to_string(),
            "the partition key needs payload.b, which is missing or null"
        );
    }

    proptest! {
        #[test]
        fn a_row_renders_the_same_every_time_but_for_its_window(
            key in ".{1,256}", id in 0i64.., first in 0u64..1000, second in 0u64..1000,
        ) {
            let renderer = renderer("{dedup_key}");
            let row = OutboxRow { id, ..row(Some(&key)) };
            let a = renderer.render(row.clone(), WindowNumber(first)).expect("rendered");
            let b = renderer.render(row, WindowNumber(second)).expect("rendered");
            prop_assert_eq!((&a.key, a.hash), (&b.key, b.hash));
            prop_assert_eq!(a == b, first == second);
        }
    }
}
