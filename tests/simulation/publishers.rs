//! The application: transactions that overlap, commit late, roll back, own an old
//! transaction id before they wait for a key's lock.

use tidegate::core::ports::OutboxId;

use crate::dice::Dice;
use crate::poison::spoil;
use crate::world::{Shared, World, pass};

/// The names of the keys whose transactions are serialised, and of the others.
pub(crate) fn keys(serialised: usize, free: usize) -> (Vec<String>, Vec<String>) {
    let named =
        |prefix: &str, count: usize| (0..count).map(|place| format!("{prefix}{place}")).collect();
    (named("key", serialised), named("free", free))
}

/// Publishes for as long as the plan says.
pub(crate) async fn publish(world: Shared, mut dice: Dice) {
    let (step, end) = {
        let world = world.lock();
        (world.plan.step_millis, world.now() + world.plan.load)
    };
    loop {
        // Bursts and lulls.
        let pause = if dice.chance(0.01) {
            dice.pause(50.0, 800.0)
        } else {
            dice.pause(0.0, step * 4.0)
        };
        pass(pause).await;
        let mut world = world.lock();
        if world.now() >= end {
            break;
        }
        take_a_step(&mut world, &mut dice);
    }
}

/// Ends what is open: some of it commits.
pub(crate) fn finish(world: &mut World, dice: &mut Dice) {
    while !world.database.open.is_empty() {
        let commit = dice.chance(0.7);
        end(world, 0, commit);
    }
}

fn take_a_step(world: &mut World, dice: &mut Dice) {
    if dice.chance(0.05) {
        world.database.flush_in_background();
    }
    if world.is_due(world.database.down_until) {
        return;
    }
    let open = world.database.open.len();
    if open == 0 || (open < world.plan.most_open && dice.chance(0.3)) {
        let has_old_xid = dice.chance(0.5);
        world.database.begin(has_old_xid);
        return;
    }
    let place = dice.below(open);
    if world.database.open[place].is_prepared {
        if dice.chance(0.1) {
            end(world, place, true);
        }
        return;
    }
    if dice.chance(0.05) {
        world.database.prepare(place);
        return;
    }
    match dice.below(10) {
        0..=6 => insert(world, place, dice),
        7..=8 => end(world, place, true),
        _ => {
            let commit = dice.chance(0.5);
            end(world, place, commit);
        }
    }
}

fn insert(world: &mut World, place: usize, dice: &mut Dice) {
    let (serialised, free) = keys(world.plan.keys, world.plan.free_keys);
    let outbox: OutboxId = dice.pick(&world.database.outboxes).id;
    let now = world.now();
    // A key of its own now and then: most streams have many keys.
    let key = if !free.is_empty() && dice.chance(0.4) {
        dice.pick(&free).clone()
    } else {
        let key = dice.pick(&serialised).clone();
        if !world.database.lock(place, outbox, &key) {
            return;
        }
        key
    };
    for _ in 0..=dice.below(3) {
        let filler = dice.range(1, world.plan.filler as u64);
        let filler = usize::try_from(filler).expect("small");
        let (poison, chance) = (&world.plan.poison, &mut world.poison_dice);
        let (mut row_key, mut size, mut defect) = (key.clone(), filler, None);
        if poison.rows > 0.0 && chance.chance(poison.rows) {
            let kind = *chance.pick(&poison.kinds);
            (row_key, size) = spoil(kind, row_key, size, poison.max_record_bytes);
            defect = Some(kind);
        }
        world
            .database
            .insert(place, outbox, &row_key, size, defect, now);
    }
}

fn end(world: &mut World, place: usize, commit: bool) {
    let committed = world.database.end(place, commit);
    if !committed.is_empty() {
        let ids: Vec<_> = committed.iter().map(|row| row.id).collect();
        let xid = committed[0].xid;
        world.note(format_args!("transaction {xid} commits {ids:?}"));
        world.ledger.committed(&committed);
    }
}
