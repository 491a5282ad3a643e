//! The shards change while rows are read, handed, stashed and settled.

use super::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn shards_change_under_the_rows(
        steps in prop::collection::vec(step(1, 3), 1..400),
        rows in 2usize..40,
        merge_above in 1usize..8,
        stuck in any::<bool>(),
    ) {
        let limits = IntakeLimits { rows, stashed: 10_000, merge_above };
        let mut world = run(steps, limits, stuck);
        finish(&mut world);
    }
}

/// A world with these rows in one window, by the place of their hash key, of which
/// nothing has been read.
fn world_with(rows: &[usize], cuts: &[usize]) -> World {
    let limits = IntakeLimits {
        rows: 8,
        stashed: 10_000,
        merge_above: 64,
    };
    let mut world = World::new(limits);
    world.reshard(&cuts.iter().copied().collect());
    world.crash();
    world.database.next_xid += 1;
    for (id, place) in (1..).zip(rows) {
        let hash = hash_of(*place);
        let xid = world.database.next_xid;
        world.database.rows.push(Row { id, xid, hash });
    }
    world
}

#[test]
fn a_stuck_shard_does_not_hold_what_was_stashed_with_it_before_the_split() {
    let rows = [2, 2, 5, 2, 2, 2, 2, 5, 2, 5, 2, 2, 5, 2];
    let mut world = world_with(&rows, &[6]);
    while world.read_once() {}
    assert_eq!(world.intake.stashed(), rows.len() - 4, "half of the room");
    world.reshard(&BTreeSet::from([4, 6]));
    // The first shard takes nothing; the rows of the second come through.
    for _ in 0..20 {
        while world.read_once() {}
        world.send(hash_of(5), true);
    }
    assert_eq!(world.arrived[&hash_of(5)].len(), 4);
    assert!(!world.arrived.contains_key(&hash_of(2)));
    finish(&mut world);
}

/// Commits rows of one key under these ids in a transaction of their own, and reads
/// what can be read.
fn commit(world: &mut World, ids: std::ops::Range<RowId>, place: usize) {
    world.database.next_xid += 1;
    let (xid, hash) = (world.database.next_xid, hash_of(place));
    world
        .database
        .rows
        .extend(ids.map(|id| Row { id, xid, hash }));
    world.intake.wake();
    while world.read_once() {}
}

#[test]
fn a_lane_that_is_cut_again_sends_its_rows_in_order() {
    let rows: Vec<usize> = (0..3 * PAGE).map(|n| [2, 5, 3][n % 3]).collect();
    let mut world = world_with(&rows, &[6]);
    while world.read_once() {}
    world.reshard(&BTreeSet::from([4, 6]));
    world.read_once();
    assert_eq!(world.intake.backlogs.len(), 1, "it came back in part");
    // The piece has stashed some of its rows; the others are in the backlog still.
    world.reshard(&BTreeSet::from([3, 4, 6]));
    assert_eq!(world.intake.backlogs.len(), 2);
    finish(&mut world);
}

#[test]
fn windows_are_not_merged_while_their_rows_lie_in_two_lists() {
    let mut world = world_with(&[2; 10], &[6]);
    while world.read_once() {}
    let many = PAGE as RowId;
    // The later the window, the lower its ids.
    commit(&mut world, 2 * many..3 * many + 500, 2);
    commit(&mut world, many..many + 500, 2);
    commit(&mut world, 500..501, 2);
    world.reshard(&BTreeSet::from([4, 6]));
    world.read_once();
    assert_eq!(world.intake.backlogs.len(), 1, "it came back in part");
    assert_eq!(world.intake.open_windows(), 4);
    world.intake.limits.merge_above = 1;
    world.save();
    finish(&mut world);
}

#[test]
fn rows_that_were_being_read_come_behind_the_backlog() {
    let mut world = world_with(&[2; 10], &[6]);
    while world.read_once() {}
    let first = world.intake.stashed();
    // A window has been read and is written down when the shards change.
    let window = world
        .intake
        .open_window(world.database.snapshot(), world.now);
    world.reshard(&BTreeSet::from([4, 6]));
    let late = Seq { window, id: 1000 };
    let mut room = Room {
        rows: 1000,
        bytes: 1 << 20,
    };
    assert_eq!(
        world.intake.take_in(ready(late, hash_of(5)), &mut room),
        None,
        "its shard has room, but earlier rows of it may be in the backlog"
    );
    assert_eq!(world.intake.stashed(), first + 1);
}

#[test]
fn empty_lanes_of_one_shard_become_one() {
    let mut world = world_with(&[1, 5, 8], &[3, 6]);
    while world.read_once() {}
    world.reshard(&BTreeSet::new());
    world.save();
    assert_eq!(world.intake.lanes.len(), 3, "their rows are on their way");
    finish(&mut world);
    assert_eq!(world.intake.lanes.len(), 1);
}
