//! Flows whose rows share records.

use super::*;
use crate::core::aggregation::{self, Container, SubRecord};
use crate::core::compression::Compression;

fn packing(max_bytes: usize) -> Packing {
    Packing {
        container: Container::Kpl,
        compression: Compression::None,
        max_bytes,
    }
}

fn packer(id: FlowId, tenant: &str, max_bytes: usize) -> Flow {
    Flow {
        packing: Some(packing(max_bytes)),
        ..flow(id, tenant, 3)
    }
}

/// What a parcel weighs once it is made.
fn made(parcel: &Parcel<Row>) -> usize {
    let sub_record = |row: &Row| SubRecord {
        key: "k".into(),
        hash: row.key,
        body: vec![b'x'; row.weight - row.key_bytes()].into(),
    };
    let rows: Vec<SubRecord> = parcel.rows().map(sub_record).collect();
    let packing = parcel.packing().expect("of a flow that aggregates");
    let packed = aggregation::pack(packing, &rows);
    packed.data.len() + packed.key.len()
}

#[test]
fn a_hot_key_fills_its_record_and_the_rest_waits_for_the_outcome() {
    let mut queue = SendQueue::default();
    let hot = packer(1, "t", 1_000);
    for serial in 0..300 {
        queue.push(&hot, row(7, serial));
    }
    let mut call = queue.take(ANY_COST, RULES);
    assert_eq!(call.len(), 1, "the key is in one record");
    let first = call.pop().expect("one");
    assert!(
        (900..=1_000).contains(&first.weight()),
        "{}",
        first.weight()
    );
    assert!(queue.take(ANY_COST, RULES).is_empty());
    let sent: Vec<usize> = first.rows().map(|row| row.serial).collect();
    assert_eq!(sent, (0..sent.len()).collect::<Vec<_>>());
    queue.failed(first, Turn::Next);
    assert_eq!(
        serials(&queue.take(ANY_COST, RULES)),
        sent,
        "the same again"
    );
    queue.confirmed(1, 7);
    assert_eq!(serials(&queue.take(ANY_COST, RULES))[0], sent.len());
}

#[test]
fn keys_take_turns_within_a_record() {
    let mut queue = SendQueue::default();
    let flow = packer(1, "t", 100);
    for serial in 0..20 {
        queue.push(&flow, row(1, serial));
    }
    queue.push(&flow, row(2, 100));
    queue.push(&flow, row(3, 200));
    let call = queue.take(ANY_COST, RULES);
    assert_eq!(serials(&call)[..4], [0, 100, 200, 1]);
}

#[test]
fn rows_of_two_keys_share_nothing_while_that_is_not_safe() {
    let rows_of = |sharing| {
        let mut queue = SendQueue::default();
        let flow = packer(1, "t", 1_000);
        for serial in 0..4 {
            queue.push(&flow, row(1, serial));
            queue.push(&flow, row(2, serial));
        }
        let rules = CallRules { sharing, ..RULES };
        let call = queue.take(ANY_COST, rules);
        call.iter().map(Parcel::len).collect::<Vec<_>>()
    };
    assert_eq!(rows_of(Sharing::AllKeys), [8]);
    assert_eq!(rows_of(Sharing::OneKey), [4, 4]);
    assert_eq!(rows_of(Sharing::Nothing), [1, 1]);
}

#[test]
fn a_flow_that_aggregates_gets_no_more_than_its_share() {
    let (together, alone) = (packer(1, "large", 50_000), flow(2, "small", 500));
    let (of_large, of_small) = bytes_of_few_large_and_many_small(&together, &alone);
    let ratio = of_large as f64 / of_small as f64;
    assert!((0.8..1.25).contains(&ratio), "{of_large} to {of_small}");
}

#[derive(Debug, Clone)]
enum Step {
    Push(FlowId, u128, usize),
    Call(Cost, usize, Sharing, Vec<u8>),
    Purge(FlowId),
}

fn step() -> impl Strategy<Value = Step> {
    let sharing = prop_oneof![
        4 => Just(Sharing::AllKeys), 1 => Just(Sharing::OneKey), 1 => Just(Sharing::Nothing),
    ];
    let call = (
        1u64..6,
        1u64..9000,
        1usize..60,
        sharing,
        prop::collection::vec(0u8..4, 5),
    );
    prop_oneof![
        12 => (1u64..4, 0u128..6, 1usize..400).prop_map(|(flow, key, weight)| Step::Push(flow, key, weight)),
        4 => call.prop_map(|(records, bytes, rows, sharing, fates)| {
            Step::Call(Cost { records, bytes }, rows, sharing, fates)
        }),
        1 => (1u64..4).prop_map(Step::Purge),
    ]
}

proptest! {
    #[test]
    fn records_keep_the_rules_whatever_happens(steps in prop::collection::vec(step(), 1..300)) {
        let mut queue = SendQueue::default();
        // The third one does not aggregate.
        let flows = [packer(1, "a", 1_000), packer(2, "b", 200), flow(3, "b", 3)];
        let mut expected: HashMap<(FlowId, u128), VecDeque<usize>> = HashMap::new();
        for (serial, step) in steps.into_iter().enumerate() {
            match step {
                Step::Push(id, key, weight) => {
                    let place = usize::try_from(id - 1).expect("few");
                    queue.push(&flows[place], Row { key, serial, weight });
                    expected.entry((id, key)).or_default().push_back(serial);
                }
                Step::Purge(id) => {
                    queue.purge(id);
                    expected.retain(|(flow, _), _| *flow != id);
                }
                Step::Call(most, rows, sharing, fates) => {
                    let rules = CallRules { limit: ANY_COST, rows, sharing, ..RULES };
                    let call = queue.take(most, rules);
                    prop_assert_eq!(call.is_empty(), expected.values().all(VecDeque::is_empty));
                    prop_assert!(call.len() as u64 <= most.records);
                    prop_assert!(call.iter().map(Parcel::len).sum::<usize>() <= rows);
                    let total: usize = call.iter().map(Parcel::weight).sum();
                    prop_assert!(call.len() == 1 || total as u64 <= most.bytes, "{total} bytes");
                    let keys: Vec<(FlowId, u128)> = call
                        .iter()
                        .flat_map(|parcel| parcel.hashes().map(|hash| (parcel.flow, hash)))
                        .collect();
                    let distinct: HashSet<_> = keys.iter().collect();
                    prop_assert_eq!(distinct.len(), keys.len(), "a key in two records");
                    for id in 1..4 {
                        prop_assert!(call.iter().filter(|parcel| parcel.flow == id).count() <= 3);
                    }
                    for (parcel, fate) in call.into_iter().zip(fates.into_iter().cycle()) {
                        let mut of_key: HashMap<u128, Vec<usize>> = HashMap::new();
                        for row in parcel.rows() {
                            of_key.entry(row.key).or_default().push(row.serial);
                        }
                        for (key, sent) in &of_key {
                            let order = &expected[&(parcel.flow, *key)];
                            let first: Vec<usize> = order.iter().copied().take(sent.len()).collect();
                            prop_assert_eq!(sent, &first, "out of order");
                        }
                        if let Some(packing) = parcel.packing() {
                            prop_assert_eq!(made(&parcel), parcel.weight());
                            prop_assert!(parcel.len() == 1 || parcel.weight() <= packing.max_bytes);
                        }
                        let may_share = match sharing {
                            Sharing::AllKeys => true,
                            Sharing::OneKey => of_key.len() == 1,
                            Sharing::Nothing => parcel.len() == 1,
                        };
                        prop_assert!(may_share, "{:?}", sharing);
                        match fate {
                            0 => queue.failed(parcel, Turn::Next),
                            1 => queue.failed(parcel, Turn::First),
                            2 => queue.failed(parcel, Turn::Last),
                            _ => {
                                for (key, sent) in of_key {
                                    expected.get_mut(&(parcel.flow, key)).expect("known").drain(..sent.len());
                                    queue.confirmed(parcel.flow, key);
                                }
                            }
                        }
                    }
                }
            }
            prop_assert_eq!(queue.len(), expected.values().map(VecDeque::len).sum::<usize>());
            let plain = expected.iter().filter(|((id, _), order)| *id == 3 && !order.is_empty());
            let packers = (1..3).filter(|flow| {
                expected.iter().any(|((id, _), order)| id == flow && !order.is_empty())
            });
            prop_assert_eq!(queue.waiting().all.records, (plain.count() + packers.count()) as u64);
        }
        // Nothing is stuck: all that waits comes out.
        let mut left = queue.len();
        while left > 0 {
            for parcel in queue.take(ANY_COST, RULES) {
                left -= parcel.len();
                for hash in parcel.hashes() {
                    queue.confirmed(parcel.flow, hash);
                }
            }
            prop_assert_eq!(queue.len(), left);
        }
        prop_assert_eq!(queue.waiting(), Waiting::default());
        prop_assert_eq!(queue.bytes(), 0);
    }
}
