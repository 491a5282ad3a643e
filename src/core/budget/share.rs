//! The part of a shard's budget that one node of a cluster goes by.
//!
//! It scales the rate and the window alike, so that over all nodes neither the rates
//! nor the windows exceed the shard's. Two things keep that so while shares move:
//!
//! - what a node gives up it gives up at once by its rate, and over a second by its
//!   window: what it offered in the last second was right when it was offered;
//! - what a node gets in addition begins with an empty bucket that has to fill first
//!   ([`super::DEPTH`]): the one that gave it up may have used a full one.
//!
//! A share is held until a moment, in which the node must have been heard of again;
//! then another one holds, which is no larger: what others leave to a node that they do
//! not hear of. An empty share means that nothing may be sent.

use std::time::Duration;

use super::super::time::Moment;
use super::WINDOW;

/// Without any share, the budget is asked again after so long.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Parts of a shard's budget, from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ratios {
    /// Of its records.
    pub records: f64,
    /// Of its bytes.
    pub bytes: f64,
}

/// A share and how long it holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeldShare {
    /// The share.
    pub share: Ratios,
    /// Until when it holds; `None`: for good.
    pub until: Option<Moment>,
    /// What holds from then on, if that is less.
    pub afterwards: Ratios,
    /// Other nodes write to the shard too.
    pub is_shared: bool,
}

/// A share, and what it was a moment ago.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    now: HeldShare,
    /// What the window still may be, falling to nothing within a second.
    given_up: Ratios,
    given_up_at: Moment,
}

impl Ratios {
    /// All of a shard.
    pub const WHOLE: Self = Self {
        records: 1.0,
        bytes: 1.0,
    };

    /// Nothing of it.
    pub const NONE: Self = Self {
        records: 0.0,
        bytes: 0.0,
    };

    fn with(self, other: Self, combine: impl Fn(f64, f64) -> f64) -> Self {
        Self {
            records: combine(self.records, other.records),
            bytes: combine(self.bytes, other.bytes),
        }
    }
}

impl HeldShare {
    /// The whole shard, for good: nobody else writes to it.
    pub const WHOLE: Self = Self {
        share: Ratios::WHOLE,
        until: None,
        afterwards: Ratios::WHOLE,
        is_shared: false,
    };

    /// Nothing, until something is given.
    pub const NONE: Self = Self {
        share: Ratios::NONE,
        until: None,
        afterwards: Ratios::NONE,
        is_shared: true,
    };

    fn at(&self, now: Moment) -> Ratios {
        match self.until {
            Some(until) if now >= until => self.share.with(self.afterwards, f64::min),
            Some(_) | None => self.share,
        }
    }
}

impl Held {
    pub(super) const fn whole(now: Moment) -> Self {
        Self {
            now: HeldShare::WHOLE,
            given_up: Ratios::NONE,
            given_up_at: now,
        }
    }

    pub(super) fn at(&self, now: Moment) -> Ratios {
        self.now.at(now)
    }

    pub(super) fn change(&mut self, share: HeldShare, now: Moment) {
        if share.at(now) == self.now.at(now) {
            // Only for how long it holds has changed.
            self.now = share;
            return;
        }
        let window = self.window_at(now);
        self.now = share;
        self.given_up = window.with(self.now.at(now), |before, after| (before - after).max(0.0));
        self.given_up_at = now;
    }

    /// A share that ran out ends at once by its window too: then others count on it.
    pub(super) fn window_at(&self, now: Moment) -> Ratios {
        let held = self.now.at(now);
        let has_run_out = self.now.until.is_some_and(|until| now >= until);
        let passed = now.since(self.given_up_at).as_secs_f64() / WINDOW.as_secs_f64();
        if has_run_out || passed >= 1.0 {
            return held;
        }
        held.with(self.given_up, |held, given_up| {
            held + given_up * (1.0 - passed)
        })
    }
}

#[cfg(test)]
mod tests;
