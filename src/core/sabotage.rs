//! Mistakes on demand, so that the simulation can show that it would find them.
//!
//! Each is one that somebody has made, or would be easy to make. Only a build for
//! tests (feature `demo`) can make them, one at a time and for one thread; without
//! the feature [`is`] is `false` and what it guards is left out.

/// A mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// A call takes the first two records of a key.
    TwoOfAKeyInACall,
    /// Records that were throttled get their tokens back.
    RefundThrottled,
    /// The position passes rows when they are handed to a writer.
    CommitBeforeConfirm,
    /// After a partial failure the whole call is sent again.
    ResendWholeBatch,
    /// At the second partial failure in a row results go to the wrong records.
    WrongIndexOnRetry,
    /// When the shards have changed, parents' queues and children's are sent at
    /// the same time.
    ParentAndChildTogether,
    /// What is lower than what has been seen is taken as read: transactions that
    /// commit late.
    SkipLateCommitters,
    /// A call of unknown outcome counts as delivered.
    UnknownIsDelivered,
    /// A record that failed goes behind the later ones of its key.
    FailedBehindItsKey,
    /// Rows of a window are handed before the window is written down.
    HandBeforeSave,
    /// A reader goes on although its position was refused as stale.
    IgnoreStale,
    /// Rows that are lost with a writer are waited for.
    LostRowsIgnored,
    /// A shard's budget is forgotten with its writer.
    BudgetDiesWithWriter,
    /// Rows of a window come by transaction, then by id.
    ReadByTransaction,
    /// A position is written without regard to the epoch.
    SaveWithoutEpoch,
    /// A position taken before a crash of the server is written after it.
    SaveAcrossCrash,
    /// No window numbers are skipped after a crash of the server.
    NumbersAgainAfterCrash,
    /// The position passes a parked row, and its letter is not written.
    PositionWithoutLetter,
    /// A key is not free when its last open letter is handed.
    BusyKeyStaysBlocked,
    /// Letters of a key are sent in the wrong order.
    LetterOvertakes,
    /// A letter that is confirmed and not written down so is sent again.
    ConfirmedLetterAgain,
    /// Rows of a replay are handed although rows were parked since they were read.
    ReplayPassesLetters,
    /// Rows of an aggregated record that went to another shard count as delivered.
    MisplacedIsDelivered,
    /// A pipeline that is handed over does not say which rows were settled out of turn.
    AheadIsForgotten,
    /// A drain waits for all that lies in the writers, however full the shards are.
    DrainWaitsForFullShards,
    /// A node whose leases could not be renewed goes on.
    ExpiredLeaseKept,
    /// A node goes on with its share of a shard although its row may have expired.
    ShareOutlivesItsNode,
    /// A share is raised without regard to what other nodes have of the shard.
    RaisedWithoutRegard,
}

#[cfg(feature = "demo")]
mod made {
    use std::cell::Cell;

    use super::Bug;

    thread_local! {
        static BUG: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Makes this mistake on this thread from now on; `None`: no more.
    pub fn make(bug: Option<Bug>) {
        BUG.set(bug);
    }

    /// Whether this mistake is to be made.
    #[must_use]
    pub fn is(bug: Bug) -> bool {
        BUG.get() == Some(bug)
    }
}

#[cfg(feature = "demo")]
pub use made::{is, make};

/// No mistake is made: they exist only in the builds for tests.
#[cfg(not(feature = "demo"))]
#[inline]
#[must_use]
pub const fn is(_bug: Bug) -> bool {
    false
}
