//! What nodes said last, as a store knows it: beats answer only what has changed.
//!
//! At 1,000 nodes the notes of all of them, read by each with every beat, would be most
//! of what a beat costs. So a beat says which snapshot the one before ran in, and gets
//! the notes that were written by transactions which that one did not see.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// What one node said: its demand and its shares.
pub(super) type Notes = Arc<(String, String)>;

/// The notes of all nodes as of a snapshot.
#[derive(Debug, Clone, Default)]
pub(super) struct KnownNotes {
    /// Whose beat it was: what it says itself it is not told.
    asked_by: String,
    /// The snapshot, as PostgreSQL writes it; empty before the first beat.
    snapshot: String,
    by_node: HashMap<Arc<str>, Notes>,
}

/// The same, shared by the beats of a store.
#[derive(Debug, Default)]
pub(super) struct NodeNotes(Mutex<Arc<KnownNotes>>);

impl KnownNotes {
    /// The snapshot, or one that sees nothing.
    pub(super) fn snapshot(&self) -> &str {
        if self.snapshot.is_empty() {
            "1:1:"
        } else {
            &self.snapshot
        }
    }

    /// What a node is known to have said.
    pub(super) fn of(&self, node: &str) -> Option<&Notes> {
        self.by_node.get(node)
    }
}

impl NodeNotes {
    /// What this node knows now: a beat's answer is read against what it was asked with.
    pub(super) fn known(&self, node: &str) -> Arc<KnownNotes> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.asked_by == node {
            Arc::clone(&known)
        } else {
            Arc::default()
        }
    }

    /// What this node knows from now on.
    pub(super) fn learn(&self, node: &str, snapshot: String, by_node: HashMap<Arc<str>, Notes>) {
        let known = KnownNotes {
            asked_by: node.to_owned(),
            snapshot,
            by_node,
        };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(known);
    }

    /// Something failed: it may be another server by now, whose transactions are others.
    pub(super) fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::default();
    }
}
