//! What tenants may have on this node, and what they show of themselves.
//!
//! The rate of a tenant holds for all nodes together. Without anything that divides it
//! by demand, a node uses the part of it that its pipelines are of all pipelines of the
//! tenant, by weight; and all of it while none of them is found to run elsewhere. Every
//! pipeline runs on one node at a time, so the parts of all nodes are at most 1, but for
//! the second or two in which a pipeline that moves is counted on both sides.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::Supervisor;
use crate::actors::pipeline_slot::Run;
use crate::admin::status::{LimitedSeconds, PipelineState, TenantStatus};
use crate::config::desired::{PipelineKey, Wanted};
use crate::core::permit_shares::TenantPart;
use crate::core::tenant::Limit;
use crate::core::time::Moment;

/// How often tenants are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What has kept rows waiting for less than this part of the time is not worth naming.
const WORTH_NAMING: f64 = 0.1;

/// What was seen of the tenants at the last look.
pub(super) struct TenantLooks {
    looked_at: Moment,
    limited: BTreeMap<Arc<str>, [Duration; Limit::ALL.len()]>,
    limited_by: BTreeMap<Arc<str>, Option<Limit>>,
    /// Pipelines that another node was found to run, and that this one has not run
    /// since.
    elsewhere: RefCell<BTreeSet<PipelineKey>>,
}

/// The pipelines of a tenant, and their weights.
#[derive(Debug, Clone, Copy, Default)]
struct Count {
    to_run: usize,
    here: usize,
    weight: u32,
    weight_here: u32,
    is_elsewhere: bool,
}

impl TenantLooks {
    pub(super) const fn new(now: Moment) -> Self {
        Self {
            looked_at: now,
            limited: BTreeMap::new(),
            limited_by: BTreeMap::new(),
            elsewhere: RefCell::new(BTreeSet::new()),
        }
    }
}

impl Supervisor {
    /// What is wanted has changed: so may what tenants may have.
    pub(super) fn define_tenants(&mut self) {
        let now = self.clock.now();
        let counts = self.count_tenants();
        let mut parts = Vec::with_capacity(counts.len());
        for (name, count) in &counts {
            let limits = self.desired.tenants.of(name).limits();
            self.tenants.define(&limits, now);
            parts.push(TenantPart {
                name: Arc::clone(name),
                weight: limits.weight,
                pipelines: count.to_run,
                most: limits.max_in_flight_bytes,
            });
        }
        self.shared.expect(&parts);
        self.tenants.retain(|name| counts.contains_key(name));
        for (tenant, problem) in &self.desired.tenants.problems {
            let is_new = self.tenant_problems.get(tenant) != Some(problem);
            if is_new {
                tracing::error!(%tenant, %problem, "the tenant's definition is not acceptable");
            }
        }
        self.tenant_problems
            .clone_from(&self.desired.tenants.problems);
    }

    fn count_tenants(&self) -> BTreeMap<Arc<str>, Count> {
        let mut counts: BTreeMap<Arc<str>, Count> = BTreeMap::new();
        for name in self.desired.tenants.known.keys() {
            counts.entry(Arc::clone(name)).or_default();
        }
        for name in self.desired.tenants.problems.keys() {
            counts.entry(Arc::clone(name)).or_default();
        }
        for (key, wanted) in &self.desired.pipelines {
            self.count_pipeline(key, wanted, false, |name| {
                Some(counts.entry(Arc::clone(name)).or_default())
            });
        }
        counts
    }

    /// Counts a pipeline where that of its tenant is counted, if it is.
    fn count_pipeline<'a>(
        &self,
        key: &PipelineKey,
        wanted: &Wanted,
        starts_here: bool,
        count_of: impl FnOnce(&Arc<str>) -> Option<&'a mut Count>,
    ) {
        let Wanted::Run { spec, .. } = wanted else {
            return;
        };
        let Some(count) = count_of(&spec.tenant) else {
            return;
        };
        if !self.is_to_run(wanted) {
            return;
        }
        count.to_run += 1;
        count.weight = count.weight.saturating_add(spec.weight);
        if starts_here || self.runs_here(key) {
            count.here += 1;
            count.weight_here = count.weight_here.saturating_add(spec.weight);
        } else if self.tenant_looks.elsewhere.borrow().contains(key) {
            count.is_elsewhere = true;
        }
    }

    fn runs_here(&self, key: &PipelineKey) -> bool {
        let slot = self.pipelines.get(key);
        slot.is_some_and(|slot| matches!(slot.run, Run::Running { .. }))
    }

    /// A reader of a pipeline is about to start here. It would find the part of its
    /// tenant's rate that this node used without it, which may be nothing.
    pub(in crate::actors) fn divide_rate_with(&self, key: &PipelineKey) {
        let spec = self.pipelines.get(key).and_then(|slot| slot.spec.as_ref());
        let Some(tenant) = spec.map(|spec| Arc::clone(&spec.tenant)) else {
            return;
        };
        if self.desired.tenants.of(&tenant).limits().rate.is_none() {
            return;
        }
        let mut count = Count::default();
        for (other, wanted) in &self.desired.pipelines {
            self.count_pipeline(other, wanted, other == key, |name| {
                (**name == *tenant).then_some(&mut count)
            });
        }
        let now = self.clock.now();
        let fraction = count.fraction();
        self.tenants.set_share_fraction(&tenant, fraction, now);
    }

    /// A pipeline was found to be in a state. A node that loses sight of the others
    /// goes on believing what it saw of them: so it does not use their part.
    pub(in crate::actors) fn note_whereabouts(&self, key: &PipelineKey, state: &PipelineState) {
        if matches!(state, PipelineState::Standby { .. }) {
            let elsewhere = &self.tenant_looks.elsewhere;
            elsewhere.borrow_mut().insert(key.clone());
        }
    }

    pub(super) fn look_at_tenants_when_due(&mut self) {
        if self.clock.now().since(self.tenant_looks.looked_at) >= LOOK_EVERY {
            self.look_at_tenants();
        }
    }

    /// Divides the rates and shows the tenants.
    pub(super) fn look_at_tenants(&mut self) {
        let now = self.clock.now();
        let passed = now.since(self.tenant_looks.looked_at);
        let is_out = |key: &PipelineKey| self.pipelines.contains_key(key) && !self.runs_here(key);
        let elsewhere = &self.tenant_looks.elsewhere;
        elsewhere.borrow_mut().retain(is_out);
        let counts = self.count_tenants();
        // A look right after the last one would see nothing but chance.
        let is_due = passed >= LOOK_EVERY / 2;
        let mut shown = Vec::with_capacity(counts.len());
        for (name, count) in &counts {
            let fraction = count.fraction();
            self.tenants.set_share_fraction(name, fraction, now);
            let tenant = self.tenants.get(name, now);
            let limited = tenant.limited_for();
            let in_flight = self.shared.used_by(name);
            tenant.show(in_flight);
            if is_due {
                let before = self.tenant_looks.limited.insert(Arc::clone(name), limited);
                let by = before.and_then(|before| most_of(before, limited, passed));
                self.tenant_looks.limited_by.insert(Arc::clone(name), by);
            }
            let settings = self.desired.tenants.of(name);
            let by = self.tenant_looks.limited_by.get(name).copied().flatten();
            shown.push(TenantStatus {
                name: Arc::clone(name),
                problem: self.desired.tenants.problems.get(name).cloned(),
                weight: settings.weight,
                max_messages_per_second: settings.max_messages_per_second,
                max_bytes_per_second: settings.max_bytes_per_second,
                burst: settings.burst,
                quota_fraction: fraction,
                max_in_flight_bytes: settings.max_in_flight_bytes,
                in_flight_bytes: in_flight,
                pipelines: count.to_run,
                pipelines_here: count.here,
                limited_by: by.map(Limit::name),
                limited_seconds: seconds(limited),
            });
        }
        if is_due {
            self.tenant_looks.looked_at = now;
            let looks = &mut self.tenant_looks;
            looks.limited.retain(|name, _| counts.contains_key(name));
            looks.limited_by.retain(|name, _| counts.contains_key(name));
        }
        self.board.set_tenants(shown);
    }
}

impl Count {
    /// The part of the tenant's rate for this node.
    fn fraction(self) -> f64 {
        if !self.is_elsewhere || self.weight == 0 {
            return 1.0;
        }
        f64::from(self.weight_here) / f64::from(self.weight)
    }
}

/// What kept rows waiting the longest between two looks, if it was worth naming.
fn most_of(
    before: [Duration; Limit::ALL.len()],
    after: [Duration; Limit::ALL.len()],
    passed: Duration,
) -> Option<Limit> {
    let time = |by: &Limit| after[by.place()].saturating_sub(before[by.place()]);
    let most = Limit::ALL.into_iter().max_by_key(time)?;
    (time(&most) >= passed.mul_f64(WORTH_NAMING) && time(&most) > Duration::ZERO).then_some(most)
}

fn seconds(limited: [Duration; Limit::ALL.len()]) -> LimitedSeconds {
    let of = |by: Limit| limited[by.place()].as_secs_f64();
    LimitedSeconds {
        quota: of(Limit::Quota),
        shard: of(Limit::Shard),
        key_order: of(Limit::KeyOrder),
        memory: of(Limit::Memory),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_uses_the_part_of_the_rate_that_its_pipelines_are() {
        let count = Count {
            to_run: 3,
            here: 1,
            weight: 8,
            weight_here: 2,
            is_elsewhere: true,
        };
        assert!((count.fraction() - 0.25).abs() < 1e-9);
        let alone = Count {
            is_elsewhere: false,
            ..count
        };
        assert!((alone.fraction() - 1.0).abs() < 1e-9, "nobody else uses it");
        assert!((Count::default().fraction() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn what_kept_rows_waiting_longest_is_named() {
        let second = Duration::from_secs(1);
        let millis = |each: [u64; 4]| each.map(Duration::from_millis);
        let before = millis([5_000, 0, 0, 100]);
        let by = |after| most_of(before, millis(after), second);
        assert_eq!(by([5_000, 0, 0, 100]), None);
        assert_eq!(by([5_050, 0, 0, 100]), None, "not worth it");
        assert_eq!(by([5_400, 300, 0, 100]), Some(Limit::Quota));
        assert_eq!(by([5_400, 300, 0, 900]), Some(Limit::Memory));
        assert_eq!(by([5_000, 0, 200, 100]), Some(Limit::KeyOrder));
    }
}
