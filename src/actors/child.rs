//! Starting an actor so that its end is noticed.
//!
//! `actix::Supervisor` does not see panics and restarts at once, for ever. Here
//! an actor's future runs as a task of its own; another task awaits it and tells
//! the supervisor how it ended. A panic ends just that task.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix::dev::channel::channel;
use actix::{Actor, Addr, Context, Recipient};

use super::holder::Holder;
use super::messages::ChildExited;
use super::pulse::Pulse;
use super::stage::Stage;
use super::stream_router::StreamKey;
use crate::config::desired::PipelineKey;
use crate::core::shard_map::ShardId;
use crate::core::supervision::{Death, IllegalStep, Life, PAUSES};
use crate::core::time::Moment;
use crate::core::wait::Patience;

/// Mailboxes are bounded by tickets, not by their size: a full one would drop
/// rows.
const MAILBOX: usize = 1 << 20;

/// Who a child is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ChildId {
    /// The reader of a pipeline.
    Reader(PipelineKey),
    /// The router of a stream.
    Router(StreamKey),
    /// The writer of a shard.
    Writer(StreamKey, ShardId),
    /// The probe of a database.
    Probe(Arc<str>),
    /// The sweeper of a database.
    Retention(Arc<str>),
}

impl ChildId {
    /// The kind of actor, as metrics name it.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Reader(_) => "outbox_reader",
            Self::Router(_) => "stream_router",
            Self::Writer(..) => "shard_writer",
            Self::Probe(_) => "probe",
            Self::Retention(_) => "retention",
        }
    }
}

impl fmt::Display for ChildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reader(pipeline) => write!(f, "reader of {pipeline}"),
            Self::Router(stream) => write!(f, "router of {stream}"),
            Self::Writer(stream, shard) => write!(f, "writer of {stream}/{shard}"),
            Self::Probe(database) => write!(f, "probe of database {database}"),
            Self::Retention(database) => write!(f, "retention of database {database}"),
        }
    }
}

/// How an actor ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// It was told to stop and did.
    Stopped,
    /// It finished what it had and gave its lease back.
    Drained,
    /// Another node owns its pipeline now.
    LeaseLost,
    /// Its lease could not be renewed in time.
    LeaseExpired,
    /// Rows of it were lost with another actor.
    RowsLost,
    /// Its database answered that something is missing there.
    Refused(String),
    /// The service does not take one of its rows; the reason names it.
    Blocked(String),
    /// It gave no sign of life.
    Stuck,
    /// It panicked.
    Panicked(String),
}

impl Exit {
    /// The cause, as metrics name it.
    #[must_use]
    pub const fn cause(&self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Drained => "drained",
            Self::LeaseLost => "lease_lost",
            Self::LeaseExpired => "lease_expired",
            Self::RowsLost => "rows_lost",
            Self::Refused(_) => "refused",
            Self::Blocked(_) => "blocked",
            Self::Stuck => "stuck",
            Self::Panicked(_) => "panic",
        }
    }

    /// What is held against it.
    #[must_use]
    pub const fn death(&self, progressed: bool) -> Death {
        match self {
            Self::Stopped | Self::Drained => Death::InOrder,
            Self::RowsLost | Self::LeaseLost | Self::LeaseExpired => Death::Innocent,
            Self::Refused(_) | Self::Blocked(_) | Self::Stuck | Self::Panicked(_) => {
                Death::Failure { progressed }
            }
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped => f.write_str("stopped"),
            Self::Drained => f.write_str("drained"),
            Self::LeaseLost => f.write_str("another node owns the pipeline"),
            Self::LeaseExpired => f.write_str("its lease could not be renewed in time"),
            Self::RowsLost => f.write_str("rows were lost with another actor"),
            Self::Stuck => f.write_str("it gave no sign of life"),
            Self::Refused(reason) | Self::Blocked(reason) => f.write_str(reason),
            Self::Panicked(text) => write!(f, "it panicked: {text}"),
        }
    }
}

/// Where an actor leaves word of why it stops.
#[derive(Debug, Clone, Default)]
pub struct ExitNote(Arc<Mutex<Option<Exit>>>);

impl ExitNote {
    /// Leaves word; the first one counts.
    pub fn write(&self, exit: Exit) {
        let mut note = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        note.get_or_insert(exit);
    }

    fn read(&self) -> Exit {
        let mut note = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        note.take().unwrap_or(Exit::Stopped)
    }
}

/// What the supervisor knows of one child: its present incarnation, if it runs,
/// and its life so far.
#[derive(Debug)]
pub struct ChildSlot<A: Actor> {
    /// Where it is reached while it runs.
    pub address: Option<Addr<A>>,
    /// Which incarnation it is; words of earlier ones count no more.
    pub incarnation: u64,
    /// Its life.
    pub life: Life,
    /// Its signs of life.
    pub pulse: Pulse,
    /// Whose rows lie in it, if it is a writer.
    pub holder: Arc<Holder>,
}

impl<A: Actor> ChildSlot<A> {
    /// A child that has not been started.
    #[must_use]
    pub fn new(now: Moment) -> Self {
        Self {
            address: None,
            incarnation: 0,
            life: Life::new(now),
            pulse: Pulse::new(Patience::of_timeout(Duration::ZERO)),
            holder: Arc::default(),
        }
    }

    /// It runs.
    pub fn runs(&mut self, address: Addr<A>, incarnation: u64, pulse: Pulse, now: Moment) {
        self.address = Some(address);
        self.incarnation = incarnation;
        self.pulse = pulse;
        legal(self.life.starts(now));
        legal(self.life.runs(now));
    }

    /// Whether this incarnation runs, as far as is known. One that was given up ends
    /// later: that says nothing of the one in its place.
    #[must_use]
    pub const fn is_alive(&self, incarnation: u64) -> bool {
        self.incarnation == incarnation && self.life.state().is_alive()
    }

    /// It has ended, or is given up: answers how long to wait before it is
    /// started again.
    pub fn ended(&mut self, exit: &Exit, now: Moment) -> Duration {
        self.address = None;
        let death = exit.death(self.pulse.has_progressed());
        legal(self.life.died(death, now, fastrand::f64())).unwrap_or(PAUSES.0)
    }

    /// Its incarnation, if that shows no sign of life.
    pub fn is_stuck(&mut self, now: Moment) -> Option<u64> {
        let is_stuck = self.life.is_stuck(self.pulse.signs(), now);
        is_stuck.then_some(self.incarnation)
    }
}

/// What came of a step in a child's life. A step that its state does not allow
/// shows a mistake of the supervisor's: it is said, changes nothing, and ends a
/// build for tests.
pub fn legal<T>(step: Result<T, IllegalStep>) -> Option<T> {
    step.inspect_err(|illegal| {
        tracing::error!(%illegal, "the supervisor has lost track of a child");
        debug_assert!(false, "{illegal}");
    })
    .ok()
}

/// Starts an actor on a stage and has the supervisor told when it ends.
pub fn spawn<A>(
    stage: &Stage,
    child: ChildId,
    incarnation: u64,
    supervisor: Recipient<ChildExited>,
    build: impl FnOnce(&mut Context<A>, ExitNote) -> A + Send + 'static,
) -> Addr<A>
where
    A: Actor<Context = Context<A>>,
{
    let (sender, receiver) = channel(MAILBOX);
    stage.run(move || {
        let note = ExitNote::default();
        let mut context = Context::with_receiver(receiver);
        let actor = build(&mut context, note.clone());
        let task = actix::spawn(context.into_future(actor));
        actix::spawn(async move {
            let exit = match task.await {
                Ok(()) => note.read(),
                Err(error) => Exit::Panicked(panic_text(error)),
            };
            let exited = ChildExited {
                child,
                incarnation,
                exit,
            };
            if supervisor.try_send(exited).is_err() {
                tracing::debug!("an actor ended after its supervisor");
            }
        });
    });
    Addr::new(sender)
}

fn panic_text(error: tokio::task::JoinError) -> String {
    match error.try_into_panic() {
        Err(cancelled) => cancelled.to_string(),
        Ok(payload) => match payload.downcast::<String>() {
            Ok(text) => *text,
            Err(payload) => payload.downcast_ref::<&'static str>().map_or_else(
                || "a panic without a text".to_owned(),
                |text| (*text).to_owned(),
            ),
        },
    }
}
