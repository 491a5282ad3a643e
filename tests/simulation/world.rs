//! Everything outside the relays, under one lock: the simulation has one thread,
//! and no guard is held over an await.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tidegate::actors::clock::Clock;
use tidegate::core::budget::ShardLimits;
use tidegate::core::dead_letter::DeadLetter;
use tidegate::core::invariants::{self, Invariant};
use tidegate::core::ports::OutboxId;
use tidegate::core::position::{Position, RowId};
use tidegate::core::time::Moment;

use crate::database::Database;
use crate::database::letters::State;
use crate::dice::Dice;
use crate::kinesis::{InStream, Stream};
use crate::ledger::{Again, Body, Ledger, Of};
use crate::plan::Plan;
use crate::store::Server;
use crate::trace::Trace;

/// One process of a relay: a kill ends it, a start makes another one.
#[derive(Clone)]
pub(crate) struct Process {
    pub(crate) number: u64,
    pub(crate) node: Arc<str>,
    /// What it is called in leases.
    pub(crate) name: Arc<str>,
    alive: Arc<AtomicBool>,
}

impl Process {
    pub(crate) fn new(number: u64, node: &Arc<str>, name: &Arc<str>) -> Self {
        Self {
            number,
            node: Arc::clone(node),
            name: Arc::clone(name),
            alive: Arc::new(AtomicBool::new(true)),
        }
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Relaxed)
    }

    pub(crate) fn kill(&self) {
        self.alive.store(false, Ordering::Relaxed);
    }
}

pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) clock: Clock,
    pub(crate) trace: Trace,
    pub(crate) database: Database,
    /// Where nodes see each other, when that is a database of its own.
    pub(crate) coordination: Database,
    pub(crate) streams: Vec<Stream>,
    pub(crate) resharded_at: Vec<Option<Moment>>,
    pub(crate) ledger: Ledger,
    pub(crate) limits: ShardLimits,
    /// Nothing fails any more.
    pub(crate) healed: bool,
    pub(crate) store_dice: Dice,
    pub(crate) put_dice: Dice,
    pub(crate) poison_dice: Dice,
    /// The service takes what it did not take before.
    pub(crate) cured: bool,
    /// How often a pipeline was found to halt where it says.
    pub(crate) halts_seen: usize,
    /// Since when rows of a key become letters although none of them is parked.
    pub(crate) streaks: BTreeMap<(String, String), Moment>,
    pub(crate) partitioned: BTreeMap<Arc<str>, Moment>,
    /// Processes that are or were frozen, and till when.
    pub(crate) asleep: BTreeMap<Arc<str>, Moment>,
    pub(crate) control_away: Option<Moment>,
    pub(crate) service_away: Option<Moment>,
    pub(crate) catalog_generation: u64,
    pub(crate) calls: u64,
}

/// The world, shared by all that live in it.
#[derive(Clone)]
pub(crate) struct Shared(Arc<Mutex<World>>);

impl Shared {
    pub(crate) fn new(world: World) -> Self {
        Self(Arc::new(Mutex::new(world)))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, World> {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl World {
    pub(crate) fn server(&mut self, server: Server) -> &mut Database {
        match server {
            Server::Outboxes => &mut self.database,
            Server::Coordination => &mut self.coordination,
        }
    }

    pub(crate) fn now(&self) -> Moment {
        self.clock.now()
    }

    pub(crate) fn note(&mut self, what: fmt::Arguments<'_>) {
        let at = self.clock.now().since_origin();
        self.trace.note(at, what);
    }

    pub(crate) fn outbox_named(&self, name: &str) -> Option<OutboxId> {
        let found = self
            .database
            .outboxes
            .iter()
            .find(|outbox| *outbox.name == *name);
        found.map(|outbox| outbox.id)
    }

    /// Records are in a stream: the judge sees them.
    pub(crate) fn stored(&mut self, stream: usize, stored: Vec<InStream>) {
        let now = self.now();
        let packed = self.plan.packed;
        for in_stream in stored {
            let InStream {
                shard,
                range,
                record,
            } = in_stream;
            let rows = match packed.rows(&record) {
                Ok(rows) => rows,
                Err(error) => {
                    let text = format!("a record that is none of ours: {error}");
                    self.ledger.violations.push((Invariant::LossPhantom, text));
                    continue;
                }
            };
            for (key, body) in rows {
                let taken = packed.is_taken(&record, &key, range);
                self.note(format_args!(
                    "stored {stream}/{shard} {} {key} {}{}",
                    body.outbox,
                    body.seq,
                    if taken { "" } else { " outside its shard" }
                ));
                if taken {
                    self.arrived(stream, &key, &body, now);
                }
            }
        }
    }

    /// A row is where its consumers find it.
    fn arrived(&mut self, stream: usize, key: &str, body: &Body, now: Moment) {
        let Some(outbox) = self.outbox_named(&body.outbox) else {
            return;
        };
        let again = self.again(stream, outbox, key, body.id);
        if let Some(place) = self.ledger.place_of(stream, outbox)
            && !again.has_letter
        {
            let of = (pipeline_name(place), key.to_owned());
            self.streaks.remove(&of);
        }
        let of = Of {
            stream,
            outbox,
            key,
            again,
        };
        self.ledger.arrived(&of, body, now);
    }

    /// What letters and replays say about a record that arrives.
    fn again(&self, stream: usize, outbox: OutboxId, key: &str, row: RowId) -> Again {
        let Some(place) = self.ledger.place_of(stream, outbox) else {
            return Again::default();
        };
        let pipeline = pipeline_name(place);
        let letter = self.database.letters.get(&pipeline, row);
        let mut replays = self.database.replays.iter();
        Again {
            has_letter: letter.is_some(),
            is_wanted: letter.is_some_and(|letter| letter.was_wanted)
                || replays.any(|replay| replay.covers(&pipeline, row)),
            blocking: self
                .database
                .letters
                .blocking(&pipeline, key)
                .map(|(row, _)| row)
                .collect(),
        }
    }

    /// A position was written down.
    pub(crate) fn saved(&mut self, place: usize, pipeline: &str, position: &Position) {
        let route = self.ledger.routes[place];
        let (letters, life) = (&self.database.letters, self.database.life);
        let is_parked = |row| letters.get(pipeline, row).is_some();
        self.ledger.saved(route, position, life, is_parked);
    }

    /// Rows that are neither in their stream nor left to a person, and what a
    /// person has asked for that is not done.
    pub(crate) fn left_over(&self) -> usize {
        let letters = &self.database.letters;
        let is_left = |place: usize, row| {
            let letter = letters.get(&pipeline_name(place), row);
            letter.is_some_and(|letter| letter.state != State::Retry)
        };
        self.ledger.missing(is_left) + letters.wanted() + self.database.open_replays()
    }

    /// Letters were written: none may be of a key that should be free by now.
    pub(crate) fn judge_busy_keys(&mut self, pipeline: &str, letters: &[DeadLetter]) {
        let Some(free_within) = self.plan.poison.free_within else {
            return;
        };
        let now = self.now();
        for letter in letters {
            let Some(key) = letter.key.as_deref() else {
                continue;
            };
            let of = (pipeline.to_owned(), key.to_owned());
            let mut blocking = self.database.letters.blocking(pipeline, key);
            if blocking.any(|(_, one)| one.state == State::Parked) {
                self.streaks.remove(&of);
                continue;
            }
            let since = *self.streaks.entry(of).or_insert(now);
            let time_is_up = now.since(since) > free_within;
            if !invariants::settles_in_time(1, time_is_up) {
                let text = format!(
                    "{pipeline}: row {} of {key} is parked although its key was released {:?} ago",
                    letter.seq.id,
                    now.since(since)
                );
                self.ledger.violations.push((Invariant::KeyFreed, text));
            }
        }
    }

    pub(crate) fn judge_the_end(&mut self) {
        let (letters, ledger) = (&self.database.letters, &mut self.ledger);
        let places: BTreeMap<_, _> = ledger
            .routes
            .iter()
            .enumerate()
            .map(|(place, route)| ((route.stream, route.outbox), pipeline_name(place)))
            .collect();
        ledger.judge_the_end(|route, row| {
            let pipeline = &places[&(route.stream, route.outbox)];
            let letter = letters.get(pipeline, row);
            letter.is_some_and(|letter| letter.state != State::Delivered)
        });
    }

    /// A chance that is none once the world has healed.
    pub(crate) fn is_due(&self, until: Option<Moment>) -> bool {
        !self.healed && until.is_some_and(|until| self.now() < until)
    }
}

/// Pipelines are called `p0`, `p1`, ... in the order of the ledger's routes.
pub(crate) fn pipeline_name(place: usize) -> String {
    format!("p{place}")
}

/// What a call of a dead process gets: nothing, ever.
pub(crate) async fn silence<T>() -> T {
    std::future::pending().await
}

pub(crate) async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}
