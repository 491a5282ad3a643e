//! Persons: they retry and discard letters, ask for replays, cure what is wrong.

use tidegate::admin::status::PipelineState;
use tidegate::core::dead_letter::OnPoison;
use tidegate::core::invariants::{self, Invariant};
use tidegate::core::position::RowId;

use crate::database::letters::State;
use crate::dice::Dice;
use crate::node::Node;
use crate::poison::Habit;
use crate::world::{Shared, World, pass, pipeline_name};

/// The most rows of a replay.
const MOST_OF_A_REPLAY: u64 = 60;

/// Does something now and then, for as long as the plan says.
pub(crate) async fn operate(shared: Shared, mut dice: Dice) {
    let (every, end, cured_at) = {
        let world = shared.lock();
        let poison = &world.plan.poison;
        let now = world.now();
        (
            poison.operator_every_millis,
            now + world.plan.load,
            now + poison.cured_after,
        )
    };
    if every == 0.0 {
        return;
    }
    loop {
        pass(dice.pause(every * 0.2, every * 3.0)).await;
        let mut world = shared.lock();
        let now = world.now();
        if now >= end {
            break;
        }
        if now >= cured_at && !world.cured {
            cure(&mut world);
        }
        if !world.is_due(world.database.down_until) {
            does_something(&mut world, &mut dice);
        }
    }
}

pub(crate) fn cure(world: &mut World) {
    world.cured = true;
    world.note(format_args!("the service takes what it has refused"));
}

fn does_something(world: &mut World, dice: &mut Dice) {
    let place = dice.below(world.ledger.routes.len());
    let pipeline = pipeline_name(place);
    let what = match world.plan.poison.habit {
        Habit::Mixed => dice.below(10),
        Habit::Replaying if dice.chance(0.9) => return ask_replay(world, place, dice),
        Habit::Replaying => 0,
    };
    match what {
        0..=3 => {
            if let Some(row) = letter(world, &pipeline, dice, &[State::Parked]) {
                let done = world.database.letters.retry(&pipeline, row);
                world.note(format_args!("{pipeline}: letter {row} is retried: {done}"));
            }
        }
        4 => {
            world.database.letters.retry_all(&pipeline);
            world.note(format_args!("{pipeline}: all letters are retried"));
        }
        5 => {
            let states = [State::Parked, State::Waiting];
            if let Some(row) = letter(world, &pipeline, dice, &states) {
                let done = world.database.letters.discard(&pipeline, row);
                world.note(format_args!(
                    "{pipeline}: letter {row} is discarded: {done}"
                ));
            }
        }
        6..=8 => ask_replay(world, place, dice),
        _ => {
            world.database.cancel_replays(&pipeline);
            world.note(format_args!("{pipeline}: its replays are cancelled"));
        }
    }
    world.database.commits();
}

fn letter(world: &World, pipeline: &str, dice: &mut Dice, of: &[State]) -> Option<RowId> {
    let all = world.database.letters.of(pipeline);
    let found = all.filter(|(_, letter)| of.contains(&letter.state));
    let rows: Vec<RowId> = found.map(|(row, _)| row).collect();
    (!rows.is_empty()).then(|| *dice.pick(&rows))
}

fn ask_replay(world: &mut World, place: usize, dice: &mut Dice) {
    let pipeline = pipeline_name(place);
    let route = world.ledger.routes[place];
    let Some(stored) = world.database.positions.get(&pipeline) else {
        return;
    };
    let head = stored.position.head().clone();
    let (first, last) = world.ledger.ids_of(route.outbox);
    let Some((first, last)) = first.zip(last) else {
        return;
    };
    let number = |id: RowId| u64::try_from(id).expect("positive");
    let oldest = match world.plan.poison.habit {
        Habit::Mixed => number(first),
        Habit::Replaying => number(first).max(number(last).saturating_sub(MOST_OF_A_REPLAY / 2)),
    };
    let from = dice.range(oldest, number(last));
    let to = from + dice.below(usize::try_from(MOST_OF_A_REPLAY).expect("few")) as u64;
    let id = |number: u64| RowId::try_from(number).expect("small");
    let (from, to) = (id(from), id(to));
    let letters = &world.database.letters;
    let is_settled = |row: &RowId| {
        let letter = letters.get(&pipeline, *row);
        letter.is_none_or(|letter| letter.state == State::Delivered)
    };
    let must_come: Vec<RowId> = world
        .ledger
        .delivered(route, from, to)
        .filter(|row| is_settled(row) && world.database.sees(&head, route.outbox, *row))
        .collect();
    world.note(format_args!(
        "{pipeline}: replay of {from} to {to}, {} rows of it are delivered",
        must_come.len()
    ));
    world.database.ask_replay(&pipeline, from, to, must_come);
}

// === At the end ===

/// What persons do once the load is over: all that is to be sent is sent in the end.
pub(crate) fn finish(world: &mut World) {
    if world.plan.poison.is_curable && !world.cured {
        cure(world);
    }
    for place in 0..world.ledger.routes.len() {
        if world.poison_dice.chance(0.5) {
            let pipeline = pipeline_name(place);
            world.database.letters.retry_all(&pipeline);
            world.note(format_args!("{pipeline}: all letters are retried"));
        }
    }
    world.database.commits();
}

/// A pipeline that halts is where it says: then somebody lets it park the row.
pub(crate) fn look_at_halted(shared: &Shared, nodes: &[Node]) {
    let mut guard = shared.lock();
    let world = &mut *guard;
    for node in nodes {
        for status in node.board.status().pipelines {
            let PipelineState::Blocked { row_id, .. } = status.state else {
                continue;
            };
            let place: usize = status.name[1..].parse().expect("a pipeline of this world");
            let route = world.ledger.routes[place];
            if route.on_poison != OnPoison::Halt {
                continue;
            }
            let (pipeline, outbox) = (pipeline_name(place), route.outbox);
            let epoch = world.database.positions.get(&pipeline);
            let is_owner = epoch.is_some_and(|stored| Some(stored.epoch.0) == status.epoch);
            if !is_owner {
                continue;
            }
            let has_letter = world.database.letters.get(&pipeline, row_id).is_some();
            let is_delivered = world.ledger.is_delivered(route, row_id);
            let is_poison = world.database.is_poison(outbox, row_id);
            let is_passed = world
                .database
                .positions
                .get(&pipeline)
                .is_some_and(|stored| world.database.sees(&stored.position.base, outbox, row_id));
            let holds = invariants::stands_before(is_poison, is_delivered || has_letter, is_passed);
            if !holds {
                let text = format!(
                    "{pipeline} says it stands before row {row_id}: poison {is_poison}, delivered {is_delivered}, \
                     a letter {has_letter}, passed {is_passed}"
                );
                world.ledger.violations.push((Invariant::HaltStands, text));
            }
            world.note(format_args!(
                "{pipeline} halts before row {row_id} and may park it from now on"
            ));
            world.halts_seen += 1;
            world.ledger.routes[place].on_poison = OnPoison::Park;
            *world.database.versions.get_mut(&pipeline).expect("known") += 1;
            world.catalog_generation += 1;
        }
    }
}
