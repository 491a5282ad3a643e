//! How many actors run.

use prometheus::{IntGaugeVec, Registry};

use super::{Metrics, int_gauges};

#[derive(Debug)]
pub(super) struct ActorFamilies {
    running: IntGaugeVec,
}

impl ActorFamilies {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            running: int_gauges(
                registry,
                "tidegate_actors",
                "Actors that run, and those given up that have not ended",
                &["actor"],
            )?,
        })
    }
}

impl Metrics {
    /// There is a new supervisor: no actor of it runs yet.
    pub fn no_actors(&self) {
        self.families.actors.running.reset();
    }

    /// An actor of this kind has been started.
    pub fn actor_began(&self, actor: &'static str) {
        let running = &self.families.actors.running;
        running.with_label_values(&[actor]).inc();
    }

    /// An actor of this kind has ended.
    pub fn actor_ended(&self, actor: &'static str) {
        let running = &self.families.actors.running;
        running.with_label_values(&[actor]).dec();
    }
}
