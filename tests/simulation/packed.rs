//! Records of many rows: how a plan asks for them, and how consumers take them
//! apart.

use tidegate::core::aggregation::{Aggregation, kpl};
use tidegate::core::compression::{Compression, decode::decompress};
use tidegate::core::ports::PutRecord;
use tidegate::core::shard_map::{HashRange, hash_key};

use crate::dice::Dice;
use crate::ledger::Body;

/// How the pipelines of a plan share records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Packed {
    pub(crate) aggregation: Aggregation,
    pub(crate) max_bytes: usize,
    pub(crate) compression: Compression,
}

/// The seeds of this remainder by 8 aggregate in the format of KPL.
pub(crate) const KPL_SEEDS: u64 = 2;
/// The seeds of this remainder by 8, which have letters and replays, aggregate by
/// chance.
const LETTER_SEEDS: u64 = 3;

impl Packed {
    /// From a dice of its own: the rest of a plan is what it was.
    pub(crate) fn of(seed: u64) -> Self {
        let mut dice = Dice::new(!seed);
        let aggregation = match seed % 8 {
            KPL_SEEDS => Aggregation::Kpl,
            LETTER_SEEDS => *dice.pick(&[
                Aggregation::None,
                Aggregation::Kpl,
                Aggregation::Ndjson,
                Aggregation::Ndjson,
            ]),
            _ => Aggregation::None,
        };
        let compression = match aggregation {
            Aggregation::None => Compression::None,
            Aggregation::Kpl | Aggregation::Ndjson => *dice.pick(&[
                Compression::None,
                Compression::None,
                Compression::Gzip,
                Compression::Zstd,
            ]),
        };
        Self {
            aggregation,
            max_bytes: *dice.pick(&[1_000, 4_000, 50_000]),
            compression,
        }
    }

    /// Without compression: it would make good rows of those that are too large.
    pub(crate) fn plain(self) -> Self {
        Self {
            compression: Compression::None,
            ..self
        }
    }

    pub(crate) fn config(self) -> serde_json::Value {
        let mut config = serde_json::json!({
            "aggregation": self.aggregation.as_str(),
            "compression": self.compression.as_str(),
        });
        if self.aggregation != Aggregation::None {
            config["aggregation_max_bytes"] = self.max_bytes.into();
        }
        config
    }

    /// The rows of a record, with their keys; an error says what of it is not ours.
    pub(crate) fn rows(self, record: &PutRecord) -> Result<Vec<(String, Body)>, String> {
        let plain = |data: &[u8]| {
            let plain = decompress(self.compression, data);
            plain.map_err(|error| format!("not {}: {error}", self.compression))
        };
        let body = |data: &[u8]| {
            let body = serde_json::from_slice::<Body>(data);
            body.map_err(|error| format!("not a body: {error}"))
        };
        if self.aggregation == Aggregation::Ndjson {
            let lines = plain(&record.data)?;
            if !lines.ends_with(b"\n") {
                return Err("the last line has no end".to_owned());
            }
            let lines = lines.trim_ascii_end().split(|byte| *byte == b'\n');
            let row = |line: &[u8]| body(line).map(|body| (body.key.clone(), body));
            return lines.map(row).collect();
        }
        match kpl::decode::rows(&record.data) {
            Some(rows) if self.aggregation == Aggregation::Kpl => {
                let row = |(key, data): (String, Vec<u8>)| Ok((key, body(&plain(&data)?)?));
                rows.into_iter().map(row).collect()
            }
            Some(_) => Err("aggregated, and nobody asked for it".to_owned()),
            None => {
                let body = body(&plain(&record.data)?)?;
                Ok(vec![(record.key.to_string(), body)])
            }
        }
    }

    /// Whether a consumer takes a row of this key from a shard: those of the Kinesis
    /// Client Library leave out of an aggregated record what lies outside its range.
    pub(crate) fn is_taken(self, record: &PutRecord, key: &str, range: HashRange) -> bool {
        !record.data.starts_with(&kpl::MAGIC) || range.contains(hash_key(key))
    }
}

/// The hash key that decides where a record goes.
pub(crate) fn hash_of(record: &PutRecord) -> u128 {
    record
        .explicit_hash_key
        .unwrap_or_else(|| hash_key(&record.key))
}
