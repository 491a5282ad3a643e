//! Back pressure: a ticket rides with every row that was handed to a writer.
//!
//! A mailbox bounds nothing, so tickets do: rows and bytes are counted per
//! pipeline and for the whole process, from the moment a row is handed to the
//! moment it is settled or dropped.
//!
//! A ticket that is dropped before its row was settled makes its flow *void*:
//! the row was lost with an actor that died. Nothing more of that flow is sent,
//! since what follows might belong to the same key, and its reader starts again
//! from its durable position. So a crash harms just the flows that had rows in
//! it, and nobody has to know who that was.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use actix::Recipient;
use tokio::sync::Notify;

use super::messages::Outcomes;
use crate::admin::metrics::PipelineMetrics;
use crate::core::dead_letter::OnPoison;
use crate::core::ports::{Epoch, PipelineName};
use crate::core::send_queue::Flow;

/// Rows and bytes in use, and the most of both.
#[derive(Debug)]
pub struct Pool {
    rows: AtomicUsize,
    bytes: AtomicUsize,
    most_rows: usize,
    most_bytes: usize,
}

impl Pool {
    /// An unused pool.
    #[must_use]
    pub const fn new(most_rows: usize, most_bytes: usize) -> Self {
        Self {
            rows: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            most_rows,
            most_bytes,
        }
    }

    /// Rows that may still be handed.
    #[must_use]
    pub fn free_rows(&self) -> usize {
        self.most_rows
            .saturating_sub(self.rows.load(Ordering::Relaxed))
    }

    /// Bytes that may still be handed.
    #[must_use]
    pub fn free_bytes(&self) -> usize {
        self.most_bytes
            .saturating_sub(self.bytes.load(Ordering::Relaxed))
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

    fn take(&self, bytes: usize) {
        self.rows.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn give_back(&self, bytes: usize) {
        self.rows.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
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
    /// The permits of the process.
    pub shared: Arc<Pool>,
    /// Whether nothing of it may be sent any more.
    pub void: Void,
    /// What becomes of a row the service does not take.
    pub on_poison: OnPoison,
    /// Keys of which nothing that was handed so far may be sent.
    pub rejected_keys: RejectedKeys,
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

    /// Whether nothing of this key is to be sent. Costs no lock while there is no
    /// such key.
    #[must_use]
    pub fn contains(&self, hash: u128) -> bool {
        self.count.load(Ordering::Acquire) > 0
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
}

/// The permit of one row on its way.
#[derive(Debug)]
pub struct Ticket {
    tag: Arc<FlowTag>,
    bytes: usize,
    settled: bool,
}

impl Ticket {
    /// Takes a permit for a row of `bytes` bytes.
    #[must_use]
    pub fn take(tag: &Arc<FlowTag>, bytes: usize) -> Self {
        tag.own.take(bytes);
        tag.shared.take(bytes);
        Self {
            tag: Arc::clone(tag),
            bytes,
            settled: false,
        }
    }

    /// Whose row it is.
    #[must_use]
    pub const fn tag(&self) -> &Arc<FlowTag> {
        &self.tag
    }

    /// The row is settled: its reader is told by message, and the permit is free.
    pub fn settle(mut self) -> Arc<FlowTag> {
        self.settled = true;
        Arc::clone(&self.tag)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.tag.own.give_back(self.bytes);
        self.tag.shared.give_back(self.bytes);
        if !self.settled {
            self.tag.make_void();
        }
    }
}
