//! The port to a stream, with what can happen to a call on its way.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tidegate::actors::supervisor::StreamSource;
use tidegate::config::pipeline::StreamTarget;
use tidegate::core::budget::Cost;
use tidegate::core::invariants::{self, Invariant};
use tidegate::core::ports::{
    CallFailure, PutRecord, RecordOutcome, StreamDescription, StreamService,
};
use tidegate::core::shard_map::Shard;

use crate::packed::hash_of;
use crate::world::{Process, Shared, World, pass, pipeline_name, silence};

/// A reshard puts the relay's map, and so its budgets, out of date: they must be
/// right again so long after.
const BUDGETS_RIGHT_AFTER: Duration = Duration::from_secs(20);

/// A process that was frozen has looked at its leases so long after.
const WAKES_WITHIN: Duration = Duration::from_millis(500);

/// The streams, as one process reaches them.
pub(crate) struct SimSource {
    pub(crate) world: Shared,
    pub(crate) process: Process,
    /// Who keeps the budgets.
    pub(crate) budgets_of: u64,
}

impl StreamSource for SimSource {
    fn stream(&self, target: &StreamTarget) -> Arc<dyn StreamService> {
        let world = self.world.lock();
        let place = world
            .streams
            .iter()
            .position(|stream| *stream.name == *target.name());
        Arc::new(SimStream {
            world: self.world.clone(),
            process: self.process.clone(),
            budgets_of: self.budgets_of,
            place: place.expect("a stream of this world"),
        })
    }
}

struct SimStream {
    world: Shared,
    process: Process,
    budgets_of: u64,
    place: usize,
}

/// What happens to one call.
enum Fate {
    Answered,
    /// Nothing is stored, and the caller is told so.
    Refused(CallFailure),
    /// It never arrives; nobody can tell.
    Lost,
    AnswerLost,
    /// It arrives so long after its time-out.
    Late(Duration),
}

fn unknown(reason: &str) -> CallFailure {
    CallFailure::Unknown {
        reason: reason.to_owned(),
    }
}

fn throttled(code: &str) -> CallFailure {
    CallFailure::Throttled {
        code: code.to_owned(),
        message: "slow down".to_owned(),
    }
}

impl SimStream {
    fn put_fate(&self, world: &mut World) -> Fate {
        let faults = world.plan.put;
        if world.healed {
            return Fate::Answered;
        }
        let is_away = world.is_due(world.service_away);
        let dice = &mut world.put_dice;
        match () {
            () if is_away => Fate::Lost,
            () if dice.chance(faults.throttled) => {
                Fate::Refused(throttled("ProvisionedThroughputExceededException"))
            }
            () if dice.chance(faults.denied) => Fate::Refused(if dice.chance(0.5) {
                let (code, message) =
                    ("AccessDeniedException".to_owned(), "not allowed".to_owned());
                CallFailure::Operator { code, message }
            } else {
                let (code, message) = ("ExpiredTokenException".to_owned(), "expired".to_owned());
                CallFailure::Credentials { code, message }
            }),
            () if dice.chance(faults.lost) => Fate::Lost,
            () if dice.chance(faults.answer_lost) => Fate::AnswerLost,
            () if dice.chance(faults.late) => Fate::Late(dice.evenly(1.0, 6_000.0)),
            () => Fate::Answered,
        }
    }

    fn apply(
        place: usize,
        world: &mut World,
        records: &[PutRecord],
    ) -> Result<Vec<RecordOutcome>, CallFailure> {
        let now = world.now();
        let fails = if world.healed {
            0.0
        } else {
            world.plan.put.record_fails
        };
        let mut stored = Vec::new();
        let answer =
            world.streams[place].apply(records, fails, &mut world.put_dice, now, &mut stored);
        world.stored(place, stored);
        answer
    }

    /// What comes of a call that arrives, or does not.
    fn answer(
        &self,
        fate: Fate,
        records: Vec<PutRecord>,
    ) -> Result<Vec<RecordOutcome>, CallFailure> {
        match fate {
            Fate::Answered => Self::apply(self.place, &mut self.world.lock(), &records),
            Fate::Refused(failure) => Err(failure),
            Fate::Lost => Err(unknown("503")),
            Fate::AnswerLost => {
                Self::apply(self.place, &mut self.world.lock(), &records).ok();
                Err(unknown("connection reset"))
            }
            Fate::Late(extra) => {
                let (world, place) = (self.world.clone(), self.place);
                tokio::spawn(async move {
                    pass(extra).await;
                    let mut world = world.lock();
                    world.note(format_args!("a call arrives late"));
                    Self::apply(place, &mut world, &records).ok();
                });
                Err(unknown("no answer within the time-out"))
            }
        }
    }

    /// The service refuses the whole call for a record that it does not take.
    fn refusal(world: &World, records: &[PutRecord]) -> Option<CallFailure> {
        if world.cured || world.plan.poison.rows == 0.0 {
            return None;
        }
        let is_bad = |record: &&PutRecord| {
            let rows = world.plan.packed.rows(record).unwrap_or_default();
            rows.iter().any(|(_, body)| {
                let outbox = world.outbox_named(&body.outbox);
                outbox.is_some_and(|outbox| world.database.is_refused(outbox, body.id))
            })
        };
        records.iter().find(is_bad).map(|_| CallFailure::BadRecord {
            code: "InvalidArgumentException".to_owned(),
            message: "a record of this call is not taken".to_owned(),
        })
    }

    /// Rows of a pipeline are sent by who has its lease. A process that was frozen
    /// may not have looked at the time yet.
    fn judge_sender(&self, world: &mut World, records: &[PutRecord]) {
        let now = world.now();
        let name = &self.process.name;
        let awake = world.asleep.get(name).map(|until| *until + WAKES_WITHIN);
        if awake.is_some_and(|awake| now < awake) {
            return;
        }
        let mut outboxes = BTreeSet::new();
        for record in records {
            let rows = world.plan.packed.rows(record).unwrap_or_default();
            let of_record = rows.into_iter();
            outboxes.extend(of_record.filter_map(|(_, body)| world.outbox_named(&body.outbox)));
        }
        let routes = world.ledger.routes.iter().enumerate();
        let routes = routes
            .filter(|(_, route)| route.stream == self.place && outboxes.contains(&route.outbox));
        let pipelines: Vec<String> = routes.map(|(place, _)| pipeline_name(place)).collect();
        for pipeline in pipelines {
            let owner = world.database.owner(&pipeline, now);
            if !invariants::is_its_own(owner, name) {
                let text = format!("{name} sends rows of {pipeline}, which {owner:?} has");
                world.ledger.violations.push((Invariant::OneSender, text));
            }
        }
    }

    /// The judge sees the call as it is sent.
    fn sent(&self, world: &mut World, records: &[PutRecord]) {
        let now = world.now();
        world.calls += 1;
        self.judge_sender(world, records);
        let mut keys = Vec::with_capacity(records.len());
        for record in records {
            let rows = world.plan.packed.rows(record).unwrap_or_default();
            let of_record: BTreeSet<_> = rows
                .into_iter()
                .filter_map(|(key, body)| Some((world.outbox_named(&body.outbox)?, key)))
                .collect();
            keys.extend(of_record);
        }
        world.ledger.sent(&keys);
        let Some(first) = records.first() else {
            return;
        };
        let resharded = world.resharded_at[self.place];
        if resharded.is_some_and(|at| now.since(at) < BUDGETS_RIGHT_AFTER) {
            return;
        }
        let stream = &world.streams[self.place];
        let shard = stream.shards[stream.shard_of(hash_of(first))]
            .shard
            .id
            .clone();
        let bytes: usize = records
            .iter()
            .map(|record| record.data.len() + record.key.len())
            .sum();
        let cost = Cost {
            records: records.len() as u64,
            bytes: (bytes as u64).div_ceil(1024) * 1024,
        };
        let limits = world.limits;
        world
            .ledger
            .offered(self.budgets_of, self.place, &shard.0, cost, limits, now);
    }

    async fn control<T>(&self, answer: impl FnOnce(&mut World) -> T) -> Result<T, CallFailure> {
        if !self.process.is_alive() {
            return silence().await;
        }
        let pause = self.world.lock().put_dice.pause(2.0, 40.0);
        pass(pause).await;
        let mut guard = self.world.lock();
        let world = &mut *guard;
        let is_away = world.is_due(world.control_away) || world.is_due(world.service_away);
        let fails = !world.healed && world.put_dice.chance(world.plan.put.control);
        if is_away || fails {
            return Err(throttled("LimitExceededException"));
        }
        Ok(answer(world))
    }
}

impl StreamService for SimStream {
    fn describe(&self) -> BoxFuture<'_, Result<StreamDescription, CallFailure>> {
        let place = self.place;
        Box::pin(self.control(move |world| world.streams[place].describe()))
    }

    fn list_open_shards(&self) -> BoxFuture<'_, Result<Vec<Shard>, CallFailure>> {
        let place = self.place;
        Box::pin(self.control(move |world| world.streams[place].open_shards()))
    }

    fn put(
        &self,
        records: Vec<PutRecord>,
    ) -> BoxFuture<'_, Result<Vec<RecordOutcome>, CallFailure>> {
        Box::pin(async move {
            if !self.process.is_alive() {
                return silence().await;
            }
            let (fate, refusal, there, back) = {
                let mut guard = self.world.lock();
                let world = &mut *guard;
                self.sent(world, &records);
                let slow = !world.healed && world.put_dice.chance(world.plan.put.slow);
                let most = if slow { 3_000.0 } else { 6.0 };
                let fate = self.put_fate(world);
                (
                    fate,
                    Self::refusal(world, &records),
                    world.put_dice.pause(1.0, most),
                    world.put_dice.pause(1.0, most),
                )
            };
            pass(there).await;
            let answer = match (fate, refusal) {
                (Fate::Answered, Some(failure)) | (Fate::Refused(failure), Some(_)) => Err(failure),
                (Fate::Lost | Fate::AnswerLost | Fate::Late(_), Some(_)) => Err(unknown("503")),
                (fate, None) => self.answer(fate, records),
            };
            pass(back).await;
            if !self.process.is_alive() {
                return silence().await;
            }
            answer
        })
    }
}
