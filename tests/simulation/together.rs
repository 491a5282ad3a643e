//! What all processes together offer to a shard: within every second no more than one
//! of them alone may.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tidegate::core::budget::{Cost, ShardLimits};
use tidegate::core::invariants;
use tidegate::core::time::Moment;

/// How [`crate::stream`] numbers budgets: a process has another one for each supervisor
/// that it built.
const SUPERVISORS: u64 = 1000;

#[derive(Debug, Clone, Copy)]
struct Call {
    at: Moment,
    cost: Cost,
    budget: u64,
}

/// The calls of the last second, by shard.
#[derive(Debug, Default)]
pub(crate) struct Together(BTreeMap<(usize, String), Vec<Call>>);

impl Together {
    /// A call is sent; answers what was offered, if it is too much.
    pub(crate) fn offered(
        &mut self,
        budget: u64,
        (stream, shard): (usize, &str),
        cost: Cost,
        limits: ShardLimits,
        at: Moment,
    ) -> Option<String> {
        let calls = self.0.entry((stream, shard.to_owned())).or_default();
        calls.retain(|call| at.since(call.at) < Duration::from_secs(1));
        calls.push(Call { at, cost, budget });
        let budgets: BTreeSet<u64> = calls.iter().map(|call| call.budget).collect();
        let processes: BTreeSet<u64> = budgets.iter().map(|one| one / SUPERVISORS).collect();
        if budgets.len() == 1 || processes.len() < budgets.len() {
            // Nobody else; or a supervisor that was built anew within the second: it
            // knows of no call before, as if it were alone.
            return None;
        }
        let total = calls.iter().fold(Cost::default(), |sum, call| Cost {
            records: sum.records + call.cost.records,
            bytes: sum.bytes + call.cost.bytes,
        });
        // A call of one record may always go, however small the share: one of each.
        let spared = Cost {
            records: budgets.len() as u64,
            bytes: calls.iter().map(|call| call.cost.bytes).max().unwrap_or(0)
                * budgets.len() as u64,
        };
        let limits = ShardLimits {
            records_per_second: limits.records_per_second + spared.records as f64,
            bytes_per_second: limits.bytes_per_second
                + if calls.iter().any(|call| call.cost.records == 1) {
                    spared.bytes as f64
                } else {
                    0.0
                },
            ..limits
        };
        (!invariants::within_budget(total, limits))
            .then(|| format!("{shard} was offered {total:?} within a second by {budgets:?}"))
    }
}
