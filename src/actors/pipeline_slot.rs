//! The supervisor's care for a pipeline: its definition and its reader.

use std::sync::Arc;
use std::time::Duration;

use actix::{Addr, AsyncContext, Context};

use super::child::{self, ChildId, Exit, legal};
use super::messages::LookForResends;
use super::outbox_reader::{OutboxReader, ReaderParts, rate_limits};
use super::permits::Void;
use super::pipeline_lease::STANDBY_PAUSE;
use super::pipeline_rate::PipelineRate;
use super::pulse::Pulse;
use super::reader_drain::ReaderDrain;
use super::stream_router::StreamKey;
use super::supervisor::Supervisor;
use crate::admin::metrics::labels_of;
use crate::admin::status::{PipelineState, PipelineStatus};
use crate::config::desired::{Named, PipelineKey};
use crate::config::pipeline::PipelineSpec;
use crate::config::plan::Step;
use crate::core::backoff::Backoff;
use crate::core::memory_plan::MemoryPlan;
use crate::core::ports::{Epoch, Outbox};
use crate::core::position::{Position, WindowNumber};
use crate::core::supervision::{Life, PAUSES};
use crate::core::time::Moment;

/// First and longest pause after a database refused a claim: somebody must act.
const REFUSED_PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// A pipeline and where it stands.
pub(super) struct PipelineSlot {
    pub(super) spec: Option<Arc<PipelineSpec>>,
    pub(super) stream: Option<StreamKey>,
    pub(super) run: Run,
    pub(super) invalid: Option<String>,
    pub(super) attempt: u64,
    pub(super) life: Life,
    pub(super) refusals: Backoff,
    /// The version of its definition in the database.
    pub(super) version: Option<i64>,
    /// Why it could not be taken, as it was said last.
    pub(super) refused: Option<PipelineState>,
    /// It is wanted no more: forget it when its reader has ended.
    pub(super) retired: bool,
    /// When its reader is stopped, done draining or not.
    pub(super) drain: Option<ReaderDrain>,
    /// The node that it is drained for.
    pub(super) given_to: Option<Arc<str>>,
    /// The node that it was shown to stand by for.
    pub(super) behind: Option<String>,
    /// The bucket of its own rate, as its last reader had it.
    pub(super) rate: Option<PipelineRate>,
}

/// The states of a pipeline, as the supervisor leads it.
pub(super) enum Run {
    /// For its stream.
    Waiting,
    /// The claim is under way.
    Claiming,
    /// A timer will claim it.
    Pausing,
    /// An operator holds it.
    Paused,
    /// Its reader runs.
    Running {
        reader: Addr<OutboxReader>,
        stream: StreamKey,
        incarnation: u64,
        epoch: Epoch,
        lease_until: Moment,
        pulse: Pulse,
        void: Void,
    },
    /// Its definition is not acceptable.
    Invalid,
}

impl PipelineSlot {
    pub(super) fn new(now: Moment) -> Self {
        Self {
            spec: None,
            stream: None,
            run: Run::Waiting,
            invalid: None,
            attempt: 0,
            life: Life::new(now),
            refusals: Backoff::new(REFUSED_PAUSES.0, REFUSED_PAUSES.1),
            version: None,
            refused: None,
            retired: false,
            drain: None,
            given_to: None,
            behind: None,
            rate: None,
        }
    }

    /// Has its reader look for what is to be sent again, if it runs.
    pub(super) fn look_for_resends(&self) {
        if let Run::Running { reader, .. } = &self.run {
            reader.try_send(LookForResends).ok();
        }
    }

    /// Whether it is to run as soon as nothing is in the way.
    pub(super) const fn is_wanted(&self) -> bool {
        !self.retired && self.invalid.is_none()
    }

    /// The stream its reader writes to, which a new definition may have left.
    pub(super) const fn stream_in_use(&self) -> Option<&StreamKey> {
        match &self.run {
            Run::Running { stream, .. } => Some(stream),
            Run::Waiting | Run::Claiming | Run::Pausing | Run::Paused | Run::Invalid => None,
        }
    }

    /// The epoch it is owned under, if its reader runs.
    pub(super) const fn epoch(&self) -> Option<Epoch> {
        match &self.run {
            Run::Running { epoch, .. } => Some(*epoch),
            Run::Waiting | Run::Claiming | Run::Pausing | Run::Paused | Run::Invalid => None,
        }
    }
}

impl Supervisor {
    // === Wanted, refused, retired ===

    pub(super) fn want_pipeline(
        &mut self,
        key: &PipelineKey,
        step: &Step,
        spec: &Arc<PipelineSpec>,
        version: Option<i64>,
        context: &mut Context<Self>,
    ) {
        if !self.databases.contains_key(&key.database) {
            let reason = format!("there is no database {:?} in the settings", &*key.database);
            let named = Named {
                outbox: Arc::clone(&spec.outbox),
                stream: Arc::from(spec.stream.name()),
                tenant: Arc::clone(&spec.tenant),
            };
            self.refuse_pipeline(key, &named, &reason);
            return;
        }
        let now = self.clock.now();
        let until = now + self.settings.limits.drain_grace;
        let attempt = self.next_incarnation();
        let slot = self
            .pipelines
            .entry(key.clone())
            .or_insert_with(|| PipelineSlot::new(now));
        let is_other_version = std::mem::replace(&mut slot.version, version) != version;
        let is_new = slot.spec.as_ref() != Some(spec);
        let is_in_place = matches!(step, Step::Change { .. });
        if (!is_new || is_in_place) && !slot.retired && slot.invalid.is_none() {
            slot.spec = Some(Arc::clone(spec));
            if is_in_place {
                self.retune(key, spec);
            }
            if is_other_version {
                self.claim_again(key, context);
            }
            return;
        }
        slot.retired = false;
        slot.attempt = attempt;
        if slot.finish(until) {
            // The new definition starts when its reader has ended.
            self.replace_spec(key, Arc::clone(spec), context);
            return;
        }
        slot.run = Run::Waiting;
        self.replace_spec(key, Arc::clone(spec), context);
        self.claim(key, context);
    }

    /// A claim under way was made by an older definition, which the database would
    /// refuse.
    fn claim_again(&mut self, key: &PipelineKey, context: &mut Context<Self>) {
        let slot = self.pipelines.get_mut(key);
        if let Some(slot) = slot.filter(|slot| matches!(slot.run, Run::Claiming)) {
            slot.run = Run::Waiting;
            self.claim(key, context);
        }
    }

    fn replace_spec(
        &mut self,
        key: &PipelineKey,
        spec: Arc<PipelineSpec>,
        context: &Context<Self>,
    ) {
        let stream = StreamKey::new(&spec.stream);
        self.want_stream(&stream, spec.shard_budget, context);
        self.rebudget(&stream, spec.shard_budget);
        let mut status = PipelineStatus::starting(
            Arc::clone(&key.name),
            Arc::clone(&key.database),
            Arc::clone(&spec.outbox),
            Arc::clone(stream.name()),
            Arc::clone(&spec.tenant),
        );
        status.stream_key = Arc::clone(stream.label());
        let Some(slot) = self.pipelines.get_mut(key) else {
            return;
        };
        let old = slot.spec.replace(Arc::clone(&spec));
        // Under the same labels it goes on counting: what it delivered before the
        // change is not forgotten.
        if let Some(old) = old.filter(|old| labels_of(old) != labels_of(&spec)) {
            self.metrics.remove_pipeline(labels_of(&old));
        }
        slot.stream = Some(stream);
        slot.invalid = None;
        self.board.set_pipeline(status);
        self.metrics
            .pipeline(labels_of(&spec))
            .state(&PipelineState::Starting);
    }

    pub(super) fn retire_pipeline(&mut self, key: &PipelineKey) {
        let until = self.clock.now() + self.settings.limits.drain_grace;
        let Some(slot) = self.pipelines.get_mut(key) else {
            return;
        };
        if slot.drain(until) {
            if !std::mem::replace(&mut slot.retired, true) {
                tracing::info!(pipeline = %key, "the pipeline is not wanted any more; draining it");
                self.board
                    .update_pipeline(&key.database, &key.name, |entry| entry.leaving = true);
            }
            return;
        }
        self.forget_pipeline(key);
    }

    fn forget_pipeline(&mut self, key: &PipelineKey) {
        self.board.remove_pipeline(&key.database, &key.name);
        let slot = self.pipelines.remove(key);
        if let Some(spec) = slot.and_then(|slot| slot.spec) {
            self.metrics.remove_pipeline(labels_of(&spec));
        }
        self.retire_unused_streams();
    }

    pub(super) fn show(&self, key: &PipelineKey, slot: &PipelineSlot, state: PipelineState) {
        self.note_whereabouts(key, &state);
        if let Some(spec) = &slot.spec {
            self.metrics.pipeline_state(labels_of(spec), &state);
        }
        self.board
            .update_pipeline(&key.database, &key.name, |entry| {
                entry.epoch = None;
                if !state.keeps_counts() {
                    entry.forget_counts();
                }
                entry.state = state;
            });
    }

    // === Running ===

    pub(super) fn start_reader(
        &mut self,
        key: &PipelineKey,
        epoch: Epoch,
        position: Position,
        outbox: Outbox,
        asked_at: Moment,
        context: &mut Context<Self>,
    ) {
        let pulse = Pulse::new(self.database_patience(&key.database));
        let void = Void::default();
        let incarnation = self.next_incarnation();
        self.last_flow += 1;
        let flow = self.last_flow;
        let now = self.clock.now();
        let pipelines = self.pipelines.len().max(1);
        let (Some(slot), Some(database)) = (
            self.pipelines.get_mut(key),
            self.databases.get(&key.database),
        ) else {
            return;
        };
        let stream_key = slot.stream.clone();
        let stream = stream_key
            .as_ref()
            .and_then(|stream| self.streams.get(stream)?.ready());
        let needs = (
            slot.spec.clone(),
            stream_key,
            stream,
            database.probe.address.clone(),
        );
        let (Some(spec), Some(stream_key), Some(stream), Some(probe)) = needs else {
            // What it needs has gone while the lease was asked for.
            self.give_lease_back(key, epoch, context);
            self.claim_in(key, STANDBY_PAUSE, context);
            return;
        };
        slot.refusals.reset();
        slot.refused = None;
        slot.drain = None;
        slot.given_to = None;
        let lease = self.settings.cluster.lease;
        let lease_until = database.beats.may_send_until(asked_at, lease);
        let limits = &self.settings.limits;
        let has_begun = position.last_number > WindowNumber::default();
        let rate = rate_limits(&spec);
        let rate = PipelineRate::begin(slot.rate.as_ref(), epoch, has_begun, rate, now);
        slot.rate = Some(rate.clone());
        let plan = MemoryPlan::under(limits.memory.as_usize());
        let parts = ReaderParts {
            key: key.clone(),
            node: Arc::clone(&self.node),
            tenant: self.tenants.get(&spec.tenant, now),
            spec,
            outbox,
            epoch,
            rate,
            position,
            map: stream.map,
            max_record_bytes: stream.max_record_bytes,
            flow,
            store: Arc::clone(&database.database.store),
            router: stream.router,
            probe,
            shared: Arc::clone(&self.shared),
            stream: stream.watch,
            most_rows: usize::try_from(limits.pipeline_rows).unwrap_or(usize::MAX),
            most_bytes: limits.pipeline_bytes.as_usize().min(plan.rows),
            most_stashed: plan.stashed_ids / pipelines,
            metrics: self.metrics.clone(),
            board: Arc::clone(&self.board),
            clock: self.clock,
            void: void.clone(),
            pulse: pulse.clone(),
            workers: self.stage.workers().clone(),
        };
        let child = ChildId::Reader(key.clone());
        self.metrics.actor_began(child.kind());
        let supervisor = context.address().recipient();
        let reader = child::spawn(
            &self.stage,
            child,
            incarnation,
            supervisor,
            |context, note| OutboxReader::new(parts, note, context),
        );
        legal(slot.life.runs(now));
        slot.run = Run::Running {
            reader,
            stream: stream_key,
            incarnation,
            epoch,
            lease_until,
            pulse,
            void,
        };
    }

    pub(super) fn reader_exited(
        &mut self,
        key: &PipelineKey,
        incarnation: u64,
        exit: &Exit,
        context: &mut Context<Self>,
    ) {
        let now = self.clock.now();
        let Some(slot) = self.pipelines.get_mut(key) else {
            return;
        };
        let Run::Running {
            incarnation: current,
            stream,
            epoch,
            pulse,
            void,
            ..
        } = &slot.run
        else {
            return;
        };
        if *current != incarnation {
            return;
        }
        void.make_void();
        let death = exit.death(pulse.has_progressed());
        let pause = legal(slot.life.died(death, now, fastrand::f64())).unwrap_or(PAUSES.0);
        let (stream, epoch) = (stream.clone(), *epoch);
        slot.run = Run::Waiting;
        slot.drain = None;
        let given_to = slot.given_to.take();
        self.purge_void(&stream);
        self.retire_unused_streams();
        if self.is_draining() {
            self.ended_in_drain(key, epoch, exit, context);
            return;
        }
        self.give_back_unless_it_goes_on(key, epoch, exit, given_to.is_some(), context);
        if let Some(node) = given_to {
            self.has_given(key, node);
        }
        if self.pipelines.get(key).is_some_and(|slot| slot.retired) {
            self.forget_pipeline(key);
            return;
        }
        self.restart_reader(key, exit, pause, context);
    }
}
