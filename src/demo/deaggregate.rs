//! Takes records apart that hold several rows, as consumers do.
//!
//! A record of the Kinesis Producer Library gives its sub-records, each under its own
//! key, but for those whose hash key lies outside the shard: the Kinesis Client
//! Library leaves these out, and so does this. Lines, compressed or not, give native
//! bodies under the key they name. Everything else is a row by itself.

use bytes::Bytes;
use serde::Deserialize;

use crate::core::aggregation::kpl;
use crate::core::compression::{Compression, decode::decompress};
use crate::core::shard_map::{HashRange, hash_key};

/// What RFC 1952 and RFC 8878 say that compressed data begins with.
const MAGICS: [(&[u8], Compression); 2] = [
    (&[0x1F, 0x8B], Compression::Gzip),
    (&[0x28, 0xB5, 0x2F, 0xFD], Compression::Zstd),
];

#[derive(Deserialize)]
struct Keyed {
    key: String,
}

/// The rows of a record that a shard with this range delivers: key and data.
#[must_use]
pub fn rows(key: &str, data: &Bytes, range: HashRange) -> Vec<(String, Bytes)> {
    if let Some(rows) = kpl::decode::rows(data) {
        let taken = rows
            .into_iter()
            .filter(|(key, _)| range.contains(hash_key(key)));
        return taken
            .map(|(key, data)| (key, plain(&data.into())))
            .collect();
    }
    let data = plain(data);
    let Some(lines) = data.strip_suffix(b"\n") else {
        return vec![(key.to_owned(), data)];
    };
    let row = |line: &[u8]| {
        let keyed: Option<Keyed> = serde_json::from_slice(line).ok();
        let key = keyed.map_or_else(|| key.to_owned(), |keyed| keyed.key);
        (key, Bytes::copy_from_slice(line))
    };
    lines.split(|byte| *byte == b'\n').map(row).collect()
}

fn plain(data: &Bytes) -> Bytes {
    let of = MAGICS.iter().find(|(magic, _)| data.starts_with(magic));
    let plain = of.and_then(|(_, compression)| decompress(*compression, data).ok());
    plain.map_or_else(|| data.clone(), Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::aggregation::{Container, Packing, SubRecord, pack};

    fn record(container: Container, compression: Compression, rows: &[(&str, &str)]) -> Bytes {
        let packing = Packing {
            container,
            compression,
            max_bytes: 50_000,
        };
        let row = |(key, body): &(&str, &str)| SubRecord {
            key: (*key).into(),
            hash: hash_key(key),
            body: body.to_string().into(),
        };
        let rows: Vec<SubRecord> = rows.iter().map(row).collect();
        pack(packing, &rows).data
    }

    #[test]
    fn what_lies_outside_the_shard_is_left_out() {
        let data = record(Container::Kpl, Compression::None, &[("k", "1"), ("l", "2")]);
        let all = rows("a", &data, HashRange::ALL);
        assert_eq!(all, [("k".into(), "1".into()), ("l".into(), "2".into())]);
        let only = HashRange {
            first: hash_key("l"),
            last: hash_key("l"),
        };
        assert_eq!(rows("a", &data, only), [("l".into(), "2".into())]);
    }

    #[test]
    fn lines_are_rows_under_the_keys_they_name() {
        let lines = [("k", "{\"key\":\"k\"}\n"), ("l", "{\"key\":\"l\"}\n")];
        for compression in Compression::ALL {
            let data = record(Container::Ndjson, compression, &lines);
            let keys: Vec<String> = rows("a", &data, HashRange::ALL)
                .into_iter()
                .map(|(key, _)| key)
                .collect();
            assert_eq!(keys, ["k", "l"], "{compression}");
        }
    }
}
