//! Renewing leases, which a node does with its beat.

use std::time::Duration;

use tidegate::core::nodes::BeatRequest;
use tidegate::core::ports::{Epoch, OutboxStore, PipelineName, StoreError};

/// Renews leases with a beat; answers which of them still hold.
pub(crate) async fn renew(
    store: &dyn OutboxStore,
    node: &str,
    held: &[(PipelineName, Epoch)],
    lease: Duration,
) -> Result<Vec<bool>, StoreError> {
    let beat = BeatRequest {
        node,
        lease,
        draining: false,
        held,
        asks: &[],
        demand: "{}",
        shares: "{}",
        known: "",
    };
    Ok(store.beat(beat).await?.held)
}
