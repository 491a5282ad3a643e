//! The tenants of the process: what they may have, shared by all that works for one.
//!
//! Readers ask here for a part of their tenant's rate before they read, and everybody
//! who finds rows of a tenant waiting says here why. The supervisor says what
//! a tenant may have, and which part of it this node may use.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::admin::metrics::{Metrics, TenantMetrics};
use crate::core::rate_limit::RateLimits;
use crate::core::send_queue::FlowId;
use crate::core::tenant::{Limit, TenantLimits};
use crate::core::tenant_quota::{SeatId, TenantQuota};
use crate::core::time::Moment;

/// All tenants that pipelines of the process name.
#[derive(Debug)]
pub struct Tenants {
    known: Mutex<BTreeMap<Arc<str>, Arc<Tenant>>>,
    metrics: Metrics,
}

/// Where rows of a tenant are kept waiting.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeptAt {
    /// At the reader of a pipeline.
    Reader(FlowId),
    /// At the writer of a shard of a stream.
    Shard(Arc<str>, Arc<str>),
}

/// For how long, by [`Limit::place`].
pub type LimitedFor = [Duration; Limit::ALL.len()];

/// One tenant.
#[derive(Debug)]
pub struct Tenant {
    name: Arc<str>,
    weight: AtomicU32,
    quota: Mutex<TenantQuota>,
    /// Microseconds, by [`Limit::place`].
    limited: [AtomicU64; Limit::ALL.len()],
    /// Where, since it was asked last: many wait at the same time, and their times
    /// together are no part of any clock's.
    lately: Mutex<BTreeMap<KeptAt, LimitedFor>>,
    metrics: TenantMetrics,
}

impl Tenants {
    /// No tenants yet.
    #[must_use]
    pub const fn new(metrics: Metrics) -> Self {
        Self {
            known: Mutex::new(BTreeMap::new()),
            metrics,
        }
    }

    /// A tenant; one that was not there has no limits.
    #[must_use]
    pub fn get(&self, name: &Arc<str>, now: Moment) -> Arc<Tenant> {
        let mut known = self.known();
        let tenant = known.entry(Arc::clone(name)).or_insert_with(|| {
            Arc::new(Tenant {
                name: Arc::clone(name),
                weight: AtomicU32::new(1),
                quota: Mutex::new(TenantQuota::new(RateLimits::default(), now)),
                limited: Default::default(),
                lately: Mutex::default(),
                metrics: self.metrics.tenant(name),
            })
        });
        Arc::clone(tenant)
    }

    /// From now on these limits hold for a tenant.
    pub fn define(&self, limits: &TenantLimits, now: Moment) {
        let tenant = self.get(&limits.name, now);
        tenant.weight.store(limits.weight, Ordering::Relaxed);
        tenant.quota().change(limits.rate, now);
    }

    /// This node may use such a part of a tenant's rate, 0 to 1. Whoever says it sees
    /// to it that the parts of all nodes together are at most 1.
    pub fn set_share_fraction(&self, tenant: &Arc<str>, fraction: f64, now: Moment) {
        self.get(tenant, now).quota().set_fraction(fraction, now);
    }

    /// Forgets tenants that nobody names any more and nobody works for.
    pub fn retain(&self, is_named: impl Fn(&Arc<str>) -> bool) {
        self.known().retain(|name, tenant| {
            let is_kept = is_named(name) || Arc::strong_count(tenant) > 1;
            if !is_kept {
                self.metrics.remove_tenant(name);
            }
            is_kept
        });
    }

    // A panic while it was locked leaves a whole map.
    fn known(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Arc<Tenant>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tenant {
    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Its share where tenants contend.
    #[must_use]
    pub fn weight(&self) -> u32 {
        self.weight.load(Ordering::Relaxed)
    }

    /// For so long has something kept rows of it waiting there.
    pub fn limited(&self, by: Limit, time: Duration, at: KeptAt) {
        let mut lately = self.lately();
        let there = lately.entry(at).or_default();
        there[by.place()] = there[by.place()].saturating_add(time);
        drop(lately);
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.limited[by.place()].fetch_add(micros, Ordering::Relaxed);
        self.metrics.limited(by, time);
    }

    /// For how long what has kept rows of it waiting since this was asked last, where
    /// it did so longest.
    #[must_use]
    pub fn take_longest(&self) -> LimitedFor {
        let lately = std::mem::take(&mut *self.lately());
        let mut longest = LimitedFor::default();
        for there in lately.values() {
            for (longest, there) in longest.iter_mut().zip(there) {
                *longest = (*longest).max(*there);
            }
        }
        longest
    }

    /// For how long what has kept rows of it waiting, everywhere together.
    #[must_use]
    pub fn limited_for(&self) -> LimitedFor {
        Limit::ALL.map(|by| {
            let micros = self.limited[by.place()].load(Ordering::Relaxed);
            Duration::from_micros(micros)
        })
    }

    /// The part of its rate that this node may use.
    #[must_use]
    pub fn fraction(&self) -> f64 {
        self.quota().fraction()
    }

    /// Brings its gauges up to date.
    pub fn show(&self, in_flight_bytes: usize) {
        self.metrics.shows(in_flight_bytes, self.fraction());
    }

    // A panic while it was locked leaves plain numbers.
    fn lately(&self) -> MutexGuard<'_, BTreeMap<KeptAt, LimitedFor>> {
        self.lately.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // A panic while it was locked leaves plain numbers.
    fn quota(&self) -> MutexGuard<'_, TenantQuota> {
        self.quota.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A reader's place in the rate of its tenant. Dropping it gives back what it has
/// reserved.
#[derive(Debug)]
pub struct QuotaSeat {
    tenant: Arc<Tenant>,
    seat: SeatId,
}

impl QuotaSeat {
    /// A place for a pipeline of this weight.
    #[must_use]
    pub fn take(tenant: &Arc<Tenant>, weight: u32) -> Self {
        let seat = tenant.quota().join(weight);
        let tenant = Arc::clone(tenant);
        Self { tenant, seat }
    }

    /// Whose rate it is.
    #[must_use]
    pub const fn tenant(&self) -> &Arc<Tenant> {
        &self.tenant
    }

    /// The pipeline has this weight from now on.
    pub fn weigh(&self, weight: u32) {
        self.tenant.quota().weigh(self.seat, weight);
    }

    /// How many rows of so many bytes may be read now.
    #[must_use]
    pub fn rows(&self, row_bytes: usize, now: Moment) -> usize {
        self.tenant.quota().rows(self.seat, row_bytes, now)
    }

    /// So many rows are read, of so many bytes as far as can be told.
    pub fn reserve(&self, rows: usize, bytes: usize, now: Moment) {
        self.tenant.quota().reserve(self.seat, rows, bytes, now);
    }

    /// What was reserved is not needed, or charged now.
    pub fn release(&self) {
        self.tenant.quota().release(self.seat);
    }

    /// Rows have gone on their way.
    pub fn charge(&self, rows: usize, bytes: usize) {
        self.tenant.quota().charge(self.seat, rows, bytes);
    }

    /// When to look again while there is work and nothing may be read.
    #[must_use]
    pub fn next_at(&self, now: Moment) -> Moment {
        self.tenant.quota().next_at(self.seat, now)
    }

    /// There is no work.
    pub fn rest(&self) {
        self.tenant.quota().rest(self.seat);
    }
}

impl Drop for QuotaSeat {
    fn drop(&mut self) {
        self.tenant.quota().leave(self.seat);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows that wait 1 % of the time on each of 64 shards are not kept waiting.
    #[test]
    fn what_waits_at_many_shards_is_not_added_up() {
        let tenants =
            Tenants::new(Metrics::new(prometheus::Registry::new()).expect("no names twice"));
        let tenant = tenants.get(&"acme".into(), Moment::ORIGIN);
        let ms = Duration::from_millis;
        for shard in 0..64 {
            let at = KeptAt::Shard("s".into(), shard.to_string().into());
            tenant.limited(Limit::Shard, ms(6), at.clone());
            tenant.limited(Limit::Shard, ms(4), at);
        }
        tenant.limited(Limit::Quota, ms(300), KeptAt::Reader(1));
        let longest = tenant.take_longest();
        assert_eq!(longest, [ms(300), ms(10), ms(0), ms(0)]);
        assert_eq!(tenant.limited_for()[Limit::Shard.place()], ms(640));
        assert_eq!(tenant.take_longest(), LimitedFor::default());
    }
}
