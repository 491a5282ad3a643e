//! Looking for children that are stuck, and giving them up.
//!
//! A child that gives no sign of life is replaced: what it held is void, so
//! nothing of it is sent any more should it wake up. When the thread of the data
//! actors itself gives no sign, all of them get a new one.

use std::time::Duration;

use actix::Context;

use super::Supervisor;
use crate::actors::child::{ChildId, Exit};
use crate::actors::messages::StopNow;
use crate::actors::pipeline_slot::Run;
use crate::actors::stage::Stage;
use crate::core::supervision::Life;

/// How often the supervisor looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl Supervisor {
    pub(super) fn look_for_stuck(&mut self, context: &mut Context<Self>) {
        let now = self.clock.now();
        if now.since(self.looked_at) < LOOK_EVERY {
            return;
        }
        self.looked_at = now;
        self.stage.ping();
        if self.stage_life.is_stuck(self.stage.signs(), now) {
            self.replace_stage(context);
            return;
        }
        for (child, incarnation) in self.stuck_children() {
            tracing::error!(%child, "an actor gives no sign of life; it is replaced");
            self.give_up(child, incarnation, context);
        }
    }

    /// The thread is blocked by one of its actors: which one cannot be told.
    fn replace_stage(&mut self, context: &mut Context<Self>) {
        tracing::error!("the thread of the data actors is blocked; all of them get a new one");
        self.metrics.actor_restarted("stage", "stuck");
        let now = self.clock.now();
        self.stage = Stage::thread(self.stage.workers().clone());
        self.stage_life = Life::new(now);
        self.stage_life.runs(now);
        for (child, incarnation) in self.running_children() {
            self.give_up(child, incarnation, context);
        }
    }

    fn stuck_children(&mut self) -> Vec<(ChildId, u64)> {
        let now = self.clock.now();
        let mut stuck = Vec::new();
        for (name, slot) in &mut self.databases {
            let probe = &mut slot.probe;
            if probe.life.is_stuck(probe.pulse.signs(), now) {
                stuck.push((ChildId::Probe(name.clone()), probe.incarnation));
            }
            let retention = &mut slot.retention;
            if retention.life.is_stuck(retention.pulse.signs(), now) {
                stuck.push((ChildId::Retention(name.clone()), retention.incarnation));
            }
        }
        for (stream, slot) in &mut self.streams {
            let router = &mut slot.router;
            if router.life.is_stuck(router.pulse.signs(), now) {
                stuck.push((ChildId::Router(stream.clone()), router.incarnation));
            }
            for (shard, writer) in &mut slot.writers {
                if writer.life.is_stuck(writer.pulse.signs(), now) {
                    let child = ChildId::Writer(stream.clone(), shard.clone());
                    stuck.push((child, writer.incarnation));
                }
            }
        }
        for (key, slot) in &mut self.pipelines {
            if let Run::Running {
                pulse, incarnation, ..
            } = &slot.run
                && slot.life.is_stuck(pulse.signs(), now)
            {
                stuck.push((ChildId::Reader(key.clone()), *incarnation));
            }
        }
        stuck
    }

    fn running_children(&self) -> Vec<(ChildId, u64)> {
        let probes = self.databases.iter().filter_map(|(name, slot)| {
            let is_running = slot.probe.address.is_some();
            is_running.then(|| (ChildId::Probe(name.clone()), slot.probe.incarnation))
        });
        let sweepers = self.databases.iter().filter_map(|(name, slot)| {
            let is_running = slot.retention.address.is_some();
            is_running.then(|| (ChildId::Retention(name.clone()), slot.retention.incarnation))
        });
        // A router's end takes its writers along.
        let routers = self.streams.iter().filter_map(|(stream, slot)| {
            let is_running = slot.router.address.is_some();
            is_running.then(|| (ChildId::Router(stream.clone()), slot.router.incarnation))
        });
        let readers = self
            .pipelines
            .iter()
            .filter_map(|(key, slot)| match &slot.run {
                Run::Running { incarnation, .. } => {
                    Some((ChildId::Reader(key.clone()), *incarnation))
                }
                Run::Waiting | Run::Claiming | Run::Pausing | Run::Paused | Run::Invalid => None,
            });
        probes
            .chain(sweepers)
            .chain(routers)
            .chain(readers)
            .collect()
    }

    /// Treats a child as ended that does not know it yet. Should it wake up, it
    /// finds that it is to stop.
    fn give_up(&mut self, child: ChildId, incarnation: u64, context: &mut Context<Self>) {
        let exit = Exit::Stuck;
        match child {
            ChildId::Probe(database) => {
                let probe = self
                    .databases
                    .get(&database)
                    .and_then(|slot| slot.probe.address.clone());
                probe.map(|probe| probe.try_send(StopNow));
                self.probe_exited(&database, incarnation, &exit, context);
            }
            ChildId::Retention(database) => {
                let retention = self
                    .databases
                    .get(&database)
                    .and_then(|slot| slot.retention.address.clone());
                retention.map(|retention| retention.try_send(StopNow));
                self.retention_exited(&database, incarnation, &exit, context);
            }
            ChildId::Router(stream) => {
                self.void_flows_of(&stream);
                self.router_exited(&stream, incarnation, &exit, context);
            }
            ChildId::Writer(stream, shard) => {
                // Its rows lie where nobody can reach them.
                self.void_flows_of(&stream);
                let writer = self
                    .streams
                    .get(&stream)
                    .and_then(|slot| slot.writers.get(&shard)?.address.clone());
                writer.map(|writer| writer.try_send(StopNow));
                self.writer_exited(&stream, &shard, incarnation, &exit, context);
            }
            ChildId::Reader(key) => {
                if let Some(Run::Running { reader, .. }) =
                    self.pipelines.get(&key).map(|slot| &slot.run)
                {
                    reader.try_send(StopNow).ok();
                }
                self.reader_exited(&key, incarnation, &exit, context);
            }
        }
    }
}
