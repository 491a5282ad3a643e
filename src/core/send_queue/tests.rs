mod packing;
mod recall;

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    key: u128,
    serial: usize,
    weight: usize,
}

impl Sendable for Row {
    fn hash(&self) -> u128 {
        self.key
    }

    fn weight(&self) -> usize {
        self.weight
    }

    fn key_bytes(&self) -> usize {
        1
    }

    fn is_of_key_of(&self, _: &Self) -> bool {
        true
    }

    fn doubt(&mut self) {}

    fn is_in_doubt(&self) -> bool {
        false
    }
}

fn flow(id: FlowId, tenant: &str, batch_size: usize) -> Flow {
    Flow {
        id,
        tenant: tenant.into(),
        shares: Arc::new(Shares::new(1, 1, batch_size)),
        packing: None,
    }
}

fn row(key: u128, serial: usize) -> Row {
    Row {
        key,
        serial,
        weight: 10,
    }
}

const ANY_COST: Cost = Cost {
    records: 500,
    bytes: 10 << 20,
};

const RULES: CallRules = CallRules {
    limit: ANY_COST,
    rows: usize::MAX,
    sharing: Sharing::AllKeys,
    record_worth: 1048,
};

fn serials(taken: &[Parcel<Row>]) -> Vec<usize> {
    taken
        .iter()
        .flat_map(|taken| taken.rows().map(|row| row.serial))
        .collect()
}

#[test]
fn one_record_of_a_key_in_a_call_and_the_next_after_its_confirmation() {
    let mut queue = SendQueue::default();
    let a = flow(1, "t", 500);
    for serial in 0..3 {
        queue.push(&a, row(7, serial));
    }
    queue.push(&a, row(8, 9));
    let call = queue.take(ANY_COST, RULES);
    assert_eq!(serials(&call), [0, 9]);
    assert!(queue.take(ANY_COST, RULES).is_empty());
    queue.confirmed(1, 7);
    assert_eq!(serials(&queue.take(ANY_COST, RULES)), [1]);
}

#[test]
fn the_second_partial_failure_in_a_row_sends_the_right_records_again() {
    let mut queue = SendQueue::default();
    let a = flow(1, "t", 500);
    for key in 0..4 {
        for serial in [10, 20, 30] {
            queue.push(&a, row(key, serial + key as usize));
        }
    }
    let mut calls = Vec::new();
    for _ in 0..3 {
        let call = queue.take(ANY_COST, RULES);
        calls.push(serials(&call));
        for taken in call {
            match taken.first().key {
                1 | 3 => queue.failed(taken, Turn::Next),
                key => queue.confirmed(taken.flow, key),
            }
        }
    }
    assert_eq!(
        calls,
        [[10, 11, 12, 13], [11, 13, 20, 22], [11, 13, 30, 32]]
    );
}

#[test]
fn a_flood_of_one_tenant_leaves_the_others_their_turns() {
    let mut queue = SendQueue::default();
    let (flood, quiet) = (flow(1, "flood", 500), flow(2, "quiet", 500));
    for serial in 0..10_000 {
        queue.push(&flood, row(serial as u128, serial));
    }
    for serial in 0..20 {
        queue.push(&quiet, row(serial as u128, serial));
    }
    let call = queue.take(
        Cost {
            records: 40,
            bytes: 1 << 20,
        },
        RULES,
    );
    let of_quiet = call.iter().filter(|taken| taken.flow == 2).count();
    assert!((16..=20).contains(&of_quiet), "{of_quiet} of 40");
}

/// The bytes that two flows get through a shard of 1 MB a second in a minute: one
/// of a single key with rows of 100 kB, one of many keys with rows of 1 kB.
fn bytes_of_few_large_and_many_small(large: &Flow, small: &Flow) -> (usize, usize) {
    let mut queue = SendQueue::default();
    for serial in 0..2_000 {
        let weight = 100_000;
        let row = |key| Row {
            key,
            serial,
            weight,
        };
        queue.push(large, row(1));
    }
    for serial in 0..100_000 {
        let (key, weight) = (serial as u128 % 500, 1_000);
        let row = Row {
            key,
            serial,
            weight,
        };
        queue.push(small, row);
    }
    let (mut of_large, mut of_small, mut tokens) = (0, 0, 0_u64);
    for _ in 0..1_200 {
        tokens = (tokens + 50_000).min(200_000);
        if queue.waiting().next_bytes > tokens {
            continue;
        }
        let most = Cost {
            records: 500,
            bytes: tokens,
        };
        for taken in queue.take(most, RULES) {
            tokens = tokens.saturating_sub(taken.first().weight as u64);
            let sum = if taken.flow == large.id {
                &mut of_large
            } else {
                &mut of_small
            };
            *sum += taken.first().weight;
            queue.confirmed(taken.flow, taken.first().key);
        }
    }
    (of_large, of_small)
}

#[test]
fn a_tenant_of_one_key_with_large_rows_gets_no_more_than_its_share() {
    let (large, small) = (flow(1, "large", 500), flow(2, "small", 500));
    let (of_large, of_small) = bytes_of_few_large_and_many_small(&large, &small);
    let ratio = of_large as f64 / of_small as f64;
    assert!((0.8..1.25).contains(&ratio), "{of_large} to {of_small}");
    // Nor does a pipeline of the same tenant.
    let (large, small) = (flow(1, "t", 500), flow(2, "t", 500));
    let (of_large, of_small) = bytes_of_few_large_and_many_small(&large, &small);
    let ratio = of_large as f64 / of_small as f64;
    assert!((0.8..1.25).contains(&ratio), "{of_large} to {of_small}");
}

#[test]
fn a_purged_flow_is_gone_and_what_comes_back_of_it_is_dropped() {
    let mut queue = SendQueue::default();
    let (old, new) = (flow(1, "t", 500), flow(2, "t", 500));
    queue.push(&old, row(1, 1));
    queue.push(&old, row(1, 2));
    queue.push(&old, row(2, 3));
    queue.push(&new, row(1, 4));
    let mut call = queue.take(
        Cost {
            records: 1,
            bytes: 100,
        },
        RULES,
    );
    assert_eq!(queue.purge(1), 2);
    let back = call.pop().expect("one row");
    queue.failed(back, Turn::Next);
    assert_eq!(serials(&queue.take(ANY_COST, RULES)), [4]);
    queue.confirmed(2, 1);
    assert!(queue.is_empty() && queue.flows().next().is_none());
    assert_eq!(queue.waiting(), Waiting::default());
    assert_eq!(queue.bytes(), 0);
}

#[derive(Debug, Clone)]
enum Step {
    Push {
        flow: FlowId,
        key: u128,
        weight: usize,
    },
    Call {
        records: u64,
        bytes: u64,
        fates: Vec<bool>,
    },
    Purge {
        flow: FlowId,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1u64..4, 0u128..6, 1usize..4000).prop_map(|(flow, key, weight)| Step::Push { flow, key, weight }),
        3 => (1u64..8, 1u64..9000, prop::collection::vec(any::<bool>(), 8))
            .prop_map(|(records, bytes, fates)| Step::Call { records, bytes, fates }),
        1 => (1u64..4).prop_map(|flow| Step::Purge { flow }),
    ]
}

proptest! {
    #[test]
    fn keeps_its_rules_whatever_happens(steps in prop::collection::vec(step(), 1..200)) {
        let mut queue = SendQueue::default();
        let flows: Vec<Flow> = (1..4).map(|id| flow(id, if id == 1 { "a" } else { "b" }, 3)).collect();
        let mut expected: HashMap<(FlowId, u128), VecDeque<usize>> = HashMap::new();
        let mut failed_before: HashSet<(FlowId, u128)> = HashSet::new();
        for (serial, step) in steps.into_iter().enumerate() {
            match step {
                Step::Push { flow, key, weight } => {
                    let place = usize::try_from(flow - 1).expect("few");
                    queue.push(&flows[place], Row { key, serial, weight });
                    expected.entry((flow, key)).or_default().push_back(serial);
                }
                Step::Purge { flow } => {
                    queue.purge(flow);
                    expected.retain(|(id, _), _| *id != flow);
                    failed_before.retain(|(id, _)| *id != flow);
                }
                Step::Call { records, bytes, fates } => {
                    let call = queue.take(Cost { records, bytes }, RULES);
                    prop_assert_eq!(call.is_empty(), expected.values().all(VecDeque::is_empty));
                    prop_assert!(call.len() as u64 <= records);
                    let total: usize = call.iter().map(|taken| taken.first().weight).sum();
                    prop_assert!(call.len() == 1 || total as u64 <= bytes);
                    let keys: HashSet<_> = call.iter().map(|taken| (taken.flow, taken.first().key)).collect();
                    prop_assert_eq!(keys.len(), call.len(), "two records of a key in one call");
                    for id in 1..4 {
                        prop_assert!(call.iter().filter(|taken| taken.flow == id).count() <= 3);
                    }
                    let retried = call.iter().take_while(|taken| failed_before.contains(&(taken.flow, taken.first().key))).count();
                    prop_assert!(call[retried..].iter().all(|taken| !failed_before.contains(&(taken.flow, taken.first().key))));
                    for (taken, stored) in call.into_iter().zip(fates.into_iter().cycle()) {
                        let place = (taken.flow, taken.first().key);
                        let order = expected.get_mut(&place).expect("known key");
                        prop_assert_eq!(order.front(), Some(&taken.first().serial), "out of order");
                        if stored {
                            order.pop_front();
                            failed_before.remove(&place);
                            queue.confirmed(taken.flow, taken.first().key);
                        } else {
                            failed_before.insert(place);
                            queue.failed(taken, Turn::Next);
                        }
                    }
                }
            }
            let heads = expected.values().filter(|order| !order.is_empty()).count() as u64;
            prop_assert_eq!(queue.waiting().all.records, heads);
            prop_assert_eq!(queue.len(), expected.values().map(VecDeque::len).sum::<usize>());
        }
    }
}

#[test]
fn a_changed_share_holds_for_rows_that_wait_already() {
    let mut queue = SendQueue::default();
    let (one, other) = (flow(1, "t", 10), flow(2, "t", 500));
    for key in 0..2_000 {
        queue.push(&one, row(key, 0));
        queue.push(&other, row(10_000 + key, 0));
    }
    let of_one = |call: &[Parcel<Row>]| call.iter().filter(|parcel| parcel.flow == 1).count();
    let call = queue.take(ANY_COST, RULES);
    assert_eq!(of_one(&call), 10);
    one.shares.change(1, 1, 20);
    let call = queue.take(ANY_COST, RULES);
    assert_eq!(of_one(&call), 20);
    one.shares.change(1, 3, 500);
    let calls: Vec<usize> = (0..3)
        .map(|_| of_one(&queue.take(ANY_COST, RULES)))
        .collect();
    let last = *calls.last().expect("three");
    assert!(
        (360..=390).contains(&last),
        "three quarters of 500: {calls:?}"
    );
}

#[test]
fn the_room_of_a_crowd_of_keys_is_not_kept() {
    let mut queue = SendQueue::default();
    let flow = flow(1, "t", 500);
    for key in 0..40_100 {
        queue.push(&flow, row(key, 0));
    }
    let room = |queue: &SendQueue<Row>| queue.flows[&1].keys.capacity();
    assert!(room(&queue) >= 40_000);
    while queue.len() > 100 {
        let call = queue.take(ANY_COST, RULES);
        for parcel in call {
            for hash in parcel.hashes() {
                queue.confirmed(1, hash);
            }
        }
    }
    assert!(room(&queue) <= MOST_SPARE_KEYS, "{}", room(&queue));
}
