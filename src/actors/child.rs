//! Starting an actor so that its end is noticed.
//!
//! `actix::Supervisor` does not see panics and restarts at once, for ever. Here
//! an actor's future runs as a task of its own; another task awaits it and tells
//! the supervisor how it ended. A panic ends just that task.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use actix::{Actor, Addr, AsyncContext, Context, Recipient};

use super::desired::PipelineKey;
use super::messages::ChildExited;
use super::stream_router::StreamKey;
use crate::core::shard_map::ShardId;

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
    /// Rows of it were lost with another actor.
    RowsLost,
    /// The stream's shards have changed.
    Resharded,
    /// Its database answered that something is missing there.
    Refused(String),
    /// The service does not take one of its rows; the reason names it.
    Blocked(String),
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
            Self::RowsLost => "rows_lost",
            Self::Resharded => "resharded",
            Self::Refused(_) => "refused",
            Self::Blocked(_) => "blocked",
            Self::Panicked(_) => "panic",
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

/// Starts an actor and has the supervisor told when it ends.
pub fn spawn<A>(
    child: ChildId,
    incarnation: u64,
    supervisor: Recipient<ChildExited>,
    build: impl FnOnce(&mut Context<A>, ExitNote) -> A,
) -> Addr<A>
where
    A: Actor<Context = Context<A>>,
{
    let note = ExitNote::default();
    let mut context = Context::new();
    context.set_mailbox_capacity(MAILBOX);
    let address = context.address();
    let actor = build(&mut context, note.clone());
    let task = actix::spawn(context.into_future(actor));
    actix::spawn(async move {
        let exit = match task.await {
            Ok(()) => note.read(),
            Err(error) => Exit::Panicked(panic_text(error)),
        };
        let told = supervisor.try_send(ChildExited {
            child,
            incarnation,
            exit,
        });
        if told.is_err() {
            tracing::debug!("an actor ended after its supervisor");
        }
    });
    address
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
