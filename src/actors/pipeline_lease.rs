//! The supervisor's care for leases: taking, renewing, giving up.

use std::sync::Arc;
use std::time::Duration;

use actix::{AsyncContext, Context};

use super::child::legal;
use super::messages::{ClaimDone, LeaseGivenBack};
use super::pipeline_slot::Run;
use super::stream_router::StreamKey;
use super::supervisor::Supervisor;
use crate::admin::metrics::LeaseEvent;
use crate::admin::status::PipelineState;
use crate::config::desired::PipelineKey;
use crate::core::cluster::Claimable;
use crate::core::ports::{Claim, ClaimRequest, Epoch, StoreError};
use crate::core::supervision::ChildState;

/// The pause before a lease is asked for again that was not given for a reason which
/// may be over in a moment.
pub(super) const STANDBY_PAUSE: Duration = Duration::from_millis(250);

/// The most claims under way in a database: enough for all its connections.
const MOST_CLAIMS: usize = 32;

/// The longest pause before a database that did not answer is asked again.
const UNAVAILABLE_PAUSE: Duration = Duration::from_secs(2);

impl Supervisor {
    pub(super) fn claim_waiting(&mut self, stream: &StreamKey, context: &mut Context<Self>) {
        let waiting: Vec<PipelineKey> = self
            .pipelines
            .iter()
            .filter(|(_, slot)| {
                slot.stream.as_ref() == Some(stream) && matches!(slot.run, Run::Waiting)
            })
            .map(|(key, _)| key.clone())
            .collect();
        for key in waiting {
            self.claim(&key, context);
        }
    }

    /// Asks for the lease, if the pipeline's stream is ready; otherwise it waits
    /// for that.
    pub(super) fn claim(&mut self, key: &PipelineKey, context: &mut Context<Self>) {
        if self.is_draining() {
            return;
        }
        let attempt = self.next_incarnation();
        let Some(slot) = self.pipelines.get_mut(key) else {
            return;
        };
        let Some(spec) = slot.spec.clone().filter(|_| slot.invalid.is_none()) else {
            return;
        };
        if let Some(reason) = self.why_paused(&spec) {
            self.hold(key, reason);
            return;
        }
        let Some(slot) = self.pipelines.get_mut(key) else {
            return;
        };
        let stream = slot
            .stream
            .as_ref()
            .and_then(|stream| self.streams.get(stream));
        let Some(stream) = stream else {
            return;
        };
        let (now, lease) = (self.clock.now(), self.settings.cluster.lease);
        legal(slot.life.starts(now + lease));
        slot.behind = None;
        if stream.ready().is_none() {
            slot.run = Run::Waiting;
            let trouble = stream.trouble.clone();
            if let (Some(reason), Some(slot)) = (trouble, self.pipelines.get(key)) {
                let reason = format!("stream {}: {reason}", spec.stream.name());
                self.show(key, slot, PipelineState::Waiting { reason });
            }
            return;
        }
        let Some(database) = self.databases.get(&key.database) else {
            return;
        };
        if let Some(reason) = database.is_not_ready() {
            slot.run = Run::Waiting;
            let reason = reason.to_owned();
            if let Some(slot) = self.pipelines.get(key) {
                self.show(key, slot, PipelineState::Waiting { reason });
            }
            return;
        }
        match database.beats.cluster.claimable(&key.name, now) {
            Claimable::Yes => {}
            Claimable::Unknown => {
                slot.run = Run::Waiting;
                let state = database.beats.why_unknown();
                if let (Some(state), Some(slot)) = (state, self.pipelines.get(key)) {
                    self.show(key, slot, state);
                }
                return;
            }
            Claimable::No(owner) => {
                slot.run = Run::Waiting;
                slot.behind = owner.map(str::to_owned);
                if let (Some(owner), Some(slot)) = (slot.behind.clone(), self.pipelines.get(key)) {
                    self.show(key, slot, PipelineState::Standby { owner });
                }
                return;
            }
        }
        if self.claims_of(&key.database) >= MOST_CLAIMS && !self.claims.contains_key(key) {
            // Others come back first: a beat must not stand behind a thousand claims.
            if let Some(slot) = self.pipelines.get_mut(key) {
                slot.run = Run::Waiting;
            }
            return;
        }
        let (Some(slot), Some(database)) = (
            self.pipelines.get_mut(key),
            self.databases.get(&key.database),
        ) else {
            return;
        };
        slot.attempt = attempt;
        if self.claims.contains_key(key) {
            // Two claims at once may be granted in another order than they are heard
            // of. It is claimed when the earlier one has come back.
            slot.run = Run::Waiting;
            return;
        }
        self.claims.insert(key.clone(), attempt);
        slot.run = Run::Claiming;
        let version = slot.version;
        let store = Arc::clone(&database.database.store);
        let node = Arc::clone(&self.node);
        let (supervisor, pipeline, asked_at) = (context.address(), key.clone(), now);
        let generation = database.generation();
        tokio::spawn(async move {
            let request = ClaimRequest {
                pipeline: &pipeline.name,
                version,
                outbox: &spec.outbox,
                node: &node,
                lease,
            };
            // A lease that is granted after it has expired is worth nothing.
            let claim = tokio::time::timeout(lease, store.claim(request)).await;
            let result = claim.unwrap_or_else(|_| {
                let reason = "no answer within the lease".to_owned();
                Err(StoreError::Unavailable(reason))
            });
            // Only a stopped supervisor does not hear it.
            supervisor
                .try_send(ClaimDone {
                    pipeline,
                    attempt,
                    asked_at,
                    generation,
                    result,
                })
                .ok();
        });
    }

    pub(super) fn claim_in(
        &mut self,
        key: &PipelineKey,
        pause: Duration,
        context: &mut Context<Self>,
    ) {
        let attempt = self.next_incarnation();
        let Some(slot) = self.pipelines.get_mut(key) else {
            return;
        };
        slot.run = Run::Pausing;
        slot.attempt = attempt;
        match slot.life.state() {
            // It died, and its pause is known.
            ChildState::BackingOff | ChildState::Failed => {}
            ChildState::Stopped
            | ChildState::Starting
            | ChildState::Running
            | ChildState::Draining => {
                legal(slot.life.starts(self.clock.now() + pause));
            }
        }
        let key = key.clone();
        context.run_later(pause, move |supervisor, context| {
            let is_current = supervisor
                .pipelines
                .get(&key)
                .is_some_and(|slot| slot.attempt == attempt);
            if is_current {
                supervisor.claim(&key, context);
            }
        });
    }

    pub(super) fn claim_done(&mut self, done: ClaimDone, context: &mut Context<Self>) {
        super::fault::point("supervisor.ClaimDone");
        let ClaimDone {
            pipeline: key,
            attempt,
            asked_at,
            generation,
            result,
        } = done;
        let is_current = self
            .pipelines
            .get(&key)
            .is_some_and(|slot| slot.attempt == attempt);
        if self.claims.get(&key) == Some(&attempt) {
            self.claims.remove(&key);
            if self.claims_of(&key.database) == MOST_CLAIMS / 2 {
                self.claim_all_waiting(&key.database, context);
            }
        }
        let database = self.databases.get(&key.database);
        if database.is_none_or(|database| database.generation() != generation) {
            // What another database granted says nothing here, and is not given back
            // here: it runs out there.
            self.claim_if_waiting(&key, context);
            return;
        }
        if !is_current || self.is_draining() {
            self.give_back(&key, &result, context);
            self.claimed_in_drain(&key, is_current, context);
            self.claim_if_waiting(&key, context);
            return;
        }
        match result {
            Ok(Claim::Granted {
                epoch,
                position,
                outbox,
            }) => {
                self.metrics.lease_event(LeaseEvent::Claimed);
                self.has_taken(&key);
                self.divide_rate_with(&key);
                self.start_reader(&key, epoch, position, outbox, asked_at, context);
            }
            Ok(Claim::Held { owner, .. }) => {
                self.metrics.lease_event(LeaseEvent::Held);
                self.is_held(&key, owner);
            }
            // Soon the catalog is read again, and says whether this pipeline is held.
            Ok(Claim::PausesChanged) => self.claim_in(&key, STANDBY_PAUSE, context),
            Err(StoreError::Unavailable(reason)) => {
                let reason = format!("database: {reason}");
                self.claim_failed(&key, PipelineState::Waiting { reason }, context);
            }
            Err(StoreError::Refused(reason)) => {
                self.claim_failed(&key, PipelineState::Failed { reason }, context);
            }
        }
    }

    /// It waited for an earlier claim to come back.
    fn claim_if_waiting(&mut self, key: &PipelineKey, context: &mut Context<Self>) {
        let slot = self.pipelines.get(key);
        if slot.is_some_and(|slot| matches!(slot.run, Run::Waiting)) {
            self.claim(key, context);
        }
    }

    fn claim_failed(
        &mut self,
        key: &PipelineKey,
        state: PipelineState,
        context: &mut Context<Self>,
    ) {
        let Some(slot) = self.pipelines.get_mut(key) else {
            return;
        };
        let pause = slot.refusals.after_failure(fastrand::f64());
        // What is only away may be back any moment; what is refused needs somebody.
        let pause = match &state {
            PipelineState::Waiting { .. } => pause.min(UNAVAILABLE_PAUSE),
            PipelineState::Starting
            | PipelineState::Standby { .. }
            | PipelineState::Running
            | PipelineState::Blocked { .. }
            | PipelineState::Failed { .. }
            | PipelineState::Stopped
            | PipelineState::Paused { .. }
            | PipelineState::Invalid { .. } => pause,
        };
        if slot.refused.as_ref() != Some(&state) {
            tracing::warn!(pipeline = %key, ?state, "the pipeline cannot be taken; trying again");
            slot.refused = Some(state.clone());
        }
        if let Some(slot) = self.pipelines.get(key) {
            self.show(key, slot, state);
        }
        self.claim_in(key, pause, context);
    }

    /// A lease that came too late is of no use here.
    fn give_back(
        &mut self,
        key: &PipelineKey,
        result: &Result<Claim, StoreError>,
        context: &Context<Self>,
    ) {
        let Ok(Claim::Granted { epoch, .. }) = result else {
            return;
        };
        let is_running = self
            .pipelines
            .get(key)
            .is_some_and(|slot| slot.epoch().is_some());
        if !is_running {
            self.give_lease_back(key, *epoch, context);
        }
    }

    /// Another node may need it.
    pub(super) fn give_lease_back(
        &mut self,
        key: &PipelineKey,
        epoch: Epoch,
        context: &Context<Self>,
    ) {
        let Some(slot) = self.databases.get(&key.database) else {
            return;
        };
        self.leases_returning += 1;
        let (store, node) = (Arc::clone(&slot.database.store), Arc::clone(&self.node));
        let (name, supervisor) = (Arc::clone(&key.name), context.address());
        tokio::spawn(async move {
            if let Err(error) = store.release(&name, &node, epoch).await {
                tracing::debug!(pipeline = %name, %error, "a lease was not given back; it will run out");
            }
            // Only a stopped supervisor does not hear it.
            supervisor.try_send(LeaseGivenBack).ok();
        });
    }
}
