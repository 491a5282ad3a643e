//! The supervisor's care for a pipeline: its lease and its reader.

use std::sync::Arc;
use std::time::Duration;

use actix::{Addr, AsyncContext, Context};

use super::child::{ChildId, Exit};
use super::desired::PipelineKey;
use super::messages::{ClaimDone, Drain, RenewDone, StopNow};
use super::outbox_reader::{BLOCKED_RETRY, OutboxReader, ReaderParts};
use super::stream_router::StreamKey;
use super::supervisor::{HEALTHY_AFTER, RESTART_PAUSES, Supervisor};
use crate::admin::metrics::LeaseEvent;
use crate::admin::status::{PipelineState, PipelineStatus};
use crate::config::pipeline::PipelineSpec;
use crate::core::backoff::Backoff;
use crate::core::ports::{Claim, Epoch, Outbox, StoreError};
use crate::core::position::Position;
use crate::core::time::Moment;

/// The longest a standby waits before it asks for a lease again: a lease that
/// was given back is taken soon.
const STANDBY_PAUSE: Duration = Duration::from_millis(250);

/// First and longest pause after a database refused a claim: somebody must act.
const REFUSED_PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// The part of a lease before whose end its owner stops sending when it could not
/// renew it.
const MARGIN: u32 = 8;

/// A part of the ids that one row may take in memory: 8 bytes in a stash.
const STASH_SHARE: usize = 8 * 8;

/// A pipeline and where it stands.
pub(super) struct PipelineSlot {
    pub(super) spec: Option<Arc<PipelineSpec>>,
    pub(super) stream: Option<StreamKey>,
    pub(super) run: Run,
    invalid: Option<String>,
    attempt: u64,
    backoff: Backoff,
    refusals: Backoff,
    /// It is wanted no more: forget it when its reader has ended.
    retired: bool,
}

/// The states of a pipeline, as the supervisor leads it.
pub(super) enum Run {
    /// For its stream.
    Waiting,
    /// The claim is under way.
    Claiming,
    /// A timer will claim it.
    Pausing,
    /// Its reader runs.
    Running {
        reader: Addr<OutboxReader>,
        incarnation: u64,
        epoch: Epoch,
        lease_until: Moment,
        started_at: Moment,
    },
    /// Its definition is not acceptable.
    Invalid,
}

impl PipelineSlot {
    fn new() -> Self {
        Self {
            spec: None,
            stream: None,
            run: Run::Waiting,
            invalid: None,
            attempt: 0,
            backoff: Backoff::new(RESTART_PAUSES.0, RESTART_PAUSES.1),
            refusals: Backoff::new(REFUSED_PAUSES.0, REFUSED_PAUSES.1),
            retired: false,
        }
    }

    /// The epoch it is owned under, if its reader runs.
    pub(super) const fn epoch(&self) -> Option<Epoch> {
        match &self.run {
            Run::Running { epoch, .. } => Some(*epoch),
            Run::Waiting | Run::Claiming | Run::Pausing | Run::Invalid => None,
        }
    }
}

impl Supervisor {
    // === Wanted, refused, retired ===

    pub(super) fn want_pipeline(
        &mut self,
        key: PipelineKey,
        spec: Arc<PipelineSpec>,
        context: &mut Context<Self>,
    ) {
        if !self.databases.contains_key(&key.database) {
            let reason = format!("there is no database {:?} in the settings", &*key.database);
            self.refuse_pipeline(&key, &spec.outbox, &reason);
            return;
        }
        let slot = self
            .pipelines
            .entry(key.clone())
            .or_insert_with(PipelineSlot::new);
        if slot.spec.as_ref() == Some(&spec) && !slot.retired {
            return;
        }
        if let Run::Running { reader, .. } = &slot.run {
            // Its reader drains; the new definition starts when it has ended.
            reader.try_send(Drain).ok();
            slot.retired = false;
            self.replace_spec(&key, spec, context);
            return;
        }
        slot.retired = false;
        slot.attempt += 1;
        slot.run = Run::Waiting;
        self.replace_spec(&key, spec, context);
        self.claim(&key, context);
    }

    fn replace_spec(
        &mut self,
        key: &PipelineKey,
        spec: Arc<PipelineSpec>,
        context: &Context<Self>,
    ) {
        let stream = StreamKey::new(&spec.stream);
        self.want_stream(&stream, spec.shard_budget, context);
        let status = PipelineStatus::starting(
            Arc::clone(&key.name),
            Arc::clone(&key.database),
            Arc::clone(&spec.outbox),
            Arc::clone(stream.label()),
            Arc::clone(&spec.tenant),
        );
        let Some(slot) = self.pipelines.get_mut(key) else {
            return;
        };
        if let Some(old) = slot.spec.replace(Arc::clone(&spec)) {
            self.metrics
                .remove_pipeline(&old.name, &old.tenant, old.stream.name());
        }
        slot.stream = Some(stream);
        slot.invalid = None;
        self.board.set_pipeline(status);
        self.metrics
            .pipeline(&spec.name, &spec.tenant, spec.stream.name())
            .state(&PipelineState::Starting);
    }

    pub(super) fn refuse_pipeline(&mut self, key: &PipelineKey, outbox: &Arc<str>, reason: &str) {
        let slot = self
            .pipelines
            .entry(key.clone())
            .or_insert_with(PipelineSlot::new);
        if slot.invalid.as_deref() == Some(reason) {
            return;
        }
        tracing::error!(pipeline = %key, %reason, "the pipeline's definition is not acceptable; it does not run");
        slot.invalid = Some(reason.to_owned());
        slot.retired = false;
        slot.attempt += 1;
        if let Run::Running { reader, .. } = &slot.run {
            reader.try_send(Drain).ok();
        } else {
            slot.run = Run::Invalid;
        }
        let nothing: Arc<str> = Arc::from("");
        let mut status = PipelineStatus::starting(
            Arc::clone(&key.name),
            Arc::clone(&key.database),
            Arc::clone(outbox),
            Arc::clone(&nothing),
            nothing,
        );
        status.state = PipelineState::Invalid {
            reason: reason.to_owned(),
        };
        self.board.set_pipeline(status);
    }

    pub(super) fn retire_pipeline(&mut self, key: &PipelineKey) {
        let Some(slot) = self.pipelines.get_mut(key) else {
            return;
        };
        if let Run::Running { reader, .. } = &slot.run {
            if !std::mem::replace(&mut slot.retired, true) {
                tracing::info!(pipeline = %key, "the pipeline is not wanted any more; draining it");
                reader.try_send(Drain).ok();
            }
            return;
        }
        self.forget_pipeline(key);
    }

    fn forget_pipeline(&mut self, key: &PipelineKey) {
        self.board.remove_pipeline(&key.database, &key.name);
        let slot = self.pipelines.remove(key);
        if let Some(spec) = slot.and_then(|slot| slot.spec) {
            self.metrics
                .remove_pipeline(&spec.name, &spec.tenant, spec.stream.name());
        }
        self.retire_unused_streams();
    }

    pub(super) fn show(&self, key: &PipelineKey, slot: &PipelineSlot, state: PipelineState) {
        if let Some(spec) = &slot.spec {
            self.metrics
                .pipeline(&spec.name, &spec.tenant, spec.stream.name())
                .state(&state);
        }
        self.board
            .update_pipeline(&key.database, &key.name, |entry| {
                entry.epoch = None;
                entry.state = state;
            });
    }

    // === Claiming ===

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
    fn claim(&mut self, key: &PipelineKey, context: &mut Context<Self>) {
        if self.is_draining() {
            return;
        }
        let Some(slot) = self.pipelines.get_mut(key) else {
            return;
        };
        let Some(spec) = slot.spec.clone().filter(|_| slot.invalid.is_none()) else {
            return;
        };
        let stream = slot
            .stream
            .as_ref()
            .and_then(|stream| self.streams.get(stream));
        let Some(stream) = stream else {
            return;
        };
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
        slot.run = Run::Claiming;
        slot.attempt += 1;
        let attempt = slot.attempt;
        let store = Arc::clone(&database.database.store);
        let (node, lease) = (Arc::clone(&self.node), self.settings.cluster.lease);
        let (supervisor, pipeline, asked_at) = (context.address(), key.clone(), self.clock.now());
        tokio::spawn(async move {
            let result = store
                .claim(&pipeline.name, &spec.outbox, &node, lease)
                .await;
            // Only a stopped supervisor does not hear it.
            supervisor
                .try_send(ClaimDone {
                    pipeline,
                    attempt,
                    asked_at,
                    result,
                })
                .ok();
        });
    }

    fn claim_in(&mut self, key: &PipelineKey, pause: Duration, context: &mut Context<Self>) {
        let Some(slot) = self.pipelines.get_mut(key) else {
            return;
        };
        slot.run = Run::Pausing;
        slot.attempt += 1;
        let (key, attempt) = (key.clone(), slot.attempt);
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
            result,
        } = done;
        let is_current = self
            .pipelines
            .get(&key)
            .is_some_and(|slot| slot.attempt == attempt);
        if !is_current || self.is_draining() {
            self.give_back(&key, &result);
            return;
        }
        match result {
            Ok(Claim::Granted {
                epoch,
                position,
                outbox,
            }) => {
                self.metrics.lease_event(LeaseEvent::Claimed);
                self.start_reader(&key, epoch, position, outbox, asked_at, context);
            }
            Ok(Claim::Held { owner, expires_in }) => {
                self.metrics.lease_event(LeaseEvent::Held);
                if let Some(slot) = self.pipelines.get(&key) {
                    self.show(&key, slot, PipelineState::Standby { owner });
                }
                let jitter = 0.75 + fastrand::f64() / 2.0;
                self.claim_in(&key, expires_in.min(STANDBY_PAUSE).mul_f64(jitter), context);
            }
            Err(StoreError::Unavailable(reason)) => {
                let reason = format!("database: {reason}");
                self.claim_failed(&key, PipelineState::Waiting { reason }, context);
            }
            Err(StoreError::Refused(reason)) => {
                self.claim_failed(&key, PipelineState::Failed { reason }, context);
            }
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
        let is_first = slot.refusals.failures() == 0;
        let pause = slot.refusals.after_failure(fastrand::f64());
        if is_first {
            tracing::warn!(pipeline = %key, ?state, "the pipeline cannot be taken; trying again");
        }
        if let Some(slot) = self.pipelines.get(key) {
            self.show(key, slot, state);
        }
        self.claim_in(key, pause, context);
    }

    /// A lease that came too late is of no use here: another node may need it.
    fn give_back(&self, key: &PipelineKey, result: &Result<Claim, StoreError>) {
        let Ok(Claim::Granted { epoch, .. }) = result else {
            return;
        };
        let Some(slot) = self.databases.get(&key.database) else {
            return;
        };
        let is_running = self
            .pipelines
            .get(key)
            .is_some_and(|slot| slot.epoch().is_some());
        if is_running {
            return;
        }
        let (store, node) = (Arc::clone(&slot.database.store), Arc::clone(&self.node));
        let (name, epoch) = (Arc::clone(&key.name), *epoch);
        tokio::spawn(async move {
            if let Err(error) = store.release(&name, &node, epoch).await {
                tracing::debug!(pipeline = %name, %error, "a lease was not given back; it will run out");
            }
        });
    }

    // === Running ===

    fn start_reader(
        &mut self,
        key: &PipelineKey,
        epoch: Epoch,
        position: Position,
        outbox: Outbox,
        asked_at: Moment,
        context: &mut Context<Self>,
    ) {
        let incarnation = self.next_incarnation();
        self.last_flow += 1;
        let flow = self.last_flow;
        let now = self.clock.now();
        let (Some(slot), Some(database)) = (
            self.pipelines.get_mut(key),
            self.databases.get(&key.database),
        ) else {
            return;
        };
        let stream = slot
            .stream
            .as_ref()
            .and_then(|stream| self.streams.get(stream)?.ready());
        let (Some(spec), Some(stream), Some(probe)) =
            (slot.spec.clone(), stream, database.probe.clone())
        else {
            // What it needs has gone while the lease was asked for.
            self.claim_in(key, STANDBY_PAUSE, context);
            return;
        };
        slot.refusals.reset();
        let limits = &self.settings.limits;
        let parts = ReaderParts {
            key: key.clone(),
            node: Arc::clone(&self.node),
            tenant_weight: self.settings.tenant_weight(&spec.tenant),
            spec,
            outbox,
            epoch,
            position,
            map: stream.map,
            max_record_bytes: stream.max_record_bytes,
            flow,
            store: Arc::clone(&database.database.store),
            router: stream.router,
            probe,
            shared: Arc::clone(&self.shared),
            most_rows: usize::try_from(limits.pipeline_rows).unwrap_or(usize::MAX),
            most_bytes: limits.pipeline_bytes.as_usize(),
            most_stashed: limits.memory.as_usize() / STASH_SHARE,
            metrics: self.metrics.clone(),
            board: Arc::clone(&self.board),
            clock: self.clock,
        };
        let child = ChildId::Reader(key.clone());
        let supervisor = context.address().recipient();
        let reader = super::child::spawn(child, incarnation, supervisor, |context, note| {
            OutboxReader::new(parts, note, context)
        });
        slot.run = Run::Running {
            reader,
            incarnation,
            epoch,
            lease_until: asked_at + self.settings.cluster.lease,
            started_at: now,
        };
    }

    pub(super) fn reader_exited(
        &mut self,
        key: &PipelineKey,
        incarnation: u64,
        exit: Exit,
        context: &mut Context<Self>,
    ) {
        let now = self.clock.now();
        let Some(slot) = self.pipelines.get_mut(key) else {
            return;
        };
        let Run::Running {
            incarnation: current,
            started_at,
            ..
        } = slot.run
        else {
            return;
        };
        if current != incarnation {
            return;
        }
        if now.since(started_at) >= HEALTHY_AFTER {
            slot.backoff.reset();
        }
        slot.run = Run::Waiting;
        let stream = slot.stream.clone();
        self.purge_void(stream.as_ref());
        if self.is_draining() {
            self.count_drained();
            return;
        }
        if self.pipelines.get(key).is_some_and(|slot| slot.retired) {
            self.forget_pipeline(key);
            return;
        }
        self.restart_reader(key, exit, context);
    }

    fn restart_reader(&mut self, key: &PipelineKey, exit: Exit, context: &mut Context<Self>) {
        let Some(slot) = self.pipelines.get_mut(key) else {
            return;
        };
        if slot.invalid.is_some() {
            slot.run = Run::Invalid;
            return;
        }
        let pause = match &exit {
            Exit::Drained => Duration::ZERO,
            Exit::LeaseLost => STANDBY_PAUSE,
            Exit::Blocked(_) => BLOCKED_RETRY,
            Exit::Stopped
            | Exit::RowsLost
            | Exit::Resharded
            | Exit::Refused(_)
            | Exit::Panicked(_) => slot.backoff.after_failure(fastrand::f64()),
        };
        let child = ChildId::Reader(key.clone());
        match &exit {
            Exit::Drained => {}
            Exit::LeaseLost => {
                self.metrics.lease_event(LeaseEvent::Lost);
                self.note_restart(&child, &exit, pause);
            }
            Exit::Stopped
            | Exit::RowsLost
            | Exit::Resharded
            | Exit::Refused(_)
            | Exit::Blocked(_)
            | Exit::Panicked(_) => self.note_restart(&child, &exit, pause),
        }
        if let (Exit::Refused(reason), Some(slot)) = (&exit, self.pipelines.get(key)) {
            self.show(
                key,
                slot,
                PipelineState::Failed {
                    reason: reason.clone(),
                },
            );
        }
        self.claim_in(key, pause, context);
    }

    pub(super) fn renew_done(&mut self, done: RenewDone) {
        super::fault::point("supervisor.RenewDone");
        let still_held = match done.result {
            Ok(still_held) => still_held,
            Err(error) => {
                tracing::debug!(database = %done.database, %error, "leases were not renewed");
                return;
            }
        };
        let lease = self.settings.cluster.lease;
        for ((name, asked_epoch), holds) in done.held.into_iter().zip(still_held) {
            let key = PipelineKey {
                database: Arc::clone(&done.database),
                name,
            };
            let Some(slot) = self.pipelines.get_mut(&key) else {
                continue;
            };
            let Run::Running {
                reader,
                epoch,
                lease_until,
                ..
            } = &mut slot.run
            else {
                continue;
            };
            if *epoch != asked_epoch {
                continue;
            }
            if holds {
                self.metrics.lease_event(LeaseEvent::Renewed);
                *lease_until = done.asked_at + lease;
                continue;
            }
            tracing::warn!(pipeline = %key, "another node has taken the pipeline");
            self.metrics.lease_event(LeaseEvent::Lost);
            reader.try_send(StopNow).ok();
        }
    }

    /// An owner that could not renew stops sending before its lease can expire.
    pub(super) fn drop_expired_leases(&self) {
        let now = self.clock.now();
        let margin = self.settings.cluster.lease / MARGIN;
        for (key, slot) in &self.pipelines {
            let Run::Running {
                reader,
                lease_until,
                ..
            } = &slot.run
            else {
                continue;
            };
            if now + margin < *lease_until {
                continue;
            }
            tracing::warn!(pipeline = %key, "the lease could not be renewed in time; the pipeline stops");
            reader.try_send(StopNow).ok();
            let reason = "the lease could not be renewed in time".to_owned();
            self.show(key, slot, PipelineState::Waiting { reason });
        }
    }
}
