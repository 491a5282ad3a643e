//! Looking for children that are stuck, and giving them up.
//!
//! A child that gives no sign of life is replaced: what it held is void, so
//! nothing of it is sent any more should it wake up. When the thread of the data
//! actors itself gives no sign, all of them get a new one.

use std::time::Duration;

use actix::Context;

use super::Supervisor;
use crate::actors::child::{ChildId, Exit, legal};
use crate::actors::messages::{LookAtYourself, StopNow};
use crate::actors::pipeline_slot::Run;
use crate::actors::pulse::Pulse;
use crate::actors::stage::Stage;
use crate::actors::stream_slot::StreamSlot;
use crate::core::supervision::{Life, STUCK_AFTER};
use crate::core::time::Moment;
use crate::core::wait::{Doing, Patience, Wait};

/// How often the supervisor looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The life of something that is there from the beginning.
pub(super) fn running(now: Moment) -> Life {
    let mut life = Life::new(now);
    legal(life.starts(now));
    legal(life.runs(now));
    life
}

/// Whether an actor still waits for a stream that has been there for long: the
/// word of it was lost.
fn missed_the_stream(
    pulse: &Pulse,
    ready_for: impl FnOnce() -> Option<Duration>,
    now: Moment,
) -> bool {
    let waits = pulse.waits_for(Wait::Stream, now);
    waits.is_some_and(|waits| {
        waits >= STUCK_AFTER && ready_for().is_some_and(|ready| ready >= STUCK_AFTER)
    })
}

impl StreamSlot {
    /// How long it has been possible to write to the stream.
    fn ready_for(&self, now: Moment) -> Option<Duration> {
        self.ready().map(|_| now.since(self.ready_at))
    }

    /// The router's incarnation, if it waits for a writer while all of them have
    /// been there for long: it does not know of one.
    fn router_lacks_a_writer(&self, now: Moment) -> Option<u64> {
        let waits = self.router.pulse.waits_for(Wait::Writer, now)?;
        let all_run = self
            .writers
            .values()
            .all(|writer| writer.life.runs_for(now) >= STUCK_AFTER);
        let lacks = all_run && waits >= STUCK_AFTER && self.router.address.is_some();
        lacks.then_some(self.router.incarnation)
    }
}

impl Supervisor {
    /// How long an act of an actor that asks this database can take.
    pub(in crate::actors) fn database_patience(&self, database: &str) -> Patience {
        let mut all = self.settings.databases.iter();
        let settings = all.find(|settings| *settings.name == *database);
        Patience::of_timeout(settings.map_or(Duration::from_secs(60), |one| one.statement_timeout))
    }

    /// How long an act of an actor that calls the service can take.
    pub(in crate::actors) fn stream_patience(&self) -> Patience {
        Patience::of_timeout(self.settings.kinesis.operation_timeout)
    }

    /// What a child said last.
    fn doing(&self, child: &ChildId) -> Option<Doing> {
        let pulse = match child {
            ChildId::Probe(database) => self.databases.get(database).map(|slot| &slot.probe.pulse),
            ChildId::Retention(database) => self
                .databases
                .get(database)
                .map(|slot| &slot.retention.pulse),
            ChildId::Router(stream) => self.streams.get(stream).map(|slot| &slot.router.pulse),
            ChildId::Writer(stream, shard) => {
                let slot = self.streams.get(stream);
                slot.and_then(|slot| slot.writers.get(shard).map(|writer| &writer.pulse))
            }
            ChildId::Reader(key) => match &self.pipelines.get(key)?.run {
                Run::Running { pulse, .. } => Some(pulse),
                Run::Waiting | Run::Claiming | Run::Pausing | Run::Paused | Run::Invalid => None,
            },
        };
        pulse.and_then(Pulse::doing)
    }

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
        self.start_forgotten(context);
        for (child, incarnation) in self.stuck_children() {
            let doing = self.doing(&child);
            tracing::error!(%child, ?doing, "an actor gives no sign of life; it is replaced");
            self.give_up(child, incarnation, context);
        }
    }

    /// The thread is blocked by one of its actors: which one cannot be told.
    fn replace_stage(&mut self, context: &mut Context<Self>) {
        tracing::error!("the thread of the data actors is blocked; all of them get a new one");
        self.metrics.actor_restarted("stage", "stuck");
        let now = self.clock.now();
        self.stage = Stage::thread(self.stage.workers().clone());
        self.stage_life = running(now);
        for (child, incarnation) in self.running_children() {
            self.give_up(child, incarnation, context);
        }
    }

    fn stuck_children(&mut self) -> Vec<(ChildId, u64)> {
        let now = self.clock.now();
        let mut stuck = Vec::new();
        for (name, slot) in &mut self.databases {
            let probe = slot.probe.is_stuck(now);
            stuck.extend(probe.map(|one| (ChildId::Probe(name.clone()), one)));
            let retention = slot.retention.is_stuck(now);
            stuck.extend(retention.map(|one| (ChildId::Retention(name.clone()), one)));
        }
        for (stream, slot) in &mut self.streams {
            let lacks_writer = slot.router_lacks_a_writer(now);
            let router = slot.router.is_stuck(now).or(lacks_writer);
            stuck.extend(router.map(|one| (ChildId::Router(stream.clone()), one)));
            let ready_for = slot.ready_for(now);
            for (shard, writer) in &mut slot.writers {
                let missed = missed_the_stream(&writer.pulse, || ready_for, now);
                let missed = missed.then_some(writer.incarnation);
                let child = || ChildId::Writer(stream.clone(), shard.clone());
                stuck.extend(writer.is_stuck(now).or(missed).map(|one| (child(), one)));
            }
        }
        for (key, slot) in &mut self.pipelines {
            let Run::Running {
                reader,
                pulse,
                incarnation,
                stream,
                ..
            } = &slot.run
            else {
                continue;
            };
            if pulse.must_look(now) && reader.try_send(LookAtYourself).is_err() {
                tracing::debug!(pipeline = %key, "a reader that rests is gone");
            }
            let ready_for = || self.streams.get(stream)?.ready_for(now);
            if slot.life.is_stuck(pulse.signs(), now) || missed_the_stream(pulse, ready_for, now) {
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
            // Its end takes its writers along; whoever has rows in them loses them
            // with their tickets, at the latest when a reader meets the next router.
            ChildId::Router(stream) => {
                self.router_exited(&stream, incarnation, &exit, context);
            }
            ChildId::Writer(stream, shard) => {
                // Its rows lie where nobody can reach them: those flows start again.
                let entry = self
                    .streams
                    .get(&stream)
                    .and_then(|slot| slot.writers.get(&shard));
                let flows = entry.map(|entry| entry.holder.give_up());
                tracing::warn!(%stream, %shard, ?flows, "the rows in a writer that is given up are read again");
                let writer = entry.and_then(|entry| entry.address.clone());
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
