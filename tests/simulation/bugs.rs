//! The simulation can fail: every mistake of `core::sabotage` is found.

use std::collections::BTreeSet;

use tidegate::core::sabotage::{self, Bug};

use crate::many::{hush, number, unplanned_panics};
use crate::plan::Plan;
use crate::run::run;

/// Each mistake, and within how many seeds it must be found.
const WITHIN: [(Bug, u64); 17] = [
    (Bug::TwoOfAKeyInACall, 10),
    (Bug::RefundThrottled, 100),
    (Bug::CommitBeforeConfirm, 10),
    (Bug::ResendWholeBatch, 50),
    (Bug::WrongIndexOnRetry, 20),
    (Bug::ParentAndChildTogether, 200),
    (Bug::SkipLateCommitters, 10),
    (Bug::UnknownIsDelivered, 10),
    (Bug::FailedBehindItsKey, 20),
    (Bug::HandBeforeSave, 100),
    (Bug::IgnoreStale, 300),
    (Bug::LostRowsIgnored, 50),
    (Bug::BudgetDiesWithWriter, 300),
    (Bug::ReadByTransaction, 10),
    (Bug::SaveWithoutEpoch, 300),
    (Bug::SaveAcrossCrash, 300),
    (Bug::NumbersAgainAfterCrash, 300),
];

/// Looks for a mistake; answers the seed that found it, and by which invariants.
fn look_for(bug: Bug, seeds: u64) -> Option<(u64, BTreeSet<&'static str>)> {
    sabotage::make(Some(bug));
    let found = (1..=seeds).find_map(|seed| {
        let outcome = run(Plan::of(seed), false);
        let ids: BTreeSet<_> = outcome.violations.iter().map(|(one, _)| one.id()).collect();
        (!ids.is_empty()).then_some((seed, ids))
    });
    sabotage::make(None);
    unplanned_panics();
    found
}

#[test]
fn every_mistake_is_found() {
    hush();
    let all = number("BUG_SEEDS");
    let found = std::thread::scope(|scope| {
        let halves = WITHIN.chunks(WITHIN.len().div_ceil(2)).map(|half| {
            scope.spawn(move || {
                half.iter()
                    .map(|(bug, within)| (*bug, look_for(*bug, all.unwrap_or(*within))))
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
        println!("{bug:?}: {found:?}");
    }
    let missed: Vec<_> = found.iter().filter(|(_, found)| found.is_none()).collect();
    assert!(missed.is_empty(), "not found: {missed:?}");
}
