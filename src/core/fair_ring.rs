//! Weighted turns: deficit round robin.
//!
//! Each member has a credit in bytes. The member at the front goes while its
//! credit is above zero, may overdraw it with its last item, and then waits for
//! its turns to pay the overdraft back. Over time each member that always has
//! work gets a share of the bytes in proportion to its weight.
//!
//! A member that has no work for a moment leaves with its overdraft: the rounds of
//! the others pay it back meanwhile, and whoever comes back before that waits for
//! the rest. Otherwise one with a single large item at a time would leave its debt
//! behind after each of them. Credit is not kept.

use std::collections::VecDeque;

/// What a member of weight 1 may spend in one turn, in bytes. Smaller than a
/// call, so that every call carries all who have work.
const QUANTUM: i64 = 4096;

/// A member, taken out of the ring for a while with its credit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member<K> {
    key: K,
    weight: i64,
    credit: i64,
    has_work: bool,
}

/// The members that have work, in turn, and those that owe something.
#[derive(Debug, Clone)]
pub struct FairRing<K> {
    members: VecDeque<Member<K>>,
    /// How many have work.
    working: usize,
}

impl<K> Default for FairRing<K> {
    fn default() -> Self {
        Self {
            members: VecDeque::new(),
            working: 0,
        }
    }
}

impl<K: Clone + PartialEq> FairRing<K> {
    /// Adds a member that has work, at the end of the turn, or in its old place if
    /// it owes something. A weight of 0 counts as 1.
    pub fn join(&mut self, key: K, weight: u32) {
        let weight = i64::from(weight.max(1));
        if let Some(member) = self.members.iter_mut().find(|member| member.key == key) {
            member.weight = weight;
            self.working += usize::from(!member.has_work);
            member.has_work = true;
            return;
        }
        self.working += 1;
        self.members.push_back(Member {
            key,
            weight,
            credit: QUANTUM * weight,
            has_work: true,
        });
    }

    /// Whether the key is a member that has work.
    #[must_use]
    pub fn contains(&self, key: &K) -> bool {
        let is_it = |member: &Member<K>| member.has_work && member.key == *key;
        self.members.iter().any(is_it)
    }

    /// Whether nobody has work or owes something.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Whose turn it is.
    pub fn front(&mut self) -> Option<&K> {
        if self.working == 0 {
            return None;
        }
        // Ends: each round raises every credit that is not positive.
        loop {
            let first = self.members.front()?;
            if first.has_work && first.credit > 0 {
                break;
            }
            if let Some(mut spent) = self.members.pop_front() {
                spent.credit += QUANTUM * spent.weight;
                if spent.has_work || spent.credit <= 0 {
                    self.members.push_back(spent);
                }
            }
        }
        self.members.front().map(|member| &member.key)
    }

    /// The member whose turn it is has this weight from now on: what it may spend
    /// grows by that from its next turn.
    pub fn weigh_front(&mut self, weight: u32) {
        if let Some(member) = self.members.front_mut() {
            member.weight = i64::from(weight.max(1));
        }
    }

    /// The member whose turn it is has sent `bytes`.
    pub fn charge_front(&mut self, bytes: usize) {
        if let Some(member) = self.members.front_mut() {
            member.credit -= i64::try_from(bytes).unwrap_or(i64::MAX / 2);
        }
    }

    /// Takes a member out that may not go on in this call; [`Self::rejoin`]
    /// brings it back.
    pub fn set_aside(&mut self, key: &K) -> Option<Member<K>> {
        let place = self.members.iter().position(|member| member.key == *key)?;
        let member = self.members.remove(place)?;
        self.working -= usize::from(member.has_work);
        Some(member)
    }

    /// Brings back a member that was set aside, with the credit it had.
    pub fn rejoin(&mut self, member: Member<K>) {
        self.working += usize::from(member.has_work);
        self.members.push_back(member);
    }

    /// A member has no work any more; what it owes is remembered.
    pub fn leave(&mut self, key: &K) {
        let is_it = |member: &&mut Member<K>| member.has_work && member.key == *key;
        let Some(member) = self.members.iter_mut().find(is_it) else {
            return;
        };
        if member.credit > 0 {
            self.forget(key);
        } else {
            member.has_work = false;
            self.working -= 1;
        }
    }

    /// Removes a member that will not come back, with what it owes.
    pub fn forget(&mut self, key: &K) {
        self.set_aside(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(weights: &[(char, u32, usize)], bytes: usize) -> Vec<usize> {
        let mut ring = FairRing::default();
        for (name, weight, _) in weights {
            ring.join(*name, *weight);
        }
        let mut sent = vec![0; weights.len()];
        while sent.iter().sum::<usize>() < bytes {
            let name = *ring.front().expect("members");
            let place = weights
                .iter()
                .position(|member| member.0 == name)
                .expect("known");
            ring.charge_front(weights[place].2);
            sent[place] += weights[place].2;
        }
        sent
    }

    #[test]
    fn equal_weights_share_bytes_whatever_their_record_sizes() {
        let sent = shares(&[('a', 1, 100), ('b', 1, 50_000)], 10_000_000);
        let ratio = sent[0] as f64 / sent[1] as f64;
        assert!((0.98..1.02).contains(&ratio), "{sent:?}");
    }

    #[test]
    fn weights_are_shares() {
        let sent = shares(&[('a', 1, 700), ('b', 3, 1300), ('c', 6, 200)], 10_000_000);
        for (place, weight) in [(0, 0.1), (1, 0.3), (2, 0.6)] {
            let share = sent[place] as f64 / 10_000_000.0;
            assert!((share - weight).abs() < 0.01, "{sent:?}");
        }
    }

    #[test]
    fn a_debt_outlives_an_absence_and_is_paid_by_the_rounds_of_others() {
        let mut ring = FairRing::default();
        ring.join('a', 1);
        ring.charge_front(10 * 4096);
        ring.leave(&'a');
        assert_eq!(ring.front(), None, "nobody has work");
        ring.join('a', 1);
        ring.join('b', 1);
        let mut of_b = 0;
        while ring.front() == Some(&'b') {
            ring.charge_front(1024);
            of_b += 1024;
        }
        assert!((8 * 4096..=11 * 4096).contains(&of_b), "{of_b}");
        ring.charge_front(10 * 4096);
        ring.leave(&'a');
        for _ in 0..100 {
            assert_eq!(ring.front(), Some(&'b'));
            ring.charge_front(4096);
        }
        ring.leave(&'b');
        ring.forget(&'b');
        assert!(ring.is_empty(), "paid back: {ring:?}");
    }

    #[test]
    fn a_weight_may_change_while_there_is_work() {
        let mut ring = FairRing::default();
        ring.join('a', 1000);
        ring.join('b', 1);
        let mut sent = [0_usize; 2];
        let most = 4_096 * 1_000;
        while sent.iter().sum::<usize>() < most + 10_000_000 {
            let is_b = *ring.front().expect("members") == 'b';
            ring.weigh_front(if is_b { 3 } else { 1 });
            ring.charge_front(1_000);
            sent[usize::from(is_b)] += 1_000;
        }
        // What was granted under the old weight is spent, then the new ones hold.
        let of_a = (sent[0] - most) as f64 / 10_000_000.0;
        assert!((of_a - 0.25).abs() < 0.01, "{sent:?}");
    }

    #[test]
    fn a_member_set_aside_keeps_its_credit() {
        let mut ring = FairRing::default();
        ring.join('a', 1);
        ring.join('b', 1);
        ring.charge_front(1_000_000);
        let aside = ring.set_aside(&'a').expect("a member");
        assert_eq!(ring.front(), Some(&'b'));
        ring.rejoin(aside);
        ring.leave(&'b');
        assert_eq!(ring.front(), Some(&'a'), "alone it may go on at once");
        ring.leave(&'a');
        assert_eq!(ring.front(), None);
    }
}
