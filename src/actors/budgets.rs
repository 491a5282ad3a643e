//! The budgets of all shards, shared by who writes to the same one.
//!
//! A stream may be written to under several credentials, or by name and by ARN:
//! that makes several writers for a shard, whose budget is one all the same. It
//! outlives them for a second: a writer that is started again must know what the
//! one before has offered.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::core::budget::{ShardBudget, ShardLimits};
use crate::core::dispatch::SharedBudget;
use crate::core::sabotage::{self, Bug};
use crate::core::shard_map::ShardId;
use crate::core::shares::ShardName;
use crate::core::time::Moment;

/// The budgets in use, by stream and shard.
#[derive(Debug, Default)]
pub(super) struct Budgets {
    known: HashMap<(Arc<str>, ShardId), SharedBudget>,
}

impl Budgets {
    /// The budget of a shard: a new, empty one when nobody writes to it and nobody
    /// did within the last second. The limits of whoever came first hold.
    pub(super) fn of(
        &mut self,
        stream: &Arc<str>,
        shard: &ShardId,
        limits: ShardLimits,
        now: Moment,
    ) -> SharedBudget {
        self.known.retain(|_, budget| {
            let is_used = Arc::strong_count(budget) > 1;
            is_used
                || !sabotage::is(Bug::BudgetDiesWithWriter) && {
                    let mut budget = budget.lock().unwrap_or_else(PoisonError::into_inner);
                    !budget.is_at_rest(now)
                }
        });
        let key = (Arc::clone(stream), shard.clone());
        if let Some(budget) = self.known.get(&key) {
            return Arc::clone(budget);
        }
        let budget = Arc::new(Mutex::new(ShardBudget::new(limits, now)));
        self.known.insert(key, Arc::clone(&budget));
        budget
    }
}

impl Budgets {
    /// The shards of a stream take this much from now on.
    pub(super) fn change(&self, stream: &Arc<str>, limits: ShardLimits, now: Moment) {
        let of_it = self.known.iter().filter(|((known, _), _)| known == stream);
        for (_, budget) in of_it {
            let mut budget = budget.lock().unwrap_or_else(PoisonError::into_inner);
            budget.change(limits, now);
        }
    }
}

impl Budgets {
    /// The budgets in use, and of which shard each is.
    pub(super) fn all(&self) -> impl Iterator<Item = (ShardName, &SharedBudget)> {
        self.known.iter().map(|((stream, shard), budget)| {
            let name = ShardName {
                stream: Arc::clone(stream),
                shard: shard.clone(),
            };
            (name, budget)
        })
    }
}

impl Budgets {
    /// The shards that somebody writes to.
    pub(super) fn in_use(&self) -> impl Iterator<Item = ShardName> {
        let used = self.all().filter(|(_, one)| Arc::strong_count(one) > 1);
        used.map(|(name, _)| name)
    }

    /// A stream is known better now: its budgets are found under its new identity.
    /// Answers them. One that is there already under that stays another.
    pub(super) fn rename(
        &mut self,
        before: &Arc<str>,
        after: &Arc<str>,
    ) -> Vec<(ShardId, SharedBudget)> {
        let of_it = self.known.keys().filter(|(stream, _)| stream == before);
        let shards: Vec<ShardId> = of_it.map(|(_, shard)| shard.clone()).collect();
        let mut moved = Vec::new();
        for shard in shards {
            let key = (Arc::clone(after), shard.clone());
            if self.known.contains_key(&key) {
                continue;
            }
            if let Some(budget) = self.known.remove(&(Arc::clone(before), shard.clone())) {
                moved.push((shard, Arc::clone(&budget)));
                self.known.insert(key, budget);
            }
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::budget::Cost;

    #[test]
    fn budgets_go_along_when_a_stream_is_known_better() {
        let (mut budgets, now) = (Budgets::default(), Moment::ORIGIN);
        let (name, arn): (Arc<str>, Arc<str>) = ("s".into(), "arn:s".into());
        let one = budgets.of(&name, &"s1".into(), ShardLimits::default(), now);
        let two = budgets.of(&name, &"s2".into(), ShardLimits::default(), now);
        let other = budgets.of(&arn, &"s2".into(), ShardLimits::default(), now);
        let moved = budgets.rename(&name, &arn);
        assert_eq!(moved.len(), 1);
        assert!(Arc::ptr_eq(&moved[0].1, &one));
        drop(moved);
        let again = budgets.of(&arn, &"s1".into(), ShardLimits::default(), now);
        assert!(Arc::ptr_eq(&again, &one));
        // All three are in use, whatever they are called.
        assert_eq!(budgets.in_use().count(), 3);
        drop((two, other));
        assert_eq!(budgets.in_use().count(), 1);
    }

    #[test]
    fn writers_of_one_shard_share_its_budget() {
        let mut budgets = Budgets::default();
        let now = Moment::ORIGIN;
        let mut of = |arn: &str, shard: &str| {
            budgets.of(&arn.into(), &shard.into(), ShardLimits::default(), now)
        };
        let (one, same) = (of("arn:a", "s1"), of("arn:a", "s1"));
        assert!(Arc::ptr_eq(&one, &same));
        assert!(!Arc::ptr_eq(&one, &of("arn:a", "s2")));
        assert!(!Arc::ptr_eq(&one, &of("arn:b", "s1")));
        drop((one, same));
        let later = now + std::time::Duration::from_secs(1);
        budgets.of(&"arn:a".into(), &"s3".into(), ShardLimits::default(), later);
        assert_eq!(budgets.known.len(), 1, "what nobody uses is forgotten");
    }

    #[test]
    fn a_writer_that_starts_again_knows_what_was_offered() {
        let mut budgets = Budgets::default();
        let at = |millis| Moment::from_origin(std::time::Duration::from_millis(millis));
        let mut of = |now| budgets.of(&"arn".into(), &"s".into(), ShardLimits::default(), now);
        let cost = Cost {
            records: 500,
            bytes: 1,
        };
        of(at(500)).lock().expect("whole").charge(cost, at(500));
        let (records, _) = of(at(600)).lock().expect("whole").utilisation(at(600));
        assert!((records - 0.5).abs() < 1e-9, "{records}");
    }
}
