//! The books at the end: every committed row is delivered, parked or closed, and
//! what was sent again is what somebody had asked for.

use tidegate::core::invariants::{self, Books, Invariant};

use crate::database::letters::State;
use crate::database::replays::ReplayState;
use crate::world::{World, pipeline_name};

/// Judges letters, replays and the books of every pipeline.
pub(crate) fn judge(world: &mut World, may_repeat: bool) {
    let mut found = Vec::new();
    for (place, route) in world.ledger.routes.iter().enumerate() {
        let pipeline = pipeline_name(place);
        let (mut parked, mut twice) = (0, Vec::new());
        for (row, letter) in world.database.letters.of(&pipeline) {
            let is_delivered = world.ledger.is_delivered(*route, row);
            match letter.state {
                State::Delivered => {
                    if !invariants::passes_only_settled(true, is_delivered) {
                        let text = format!(
                            "{pipeline}: letter {row} is closed as delivered and is not in the stream"
                        );
                        found.push((Invariant::Loss, text));
                    }
                }
                State::Parked | State::Waiting | State::Retry | State::Discarded => {
                    parked += u64::from(!is_delivered);
                    if is_delivered {
                        twice.push(row);
                    }
                }
            }
        }
        // A crash may forget that a row was delivered: then it may be parked behind
        // another one of its key.
        if !invariants::repeat_has_cause(twice.len(), may_repeat) {
            let text = format!("{pipeline}: rows {twice:?} are parked and delivered");
            found.push((Invariant::LossBooks, text));
        }
        let books = Books {
            read: world.ledger.committed_rows(*route) as u64,
            delivered: world.ledger.delivered(*route, i64::MIN, i64::MAX).count() as u64,
            parked,
            gone: 0,
            in_flight: 0,
        };
        if !books.balance() {
            found.push((Invariant::LossBooks, format!("{pipeline}: {books:?}")));
        }
        found.extend(judge_repeats(world, place, may_repeat));
    }
    let strays = world.ledger.strays;
    if !invariants::repeat_has_cause(strays, may_repeat) {
        let text =
            format!("{strays} rows came late under their old numbers and nothing had happened");
        found.push((Invariant::SeqRises, text));
    }
    world.ledger.violations.extend(found);
}

/// Replays have sent what they were asked for, and nothing was sent more often than
/// somebody wanted.
fn judge_repeats(world: &World, place: usize, may_repeat: bool) -> Vec<(Invariant, String)> {
    let (pipeline, route) = (pipeline_name(place), world.ledger.routes[place]);
    let all = world.database.replays.iter();
    let replays: Vec<_> = all.filter(|one| one.pipeline == pipeline).collect();
    let mut found = Vec::new();
    for row in world.ledger.delivered(route, i64::MIN, i64::MAX) {
        let times = world.ledger.times(route, row);
        let covering = replays.iter().filter(|one| one.covers(&pipeline, row));
        let most = 1 + covering.count();
        if !invariants::repeat_has_cause(times.saturating_sub(most), may_repeat) {
            let text = format!(
                "{pipeline}: row {row} is in the stream {times} times, {most} at most were wanted"
            );
            found.push((Invariant::RepeatsCaused, text));
        }
        let done = replays.iter().filter(|one| one.state == ReplayState::Done);
        let least = 1 + done.filter(|one| one.must_come.contains(&row)).count();
        // What a crash made a letter meanwhile is left to a person.
        let is_letter = world.database.letters.get(&pipeline, row).is_some();
        if !invariants::passes_only_settled(true, times >= least || is_letter) {
            let text = format!(
                "{pipeline}: row {row} is in the stream {times} times, {least} at least were asked for"
            );
            found.push((Invariant::ReplayExact, text));
        }
    }
    found
}
