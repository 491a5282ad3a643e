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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::budget::Cost;

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
