//! What must never happen, by id, and how to tell.
//!
//! Each invariant has one predicate here. The same one is asked by the tests of
//! the parts, by the simulation (`tests/simulation.rs`) and, where it is cheap, by
//! the running relay: what it finds is counted as
//! `tidegate_invariant_violations_total{id}` and logged as an error. Anything but 0
//! there is a defect of the relay, whatever else fails around it.
//!
//! `docs/invariants.md` says in prose what each means and where it is checked.

use super::budget::{Cost, ShardLimits};

/// Something that must always hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Invariant {
    /// A position passes only rows that are settled, and in the end every
    /// committed row is: [`passes_only_settled`].
    Loss,
    /// Rows of a key come in the order of the outbox: [`rises`].
    Order,
    /// No shard is offered more than its limits in a second: [`within_budget`].
    Budget,
    /// What the nodes of a cluster may use of a shard never adds up to more than it:
    /// [`shares_fit`].
    SharesFit,
    /// Rows and bytes on their way stay under their bounds: [`within_bound`].
    Bound,
    /// What was read is delivered, parked, gone or on its way:
    /// [`Books::balance`].
    LossBooks,
    /// Only committed rows are sent: [`is_committed`].
    LossPhantom,
    /// A call carries at most one record of a key: [`one_per_key`].
    OrderOnePerKey,
    /// A shard has at most one call in flight: [`one_call`].
    OrderOneCall,
    /// Window numbers, and `seq` over first occurrences, rise: [`rises`].
    SeqRises,
    /// A row that is sent again has the `seq` it had: [`is_same`].
    SeqStable,
    /// A consumer that drops `seq <= last seen` of a key has every row:
    /// [`passes_only_settled`], asked of what the consumer dropped.
    SeqSuffices,
    /// A record is repeated only after a crash, an unknown outcome, a lost lease
    /// or a change of the shards: [`repeat_has_cause`].
    RepeatsCaused,
    /// Under `block_key` no row passes an open letter of its key:
    /// [`passes_only_settled`].
    OrderLetters,
    /// A position never goes back: rows that are sent again do not move it.
    PositionStands,
    /// A replay sends every row of its range that had been delivered:
    /// [`passes_only_settled`], asked of the request that is done.
    ReplayExact,
    /// A pipeline that halts stands before the row it names:
    /// [`stands_before`].
    HaltStands,
    /// A key whose letters are sent is free soon, however many rows of it come:
    /// [`settles_in_time`].
    KeyFreed,
    /// A call begins only with rows of pipelines whose leases its node has:
    /// [`is_its_own`].
    OneSender,
    /// When nothing fails any more, everything is settled within minutes and
    /// without a person: [`settles_in_time`].
    Settles,
}

impl Invariant {
    /// All of them.
    pub const ALL: [Self; 20] = [
        Self::Loss,
        Self::Order,
        Self::Budget,
        Self::SharesFit,
        Self::Bound,
        Self::LossBooks,
        Self::LossPhantom,
        Self::OrderOnePerKey,
        Self::OrderOneCall,
        Self::SeqRises,
        Self::SeqStable,
        Self::SeqSuffices,
        Self::RepeatsCaused,
        Self::OrderLetters,
        Self::PositionStands,
        Self::ReplayExact,
        Self::HaltStands,
        Self::KeyFreed,
        Self::OneSender,
        Self::Settles,
    ];

    /// Its id, as metrics, logs and documents name it.
    #[must_use]
    pub const fn id(self) -> &'static str {
        match self {
            Self::Loss => "P-LOSS",
            Self::Order => "P-ORDER",
            Self::Budget => "P-BUDGET",
            Self::SharesFit => "SHARES-FIT",
            Self::Bound => "P-BOUND",
            Self::LossBooks => "LOSS-BOOKS",
            Self::LossPhantom => "LOSS-PHANTOM",
            Self::OrderOnePerKey => "ORDER-ONE-PER-KEY",
            Self::OrderOneCall => "ORDER-ONE-CALL",
            Self::SeqRises => "SEQ-RISES",
            Self::SeqStable => "SEQ-STABLE",
            Self::SeqSuffices => "SEQ-SUFFICES",
            Self::RepeatsCaused => "REPEATS-CAUSED",
            Self::OrderLetters => "ORDER-LETTERS",
            Self::PositionStands => "POSITION-STANDS",
            Self::ReplayExact => "REPLAY-EXACT",
            Self::HaltStands => "HALT-STANDS",
            Self::KeyFreed => "KEY-FREED",
            Self::OneSender => "ONE-SENDER",
            Self::Settles => "SETTLES",
        }
    }

    /// Whether the running relay checks it. The others need to know what the
    /// whole stream or the whole outbox holds: only tests do.
    #[must_use]
    pub const fn is_checked_at_run_time(self) -> bool {
        match self {
            Self::Loss
            | Self::Order
            | Self::Budget
            | Self::Bound
            | Self::LossBooks
            | Self::OrderOnePerKey
            | Self::OrderOneCall
            | Self::SeqRises => true,
            Self::SharesFit
            | Self::LossPhantom
            | Self::SeqStable
            | Self::SeqSuffices
            | Self::RepeatsCaused
            | Self::OrderLetters
            | Self::PositionStands
            | Self::ReplayExact
            | Self::HaltStands
            | Self::KeyFreed
            | Self::OneSender
            | Self::Settles => false,
        }
    }
}

/// An invariant did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub invariant: Invariant,
    /// What was found; may name rows, never payloads.
    pub found: String,
}

/// What was found since somebody last asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Violations(Vec<Violation>);

impl Violations {
    /// Notes a violation unless the invariant holds.
    pub fn check(&mut self, invariant: Invariant, holds: bool, found: impl FnOnce() -> String) {
        if !holds {
            self.0.push(Violation {
                invariant,
                found: found(),
            });
        }
    }

    /// Gives out what was found, and forgets it.
    #[must_use]
    pub fn take(&mut self) -> Vec<Violation> {
        std::mem::take(&mut self.0)
    }
}

// === The predicates ===

/// Who passes a row for good (a position, a consumer that drops it) must have it
/// settled (confirmed or parked; seen).
#[must_use]
pub const fn passes_only_settled(passed: bool, settled: bool) -> bool {
    settled || !passed
}

/// `next` comes after `last`.
#[must_use]
pub fn rises<T: PartialOrd>(last: Option<&T>, next: &T) -> bool {
    last.is_none_or(|last| last < next)
}

/// What was offered within one second, the last call of it included, is within
/// the limits of a shard. One record may always go, however slow the shard.
#[must_use]
#[expect(
    clippy::cast_precision_loss,
    reason = "counts of one second, far below 2^52"
)]
pub fn within_budget(offered: Cost, limits: ShardLimits) -> bool {
    let is_one = offered.records <= 1;
    let fits = offered.records as f64 <= limits.records_per_second
        && offered.bytes as f64 <= limits.bytes_per_second;
    is_one || fits
}

/// What all nodes together may use of a shard, in [`super::shares::Parts`].
#[must_use]
pub const fn shares_fit(used: super::shares::Parts) -> bool {
    used <= super::shares::WHOLE
}

/// What is in use is within its bound; the last thing taken may exceed it.
#[must_use]
pub const fn within_bound(used: usize, most: usize, last: usize) -> bool {
    used <= most.saturating_add(last)
}

/// Only rows of committed transactions are sent.
#[must_use]
pub const fn is_committed(committed: bool) -> bool {
    committed
}

/// No two records of a call are of one key.
#[must_use]
pub fn one_per_key<K: Ord>(keys: impl IntoIterator<Item = K>) -> bool {
    let mut keys: Vec<K> = keys.into_iter().collect();
    keys.sort_unstable();
    keys.windows(2).all(|pair| pair[0] != pair[1])
}

/// A call may begin: none is in flight.
#[must_use]
pub const fn one_call(in_flight: usize) -> bool {
    in_flight == 0
}

/// What is said of a thing again is what was said of it first.
#[must_use]
pub fn is_same<T: PartialEq>(first: Option<&T>, again: &T) -> bool {
    first.is_none_or(|first| first == again)
}

/// A row may be sent again: something happened after which nobody could know that
/// it had been stored.
#[must_use]
pub const fn repeat_has_cause(repeats: usize, something_happened: bool) -> bool {
    repeats == 0 || something_happened
}

/// Nothing is left to do, or there is time left to do it.
#[must_use]
pub const fn settles_in_time(left_over: usize, time_is_up: bool) -> bool {
    left_over == 0 || !time_is_up
}

/// A pipeline that halts stands before a row that cannot be sent: it is neither
/// delivered nor parked, and no position has passed it.
#[must_use]
pub const fn stands_before(is_poison: bool, is_settled: bool, is_passed: bool) -> bool {
    is_poison && !is_settled && !is_passed
}

/// Whoever begins a call with rows of a pipeline is who has its lease, and that runs:
/// `owner` is who, by the database.
#[must_use]
pub fn is_its_own(owner: Option<&str>, sender: &str) -> bool {
    owner == Some(sender)
}

/// What became of the rows that one reader has read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Books {
    /// Rows read, each once.
    pub read: u64,
    /// Confirmed by the stream.
    pub delivered: u64,
    /// Parked with a reason.
    pub parked: u64,
    /// Deleted from the outbox before they could be delivered.
    pub gone: u64,
    /// Handed to a writer or remembered for later.
    pub in_flight: u64,
}

impl Books {
    /// Whether every row read is accounted for exactly once.
    #[must_use]
    pub const fn balance(&self) -> bool {
        self.read == self.delivered + self.parked + self.gone + self.in_flight
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn ids_are_unique() {
        let ids: BTreeSet<&str> = Invariant::ALL.iter().map(|one| one.id()).collect();
        assert_eq!(ids.len(), Invariant::ALL.len());
    }

    #[test]
    fn predicates_tell_good_from_bad() {
        assert!(passes_only_settled(true, true) && passes_only_settled(false, false));
        assert!(!passes_only_settled(true, false));
        assert!(rises(None, &1) && rises(Some(&1), &2));
        assert!(!rises(Some(&2), &2) && !rises(Some(&3), &2));
        assert!(one_per_key([3, 1, 2]) && !one_per_key([3, 1, 3]));
        assert!(one_call(0) && !one_call(1));
        assert!(is_same(None, &1) && is_same(Some(&1), &1) && !is_same(Some(&2), &1));
        assert!(within_bound(12, 10, 2) && !within_bound(13, 10, 2));
        assert!(repeat_has_cause(0, false) && repeat_has_cause(3, true));
        assert!(!repeat_has_cause(1, false));
        assert!(settles_in_time(0, true) && settles_in_time(5, false));
        assert!(!settles_in_time(1, true));
        assert!(is_committed(true) && !is_committed(false));
        assert!(stands_before(true, false, false));
        assert!(!stands_before(false, false, false) && !stands_before(true, true, false));
        assert!(!stands_before(true, false, true));
        assert!(is_its_own(Some("a"), "a"));
        assert!(!is_its_own(Some("b"), "a") && !is_its_own(None, "a"));
    }

    #[test]
    fn a_budget_is_kept_but_one_record_may_always_go() {
        let limits = ShardLimits {
            records_per_second: 10.0,
            bytes_per_second: 1000.0,
            fraction: 1.0,
        };
        let offered = |records, bytes| within_budget(Cost { records, bytes }, limits);
        assert!(offered(10, 1000) && offered(1, 5000));
        assert!(!offered(11, 10) && !offered(2, 1001));
    }

    #[test]
    fn books_balance_only_when_nothing_is_missing_or_twice() {
        let books = Books {
            read: 10,
            delivered: 5,
            parked: 1,
            gone: 1,
            in_flight: 3,
        };
        assert!(books.balance());
        for in_flight in [2, 4] {
            assert!(!Books { in_flight, ..books }.balance());
        }
    }

    #[test]
    fn what_was_found_is_given_out_once() {
        let mut violations = Violations::default();
        violations.check(Invariant::Loss, true, || unreachable!());
        violations.check(Invariant::Order, false, || "2 after 3".to_owned());
        let found = violations.take();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].invariant.id(), "P-ORDER");
        assert!(violations.take().is_empty());
    }
}
