//! Seeds that have found a defect of the relay, each with what it was.

use crate::many::{hush, report};
use crate::plan::Plan;
use crate::run::run;

const FOUND: [(u64, &str); 4] = [
    (11, "a replay delivers a row whose letter was discarded"),
    (
        451,
        "a letter is confirmed while letters are being read, and is sent again",
    ),
    (
        1121,
        "letters on their way wait behind a later one of their key that is refused",
    ),
    (
        486,
        "rows of a replay are handed although they were parked since they had been read",
    ),
];

#[test]
fn what_was_found_once_stays_mended() {
    hush();
    for (seed, what) in FOUND {
        let outcome = run(Plan::of(seed), false);
        assert!(
            outcome.violations.is_empty(),
            "{what}: {}",
            report(&outcome)
        );
    }
}
