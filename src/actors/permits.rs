//! Back pressure: a ticket rides with every row that was handed to a writer.
//!
//! A mailbox bounds nothing, so tickets do: rows and bytes are counted per
//! pipeline, and bytes for the whole process, from the moment a row is handed to
//! the moment it is settled or dropped. What the pipelines have of the process's
//! pool is ruled by [`PermitShares`]: those that are stuck leave the others theirs.
//!
//! A ticket that is dropped before its row was settled makes its flow *void*:
//! the row was lost with an actor that died. Nothing more of that flow is sent,
//! since what follows might belong to the same key, and its reader starts again
//! from its durable position. So a crash harms just the flows that had rows in
//! it, and nobody has to know who that was.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix::Recipient;
use tokio::sync::Notify;

use super::messages::Outcomes;
use super::tenants::Tenant;
use crate::admin::metrics::{MemoryMetrics, PipelineMetrics};
use crate::core::dead_letter::OnPoison;
use crate::core::invariants;
use crate::core::permit_shares::{PartyId, PermitShares, TenantPart};
use crate::core::ports::{Epoch, PipelineName};
use crate::core::send_queue::Flow;

/// Rows and bytes in use, and the most of both.
#[derive(Debug)]
pub struct Pool {
    rows: AtomicUsize,
    bytes: AtomicUsize,
    most_rows: AtomicUsize,
    most_bytes: AtomicUsize,
    /// What may be in use of both: more than may be handed after a limit was
    /// lowered.
    bound: Mutex<(usize, usize)>,
}

impl Pool {
    /// An unused pool.
    #[must_use]
    pub const fn new(most_rows: usize, most_bytes: usize) -> Self {
        Self {
            rows: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            most_rows: AtomicUsize::new(most_rows),
            most_bytes: AtomicUsize::new(most_bytes),
            bound: Mutex::new((most_rows, most_bytes)),
        }
    }

    /// So much may be in use from now on; what is in use beyond it stays so until it
    /// is settled.
    pub fn resize(&self, most_rows: usize, most_bytes: usize) {
        self.most_rows.store(most_rows, Ordering::Relaxed);
        self.most_bytes.store(most_bytes, Ordering::Relaxed);
        let mut bound = self.bound.lock().unwrap_or_else(PoisonError::into_inner);
        *bound = (bound.0.max(most_rows), bound.1.max(most_bytes));
    }

    /// Rows that may still be handed.
    #[must_use]
    pub fn free_rows(&self) -> usize {
        self.most_rows
            .load(Ordering::Relaxed)
            .saturating_sub(self.rows.load(Ordering::Relaxed))
    }

    /// Bytes that may still be handed.
    #[must_use]
    pub fn free_bytes(&self) -> usize {
        self.most_bytes
            .load(Ordering::Relaxed)
            .saturating_sub(self.bytes.load(Ordering::Relaxed))
    }

    /// Rows that may be in use at once.
    #[must_use]
    pub fn most_rows(&self) -> usize {
        self.most_rows.load(Ordering::Relaxed)
    }

    /// Rows in use.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows.load(Ordering::Relaxed)
    }

    /// Bytes in use.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether no more is in use than may be; the last row, of so many bytes, may
    /// exceed the bytes.
    #[must_use]
    pub fn is_within(&self, last_row: usize) -> bool {
        let (rows, bytes) = *self.bound.lock().unwrap_or_else(PoisonError::into_inner);
        invariants::within_bound(self.rows(), rows, 0)
            && invariants::within_bound(self.bytes(), bytes, last_row)
    }

    pub(super) fn take(&self, rows: usize, bytes: usize) {
        self.rows.fetch_add(rows, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn give_back(&self, rows: usize, bytes: usize) {
        self.rows.fetch_sub(rows, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Sets bytes aside for rows that are not there yet.
    pub fn reserve(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Gives back what was reserved.
    pub fn give_back_reserved(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// The bytes of all pipelines together.
#[derive(Debug)]
pub struct SharedPool {
    shares: Mutex<PermitShares>,
    metrics: MemoryMetrics,
}

impl SharedPool {
    /// An unused pool of so many bytes.
    #[must_use]
    pub fn new(total: usize, metrics: MemoryMetrics) -> Self {
        Self {
            shares: Mutex::new(PermitShares::new(total)),
            metrics,
        }
    }

    /// The pool has so many bytes from now on.
    pub fn resize(&self, total: usize) {
        self.shares().resize(total);
    }

    /// These tenants are to have parts.
    pub fn expect(&self, parts: &[TenantPart]) {
        self.shares().expect(parts);
    }

    /// What the pipelines of a tenant have, in bytes.
    #[must_use]
    pub fn used_by(&self, tenant: &str) -> usize {
        self.shares().used_by(tenant)
    }

    /// A share for one incarnation of a reader of a tenant.
    #[must_use]
    pub fn join(self: Arc<Self>, tenant: &Arc<str>) -> Share {
        let party = self.shares().join(tenant);
        Share { pool: self, party }
    }

    fn change(&self, change: impl FnOnce(&mut PermitShares)) {
        let mut shares = self.shares();
        change(&mut shares);
        self.metrics.used(shares.used() + shares.alone());
    }

    // A panic while it was locked leaves plain numbers.
    fn shares(&self) -> MutexGuard<'_, PermitShares> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one incarnation of a reader has of the shared pool. Dropping it gives its
/// place up.
#[derive(Debug)]
pub struct Share {
    pool: Arc<SharedPool>,
    party: PartyId,
}

impl Share {
    /// Bytes that may still be handed.
    #[must_use]
    pub fn free_bytes(&self) -> usize {
        self.pool.shares().free(self.party)
    }

    /// Whether a row of so many bytes may go now, or could if it went alone.
    #[must_use]
    pub fn pool_has(&self, bytes: usize) -> bool {
        bytes <= self.pool.shares().free_of_pool(self.party)
    }

    /// Whether one more row may go, however large, for all that its tenant may have.
    #[must_use]
    pub fn tenant_takes_more(&self) -> bool {
        self.pool.shares().free_of_tenant(self.party) > 0
    }

    /// Whether all pipelines together use no more than the pool has; the last row,
    /// of so many bytes, may exceed it.
    #[must_use]
    pub fn is_within(&self, last_row: usize) -> bool {
        let shares = self.pool.shares();
        invariants::within_bound(shares.used(), shares.most_in_use(), last_row)
    }

    /// Nothing more is handed; what was keeps its bytes until it is settled.
    pub fn leave(&self) {
        self.pool.shares().leave(self.party);
    }

    /// Takes bytes, whether they are free or not.
    pub fn take(&self, bytes: usize) {
        self.pool.change(|shares| shares.take(self.party, bytes));
    }

    /// Gives bytes back.
    pub fn give_back(&self, bytes: usize) {
        self.pool
            .change(|shares| shares.give_back(self.party, bytes));
    }

    /// Whether a row that is larger than what is free could go now.
    #[must_use]
    pub fn may_go_alone(&self) -> bool {
        self.pool.shares().alone() == 0
    }

    /// A pass for a row that is larger than what is free, if no other has it.
    #[must_use]
    pub fn go_alone(&self, bytes: usize) -> Option<AlonePass> {
        let mut goes = false;
        self.pool.change(|shares| goes = shares.go_alone(bytes));
        let pool = Arc::clone(&self.pool);
        goes.then_some(AlonePass { pool })
    }
}

/// Lets one row of all pipelines be in memory beside what all others have. Dropping it
/// lets the next one.
#[derive(Debug)]
pub struct AlonePass {
    pool: Arc<SharedPool>,
}

impl Drop for AlonePass {
    fn drop(&mut self) {
        self.pool.change(PermitShares::alone_is_over);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.pool.shares().remove(self.party);
    }
}

/// Whether a flow is void. Its reader, its rows and the supervisor share it.
#[derive(Debug, Clone, Default)]
pub struct Void(Arc<VoidState>);

#[derive(Debug, Default)]
struct VoidState {
    is_void: AtomicBool,
    became_void: Notify,
}

impl Void {
    /// Nothing of this flow may be sent any more.
    pub fn make_void(&self) {
        self.0.is_void.store(true, Ordering::Release);
        self.0.became_void.notify_one();
    }

    /// Whether nothing of it may be sent any more.
    #[must_use]
    pub fn is_void(&self) -> bool {
        self.0.is_void.load(Ordering::Acquire)
    }

    /// Waits until the flow is void.
    pub async fn until_void(&self) {
        while !self.is_void() {
            self.0.became_void.notified().await;
        }
    }
}

/// One incarnation of a pipeline's reader, as its rows carry it.
#[derive(Debug)]
pub struct FlowTag {
    /// The pipeline.
    pub pipeline: PipelineName,
    /// The epoch it is owned under.
    pub epoch: Epoch,
    /// Its place in the writers' queues.
    pub flow: Flow,
    /// Where outcomes go.
    pub reader: Recipient<Outcomes>,
    /// Its metrics.
    pub metrics: PipelineMetrics,
    /// Its permits.
    pub own: Pool,
    /// Its share of the permits of the process.
    pub shared: Share,
    /// Whom it belongs to.
    pub tenant: Arc<Tenant>,
    /// Whether nothing of it may be sent any more.
    pub void: Void,
    /// What becomes of a row the service does not take.
    pub on_poison: OnPoison,
    /// Keys of which nothing that was handed so far may be sent.
    pub rejected_keys: RejectedKeys,
    /// How long its rows may wait for company.
    pub patience: Patience,
    /// Whether its pipeline is handed over: no more of it is sent than must be.
    pub recalled: AtomicBool,
}

/// How long rows of a flow may wait for others to share a call with, see
/// [`crate::core::company`]. Its reader says so, and the writers read it.
#[derive(Debug, Default)]
pub struct Patience {
    micros: AtomicU32,
}

impl Patience {
    /// Rows handed from now on may wait so long.
    pub fn set(&self, patience: Duration) {
        let micros = u32::try_from(patience.as_micros()).unwrap_or(u32::MAX);
        self.micros.store(micros, Ordering::Relaxed);
    }

    /// How long they may wait.
    #[must_use]
    pub fn get(&self) -> Duration {
        Duration::from_micros(self.micros.load(Ordering::Relaxed).into())
    }
}

/// Hash keys of rejected rows, shared by the writer that learnt of one and the
/// reader: what was handed of such a key before the reader knew comes back.
#[derive(Debug, Default)]
pub struct RejectedKeys {
    count: AtomicUsize,
    keys: Mutex<HashSet<u128>>,
}

impl RejectedKeys {
    fn change(&self, change: impl FnOnce(&mut HashSet<u128>)) {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut keys);
        self.count.store(keys.len(), Ordering::Release);
    }

    /// Nothing of this key is to be sent.
    pub fn add(&self, hash: u128) {
        self.change(|keys| {
            keys.insert(hash);
        });
    }

    /// All that was handed of it has come back.
    pub fn remove(&self, hash: u128) {
        self.change(|keys| {
            keys.remove(&hash);
        });
    }

    /// Whether there is no such key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// Whether nothing of this key is to be sent. Costs no lock while there is no
    /// such key.
    #[must_use]
    pub fn contains(&self, hash: u128) -> bool {
        !self.is_empty()
            && self
                .keys
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .contains(&hash)
    }
}

impl FlowTag {
    /// Nothing of this flow may be sent any more.
    pub fn make_void(&self) {
        self.void.make_void();
    }

    /// Whether nothing of it may be sent any more.
    #[must_use]
    pub fn is_void(&self) -> bool {
        self.void.is_void()
    }

    /// Whether its rows go back unsent, see [`super::messages::Recall`].
    #[must_use]
    pub fn is_recalled(&self) -> bool {
        self.recalled.load(Ordering::Acquire)
    }
}
