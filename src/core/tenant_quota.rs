//! The rate of a tenant, shared by its pipelines.
//!
//! One token bucket for all of them ([`RateLimiter`]), of which each takes what it is
//! about to read before it reads: two that read at the same time cannot both use the
//! same tokens. What it did not need comes back.
//!
//! Pipelines that are kept waiting by the quota *contend*: they share it by weight.
//! Each has a count of what it took, divided by its weight (in seconds of the quota);
//! who is ahead of the last contender by more than `LEAD` waits. Who does not
//! contend is waited for by nobody, and comes back without credit; and nobody waits
//! while half of the bucket is saved up. So nothing of the rate is lost while anybody
//! has work, and nobody can take it all.
//!
//! With several nodes each has a part of the quota ([`TenantQuota::set_fraction`]).

use std::collections::BTreeMap;
use std::time::Duration;

use super::rate_limit::{RateLimiter, RateLimits};
use super::time::Moment;

/// How far a pipeline may be ahead of another one of its tenant, in seconds of the
/// quota: a read or two.
const LEAD: f64 = 0.05;

/// With so much of the bucket saved up nobody waits for anybody: whoever contends is
/// slow for another reason, and what comes in would soon be lost.
const FREE_FOR_ALL: f64 = 0.5;

/// Whoever waits looks again after so long at the earliest.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Whoever waits looks again after so long at the latest: meanwhile the rate may have
/// been raised, or this node got a larger part of it, and nobody wakes those who sleep
/// by the old one.
const LOOK_AGAIN_BY: Duration = Duration::from_millis(250);

/// Who has not asked again so long after it wanted to does not contend any more.
const CONTENDS_FOR: Duration = Duration::from_millis(250);

/// A fraction below this counts as this: a rate of zero would never end a wait.
const LEAST_FRACTION: f64 = 1e-6;

/// A pipeline's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeatId(u64);

#[derive(Debug)]
struct Seat {
    weight: f64,
    /// What it took, in seconds of the quota divided by its weight.
    took: f64,
    contends_until: Option<Moment>,
    /// Rows and bytes it is about to read.
    reserved: (usize, usize),
}

/// The rate of one tenant on this node.
#[derive(Debug)]
pub struct TenantQuota {
    limits: RateLimits,
    fraction: f64,
    limiter: RateLimiter,
    seats: BTreeMap<SeatId, Seat>,
    last: u64,
    /// What the last of those who contend took.
    floor: f64,
}

impl TenantQuota {
    /// A quota of which nothing has been used.
    #[must_use]
    pub fn new(limits: RateLimits, now: Moment) -> Self {
        Self {
            limits,
            fraction: 1.0,
            limiter: RateLimiter::new(limits, now),
            seats: BTreeMap::new(),
            last: 0,
            floor: 0.0,
        }
    }

    /// From now on these limits hold; what is owed stays so.
    pub fn change(&mut self, limits: RateLimits, now: Moment) {
        if self.limits != limits {
            self.limits = limits;
            self.limiter.change(limits.part(self.fraction), now);
        }
    }

    /// This node may use such a part of the limits, 0 to 1.
    pub fn set_fraction(&mut self, fraction: f64, now: Moment) {
        let fraction = fraction.clamp(LEAST_FRACTION, 1.0);
        if (self.fraction - fraction).abs() > f64::EPSILON {
            self.fraction = fraction;
            self.limiter.change(self.limits.part(fraction), now);
        }
    }

    /// The part that this node may use.
    #[must_use]
    pub const fn fraction(&self) -> f64 {
        self.fraction
    }

    /// The limits of the tenant, on all nodes together.
    #[must_use]
    pub const fn limits(&self) -> RateLimits {
        self.limits
    }

    /// A pipeline takes part.
    pub fn join(&mut self, weight: u32) -> SeatId {
        self.last += 1;
        let id = SeatId(self.last);
        let seat = Seat {
            weight: f64::from(weight.max(1)),
            took: self.floor,
            contends_until: None,
            reserved: (0, 0),
        };
        self.seats.insert(id, seat);
        id
    }

    /// A pipeline has this weight from now on.
    pub fn weigh(&mut self, id: SeatId, weight: u32) {
        if let Some(seat) = self.seats.get_mut(&id) {
            seat.weight = f64::from(weight.max(1));
        }
    }

    /// A pipeline takes no part any more; what it has reserved comes back.
    pub fn leave(&mut self, id: SeatId) {
        self.release(id);
        self.seats.remove(&id);
    }

    /// How many rows of so many bytes a pipeline may read now.
    pub fn rows(&mut self, id: SeatId, row_bytes: usize, now: Moment) -> usize {
        if self.limits.is_none() {
            return usize::MAX;
        }
        let rows = self.limiter.rows(row_bytes, now);
        let Some(last) = self.last_of_the_others(id, now) else {
            return rows;
        };
        if self.limiter.saved(now) >= FREE_FOR_ALL {
            return rows;
        }
        let floor = self.floor;
        let Some(seat) = self.seats.get(&id) else {
            return 0;
        };
        let took = if seat.contends_until.is_some() {
            seat.took
        } else {
            seat.took.max(floor)
        };
        let ahead = last + LEAD - took;
        if ahead <= 0.0 {
            return 0;
        }
        let fair = self.limiter.rows_in(ahead * seat.weight, row_bytes).max(1);
        rows.min(fair)
    }

    /// A pipeline reads so many rows, of so many bytes as far as it can tell. If that
    /// is all it may, it would have read more: it contends.
    pub fn reserve(&mut self, id: SeatId, rows: usize, bytes: usize, now: Moment) {
        self.release(id);
        if self.limits.is_none() {
            return;
        }
        if rows >= self.rows(id, bytes / rows.max(1), now) {
            self.contend(id, now);
        }
        if let Some(seat) = self.seats.get_mut(&id) {
            seat.reserved = (rows, bytes);
            self.limiter.charge(rows, bytes);
        }
    }

    /// What a pipeline has reserved and not used comes back.
    pub fn release(&mut self, id: SeatId) {
        if let Some(seat) = self.seats.get_mut(&id) {
            let (rows, bytes) = std::mem::take(&mut seat.reserved);
            if rows > 0 || bytes > 0 {
                self.limiter.refund(rows, bytes);
            }
        }
    }

    /// Rows of a pipeline have gone on their way.
    pub fn charge(&mut self, id: SeatId, rows: usize, bytes: usize) {
        if self.limits.is_none() {
            return;
        }
        self.limiter.charge(rows, bytes);
        let seconds = self.limiter.seconds_of(rows, bytes);
        let floor = self.floor;
        if let Some(seat) = self.seats.get_mut(&id) {
            if seat.contends_until.is_none() {
                seat.took = seat.took.max(floor);
            }
            seat.took += seconds / seat.weight;
        }
    }

    /// When a pipeline that has work and may read nothing is to look again. It
    /// contends until then.
    pub fn next_at(&mut self, id: SeatId, now: Moment) -> Moment {
        let again = self.limiter.next_at(now);
        let again = again.clamp(now + LOOK_AGAIN, now + LOOK_AGAIN_BY);
        self.contend(id, again);
        again
    }

    /// A pipeline would read more, and asks again at this moment.
    fn contend(&mut self, id: SeatId, asks_at: Moment) {
        let floor = self.floor;
        if let Some(seat) = self.seats.get_mut(&id) {
            if seat.contends_until.is_none() {
                seat.took = seat.took.max(floor);
            }
            seat.contends_until = Some(asks_at + CONTENDS_FOR);
        }
    }

    /// A pipeline has no work: nobody waits for it.
    pub fn rest(&mut self, id: SeatId) {
        if let Some(seat) = self.seats.get_mut(&id) {
            seat.contends_until = None;
        }
    }

    /// What the last of the other contenders took, if there is one.
    fn last_of_the_others(&mut self, id: SeatId, now: Moment) -> Option<f64> {
        let mut last: Option<f64> = None;
        let mut of_all: Option<f64> = None;
        for (other, seat) in &mut self.seats {
            match seat.contends_until {
                Some(until) if until < now => seat.contends_until = None,
                Some(_) => {
                    of_all = Some(of_all.map_or(seat.took, |least| least.min(seat.took)));
                    if *other != id {
                        last = Some(last.map_or(seat.took, |least| least.min(seat.took)));
                    }
                }
                None => {}
            }
        }
        if let Some(of_all) = of_all {
            self.floor = self.floor.max(of_all);
        }
        last
    }
}

#[cfg(test)]
mod tests;
