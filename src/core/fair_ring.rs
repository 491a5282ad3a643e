//! Weighted turns: deficit round robin.
//!
//! Each member has a credit in bytes. The member at the front goes while its
//! credit is above zero, may overdraw it with its last item, and then waits for
//! its turns to pay the overdraft back. Over time each member that always has
//! work gets a share of the bytes in proportion to its weight.

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
}

/// The members that have work, in turn.
#[derive(Debug, Clone)]
pub struct FairRing<K> {
    members: VecDeque<Member<K>>,
}

impl<K> Default for FairRing<K> {
    fn default() -> Self {
        Self {
            members: VecDeque::new(),
        }
    }
}

impl<K: Clone + PartialEq> FairRing<K> {
    /// Adds a member that has work, at the end of the turn. A weight of 0 counts
    /// as 1.
    pub fn join(&mut self, key: K, weight: u32) {
        let weight = i64::from(weight.max(1));
        self.members.push_back(Member {
            key,
            weight,
            credit: QUANTUM * weight,
        });
    }

    /// Whether the key is a member.
    #[must_use]
    pub fn contains(&self, key: &K) -> bool {
        self.members.iter().any(|member| member.key == *key)
    }

    /// Whose turn it is.
    pub fn front(&mut self) -> Option<&K> {
        // Ends: each round raises every credit that is not positive.
        while self.members.front()?.credit <= 0 {
            if let Some(mut spent) = self.members.pop_front() {
                spent.credit += QUANTUM * spent.weight;
                self.members.push_back(spent);
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
        self.members.remove(place)
    }

    /// Brings back a member that was set aside, with the credit it had.
    pub fn rejoin(&mut self, member: Member<K>) {
        self.members.push_back(member);
    }

    /// Removes a member that has no work any more.
    pub fn leave(&mut self, key: &K) {
        self.members.retain(|member| member.key != *key);
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
