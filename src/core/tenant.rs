//! Tenants: who shares what with whom, and what keeps somebody waiting.

use std::sync::Arc;

use super::rate_limit::RateLimits;

/// What one tenant may have.
#[derive(Debug, Clone, PartialEq)]
pub struct TenantLimits {
    /// The tenant.
    pub name: Arc<str>,
    /// Its share where tenants contend (shards, memory), relative to others: 1 to
    /// 1000.
    pub weight: u32,
    /// The rate of all its pipelines together.
    pub rate: RateLimits,
    /// The bytes all its pipelines together may have in memory; `None` is no limit.
    pub max_in_flight_bytes: Option<usize>,
}

/// What keeps rows of a tenant waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Limit {
    /// A rate that was set: the tenant's or the pipeline's.
    Quota,
    /// The shard: its budget, its calls, its failures.
    Shard,
    /// Rows of the same key are on their way: the next ones wait for their outcome.
    KeyOrder,
    /// The memory: the tenant's `max_in_flight_bytes`, or what is left of all.
    Memory,
}

impl TenantLimits {
    /// A tenant nobody has said anything of.
    #[must_use]
    pub fn unlimited(name: Arc<str>) -> Self {
        Self {
            name,
            weight: 1,
            rate: RateLimits::default(),
            max_in_flight_bytes: None,
        }
    }
}

impl Limit {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Quota, Self::Shard, Self::KeyOrder, Self::Memory];

    /// Its name, in metrics and in the status.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Quota => "quota",
            Self::Shard => "shard",
            Self::KeyOrder => "key_order",
            Self::Memory => "memory",
        }
    }

    /// Its place in [`Self::ALL`].
    #[must_use]
    pub const fn place(self) -> usize {
        match self {
            Self::Quota => 0,
            Self::Shard => 1,
            Self::KeyOrder => 2,
            Self::Memory => 3,
        }
    }
}
