//! Every violation is seeded and found.

use super::*;

fn committed(id: i64, key: &str, order: u64) -> Committed {
    Committed {
        outbox: "events".into(),
        id,
        key: Some(key.into()),
        order: Some(order),
    }
}

fn record(id: i64, key: &str, seq: u64) -> Delivered {
    Delivered {
        shard: "s0".into(),
        partition_key: key.into(),
        outbox: "events".into(),
        id,
        seq: format!("{seq:034}"),
        event_id: format!("event-{id}"),
        key: key.to_owned(),
        payload: "{}".to_owned(),
    }
}

fn ranges() -> BTreeMap<ShardId, HashRange> {
    [("s0".into(), HashRange::ALL)].into()
}

/// Four rows of two keys, delivered well.
fn good() -> (Vec<Committed>, Vec<Delivered>) {
    let rows = vec![
        committed(1, "a", 1),
        committed(2, "b", 1),
        committed(3, "a", 2),
        committed(4, "a", 3),
    ];
    let records = vec![
        record(1, "a", 1),
        record(2, "b", 2),
        record(3, "a", 3),
        record(4, "a", 4),
    ];
    (rows, records)
}

fn clean(published: u64) -> Verdict {
    Verdict {
        published,
        delivered: published,
        ..Verdict::default()
    }
}

fn counts(verdict: Verdict) -> Verdict {
    Verdict {
        examples: Vec::new(),
        ..verdict
    }
}

#[test]
fn what_is_right_is_clean_and_duplicates_break_nothing() {
    let (rows, mut records) = good();
    assert_eq!(judge(&rows, &records, &ranges()), clean(4));
    records.insert(3, record(1, "a", 1));
    records.insert(4, record(3, "a", 3));
    let verdict = judge(&rows, &records, &ranges());
    assert_eq!(
        verdict,
        Verdict {
            duplicates: 2,
            ..clean(4)
        }
    );
    assert!(verdict.is_clean());
}

#[test]
fn finds_a_loss() {
    let (rows, mut records) = good();
    records.remove(2);
    let verdict = judge(&rows, &records, &ranges());
    assert!(
        verdict.examples[0].contains("row 3 of events never arrived"),
        "{verdict:?}"
    );
    let expected = Verdict {
        published: 4,
        delivered: 3,
        lost: 1,
        consumer_gaps: 1,
        ..Verdict::default()
    };
    assert_eq!(counts(verdict), expected);
    assert!(!expected.is_clean());
}

#[test]
fn finds_a_stranger() {
    let (rows, mut records) = good();
    records.push(record(9, "c", 9));
    let expected = Verdict {
        unknown: 1,
        consumer_gaps: 1,
        ..clean(4)
    };
    assert_eq!(counts(judge(&rows, &records, &ranges())), expected);
}

#[test]
fn finds_rows_out_of_order_even_when_their_seqs_rise() {
    let (rows, mut records) = good();
    records[2] = record(4, "a", 3);
    records[3] = record(3, "a", 4);
    let verdict = judge(&rows, &records, &ranges());
    assert!(
        verdict.examples[0].contains("row 3 (place 2) came after row 4"),
        "{verdict:?}"
    );
    assert_eq!(
        counts(verdict),
        Verdict {
            order_violations: 1,
            ..clean(4)
        }
    );
}

#[test]
fn rows_of_one_place_come_in_any_order() {
    let (mut rows, mut records) = good();
    rows[3].order = Some(2);
    records[2] = record(4, "a", 3);
    records[3] = record(3, "a", 4);
    assert_eq!(judge(&rows, &records, &ranges()), clean(4));
    rows[2].order = None;
    rows[3].order = None;
    assert_eq!(judge(&rows, &records, &ranges()), clean(4));
}

#[test]
fn finds_a_seq_that_does_not_rise_and_the_row_a_consumer_then_drops() {
    let (rows, mut records) = good();
    records[3].seq = records[0].seq.clone();
    let expected = Verdict {
        seq_violations: 1,
        consumer_gaps: 1,
        ..clean(4)
    };
    assert_eq!(counts(judge(&rows, &records, &ranges())), expected);
}

#[test]
fn finds_a_row_under_two_seqs_or_two_event_ids() {
    let (rows, mut records) = good();
    records.push(record(4, "a", 5));
    let expected = Verdict {
        duplicates: 1,
        seq_violations: 1,
        consumer_gaps: 1,
        ..clean(4)
    };
    assert_eq!(counts(judge(&rows, &records, &ranges())), expected);
    records[4] = Delivered {
        event_id: "other".to_owned(),
        ..record(4, "a", 4)
    };
    let expected = Verdict {
        duplicates: 1,
        seq_violations: 1,
        ..clean(4)
    };
    assert_eq!(counts(judge(&rows, &records, &ranges())), expected);
}

#[test]
fn finds_a_wrong_shard_and_a_wrong_key() {
    let (rows, mut records) = good();
    let hash = hash_key("b");
    let shards: BTreeMap<ShardId, HashRange> = [(
        "s0".into(),
        HashRange {
            first: 0,
            last: hash - 1,
        },
    )]
    .into();
    let only_b = [records[1].clone()];
    assert_eq!(judge(&rows[1..2], &only_b, &shards).wrong_shard, 1);
    records[1].partition_key = "x".into();
    assert_eq!(judge(&rows, &records, &ranges()).wrong_key, 2);
    let mut keyless = rows;
    keyless[1].key = None;
    records[1].key = "x".to_owned();
    assert_eq!(judge(&keyless, &records, &ranges()), clean(4));
}

#[test]
fn outboxes_do_not_mix() {
    let (mut rows, mut records) = good();
    rows.push(Committed {
        outbox: "other".into(),
        ..committed(1, "a", 9)
    });
    records.push(Delivered {
        outbox: "other".into(),
        ..record(1, "a", 1)
    });
    assert_eq!(judge(&rows, &records, &ranges()), clean(5));
}
