//! Everything outside the relays, under one lock: the simulation has one thread,
//! and no guard is held over an await.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tidegate::actors::clock::Clock;
use tidegate::core::budget::ShardLimits;
use tidegate::core::invariants::Invariant;
use tidegate::core::ports::OutboxId;
use tidegate::core::time::Moment;

use crate::database::Database;
use crate::dice::Dice;
use crate::kinesis::{InStream, Stream};
use crate::ledger::Ledger;
use crate::plan::Plan;
use crate::trace::Trace;

/// One process of a relay: a kill ends it, a start makes another one.
#[derive(Clone)]
pub(crate) struct Process {
    pub(crate) number: u64,
    pub(crate) node: Arc<str>,
    alive: Arc<AtomicBool>,
}

impl Process {
    pub(crate) fn new(number: u64, node: &Arc<str>) -> Self {
        Self {
            number,
            node: Arc::clone(node),
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
    pub(crate) streams: Vec<Stream>,
    pub(crate) resharded_at: Vec<Option<Moment>>,
    pub(crate) ledger: Ledger,
    pub(crate) limits: ShardLimits,
    /// Nothing fails any more.
    pub(crate) healed: bool,
    pub(crate) store_dice: Dice,
    pub(crate) put_dice: Dice,
    pub(crate) partitioned: BTreeMap<Arc<str>, Moment>,
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
                if let Some(outbox) = self.outbox_named(&body.outbox).filter(|_| taken) {
                    self.ledger.arrived(stream, outbox, &key, &body, now);
                }
            }
        }
    }

    /// A chance that is none once the world has healed.
    pub(crate) fn is_due(&self, until: Option<Moment>) -> bool {
        !self.healed && until.is_some_and(|until| self.now() < until)
    }
}

/// What a call of a dead process gets: nothing, ever.
pub(crate) async fn silence<T>() -> T {
    std::future::pending().await
}

pub(crate) async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}
