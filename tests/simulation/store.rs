//! The ports to the database, with what can happen to a call on its way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use tidegate::core::dead_letter::DeadLetter;
use tidegate::core::nodes::{BeatDone, BeatRequest, NodeStore};
use tidegate::core::page::{ReadBound, RowPage};
use tidegate::core::ports::{
    Backlog, Claim, ClaimRequest, Epoch, Fenced, Letters, Opened, OutboxId, OutboxStore,
    PageRequest, ProbeReport, ProbeTarget, StoreError, WindowRows,
};
use tidegate::core::position::{Position, RowId};
use tidegate::core::resend::{
    AgainRequest, LetterOutcome, LetterPage, LettersRead, ReplayProgress, ReplayRequest,
    ReplayWrite, ResendStore,
};
use tidegate::core::snapshot::Snapshot;

use crate::database::nodes::Said;
use crate::world::{Process, Shared, World, pass, silence};

/// The outboxes, as one process reaches them.
pub(crate) struct SimStore {
    pub(crate) world: Shared,
    pub(crate) process: Process,
    server: Server,
    saves: Arc<AtomicU64>,
}

/// Which server is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Server {
    /// The one with the outboxes.
    Outboxes,
    /// The one in which nodes see each other, if that is another one.
    Coordination,
}

/// What happens to one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Answered,
    Refused,
    AnswerLost,
    Late,
    Never,
}

fn away<T>(why: &str) -> Result<T, StoreError> {
    Err(StoreError::Unavailable(why.to_owned()))
}

impl SimStore {
    pub(crate) fn new(world: Shared, process: Process, server: Server) -> Self {
        Self {
            world,
            process,
            server,
            saves: Arc::new(AtomicU64::new(0)),
        }
    }

    /// Which one it calls.
    pub(crate) const fn server(&self) -> Server {
        self.server
    }

    /// Does something in the database, at some moment between now and the answer.
    pub(crate) fn call<'a, T: Send + 'static>(
        &'a self,
        name: &'static str,
        work: impl FnOnce(&mut World) -> Result<T, StoreError> + Send + 'static,
    ) -> BoxFuture<'a, Result<T, StoreError>> {
        let (world, process) = (self.world.clone(), self.process.clone());
        Box::pin(call(world, process, self.server, name, work))
    }
}

pub(crate) async fn call<T: Send + 'static>(
    shared: Shared,
    process: Process,
    server: Server,
    name: &'static str,
    work: impl FnOnce(&mut World) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    if !process.is_alive() {
        return silence().await;
    }
    let (fate, before, after, life) = {
        let mut guard = shared.lock();
        let world = &mut *guard;
        let faults = world.plan.store;
        let dice = &mut world.store_dice;
        let lost = if name == "save" {
            faults.lost_saves
        } else {
            0.0
        };
        let fate = match () {
            () if world.healed => Fate::Answered,
            () if lost > 0.0 && dice.chance(lost) => Fate::Never,
            () if dice.chance(faults.refused) => Fate::Refused,
            () if dice.chance(faults.answer_lost) => Fate::AnswerLost,
            () if dice.chance(faults.hangs) => *dice.pick(&[Fate::Late, Fate::Never]),
            () => Fate::Answered,
        };
        let slow = !world.healed && dice.chance(faults.slow);
        let most = if slow { 4_000.0 } else { 3.0 };
        (
            fate,
            dice.pause(0.2, most),
            dice.pause(0.1, most),
            world.server(server).life,
        )
    };
    pass(before).await;
    let result = match fate {
        Fate::Refused => away("connection refused"),
        Fate::Never => {
            pass(Duration::from_secs(5)).await;
            away("no answer within the time-out")
        }
        Fate::Late => {
            let late = shared.clone();
            tokio::spawn(async move {
                let extra = late.lock().store_dice.evenly(10.0, 9_000.0);
                pass(extra).await;
                let mut world = late.lock();
                if world.server(server).life == life {
                    world.note(format_args!("late {name}"));
                    work(&mut world).map(drop).ok();
                }
            });
            pass(Duration::from_secs(3)).await;
            away("no answer within the time-out")
        }
        Fate::Answered | Fate::AnswerLost => {
            let done = arrives(&mut shared.lock(), &process, (server, life), work);
            if fate == Fate::AnswerLost {
                away("connection reset")
            } else {
                done
            }
        }
    };
    pass(after).await;
    // Away since then: the answer does not come through.
    let was_lost = shared.lock().server(server).life != life && result.is_ok();
    if !process.is_alive() {
        return silence().await;
    }
    if was_lost {
        away("connection reset")
    } else {
        result
    }
}

fn arrives<T>(
    world: &mut World,
    process: &Process,
    (server, life): (Server, u64),
    work: impl FnOnce(&mut World) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let is_cut_off = world.is_due(world.partitioned.get(&process.node).copied());
    let is_cut_off = is_cut_off && server == Server::Outboxes;
    let (down_until, its_life) = {
        let database = world.server(server);
        (database.down_until, database.life)
    };
    if world.is_due(down_until) || is_cut_off || its_life != life {
        return away("the server is not there");
    }
    work(world)
}

impl ResendStore for SimStore {
    fn wanted_resends(&self) -> BoxFuture<'_, Result<Vec<String>, StoreError>> {
        self.call("wanted", |world| Ok(world.database.wanted_resends()))
    }

    fn next_replay<'a>(
        &'a self,
        pipeline: &'a str,
        epoch: Epoch,
    ) -> BoxFuture<'a, Result<Option<ReplayRequest>, StoreError>> {
        let pipeline = pipeline.to_owned();
        self.call("next replay", move |world| {
            Ok(world.database.next_replay(&pipeline, epoch))
        })
    }

    fn read_again<'a>(
        &'a self,
        request: &'a AgainRequest,
    ) -> BoxFuture<'a, Result<RowPage, StoreError>> {
        let request = request.clone();
        self.call("again", move |world| {
            let now = world.now();
            Ok(world.database.read_again(&request, now).into())
        })
    }

    fn save_replay<'a>(
        &'a self,
        pipeline: &'a str,
        epoch: Epoch,
        progress: &'a ReplayProgress,
    ) -> BoxFuture<'a, Result<ReplayWrite, StoreError>> {
        let (pipeline, progress) = (pipeline.to_owned(), progress.clone());
        self.call("save replay", move |world| {
            let written = world.database.save_replay(&pipeline, epoch, &progress);
            world.note(format_args!("{pipeline} saves {progress:?}: {written:?}"));
            Ok(written)
        })
    }

    fn letters_to_send<'a>(
        &'a self,
        pipeline: &'a str,
        _outbox: OutboxId,
        page: LetterPage<'a>,
    ) -> BoxFuture<'a, Result<LettersRead, StoreError>> {
        let pipeline = pipeline.to_owned();
        let (after, letters, bytes) = (page.after.map(str::to_owned), page.letters, page.bytes);
        self.call("letters to send", move |world| {
            let now = world.now();
            let page = LetterPage {
                after: after.as_deref(),
                letters,
                bytes,
            };
            Ok(world.database.letters_to_send(&pipeline, &page, now))
        })
    }

    fn save_letters<'a>(
        &'a self,
        pipeline: &'a str,
        epoch: Epoch,
        outcomes: &'a [LetterOutcome],
    ) -> BoxFuture<'a, Result<Fenced, StoreError>> {
        let (pipeline, outcomes) = (pipeline.to_owned(), outcomes.to_vec());
        self.call("save letters", move |world| {
            let fenced = world.database.save_letters(&pipeline, epoch, &outcomes);
            if outcomes.iter().any(|one| one.refused.is_some()) {
                world.streaks.retain(|(of, _), _| *of != pipeline);
            }
            let rows: Vec<_> = outcomes
                .iter()
                .map(|one| (one.row, one.refused.is_none()))
                .collect();
            world.note(format_args!("{pipeline} closes {rows:?}: {fenced:?}"));
            Ok(fenced)
        })
    }
}

impl NodeStore for SimStore {
    fn beat<'a>(&'a self, request: BeatRequest<'a>) -> BoxFuture<'a, Result<BeatDone, StoreError>> {
        let (node, lease) = (request.node.to_owned(), request.lease);
        let said = Said {
            draining: request.draining,
            held: request.held.to_vec(),
            asks: request.asks.to_vec(),
            demand: request.demand.to_owned(),
            shares: request.shares.to_owned(),
            known: request.known.to_owned(),
        };
        let server = self.server;
        self.call("beat", move |world| {
            let now = world.now();
            Ok(world.server(server).beat(&node, said, lease, now))
        })
    }

    fn leave<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        let node = node.to_owned();
        let server = self.server;
        self.call("leave", move |world| {
            world.server(server).leave(&node);
            Ok(())
        })
    }
}

impl OutboxStore for SimStore {
    fn claim<'a>(&'a self, request: ClaimRequest<'a>) -> BoxFuture<'a, Result<Claim, StoreError>> {
        let ClaimRequest {
            pipeline,
            version,
            outbox,
            node,
            lease,
        } = request;
        let (pipeline, outbox, node) = (pipeline.to_owned(), outbox.to_owned(), node.to_owned());
        self.call("claim", move |world| {
            let now = world.now();
            let claim = world
                .database
                .claim(&pipeline, version, &outbox, &node, lease, now);
            match &claim {
                Ok(Claim::Granted { epoch, .. }) => {
                    world.note(format_args!("{node} owns {pipeline} under {epoch}"))
                }
                Ok(Claim::Held { .. } | Claim::PausesChanged) => {}
                Err(error) => world.note(format_args!("{node} may not own {pipeline}: {error}")),
            }
            claim
        })
    }

    fn release<'a>(
        &'a self,
        pipeline: &'a str,
        node: &'a str,
        epoch: Epoch,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        let (pipeline, node) = (pipeline.to_owned(), node.to_owned());
        self.call("release", move |world| {
            world.note(format_args!("{node} releases {pipeline}"));
            world.database.release(&pipeline, &node, epoch);
            Ok(())
        })
    }

    fn save_position<'a>(
        &'a self,
        pipeline: &'a str,
        epoch: Epoch,
        position: &'a Position,
        letters: &'a [DeadLetter],
    ) -> BoxFuture<'a, Result<Fenced, StoreError>> {
        let (pipeline, position) = (pipeline.to_owned(), position.clone());
        let letters = letters.to_vec();
        let number = self.saves.fetch_add(1, Ordering::Relaxed) + 1;
        self.call("save", move |world| {
            Ok(save(world, &pipeline, epoch, &position, &letters, number))
        })
    }

    fn letters<'a>(
        &'a self,
        pipeline: &'a str,
        _outbox: OutboxId,
    ) -> BoxFuture<'a, Result<Letters, StoreError>> {
        let pipeline = pipeline.to_owned();
        self.call("letters", move |world| {
            Ok(world.database.known_letters(&pipeline))
        })
    }

    fn rows_with_letters<'a>(
        &'a self,
        pipeline: &'a str,
        _outbox: OutboxId,
        rows: &'a [RowId],
    ) -> BoxFuture<'a, Result<Vec<RowId>, StoreError>> {
        let (pipeline, rows) = (pipeline.to_owned(), rows.to_vec());
        self.call("rows with letters", move |world| {
            Ok(world.database.rows_with_letters(&pipeline, &rows))
        })
    }

    fn open_window<'a>(
        &'a self,
        outbox: OutboxId,
        seen: &'a Snapshot,
        page: ReadBound,
    ) -> BoxFuture<'a, Result<Opened, StoreError>> {
        let seen = seen.clone();
        self.call("open", move |world| {
            let now = world.now();
            Ok(world.database.open_window(outbox, &seen, page.rows, now))
        })
    }

    fn reopen_window<'a>(
        &'a self,
        outbox: OutboxId,
        from: &'a Snapshot,
        to: &'a Snapshot,
        page: ReadBound,
    ) -> BoxFuture<'a, Result<WindowRows, StoreError>> {
        let (from, to) = (from.clone(), to.clone());
        self.call("reopen", move |world| {
            let now = world.now();
            Ok(world
                .database
                .reopen_window(outbox, &from, &to, page.rows, now))
        })
    }

    fn read_page<'a>(
        &'a self,
        request: &'a PageRequest,
    ) -> BoxFuture<'a, Result<RowPage, StoreError>> {
        let request = request.clone();
        self.call("page", move |world| {
            let now = world.now();
            Ok(world.database.read_page(&request, now).into())
        })
    }

    fn read_rows<'a>(
        &'a self,
        outbox: OutboxId,
        ids: &'a [RowId],
        _bytes: usize,
    ) -> BoxFuture<'a, Result<RowPage, StoreError>> {
        let ids = ids.to_vec();
        self.call("rows", move |world| {
            let now = world.now();
            Ok(world.database.read_rows(outbox, &ids, now).into())
        })
    }

    fn probe<'a>(
        &'a self,
        targets: &'a [ProbeTarget],
    ) -> BoxFuture<'a, Result<ProbeReport, StoreError>> {
        let targets = targets.to_vec();
        self.call("probe", move |world| Ok(world.database.probe(&targets)))
    }

    fn backlog<'a>(
        &'a self,
        outbox: OutboxId,
        seen: &'a Snapshot,
        bound: u32,
    ) -> BoxFuture<'a, Result<Backlog, StoreError>> {
        let seen = seen.clone();
        self.call("backlog", move |world| {
            let rows = world.database.unseen(outbox, &seen).min(bound as usize) as u64;
            Ok(Backlog {
                rows,
                at_least: rows == u64::from(bound),
                oldest: Duration::ZERO,
            })
        })
    }
}

fn save(
    world: &mut World,
    pipeline: &str,
    epoch: Epoch,
    position: &Position,
    letters: &[DeadLetter],
    number: u64,
) -> Fenced {
    let fenced = world
        .database
        .save(pipeline, epoch, position, letters, number);
    let (base, open) = (&position.base, position.open.len());
    for letter in letters {
        let (row, code, state) = (letter.seq.id, letter.reason.code(), letter.state.name());
        world.note(format_args!("{pipeline} parks {row}: {code}, {state}"));
    }
    world.note(format_args!(
        "{pipeline} under {epoch} saves {base} with {open} windows: {fenced:?}"
    ));
    let place = pipeline_place(pipeline);
    if fenced == Fenced::Written {
        world.judge_busy_keys(pipeline, letters);
        world.saved(place, pipeline, position);
    }
    fenced
}

/// Pipelines are called `p0`, `p1`, ... in the order of the ledger's routes.
pub(crate) fn pipeline_place(name: &str) -> usize {
    name[1..].parse().expect("a pipeline of this world")
}
