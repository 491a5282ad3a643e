//! What a running relay does when an invariant does not hold: it says so.

use std::fmt::Display;

use crate::admin::metrics::Metrics;
use crate::core::invariants::Violation;

/// Counts and logs what was found, each a defect of the relay. It goes on: what is
/// stored cannot be unsaid, and stopping would add an outage to the defect.
pub(super) fn report(metrics: &Metrics, of: &dyn Display, found: Vec<Violation>) {
    for Violation { invariant, found } in found {
        let id = invariant.id();
        tracing::error!(%of, id, %found, "an invariant does not hold; this is a defect of the relay");
        metrics.invariant_violated(invariant);
    }
}
