//! Children that should have been started long ago: whoever was to do so has
//! forgotten, such as a task that ended without a word.

use std::sync::Arc;
use std::time::Duration;

use actix::Context;

use super::Supervisor;
use crate::actors::pipeline_slot::Run;
use crate::actors::stream_router::StreamKey;
use crate::config::desired::PipelineKey;
use crate::core::shard_map::ShardId;

/// A child is started so late at most.
const LATE: Duration = Duration::from_secs(5);

impl Supervisor {
    pub(super) fn start_forgotten(&mut self, context: &mut Context<Self>) {
        if self.is_draining() {
            return;
        }
        for key in self.forgotten_pipelines() {
            tracing::error!(pipeline = %key, "nobody asks for a pipeline's lease; asking now");
            // One that was asked for and never answered is not waited for.
            self.claims.remove(&key);
            self.claim(&key, context);
        }
        let now = self.clock.now();
        let is_due = |probe: bool, (name, slot): (&Arc<str>, &super::DatabaseSlot)| {
            let life = if probe {
                &slot.probe.life
            } else {
                &slot.retention.life
            };
            let is_due = life.is_forgotten(LATE, now) && !slot.is_ending();
            is_due.then(|| Arc::clone(name))
        };
        let databases = self.databases.iter();
        let probes: Vec<_> = databases
            .clone()
            .filter_map(|one| is_due(true, one))
            .collect();
        let sweepers: Vec<_> = databases.filter_map(|one| is_due(false, one)).collect();
        for database in probes {
            tracing::error!(%database, "nobody starts a probe; starting it now");
            self.start_probe(&database, context);
        }
        for database in sweepers {
            tracing::error!(%database, "nobody starts retention; starting it now");
            self.start_retention(&database, context);
        }
        let streams = self.streams.iter();
        let routers: Vec<StreamKey> = streams
            .clone()
            .filter(|(_, slot)| slot.router.life.is_forgotten(LATE, now))
            .map(|(stream, _)| stream.clone())
            .collect();
        let has_router = streams.filter(|(_, slot)| slot.router.address.is_some());
        let writers: Vec<(StreamKey, ShardId)> = has_router
            .flat_map(|(stream, slot)| {
                let writers = slot.writers.iter();
                let due = writers.filter(|(_, writer)| writer.life.is_forgotten(LATE, now));
                due.map(|(shard, _)| (stream.clone(), shard.clone()))
            })
            .collect();
        for stream in routers {
            tracing::error!(%stream, "nobody starts a router; starting it now");
            self.start_router(&stream, context);
        }
        for (stream, shard) in writers {
            tracing::error!(%stream, %shard, "nobody starts a writer; starting it now");
            self.start_writer(&stream, &shard, context);
        }
    }

    /// Those that wait for their stream are asked for when it is there: its router
    /// has a life of its own.
    fn forgotten_pipelines(&self) -> Vec<PipelineKey> {
        let now = self.clock.now();
        let is_forgotten = |(key, slot): (&PipelineKey, &super::PipelineSlot)| {
            let is_due = match slot.run {
                Run::Claiming | Run::Pausing => slot.life.is_forgotten(LATE, now),
                // For an earlier claim to come back.
                Run::Waiting if self.claims.contains_key(key) => slot.life.is_forgotten(LATE, now),
                Run::Waiting | Run::Running { .. } | Run::Paused | Run::Invalid => false,
            };
            is_due.then(|| key.clone())
        };
        self.pipelines.iter().filter_map(is_forgotten).collect()
    }
}
