//! The budgets of all shards, shared by who writes to the same one.
//!
//! A stream may be written to under several credentials, or by name and by ARN:
//! that makes several writers for a shard, whose budget is one all the same.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use crate::core::budget::{ShardBudget, ShardLimits};
use crate::core::dispatch::SharedBudget;
use crate::core::shard_map::ShardId;
use crate::core::time::Moment;

/// The budgets in use, by stream and shard.
#[derive(Debug, Default)]
pub(super) struct Budgets {
    known: HashMap<(Arc<str>, ShardId), Weak<Mutex<ShardBudget>>>,
}

impl Budgets {
    /// The budget of a shard: a new, empty one when nobody writes to it. The
    /// limits of whoever came first hold.
    pub(super) fn of(
        &mut self,
        stream: &Arc<str>,
        shard: &ShardId,
        limits: ShardLimits,
        now: Moment,
    ) -> SharedBudget {
        self.known.retain(|_, budget| budget.strong_count() > 0);
        let key = (Arc::clone(stream), shard.clone());
        if let Some(budget) = self.known.get(&key).and_then(Weak::upgrade) {
            return budget;
        }
        let budget = Arc::new(Mutex::new(ShardBudget::new(limits, now)));
        self.known.insert(key, Arc::downgrade(&budget));
        budget
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(
            budgets
                .known
                .values()
                .all(|budget| budget.strong_count() == 0)
        );
    }
}
