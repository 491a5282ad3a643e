//! A reader hands its pipeline over while rows wait in the writers: they come back,
//! and the next one sends them, and only them.

use super::*;

impl World {
    /// What was not sent comes back; the last position is written, and another reader
    /// goes on from there.
    pub(super) fn hand_over(&mut self) {
        self.intake.stop_reading();
        for (hash, rows) in std::mem::take(&mut self.handed) {
            for seq in rows {
                assert!(self.intake.came_back(seq, hash), "{seq} was waited for");
                assert!(!self.intake.came_back(seq, hash), "once");
            }
        }
        assert_eq!(self.intake.under_way(), 0);
        let (position, letters) = self.intake.to_save_last(self.now);
        assert_eq!(letters, []);
        assert_eq!(self.intake.take_violations(), []);
        self.written(position);
        self.crash();
    }
}

/// Nothing that would cause a repeat by itself.
fn calm(reshards: u32) -> impl Strategy<Value = Step> {
    let step = step(0, reshards).prop_map(|step| {
        if let Step::Send { hash, .. } = step {
            Step::Send { hash, told: true }
        } else {
            step
        }
    });
    prop_oneof![
        40 => step,
        2 => Just(Step::HandOver),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn hand_overs_lose_and_repeat_nothing(
        steps in prop::collection::vec(calm(0), 1..400),
        rows in 2usize..40,
        merge_above in 1usize..8,
        stuck in any::<bool>(),
    ) {
        let limits = IntakeLimits { rows, stashed: 10_000, merge_above };
        let mut world = run(steps, limits, stuck);
        finish(&mut world);
        prop_assert_eq!(world.duplicates, 0);
    }

    #[test]
    fn hand_overs_while_shards_change_lose_and_repeat_nothing(
        steps in prop::collection::vec(calm(2), 1..400),
        rows in 2usize..40,
        stuck in any::<bool>(),
    ) {
        let limits = IntakeLimits { rows, stashed: 10_000, merge_above: 4 };
        let mut world = run(steps, limits, stuck);
        finish(&mut world);
        prop_assert_eq!(world.duplicates, 0);
    }
}

const ROOM: Room = Room {
    rows: 100,
    bytes: 1 << 20,
};

const LIMITS: IntakeLimits = IntakeLimits {
    rows: 100,
    stashed: 100,
    merge_above: 64,
};

fn begin(position: Position) -> Intake {
    Intake::new(position, "k", &shard_ranges(), LIMITS, Moment::ORIGIN)
}

#[test]
fn a_row_that_was_settled_before_an_earlier_one_of_its_shard_is_named() {
    let mut intake = begin(Position::start());
    let window = intake.open_window(Snapshot::nothing(), Moment::ORIGIN);
    let row = |id| Seq { window, id };
    for (id, hash) in [(1, 5), (2, 5), (3, 6), (4, 5), (5, 6)] {
        let handed = intake.take_in(ready(row(id), hash), &mut { ROOM });
        assert!(handed.is_some());
    }
    for (id, hash) in [(1, 5), (3, 6), (5, 6)] {
        intake
            .settled(row(id), hash, Moment::ORIGIN)
            .expect("handed");
    }
    assert_eq!(intake.under_way(), 2);
    assert!(intake.came_back(row(2), 5) && intake.came_back(row(4), 5));
    assert_eq!(intake.under_way(), 0);
    assert_eq!(intake.books().in_flight, 2, "they are not settled");
    let (position, _) = intake.to_save_last(Moment::ORIGIN);
    assert_eq!(position.settled_id, 1);
    assert_eq!(position.ahead, [row(3), row(5)]);

    // The next owner sends the rest, and hands over in its turn before it is done.
    let mut next = begin(position);
    let sent: Vec<RowId> = [(2, 5), (3, 6), (4, 5), (5, 6)]
        .into_iter()
        .filter_map(|(id, hash)| next.take_in(ready(row(id), hash), &mut { ROOM }))
        .map(|envelope| envelope.seq.id)
        .collect();
    assert_eq!(sent, [2, 4]);
    let ordinary = next.position_to_save(Moment::ORIGIN);
    assert_eq!(ordinary.ahead, [], "it is written often, and short");
    next.settled(row(2), 5, Moment::ORIGIN).expect("handed");
    assert!(next.came_back(row(4), 5));
    let (position, _) = next.to_save_last(Moment::ORIGIN);
    assert_eq!(position.settled_id, 3);
    assert_eq!(position.ahead, [row(5)]);
}

#[test]
fn a_position_names_no_more_rows_than_it_may() {
    use crate::core::position::MOST_AHEAD;

    let limits = IntakeLimits {
        rows: 2 * MOST_AHEAD,
        ..LIMITS
    };
    let whole = [HashRange::ALL];
    let mut intake = Intake::new(Position::start(), "k", &whole, limits, Moment::ORIGIN);
    let window = intake.open_window(Snapshot::nothing(), Moment::ORIGIN);
    let mut recorded = intake.position_to_save(Moment::ORIGIN);
    let row = |id| Seq { window, id };
    recorded.ahead = (2..).map(row).take(MOST_AHEAD + 1).collect();
    let mut next = Intake::new(recorded, "k", &whole, limits, Moment::ORIGIN);
    next.take_in(ready(row(1), 5), &mut { ROOM })
        .expect("handed");
    assert!(next.came_back(row(1), 5));
    let (position, _) = next.to_save_last(Moment::ORIGIN);
    assert_eq!(position.ahead.len(), MOST_AHEAD);
    assert_eq!(next.unnamed(), 1, "and how many are not is known");
    assert_eq!(position.ahead.first(), Some(&row(2)), "the first are kept");
}
