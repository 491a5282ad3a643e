use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::core::shard_map::hash_key;

fn sub_record(key: &str, body: &[u8]) -> SubRecord {
    SubRecord {
        key: key.into(),
        hash: hash_key(key),
        body: Bytes::copy_from_slice(body),
    }
}

fn plain(container: Container) -> Packing {
    Packing {
        container,
        compression: Compression::None,
        max_bytes: DEFAULT_MAX_BYTES,
    }
}

fn pack(container: Container, rows: &[SubRecord]) -> Packed {
    super::pack(plain(container), rows)
}

fn measured(packing: Packing, rows: &[SubRecord]) -> Measure {
    let mut places: HashMap<u128, usize> = HashMap::new();
    rows.iter().fold(Measure::empty(packing), |measure, row| {
        let next = places.len();
        let place = *places.entry(row.hash).or_insert(next);
        measure.with(place, row.key.len(), row.body.len())
    })
}

#[test]
fn a_kpl_record_has_the_bytes_that_the_format_says() {
    let rows = [
        sub_record("k", b"one"),
        sub_record("other", b"two"),
        sub_record("k", b"3"),
    ];
    let packed = pack(Container::Kpl, &rows);
    let message = [
        &b"\x0A\x01k\x0A\x05other"[..],
        b"\x1A\x07\x08\x00\x1A\x03one",
        b"\x1A\x07\x08\x01\x1A\x03two",
        b"\x1A\x05\x08\x00\x1A\x013",
    ]
    .concat();
    let data = &packed.data;
    assert_eq!(data[..4], [0xF3, 0x89, 0x9A, 0xC2]);
    assert_eq!(data[4..data.len() - 16], message);
    // As `printf '\x0A\x01k...' | md5sum` prints it.
    let digest: String = data[data.len() - 16..]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(digest, MD5_OF_THE_MESSAGE);
    assert_eq!(&*packed.key, "a");
    assert_eq!(packed.explicit_hash_key, Some(hash_key("k")));
}

const MD5_OF_THE_MESSAGE: &str = "64006d7e4b3ef631d74ccf63045b695f";

#[test]
fn one_row_is_itself_and_one_key_keeps_its_name() {
    for container in [Container::Kpl, Container::Ndjson] {
        let one = pack(container, &[sub_record("k", b"body\n")]);
        assert_eq!((&*one.key, &one.data[..]), ("k", &b"body\n"[..]));
        let two = pack(
            container,
            &[sub_record("k", b"1\n"), sub_record("k", b"2\n")],
        );
        assert_eq!((&*two.key, two.explicit_hash_key), ("k", None));
    }
    let lines = pack(
        Container::Ndjson,
        &[sub_record("k", b"1\n"), sub_record("l", b"2\n")],
    );
    assert_eq!((&*lines.key, &lines.data[..]), ("a", &b"1\n2\n"[..]));
}

#[test]
fn what_is_not_of_the_format_is_a_row_by_itself() {
    let packed = pack(
        Container::Kpl,
        &[sub_record("k", b"1"), sub_record("l", b"2")],
    );
    assert!(kpl::decode::rows(&packed.data).is_some());
    let mut broken = packed.data.to_vec();
    *broken.last_mut().expect("bytes") ^= 1;
    assert_eq!(kpl::decode::rows(&broken), None, "another MD5");
    assert_eq!(kpl::decode::rows(b"{\"id\": 1}"), None);
    assert_eq!(kpl::decode::rows(&kpl::MAGIC), None);
}

#[test]
fn names_parse_back() {
    for one in Aggregation::ALL {
        assert_eq!(one.to_string().parse(), Ok(one));
    }
    let error = "avro".parse::<Aggregation>().expect_err("unknown");
    assert_eq!(
        error.to_string(),
        "unknown aggregation \"avro\" (allowed are none, kpl, ndjson)"
    );
}

fn rows() -> impl Strategy<Value = Vec<SubRecord>> {
    let key = prop_oneof!["[a-c]", ".{1,256}", "x{100,200}"];
    let body = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        prop::collection::vec(any::<u8>(), 120..140),
        prop::collection::vec(any::<u8>(), 16_370..16_400),
    ];
    let row = (key, body).prop_map(|(key, body)| sub_record(&key, &body));
    prop::collection::vec(row, 2..100)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_kpl_record_decodes_to_its_rows_and_is_as_long_as_measured(rows in rows()) {
        let packed = pack(Container::Kpl, &rows);
        let weight = packed.data.len() + packed.key.len();
        prop_assert_eq!(measured(plain(Container::Kpl), &rows).weight(), weight);
        let decoded = kpl::decode::rows(&packed.data).expect("of the format");
        let expected: Vec<_> =
            rows.iter().map(|row| (row.key.to_string(), row.body.to_vec())).collect();
        prop_assert_eq!(decoded, expected);
    }

    #[test]
    fn lines_are_as_long_as_measured(rows in rows()) {
        let packed = pack(Container::Ndjson, &rows);
        let weight = packed.data.len() + packed.key.len();
        prop_assert_eq!(measured(plain(Container::Ndjson), &rows).weight(), weight);
    }

    #[test]
    fn compressed_lines_weigh_at_most_what_was_measured(rows in rows(), which in 1usize..3) {
        let compression = Compression::ALL[which];
        let packing = Packing { compression, ..plain(Container::Ndjson) };
        for rows in [&rows[..], &rows[..1]] {
            let packed = super::pack(packing, rows);
            let weight = packed.data.len() + packed.key.len();
            prop_assert!(weight <= measured(packing, rows).weight());
            let lines = crate::core::compression::decode::decompress(compression, &packed.data);
            let expected: Vec<u8> = rows.iter().flat_map(|row| row.body.to_vec()).collect();
            prop_assert_eq!(lines.expect("compressed"), expected);
        }
    }
}
