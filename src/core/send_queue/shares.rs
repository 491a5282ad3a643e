//! What a flow gets of a shard, which may change while its rows are on their way.
//!
//! The reader of the flow and the queues of all shards share one value: a change
//! is seen by each of them at its next turn, without a message that could come
//! before the rows it is about, or get lost with a writer.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

/// The shares of one flow. The three numbers are read one by one: a call that is
/// made up while they change may see some of the old ones, which is as good.
#[derive(Debug)]
pub struct Shares {
    tenant_weight: AtomicU32,
    weight: AtomicU32,
    batch_size: AtomicUsize,
}

impl Shares {
    /// Shares to begin with.
    #[must_use]
    pub const fn new(tenant_weight: u32, weight: u32, batch_size: usize) -> Self {
        Self {
            tenant_weight: AtomicU32::new(tenant_weight),
            weight: AtomicU32::new(weight),
            batch_size: AtomicUsize::new(batch_size),
        }
    }

    /// The tenant's weight among the tenants of a shard.
    #[must_use]
    pub fn tenant_weight(&self) -> u32 {
        self.tenant_weight.load(Ordering::Relaxed)
    }

    /// The pipeline's weight among the pipelines of its tenant.
    #[must_use]
    pub fn weight(&self) -> u32 {
        self.weight.load(Ordering::Relaxed)
    }

    /// The most records of the flow in one call.
    #[must_use]
    pub fn batch_size(&self) -> usize {
        self.batch_size.load(Ordering::Relaxed)
    }

    /// From the next turn on these hold.
    pub fn change(&self, tenant_weight: u32, weight: u32, batch_size: usize) {
        self.tenant_weight.store(tenant_weight, Ordering::Relaxed);
        self.weight.store(weight, Ordering::Relaxed);
        self.batch_size.store(batch_size, Ordering::Relaxed);
    }
}
