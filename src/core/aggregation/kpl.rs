//! The aggregation format of the Kinesis Producer Library, written by hand: it has
//! four fields, and its size must be known before it is written.
//!
//! ```text
//! F3 89 9A C2 | protobuf AggregatedRecord | MD5 of the protobuf (16 bytes)
//!
//! message AggregatedRecord {
//!   repeated string partition_key_table = 1;
//!   repeated string explicit_hash_key_table = 2;   // never written
//!   repeated Record records = 3;
//! }
//! message Record {
//!   required uint64 partition_key_index = 1;
//!   optional uint64 explicit_hash_key_index = 2;   // never written
//!   required bytes data = 3;
//!   repeated Tag tags = 4;                         // never written
//! }
//! ```
//! (`github.com/awslabs/amazon-kinesis-producer`, `aggregation-format.md`.) A row
//! goes by the hash of its own partition key, so no row needs an explicit hash key.

use std::collections::HashMap;

use bytes::Bytes;
use md5::{Digest, Md5};

use super::SubRecord;

/// What such a record begins with.
pub const MAGIC: [u8; 4] = [0xF3, 0x89, 0x9A, 0xC2];

/// Bytes of the MD5 it ends with.
pub const DIGEST_BYTES: usize = 16;

/// What a record has beside its protobuf.
pub const FRAME_BYTES: usize = MAGIC.len() + DIGEST_BYTES;

// Field number * 8 + 2 (length-delimited) or + 0 (varint).
const TABLE_KEY: u8 = 0x0A;
const TABLE_RECORD: u8 = 0x1A;
const RECORD_KEY_INDEX: u8 = 0x08;
const RECORD_DATA: u8 = 0x1A;

/// Bytes of an entry of the table of keys.
#[must_use]
pub const fn key_bytes(key: usize) -> usize {
    1 + varint_bytes(key) + key
}

/// Bytes of a row whose key has this place in the table.
#[must_use]
pub const fn record_bytes(key_index: usize, body: usize) -> usize {
    let inner = inner_bytes(key_index, body);
    1 + varint_bytes(inner) + inner
}

const fn inner_bytes(key_index: usize, body: usize) -> usize {
    1 + varint_bytes(key_index) + 1 + varint_bytes(body) + body
}

const fn varint_bytes(number: usize) -> usize {
    let bits = (usize::BITS - (number | 1).leading_zeros()) as usize;
    bits.div_ceil(7)
}

/// Writes the record. Rows of one hash key must be of one key.
#[must_use]
pub fn encode(rows: &[SubRecord]) -> Bytes {
    let mut indexes: HashMap<u128, usize> = HashMap::with_capacity(rows.len());
    let mut keys: Vec<&str> = Vec::new();
    let mut size = FRAME_BYTES;
    let mut placed = Vec::with_capacity(rows.len());
    for row in rows {
        let next = indexes.len();
        let index = *indexes.entry(row.hash).or_insert(next);
        if index == next {
            keys.push(&row.key);
            size += key_bytes(row.key.len());
        }
        size += record_bytes(index, row.body.len());
        placed.push(index);
    }
    let mut data = Vec::with_capacity(size);
    data.extend_from_slice(&MAGIC);
    for key in keys {
        data.push(TABLE_KEY);
        write_varint(&mut data, key.len());
        data.extend_from_slice(key.as_bytes());
    }
    for (row, index) in rows.iter().zip(placed) {
        data.push(TABLE_RECORD);
        write_varint(&mut data, inner_bytes(index, row.body.len()));
        data.push(RECORD_KEY_INDEX);
        write_varint(&mut data, index);
        data.push(RECORD_DATA);
        write_varint(&mut data, row.body.len());
        data.extend_from_slice(&row.body);
    }
    let digest = Md5::digest(&data[MAGIC.len()..]);
    data.extend_from_slice(&digest);
    debug_assert_eq!(data.len(), size);
    data.into()
}

fn write_varint(data: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        data.push(low_bits(number) | 0x80);
        number >>= 7;
    }
    data.push(low_bits(number));
}

#[expect(clippy::cast_possible_truncation, reason = "seven bits")]
const fn low_bits(number: usize) -> u8 {
    (number & 0x7F) as u8
}

/// Takes records apart again, for consumers in tests and in the demo.
#[cfg(any(test, feature = "demo"))]
pub mod decode {
    use super::{DIGEST_BYTES, Digest, FRAME_BYTES, MAGIC, Md5};

    /// The rows of a record: partition key and data; `None` when it is not of this
    /// format, and so a row by itself.
    #[must_use]
    pub fn rows(data: &[u8]) -> Option<Vec<(String, Vec<u8>)>> {
        let inner = data.strip_prefix(&MAGIC)?;
        let (message, digest) = inner.split_at_checked(data.len().checked_sub(FRAME_BYTES)?)?;
        if digest.len() != DIGEST_BYTES || *Md5::digest(message) != *digest {
            return None;
        }
        let mut keys = Vec::new();
        let mut rows = Vec::new();
        let mut rest = message;
        while !rest.is_empty() {
            match take_field(&mut rest)? {
                Field::Bytes(1, key) => keys.push(String::from_utf8(key.to_vec()).ok()?),
                Field::Bytes(3, record) => rows.push(row(record)?),
                Field::Bytes(..) | Field::Number(..) => {}
            }
        }
        let named = |(index, body): (usize, Vec<u8>)| Some((keys.get(index)?.clone(), body));
        rows.into_iter().map(named).collect()
    }

    enum Field<'a> {
        Number(u64, u64),
        Bytes(u64, &'a [u8]),
    }

    fn row(mut record: &[u8]) -> Option<(usize, Vec<u8>)> {
        let (mut index, mut body) = (None, None);
        while !record.is_empty() {
            match take_field(&mut record)? {
                Field::Number(1, number) => index = usize::try_from(number).ok(),
                Field::Bytes(3, data) => body = Some(data.to_vec()),
                Field::Number(..) | Field::Bytes(..) => {}
            }
        }
        index.zip(body)
    }

    fn take_field<'a>(rest: &mut &'a [u8]) -> Option<Field<'a>> {
        let tag = take_varint(rest)?;
        match tag & 7 {
            0 => Some(Field::Number(tag >> 3, take_varint(rest)?)),
            2 => {
                let length = usize::try_from(take_varint(rest)?).ok()?;
                let (bytes, after) = rest.split_at_checked(length)?;
                *rest = after;
                Some(Field::Bytes(tag >> 3, bytes))
            }
            1.. => None,
        }
    }

    fn take_varint(rest: &mut &[u8]) -> Option<u64> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let (byte, after) = rest.split_first()?;
            *rest = after;
            number |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }
}
