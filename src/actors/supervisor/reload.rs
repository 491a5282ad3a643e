//! Carrying a reload out: other settings take the place of the old ones.
//!
//! Whoever sends it has judged the settings as a whole; nothing is refused here.
//! All of it is begun in one turn: no step waits for another, and what takes time
//! (readers that drain, databases that are replaced) goes on by itself. Another
//! reload may come at any moment: it starts from what is wanted by then.

use actix::{Context, Handler};

use super::Supervisor;
use super::retentions::readers_of_file;
use crate::actors::fault;
use crate::actors::messages::{ProbeAtPace, PurgeVoid, RefreshEvery, Reload, Retune, SweepBy};
use crate::actors::outbox_reader::rate_limits;
use crate::actors::pipeline_slot::Run;
use crate::actors::stream_router::StreamKey;
use crate::config::desired::PipelineKey;
use crate::config::pipeline::{PipelineSpec, ShardBudgetSettings};
use crate::config::plan::Step;
use crate::config::settings::Settings;
use crate::core::budget::ShardLimits;
use crate::core::memory_plan::MemoryPlan;

/// Says what becomes of a pipeline that was there already.
pub(super) fn say(pipeline: &PipelineKey, step: &Step) {
    match step {
        Step::Restart { because } => {
            let because = because.join(", ");
            tracing::info!(%pipeline, %because, "the pipeline is drained and starts again");
        }
        Step::Change { keys } => {
            let keys = keys.join(", ");
            tracing::info!(%pipeline, %keys, "the pipeline goes on with other values");
        }
        // Their own places say it.
        Step::Start | Step::Stop | Step::Keep | Step::Invalid { .. } => {}
    }
}

impl Supervisor {
    /// Messages to actors that have ended are lost: their successors start by the
    /// new settings anyway.
    fn retune_services(&self, before: &Settings) {
        let Settings {
            limits,
            probe,
            retention,
            kinesis,
            ..
        } = &*self.settings;
        let ceiling = limits.memory.as_usize();
        let rows = MemoryPlan::under(ceiling).rows;
        self.shared.resize(rows);
        self.metrics.memory().may_use(ceiling, rows);
        let pace = ProbeAtPace {
            least_pause: probe.min_interval,
            most_pause: probe.max_interval,
        };
        for (database, slot) in &self.databases {
            if before.probe != *probe
                && let Some(probe) = &slot.probe.address
            {
                probe.try_send(pace).ok();
            }
            let of_file = readers_of_file(&self.settings, database);
            if (before.retention != *retention || of_file != readers_of_file(before, database))
                && let Some(sweeper) = &slot.retention.address
            {
                let settings = *retention;
                sweeper.try_send(SweepBy { settings, of_file }).ok();
            }
        }
        let refresh = kinesis.shard_refresh;
        if before.kinesis.shard_refresh != refresh {
            for router in self
                .streams
                .values()
                .filter_map(|slot| slot.router.address.as_ref())
            {
                router.try_send(RefreshEvery { refresh }).ok();
            }
        }
    }

    /// The memory is divided by how many pipelines there are: readers that run follow
    /// when it is another amount, or divided by another number.
    pub(super) fn share_memory(&mut self) {
        let division = (self.settings.limits.memory, self.pipelines.len());
        if self.memory_divided.replace(division) == Some(division) {
            return;
        }
        let running = self.pipelines.iter().filter_map(|(key, slot)| {
            let is_running = matches!(slot.run, Run::Running { .. });
            slot.spec
                .clone()
                .filter(|_| is_running)
                .map(|spec| (key.clone(), spec))
        });
        let running: Vec<_> = running.collect();
        for (key, spec) in running {
            self.retune(&key, &spec);
        }
    }

    /// Has a running reader work with the numbers of its definition and settings.
    pub(in crate::actors) fn retune(&mut self, key: &PipelineKey, spec: &PipelineSpec) {
        let limits = &self.settings.limits;
        let plan = MemoryPlan::under(limits.memory.as_usize());
        let message = Retune {
            tenant_weight: self.desired.tenants.of(&spec.tenant).weight,
            weight: spec.weight,
            batch_size: spec.batch_size,
            rate: rate_limits(spec),
            most_rows: usize::try_from(limits.pipeline_rows).unwrap_or(usize::MAX),
            most_bytes: limits.pipeline_bytes.as_usize().min(plan.rows),
            most_stashed: plan.stashed_ids / self.pipelines.len().max(1),
        };
        if let Some(Run::Running { reader, .. }) = self.pipelines.get(key).map(|slot| &slot.run)
            && reader.try_send(message).is_err()
        {
            tracing::debug!(pipeline = %key, "a reader is gone");
        }
        self.rebudget(&StreamKey::new(&spec.stream), spec.shard_budget);
    }

    /// The shards of a stream take this much from now on.
    pub(in crate::actors) fn rebudget(&mut self, stream: &StreamKey, budget: ShardBudgetSettings) {
        let now = self.clock.now();
        let limits = ShardLimits::from(budget);
        let Some(slot) = self.streams.get_mut(stream) else {
            return;
        };
        if std::mem::replace(&mut slot.limits, limits) == limits {
            return;
        }
        self.budgets.change(&slot.identity, limits, now);
        // Writers that wait for their budget look at it again.
        if let Some(router) = &slot.router.address {
            router.try_send(PurgeVoid).ok();
        }
    }
}

impl Handler<Reload> for Supervisor {
    type Result = ();

    fn handle(&mut self, message: Reload, context: &mut Context<Self>) {
        fault::point("supervisor.Reload");
        if self.is_draining() {
            // Whoever waits for it sees that it was dropped.
            return;
        }
        let Reload {
            settings,
            databases,
            applied,
        } = message;
        let before = std::mem::replace(&mut self.settings, settings);
        self.change_databases(databases, context);
        self.retune_services(&before);
        self.reconcile(context);
        // Only a process that is about to end does not wait for it.
        applied.send(()).ok();
    }
}
