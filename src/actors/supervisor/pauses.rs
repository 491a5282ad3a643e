//! Holding paused pipelines, and letting them go.
//!
//! A paused pipeline's reader finishes what it has sent, writes its position and
//! gives the lease back; then the pipeline is left alone: nobody asks for the lease.
//! Every node reads the pauses for itself, and a claim of one that has not read the
//! newest is not granted, so that no standby takes up what was given back.

use std::sync::Arc;

use actix::Context;

use super::Supervisor;
use crate::actors::child::legal;
use crate::actors::pipeline_slot::Run;
use crate::admin::status::PipelineState;
use crate::config::desired::{PipelineKey, Wanted};
use crate::config::pipeline::{PipelineSpec, StreamRef};
use crate::core::pause::{Pausable, Pauses};

impl Supervisor {
    /// From now on these pauses hold in a database.
    pub(super) fn take_pauses(&mut self, database: &Arc<str>, pauses: Pauses) {
        if let Some(slot) = self.databases.get(database) {
            slot.database.store.knows_pauses(&pauses.version);
        }
        self.pauses.insert(Arc::clone(database), pauses);
    }

    /// Why a pipeline is paused, if it is.
    pub(in crate::actors) fn why_paused(&self, spec: &PipelineSpec) -> Option<String> {
        let pipeline = Pausable {
            pipeline: &spec.name,
            tenant: &spec.tenant,
            stream: spec.stream.name(),
            arn: match &spec.stream.stream {
                StreamRef::Arn(arn) => Some(arn),
                StreamRef::Name(_) => None,
            },
            region: spec.stream.client.region.as_deref(),
        };
        self.pauses.get(&spec.database)?.why(&pipeline)
    }

    /// Whether a pipeline is to have a reader somewhere.
    pub(super) fn is_to_run(&self, wanted: &Wanted) -> bool {
        match wanted {
            Wanted::Run { spec, .. } => self.why_paused(spec).is_none(),
            Wanted::Invalid { .. } => false,
        }
    }

    /// Holds what is paused and is not held yet; lets go what is paused no more.
    pub(super) fn apply_pauses(&mut self, context: &mut Context<Self>) {
        let keys: Vec<PipelineKey> = self.pipelines.keys().cloned().collect();
        for key in keys {
            let Some(slot) = self.pipelines.get(&key).filter(|slot| slot.is_wanted()) else {
                continue;
            };
            let Some(spec) = slot.spec.clone() else {
                continue;
            };
            let is_held = matches!(slot.run, Run::Paused);
            match self.why_paused(&spec) {
                Some(reason) => self.hold(&key, reason),
                None if is_held => {
                    tracing::info!(pipeline = %key, "the pipeline is resumed");
                    self.show(&key, slot, PipelineState::Starting);
                    self.claim(&key, context);
                }
                None => {}
            }
        }
    }

    /// Holds a pipeline: what its reader has sent is settled first.
    pub(in crate::actors) fn hold(&mut self, key: &PipelineKey, reason: String) {
        let attempt = self.next_incarnation();
        let until = self.clock.now() + self.settings.limits.drain_grace;
        let Some(slot) = self.pipelines.get_mut(key) else {
            return;
        };
        let drains_already = slot.drain.is_some();
        if slot.drain(until) {
            if !drains_already {
                tracing::info!(pipeline = %key, %reason, "the pipeline is paused; draining it");
            }
            return;
        }
        if !matches!(slot.run, Run::Paused) {
            tracing::info!(pipeline = %key, %reason, "the pipeline is paused");
        }
        slot.run = Run::Paused;
        legal(slot.life.stops());
        // A claim that is under way comes too late.
        slot.attempt = attempt;
        if let Some(slot) = self.pipelines.get(key) {
            self.show(key, slot, PipelineState::Paused { reason });
        }
    }
}
