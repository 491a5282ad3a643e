use super::*;
use proptest::prelude::*;

fn name(stream: &str, shard: u32) -> ShardName {
    ShardName {
        stream: stream.into(),
        shard: ShardId::from(&*format!("shardId-{shard:012}")),
    }
}

#[test]
fn steps_rise_by_a_tenth_from_one_record_to_all() {
    assert_eq!((parts_of(0), parts_of(1), parts_of(TOP)), (0, LEAST, WHOLE));
    for step in 2..=TOP {
        let (before, parts) = (parts_of(step - 1), parts_of(step));
        assert!(parts > before, "step {step}");
        assert!(
            parts <= before + before / 9 + 1,
            "step {step}: {before}, {parts}"
        );
    }
    for parts in [0, 1, 10, 11, 5_000, 9_999, WHOLE] {
        let step = step_for(parts);
        assert!(parts_of(step) >= parts);
        assert!(step == 0 || parts_of(step - 1) < parts);
    }
}

#[test]
fn a_demand_survives_its_text() {
    let wishes = [
        (
            name("a", 0),
            Wish {
                records: 74,
                bytes: 3,
            },
        ),
        (
            name("a", 12),
            Wish {
                records: 1,
                bytes: 1,
            },
        ),
        (
            ShardName {
                stream: "b".into(),
                shard: ShardId::from("odd name"),
            },
            Wish {
                records: 0,
                bytes: 0,
            },
        ),
    ];
    let demand = Demand::of(wishes.clone());
    let text = demand.text();
    assert_eq!(
        text,
        r#"{"s":{"a":{"0":[74,3],"12":[1,1]},"b":{"odd name":[0,0]}}}"#
    );
    let read = Demand::read(&text);
    assert_eq!(read, demand);
    for (name, wish) in wishes {
        assert_eq!(read.said(&name), Said::Wish(wish));
    }
    assert_eq!(read.said(&name("a", 1)), Said::Nothing);
    assert_eq!(Demand::read("{}"), Demand::default());
    assert!(Demand::read("{}").is_empty());
}

#[test]
fn what_does_not_fit_falls_to_equal_parts_small_wishes_first() {
    let wish = |shard| Wish {
        records: if shard < 5 { 1 } else { 20 },
        bytes: 1,
    };
    let most = u32::try_from(MOST_SHARDS).expect("few");
    let demand = Demand::of((0..most + 5).map(|shard| (name("a", shard), wish(shard))));
    assert_eq!(demand.len(), MOST_SHARDS);
    assert_eq!(demand.said(&name("a", 0)), Said::EqualPart);
    assert_eq!(demand.said(&name("a", 5)), Said::Wish(wish(5)));
    assert_eq!(demand.said(&name("b", 0)), Said::Nothing);
    assert_eq!(Demand::read(&demand.text()), demand);
}

#[test]
fn idle_shards_are_left_out_without_a_word() {
    let most = u32::try_from(MOST_SHARDS).expect("few");
    let wish = |shard| Wish {
        records: u8::from(shard > 4),
        bytes: 0,
    };
    let demand = Demand::of((0..most + 5).map(|shard| (name("a", shard), wish(shard))));
    assert_eq!(demand.said(&name("a", 0)), Said::Nothing);
    // They are no reason for a long text either.
    let idle = u32::try_from(MOST_IDLE).expect("few");
    let demand = Demand::of((0..2 * idle).map(|shard| (name("a", shard), Wish::default())));
    assert_eq!(demand.len(), MOST_IDLE);
}

#[test]
fn a_text_that_is_not_understood_wishes_everywhere() {
    for text in [
        "",
        "[]",
        r#"{"s":{"a":{"0":[1]}}}"#,
        r#"{"s":7}"#,
        r#"{"m":7}"#,
    ] {
        assert_eq!(
            Demand::read(text).said(&name("x", 3)),
            Said::EqualPart,
            "{text}"
        );
    }
}

proptest! {
    #[test]
    fn the_text_is_bounded_and_read_as_written(
        wishes in prop::collection::btree_map(
            ("[a-z:]{1,200}", 0..400u32).prop_map(|(stream, shard)| name(&stream, shard)),
            (0..=TOP, 0..=TOP).prop_map(|(records, bytes)| Wish { records, bytes }),
            0..600,
        ),
    ) {
        let demand = Demand::of(wishes.clone());
        let text = demand.text();
        prop_assert!(text.len() <= MOST_BYTES, "{} bytes", text.len());
        let read = Demand::read(&text);
        prop_assert_eq!(&read, &demand);
        // Nobody who wishes for something is forgotten.
        for (name, wish) in wishes {
            let said = read.said(&name);
            prop_assert!(said != Said::Nothing || wish == Wish::default());
        }
    }
}
