//! The simulation can fail: every mistake of `core::sabotage` is found.

use std::collections::BTreeSet;

use tidegate::core::sabotage::{self, Bug};

use crate::many::{hush, number, unplanned_panics};
use crate::packed::KPL_SEEDS;
use crate::plan::Plan;
use crate::run::run;

/// Which seeds to look through: those with a focus (see `Plan::focus`), or all.
#[derive(Debug, Clone, Copy)]
enum Look {
    All,
    Focus(u64),
    /// Plans of their own, and how they are called.
    Own(&'static str, fn(u64) -> Plan),
}

/// Each mistake, and within how many seeds it must be found.
const WITHIN: [(Bug, Look, u64); 27] = [
    (Bug::TwoOfAKeyInACall, Look::All, 5),
    (Bug::RefundThrottled, Look::All, 10),
    (Bug::CommitBeforeConfirm, Look::All, 10),
    (Bug::ResendWholeBatch, Look::All, 100),
    (
        Bug::WrongIndexOnRetry,
        Look::Own("fails_again", Plan::fails_again),
        10,
    ),
    (Bug::ParentAndChildTogether, Look::All, 150),
    (Bug::SkipLateCommitters, Look::All, 10),
    (Bug::UnknownIsDelivered, Look::All, 10),
    (Bug::FailedBehindItsKey, Look::All, 10),
    (
        Bug::HandBeforeSave,
        Look::Own("dies_while_saving", Plan::dies_while_saving),
        20,
    ),
    (Bug::IgnoreStale, Look::Focus(5), 60),
    (Bug::LostRowsIgnored, Look::Focus(4), 60),
    (Bug::BudgetDiesWithWriter, Look::Focus(4), 60),
    (Bug::ReadByTransaction, Look::All, 10),
    (Bug::SaveWithoutEpoch, Look::Focus(6), 60),
    (Bug::SaveAcrossCrash, Look::Focus(5), 60),
    (Bug::NumbersAgainAfterCrash, Look::Focus(5), 60),
    (Bug::PositionWithoutLetter, Look::Focus(3), 5),
    (Bug::LetterOvertakes, Look::Focus(3), 20),
    (
        Bug::ConfirmedLetterAgain,
        Look::Own("many_letters", Plan::many_letters),
        100,
    ),
    (
        Bug::BusyKeyStaysBlocked,
        Look::Own("busy_key", Plan::busy_key),
        20,
    ),
    (
        Bug::ReplayPassesLetters,
        Look::Own("replayed", Plan::replayed),
        30,
    ),
    (Bug::MisplacedIsDelivered, Look::Focus(KPL_SEEDS), 100),
    (
        Bug::RaisedWithoutRegard,
        Look::Own("shared_shard", Plan::shared_shard),
        10,
    ),
    (
        Bug::AheadIsForgotten,
        Look::Own("handed_over", Plan::handed_over),
        10,
    ),
    (
        Bug::DrainWaitsForFullShards,
        Look::Own("handed_over", Plan::handed_over),
        10,
    ),
    (
        Bug::ExpiredLeaseKept,
        Look::Own("coordinated_apart", Plan::coordinated_apart),
        10,
    ),
];

/// Looks for a mistake; answers how many seeds that took, the one that found it,
/// and the invariants that it violates.
fn look_for(bug: Bug, look: Look, seeds: u64) -> Option<(u64, u64, BTreeSet<&'static str>)> {
    sabotage::make(Some(bug));
    let plan_of = |number| match look {
        Look::All => Plan::of(number),
        Look::Focus(focus) => Plan::of(number * 8 + focus),
        Look::Own(_, plan) => plan(number),
    };
    let found = (1..=seeds).find_map(|number| {
        let plan = plan_of(number);
        let seed = plan.seed;
        let outcome = run(plan, false);
        let ids: BTreeSet<_> = outcome.violations.iter().map(|(one, _)| one.id()).collect();
        (!ids.is_empty()).then_some((number, seed, ids))
    });
    sabotage::make(None);
    unplanned_panics();
    found
}

/// `BUG=LetterOvertakes` looks for one.
fn is_asked_for(bug: Bug) -> bool {
    std::env::var("BUG").map_or(true, |name| name == format!("{bug:?}"))
}

#[test]
fn every_mistake_is_found() {
    hush();
    let all = number("BUG_SEEDS");
    let found = std::thread::scope(|scope| {
        let halves = WITHIN.chunks(WITHIN.len().div_ceil(2)).map(|half| {
            scope.spawn(move || {
                half.iter()
                    .filter(|(bug, _, _)| is_asked_for(*bug))
                    .map(|(bug, look, within)| {
                        (*bug, look_for(*bug, *look, all.unwrap_or(*within)))
                    })
                    .collect::<Vec<_>>()
            })
        });
        let halves: Vec<_> = halves.collect();
        halves
            .into_iter()
            .flat_map(|half| half.join().expect("no panic"))
            .collect::<Vec<_>>()
    });
    for (bug, found) in &found {
        if let Some((number, seed, ids)) = found {
            println!("{bug:?}: found by seed {seed}, number {number}: {ids:?}");
        }
    }
    let missed: Vec<_> = found.iter().filter(|(_, found)| found.is_none()).collect();
    assert!(missed.is_empty(), "not found: {missed:?}");
}

/// docs/invariants.md lists every mistake, in this order, with the same bound.
#[test]
fn the_page_lists_every_mistake() {
    let page = include_str!("../../docs/invariants.md");
    let table = page.split("| asserted within |").nth(1).expect("the table");
    let rows = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let listed: Vec<&str> = rows
        .map(|row| row.split('|').nth(2).expect("a bound").trim())
        .collect();
    let asserted: Vec<String> = WITHIN
        .iter()
        .map(|(_, look, within)| match look {
            Look::All => within.to_string(),
            Look::Focus(focus) => format!("{within} (focus {focus})"),
            Look::Own(name, _) => format!("{within} ({name})"),
        })
        .collect();
    assert_eq!(listed, asserted);
}
