//! How the memory for rows in flight is shared: who may take how much now.
//!
//! A pool of bytes has *seats*: one for each pipeline that is to run, and one
//! more for the next to come. Half of the pool is divided evenly among the
//! seats: that much is each pipeline's own, whether it uses it or not. Three
//! eighths are common: whoever needs more than its own part takes from there. The
//! last eighth is kept for overdrafts (a row is taken whole, however large) and
//! for own parts that somebody else still holds.
//!
//! Rules:
//! - A pipeline gets its own part, however many others are stuck with all they
//!   could take.
//! - The total is never exceeded by what is granted here.
//! - One row at a time may go alone, beside all that: it is larger than what its
//!   pipeline could take, now or ever. It counts for nobody, so that it takes
//!   nothing from the others, and comes on top of the total.
//! - An incarnation that has ended holds what its rows in flight still take, and
//!   has no seat.
//! - More seats make the own parts smaller. Who held more by then keeps it until
//!   its rows settle, which only delays whoever came after the seat that was kept
//!   free.

use std::collections::HashMap;

/// This part of the pool is not lent: an eighth. With the default of 256 MiB it
/// holds 32 rows of 1 MiB that came on top.
const KEPT_PART: usize = 8;

/// Who takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PartyId(u64);

#[derive(Debug, Clone, Copy)]
struct Party {
    used: usize,
    has_left: bool,
}

/// A pool and what everybody has taken of it, in bytes.
#[derive(Debug)]
pub struct PermitShares {
    total: usize,
    /// The largest total there has been.
    most_total: usize,
    expected: usize,
    parties: HashMap<PartyId, Party>,
    last: u64,
    /// The own part of each seat.
    own_part: usize,
    used: usize,
    /// What is used or kept for somebody.
    spoken_for: usize,
    /// What the row that goes alone weighs; 0 when there is none.
    alone: usize,
}

impl PermitShares {
    /// A pool nobody has taken of.
    #[must_use]
    pub fn new(total: usize) -> Self {
        let mut shares = Self {
            total,
            most_total: total,
            expected: 0,
            parties: HashMap::new(),
            last: 0,
            own_part: 0,
            used: 0,
            spoken_for: 0,
            alone: 0,
        };
        shares.divide();
        shares
    }

    /// The pool has so many bytes from now on. With less than is in use nobody may
    /// take more until enough has come back.
    pub fn resize(&mut self, total: usize) {
        if self.total != total {
            self.total = total;
            self.most_total = self.most_total.max(total);
            self.divide();
        }
    }

    /// So many pipelines are to run.
    pub fn expect(&mut self, pipelines: usize) {
        if self.expected != pipelines {
            self.expected = pipelines;
            self.divide();
        }
    }

    /// Somebody new takes part.
    pub fn join(&mut self) -> PartyId {
        self.last += 1;
        let id = PartyId(self.last);
        let party = Party {
            used: 0,
            has_left: false,
        };
        self.parties.insert(id, party);
        self.divide();
        id
    }

    /// Somebody takes nothing more; what it has is still in use.
    pub fn leave(&mut self, id: PartyId) {
        if let Some(party) = self.parties.get_mut(&id) {
            party.has_left = true;
            self.divide();
        }
    }

    /// Somebody has given everything back and is forgotten.
    pub fn remove(&mut self, id: PartyId) {
        if self.parties.remove(&id).is_some() {
            self.divide();
        }
    }

    /// Takes bytes, whether they are free or not: what was read must go somewhere.
    pub fn take(&mut self, id: PartyId, bytes: usize) {
        self.change(id, |used| used.saturating_add(bytes));
    }

    /// Gives bytes back.
    pub fn give_back(&mut self, id: PartyId, bytes: usize) {
        self.change(id, |used| used.saturating_sub(bytes));
    }

    /// A row of so many bytes goes alone, if no other does.
    pub const fn go_alone(&mut self, bytes: usize) -> bool {
        if self.alone > 0 {
            return false;
        }
        self.alone = bytes;
        true
    }

    /// The row that went alone is settled.
    pub const fn alone_is_over(&mut self) {
        self.alone = 0;
    }

    /// What the row that goes alone weighs, beside what is [`Self::used`].
    #[must_use]
    pub const fn alone(&self) -> usize {
        self.alone
    }

    /// What somebody may take now.
    #[must_use]
    pub fn free(&self, id: PartyId) -> usize {
        let Some(party) = self.parties.get(&id).filter(|party| !party.has_left) else {
            return 0;
        };
        let of_others = self.spoken_for - self.claim_of(*party);
        let lent = self.total - self.total / KEPT_PART;
        let with_common = lent.saturating_sub(of_others + party.used);
        // More may be spoken for than is lent, after overdrafts and new seats.
        let own = self.own_part.saturating_sub(party.used);
        with_common.max(own.min(self.total.saturating_sub(self.used)))
    }

    /// What there is.
    #[must_use]
    pub const fn total(&self) -> usize {
        self.total
    }

    /// What may be in use: the largest total there has been, since what was asked
    /// for while there was more may come after the change.
    #[must_use]
    pub const fn most_in_use(&self) -> usize {
        self.most_total
    }

    /// What is in use.
    #[must_use]
    pub const fn used(&self) -> usize {
        self.used
    }

    /// The part that is each pipeline's own.
    #[must_use]
    pub const fn own_part(&self) -> usize {
        self.own_part
    }

    fn change(&mut self, id: PartyId, change: impl FnOnce(usize) -> usize) {
        let Some(party) = self.parties.get(&id).copied() else {
            return;
        };
        let changed = Party {
            used: change(party.used),
            ..party
        };
        self.used = self.used - party.used + changed.used;
        self.spoken_for = self.spoken_for - self.claim_of(party) + self.claim_of(changed);
        self.parties.insert(id, changed);
    }

    fn claim_of(&self, party: Party) -> usize {
        if party.has_left {
            party.used
        } else {
            party.used.max(self.own_part)
        }
    }

    /// Works everything out anew; called when somebody comes or goes.
    fn divide(&mut self) {
        let seated = self.parties.values().filter(|party| !party.has_left);
        let seated = seated.count();
        let seats = seated.max(self.expected) + 1;
        self.own_part = self.total / 2 / seats;
        self.used = self.parties.values().map(|party| party.used).sum();
        let claims: usize = self.parties.values().map(|one| self.claim_of(*one)).sum();
        self.spoken_for = claims + self.own_part * (seats - seated);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes all somebody may.
    fn fill(shares: &mut PermitShares, id: PartyId) -> usize {
        let free = shares.free(id);
        shares.take(id, free);
        free
    }

    #[test]
    fn one_row_at_a_time_goes_alone_and_takes_nothing_from_the_others() {
        let mut shares = PermitShares::new(8_000);
        let id = shares.join();
        let free = shares.free(id);
        assert!(shares.go_alone(50_000));
        assert!(!shares.go_alone(1), "one at a time");
        assert_eq!((shares.free(id), shares.used()), (free, 0));
        assert_eq!(shares.alone(), 50_000);
        shares.alone_is_over();
        assert!(shares.go_alone(1));
    }

    #[test]
    fn seven_that_are_stuck_leave_the_eighth_its_part() {
        let mut shares = PermitShares::new(1_800);
        shares.expect(8);
        assert_eq!(shares.own_part(), 100);
        let parties: Vec<PartyId> = (0..8).map(|_| shares.join()).collect();
        let taken: Vec<usize> = parties[..7]
            .iter()
            .map(|id| fill(&mut shares, *id))
            .collect();
        // The first takes all that is common besides its own part.
        assert_eq!(taken, [775, 100, 100, 100, 100, 100, 100]);
        assert_eq!(shares.free(parties[7]), 100);
        shares.take(parties[7], 60);
        assert_eq!(shares.free(parties[7]), 40);
        shares.give_back(parties[7], 60);
        assert_eq!(shares.free(parties[7]), 100);
        // What one gives back beyond its part is common again.
        shares.give_back(parties[0], 500);
        assert_eq!(shares.free(parties[7]), 600);
    }

    #[test]
    fn overdrafts_of_the_stuck_do_not_take_the_part_of_others() {
        let mut shares = PermitShares::new(1_800);
        shares.expect(8);
        let parties: Vec<PartyId> = (0..8).map(|_| shares.join()).collect();
        for id in &parties[..7] {
            fill(&mut shares, *id);
            shares.take(*id, 40);
            assert_eq!(shares.free(*id), 0);
        }
        assert_eq!(shares.free(parties[7]), 100);
    }

    #[test]
    fn those_who_start_late_find_their_seat_kept() {
        let mut shares = PermitShares::new(1_800);
        shares.expect(8);
        let first = shares.join();
        assert_eq!(fill(&mut shares, first), 775);
        let second = shares.join();
        assert_eq!(shares.free(second), 100);
        // One that nobody expected sits on the seat that was kept free.
        let more: Vec<PartyId> = (0..7).map(|_| shares.join()).collect();
        assert_eq!(shares.own_part(), 90);
        for id in more {
            assert_eq!(fill(&mut shares, id), 90);
        }
        assert!(shares.used() <= 1_800);
    }

    #[test]
    fn an_ended_incarnation_holds_only_what_it_has() {
        let mut shares = PermitShares::new(400);
        shares.expect(1);
        let old = shares.join();
        assert_eq!(shares.free(old), 250);
        shares.take(old, 150);
        shares.leave(old);
        assert_eq!(shares.free(old), 0);
        let new = shares.join();
        assert_eq!(shares.own_part(), 100);
        assert_eq!(shares.free(new), 100);
        shares.give_back(old, 150);
        shares.remove(old);
        assert_eq!(shares.free(new), 250);
    }

    #[test]
    fn a_smaller_pool_takes_nothing_away_and_grants_nothing_more() {
        let mut shares = PermitShares::new(1_000);
        shares.expect(1);
        let one = shares.join();
        assert_eq!(fill(&mut shares, one), 625);
        shares.resize(400);
        assert_eq!((shares.free(one), shares.used()), (0, 625));
        shares.give_back(one, 500);
        assert_eq!(shares.free(one), 125);
        shares.resize(1_000);
        assert_eq!(shares.free(one), 500);
        assert_eq!((shares.total(), shares.most_in_use()), (1_000, 1_000));
    }

    #[test]
    fn the_total_and_the_own_parts_hold_whatever_happens() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..200 {
            let total = random.usize(1..10_000);
            let pipelines = random.usize(1..20);
            let mut shares = PermitShares::new(total);
            shares.expect(pipelines);
            let parties: Vec<PartyId> = (0..pipelines).map(|_| shares.join()).collect();
            let own_part = shares.own_part();
            let mut used = vec![0_usize; pipelines];
            for _ in 0..500 {
                let place = random.usize(0..pipelines);
                if random.bool() {
                    let free = shares.free(parties[place]);
                    assert!(free >= own_part.saturating_sub(used[place]), "own part");
                    let bytes = random.usize(0..=free);
                    shares.take(parties[place], bytes);
                    used[place] += bytes;
                } else {
                    let bytes = random.usize(0..=used[place]);
                    shares.give_back(parties[place], bytes);
                    used[place] -= bytes;
                }
                assert_eq!(shares.used(), used.iter().sum::<usize>());
                assert!(shares.used() <= total);
            }
        }
    }
}
