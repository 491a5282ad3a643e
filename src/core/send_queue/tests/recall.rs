//! A flow is recalled at any moment: what is certainly not in the stream comes back,
//! and the queue knows of the rest as before.

use super::*;
use crate::core::aggregation::{Container, Packing};
use crate::core::compression::Compression;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Doubted {
    key: u128,
    serial: usize,
    is_in_doubt: bool,
}

impl Sendable for Doubted {
    fn hash(&self) -> u128 {
        self.key
    }

    fn weight(&self) -> usize {
        10
    }

    fn key_bytes(&self) -> usize {
        1
    }

    fn is_of_key_of(&self, _: &Self) -> bool {
        true
    }

    fn doubt(&mut self) {
        self.is_in_doubt = true;
    }

    fn is_in_doubt(&self) -> bool {
        self.is_in_doubt
    }
}

#[derive(Debug, Clone, Copy)]
enum Fate {
    Stored,
    Refused,
    Unknown,
}

#[derive(Debug, Clone)]
enum Step {
    Push { flow: FlowId, key: u128 },
    Call { most: u64, fates: Vec<Fate> },
    RecallInCall { flow: FlowId, fates: Vec<Fate> },
    Recall { flow: FlowId },
}

fn fates() -> impl Strategy<Value = Vec<Fate>> {
    let fate = prop_oneof![
        4 => Just(Fate::Stored),
        2 => Just(Fate::Refused),
        2 => Just(Fate::Unknown),
    ];
    prop::collection::vec(fate, 12)
}

fn step() -> impl Strategy<Value = Step> {
    let flow = 1u64..4;
    prop_oneof![
        10 => (flow.clone(), 0u128..4).prop_map(|(flow, key)| Step::Push { flow, key }),
        4 => (1u64..6, fates()).prop_map(|(most, fates)| Step::Call { most, fates }),
        1 => (flow.clone(), fates()).prop_map(|(flow, fates)| Step::RecallInCall { flow, fates }),
        1 => flow.prop_map(|flow| Step::Recall { flow }),
    ]
}

/// The queue, and what has become of every row.
#[derive(Default)]
struct World {
    queue: SendQueue<Doubted>,
    pushed: usize,
    out: HashSet<usize>,
    /// The last row of a flow and key that was stored.
    last: HashMap<(FlowId, u128), usize>,
}

impl World {
    fn flow(id: FlowId) -> Flow {
        // The third one aggregates.
        let packing = (id == 3).then_some(Packing {
            container: Container::Kpl,
            compression: Compression::None,
            max_bytes: 200,
        });
        Flow {
            packing,
            ..flow(id, if id == 1 { "a" } else { "b" }, 500)
        }
    }

    fn push(&mut self, id: FlowId, key: u128) {
        let serial = self.pushed;
        self.pushed += 1;
        let row = Doubted {
            key,
            serial,
            is_in_doubt: false,
        };
        self.queue.push(&Self::flow(id), row);
    }

    fn take(&mut self, records: u64) -> Vec<Parcel<Doubted>> {
        let most = Cost {
            records,
            ..ANY_COST
        };
        self.queue.take(most, RULES)
    }

    fn answer(&mut self, call: Vec<Parcel<Doubted>>, fates: &[Fate]) {
        for (mut parcel, fate) in call.into_iter().zip(fates.iter().cycle()) {
            match fate {
                Fate::Stored => {
                    for hash in parcel.hashes() {
                        self.queue.confirmed(parcel.flow, hash);
                    }
                    let flow = parcel.flow;
                    for row in parcel.into_rows() {
                        assert!(self.out.insert(row.serial), "row {} twice", row.serial);
                        let last = self.last.insert((flow, row.key), row.serial);
                        assert!(last.is_none_or(|last| last < row.serial), "overtaken");
                    }
                }
                Fate::Refused => self.queue.failed(parcel, Turn::Next),
                Fate::Unknown => {
                    parcel.doubt();
                    self.queue.failed(parcel, Turn::Next);
                }
            }
        }
    }

    fn recall(&mut self, flow: FlowId) {
        for row in self.queue.recall(flow) {
            assert!(!row.is_in_doubt, "{row:?} may be in the stream");
            assert!(self.out.insert(row.serial), "row {} twice", row.serial);
        }
        assert_eq!(self.queue.recall(flow), [], "once");
    }

    /// All that is left goes, and the books are even.
    fn finish(mut self) {
        for _ in 0..10_000 {
            let call = self.take(500);
            if call.is_empty() {
                break;
            }
            self.answer(call, &[Fate::Stored]);
        }
        assert_eq!(self.out.len(), self.pushed);
        assert_eq!((self.queue.len(), self.queue.bytes()), (0, 0));
        assert_eq!(self.queue.waiting().all, Cost::default());
        assert_eq!(self.queue.flows().count(), 0);
        assert!(!self.queue.has_failed_rows());
    }
}

proptest! {
    #[test]
    fn a_recall_takes_what_was_never_sent_and_loses_nothing(
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut world = World::default();
        for step in steps {
            match step {
                Step::Push { flow, key } => world.push(flow, key),
                Step::Call { most, fates } => {
                    let call = world.take(most);
                    world.answer(call, &fates);
                }
                Step::RecallInCall { flow, fates } => {
                    let call = world.take(500);
                    world.recall(flow);
                    world.answer(call, &fates);
                }
                Step::Recall { flow } => world.recall(flow),
            }
        }
        world.finish();
    }
}

#[test]
fn what_may_be_in_the_stream_stays_and_goes_again() {
    let mut world = World::default();
    for key in [7, 7, 8, 8] {
        world.push(1, key);
    }
    world.push(2, 7);
    let call = world.take(500);
    assert_eq!(call.len(), 3);
    world.answer(call, &[Fate::Unknown, Fate::Refused, Fate::Stored]);
    let recalled = world.queue.recall(1);
    let serials_of = |rows: &[Doubted]| {
        let mut serials: Vec<usize> = rows.iter().map(|row| row.serial).collect();
        serials.sort_unstable();
        serials
    };
    assert_eq!(serials_of(&recalled), [1, 2, 3], "row 0 is in doubt");
    assert_eq!(world.queue.len(), 1);
    let again = world.take(500);
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].first().serial, 0);
}
