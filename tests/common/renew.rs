//! Renewing leases, which a node does with its beat.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::time::Duration;

use tidegate::core::nodes::{BeatDone, BeatRequest, Renewal};
use tidegate::core::ports::{Epoch, OutboxStore, PipelineName, StoreError};

/// A beat that says nothing but what the node holds.
pub(crate) async fn beat(
    store: &dyn OutboxStore,
    node: &str,
    held: &[(PipelineName, Epoch)],
    lease: Duration,
) -> Result<BeatDone, StoreError> {
    let request = BeatRequest {
        node,
        lease,
        draining: false,
        held,
        asks: &[],
        demand: "{}",
        shares: "{}",
        known: "",
    };
    store.beat(request).await
}

/// Renews leases with a beat; answers which of them still hold.
pub(crate) async fn renew(
    store: &dyn OutboxStore,
    node: &str,
    held: &[(PipelineName, Epoch)],
    lease: Duration,
) -> Result<Vec<bool>, StoreError> {
    let held = beat(store, node, held, lease).await?.held;
    Ok(held.iter().map(|one| *one == Renewal::Renewed).collect())
}
