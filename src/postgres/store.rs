//! The outboxes of one PostgreSQL database, as the core's port sees them.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use sqlx::PgPool;
use tokio::time::Instant;

use super::error::is_of_the_session;
use super::highest_read::HighestRead;
use super::node_notes::NodeNotes;
use super::quiet::QuietTimes;
use super::saved_places::SavedPlaces;
use super::server::ServerWatch;
use super::session::{Manners, Session};
use super::{fields, lease, letters, nodes, position, probe, replay, retention, shares, windows};
use crate::core::dead_letter::DeadLetter;
use crate::core::nodes::{BeatDone, BeatRequest, NodeStore};
use crate::core::page::{ReadBound, RowPage};
use crate::core::pause::PausesVersion;
use crate::core::ports::{
    Backlog, CallListener, Claim, ClaimRequest, Epoch, Fenced, Letters, Opened, OutboxId,
    OutboxStore, PageRequest, ProbeReport, ProbeTarget, ServerInfo, StoreError, WindowRows,
};
use crate::core::position::{Position, RowId};
use crate::core::resend::{
    AgainRequest, LetterOutcome, LetterPage, LettersRead, ReplayProgress, ReplayRequest,
    ReplayWrite, ResendStore,
};
use crate::core::shares::{ShareStore, ShareWrite, Written};
use crate::core::snapshot::Snapshot;

/// Finding the bounds of a large window reads its index entries once, about 0.1 s
/// per million rows: the one call whose cost grows with the backlog.
const LARGE_WINDOW_PATIENCE: u32 = 6;

/// Who hears how calls go; shared by all clones of a store.
#[derive(Clone, Default)]
struct Listener(Arc<OnceLock<CallListener>>);

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_named = self.0.get().is_some();
        f.debug_tuple("Listener").field(&is_named).finish()
    }
}

/// An [`OutboxStore`] on PostgreSQL. Cloning it shares the connections.
#[derive(Debug, Clone)]
pub struct PgOutboxStore {
    pool: PgPool,
    timeout: Duration,
    own_sessions: bool,
    statement_timeout: Duration,
    save_number: Arc<AtomicI64>,
    highest_read: Arc<HighestRead>,
    saved_places: Arc<SavedPlaces>,
    quiet_times: Arc<Mutex<QuietTimes>>,
    node_notes: Arc<NodeNotes>,
    watch: ServerWatch,
    pauses: Arc<Mutex<PausesVersion>>,
    listener: Listener,
}

impl PgOutboxStore {
    /// How long a call may take unless [`Self::with_timeout`] says otherwise.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

    /// How long a statement may run on a shared session unless
    /// [`Self::with_statement_timeout`] says otherwise.
    const DEFAULT_STATEMENT_TIMEOUT: Duration = Duration::from_secs(60);

    /// The statements that read, sweep, save and renew, by name, for whoever wants to
    /// EXPLAIN them.
    pub const EXPLAINED_STATEMENTS: [(&'static str, &'static str); 9] = [
        ("open_window", windows::OPEN),
        ("reopen_window", windows::REOPEN),
        ("read_page", windows::READ_PAGE),
        ("read_rows", windows::READ_ROWS),
        ("probe", probe::PROBE),
        ("sweep", retention::SWEEP),
        ("fetch_late", retention::FETCH),
        ("save_position", position::SAVE_AT_PLACE),
        ("beat", nodes::BEAT),
    ];

    /// The names under which a listener hears of calls
    /// ([`OutboxStore::tells`]): no call has another.
    pub const QUERIES: [&'static str; 23] = [
        "claim",
        "release",
        "save_position",
        "letters",
        "rows_with_letters",
        "open_window",
        "reopen_window",
        "read_page",
        "read_rows",
        "read_fields",
        "probe",
        "backlog",
        "wanted_resends",
        "next_replay",
        "read_again",
        "save_replay",
        "letters_to_send",
        "save_letters",
        "retention_survey",
        "retention_batch",
        "beat",
        "write_shares",
        "forget_shares",
    ];

    /// A store on these connections, with time-outs of 10 s and prepared
    /// statements.
    #[must_use]
    pub fn new(pool: PgPool) -> Self {
        Self {
            pool,
            timeout: Self::DEFAULT_TIMEOUT,
            own_sessions: true,
            statement_timeout: Self::DEFAULT_STATEMENT_TIMEOUT,
            save_number: Arc::new(AtomicI64::new(0)),
            highest_read: Arc::default(),
            saved_places: Arc::default(),
            quiet_times: Arc::default(),
            node_notes: Arc::default(),
            watch: ServerWatch::default(),
            pauses: Arc::default(),
            listener: Listener::default(),
        }
    }

    /// Bounds every call by `timeout`, waiting for a connection included.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Makes every call a transaction, which sets itself up, and prepares nothing: for
    /// poolers that share sessions between transactions (as
    /// [`super::pool::PoolSettings`]).
    #[must_use]
    pub fn with_shared_sessions(mut self) -> Self {
        self.own_sessions = false;
        self
    }

    /// How long the server lets a statement run on a shared session (60 s by default);
    /// on the store's own ones that is up to the pool.
    #[must_use]
    pub fn with_statement_timeout(mut self, timeout: Duration) -> Self {
        self.statement_timeout = timeout;
        self
    }

    /// Lets the store know which server the connections meet: without it, it takes
    /// every server for a primary, and the same as before.
    #[must_use]
    pub fn with_watch(mut self, watch: ServerWatch) -> Self {
        self.watch = watch;
        self
    }

    pub(super) fn reads_for(&self, pipeline: &str, outbox: OutboxId) {
        self.highest_read.reads_for(pipeline, outbox);
    }

    pub(super) fn has_read(&self, outbox: OutboxId, highest: Option<RowId>) {
        if let Some(id) = highest {
            self.highest_read.has_read(outbox, id);
        }
    }

    /// What is remembered of probes. A panic while it was locked leaves plain numbers.
    pub(super) fn quiet_times(&self) -> MutexGuard<'_, QuietTimes> {
        self.quiet_times
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Which server is behind the store.
    pub(super) fn generation(&self) -> Option<u64> {
        self.watch.server().map(|server| server.generation)
    }

    /// What nodes said last.
    pub(super) fn node_notes(&self) -> &NodeNotes {
        &self.node_notes
    }

    pub(super) fn highest_read_for(&self, pipeline: &str) -> RowId {
        self.highest_read.of(pipeline)
    }

    /// Where positions were saved last.
    pub(super) fn saved_places(&self) -> &SavedPlaces {
        &self.saved_places
    }

    /// The pauses that the node goes by.
    pub(super) fn known_pauses(&self) -> PausesVersion {
        self.pauses().clone()
    }

    fn pauses(&self) -> MutexGuard<'_, PausesVersion> {
        // Whoever panicked while holding it had written all or nothing.
        self.pauses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number above those of all saves before.
    pub(super) fn next_save_number(&self) -> i64 {
        self.save_number.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Whether statements may be kept prepared on their connection.
    pub(super) const fn prepares(&self) -> bool {
        self.own_sessions
    }

    const fn manners(&self) -> Manners {
        if self.own_sessions {
            Manners::OfSession
        } else {
            Manners::OfTransaction(self.statement_timeout)
        }
    }

    pub(super) async fn statement(&self) -> Result<Session, StoreError> {
        Session::for_statement(&self.pool, &self.watch, self.manners()).await
    }

    pub(super) async fn transaction(&self) -> Result<Session, StoreError> {
        Session::for_transaction(&self.pool, &self.watch, self.manners()).await
    }

    pub(super) fn bounded<'a, T: 'a>(
        &'a self,
        query: &'static str,
        patience: u32,
        call: impl Future<Output = Result<T, StoreError>> + Send + 'a,
    ) -> BoxFuture<'a, Result<T, StoreError>> {
        let limit = self.timeout.saturating_mul(patience);
        debug_assert!(Self::QUERIES.contains(&query), "{query} is not listed");
        Box::pin(async move {
            let began = Instant::now();
            let result = tokio::time::timeout(limit, call).await.unwrap_or_else(|_| {
                Err(StoreError::Unavailable(format!(
                    "no answer within {limit:?}"
                )))
            });
            if result.as_ref().is_err_and(is_of_the_session) {
                self.watch.distrust_sessions();
            }
            if let Some(tell) = self.listener.0.get() {
                tell(query, began.elapsed(), result.is_ok());
            }
            result
        })
    }
}

// === impl OutboxStore ===

impl OutboxStore for PgOutboxStore {
    fn claim<'a>(&'a self, request: ClaimRequest<'a>) -> BoxFuture<'a, Result<Claim, StoreError>> {
        self.bounded("claim", 1, lease::claim(self, request))
    }

    fn release<'a>(
        &'a self,
        pipeline: &'a str,
        node: &'a str,
        epoch: Epoch,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        self.bounded("release", 1, lease::release(self, pipeline, node, epoch))
    }

    fn save_position<'a>(
        &'a self,
        pipeline: &'a str,
        epoch: Epoch,
        position: &'a Position,
        letters: &'a [DeadLetter],
    ) -> BoxFuture<'a, Result<Fenced, StoreError>> {
        self.bounded(
            "save_position",
            1,
            position::save(self, pipeline, epoch, position, letters),
        )
    }

    fn letters<'a>(
        &'a self,
        pipeline: &'a str,
        outbox: OutboxId,
    ) -> BoxFuture<'a, Result<Letters, StoreError>> {
        self.bounded("letters", 1, letters::known(self, pipeline, outbox))
    }

    fn rows_with_letters<'a>(
        &'a self,
        pipeline: &'a str,
        outbox: OutboxId,
        rows: &'a [RowId],
    ) -> BoxFuture<'a, Result<Vec<RowId>, StoreError>> {
        self.bounded(
            "rows_with_letters",
            1,
            letters::rows_with(self, pipeline, outbox, rows),
        )
    }

    fn open_window<'a>(
        &'a self,
        outbox: OutboxId,
        seen: &'a Snapshot,
        page: ReadBound,
    ) -> BoxFuture<'a, Result<Opened, StoreError>> {
        self.bounded(
            "open_window",
            LARGE_WINDOW_PATIENCE,
            windows::open(self, outbox, seen, page),
        )
    }

    fn reopen_window<'a>(
        &'a self,
        outbox: OutboxId,
        from: &'a Snapshot,
        to: &'a Snapshot,
        page: ReadBound,
    ) -> BoxFuture<'a, Result<WindowRows, StoreError>> {
        self.bounded(
            "reopen_window",
            LARGE_WINDOW_PATIENCE,
            windows::reopen(self, outbox, from, to, page),
        )
    }

    fn read_page<'a>(
        &'a self,
        request: &'a PageRequest,
    ) -> BoxFuture<'a, Result<RowPage, StoreError>> {
        self.bounded("read_page", 1, windows::read_page(self, request))
    }

    fn read_rows<'a>(
        &'a self,
        outbox: OutboxId,
        ids: &'a [RowId],
        bytes: usize,
    ) -> BoxFuture<'a, Result<RowPage, StoreError>> {
        self.bounded("read_rows", 1, windows::read_rows(self, outbox, ids, bytes))
    }

    fn read_fields<'a>(
        &'a self,
        outbox: OutboxId,
        row: RowId,
        paths: &'a [Vec<String>],
    ) -> BoxFuture<'a, Result<Vec<Option<String>>, StoreError>> {
        self.bounded("read_fields", 1, fields::read(self, outbox, row, paths))
    }

    fn probe<'a>(
        &'a self,
        targets: &'a [ProbeTarget],
    ) -> BoxFuture<'a, Result<ProbeReport, StoreError>> {
        self.bounded("probe", 1, probe::probe(self, targets))
    }

    fn backlog<'a>(
        &'a self,
        outbox: OutboxId,
        seen: &'a Snapshot,
        bound: u32,
    ) -> BoxFuture<'a, Result<Backlog, StoreError>> {
        self.bounded("backlog", 1, probe::backlog(self, outbox, seen, bound))
    }

    fn tells(&self, listener: CallListener) {
        // A listener that is named again hears already.
        drop(self.listener.0.set(listener));
    }

    fn knows_pauses(&self, pauses: &PausesVersion) {
        *self.pauses() = pauses.clone();
    }

    fn server(&self) -> Option<Arc<ServerInfo>> {
        self.watch.server()
    }
}

// === impl NodeStore ===

impl NodeStore for PgOutboxStore {
    fn beat<'a>(&'a self, request: BeatRequest<'a>) -> BoxFuture<'a, Result<BeatDone, StoreError>> {
        self.bounded("beat", 1, nodes::beat(self, request))
    }

    fn leave<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        // Nobody is told how long it took: the database's series may have ended by now.
        Box::pin(async move {
            let left = tokio::time::timeout(self.timeout, nodes::leave(self, node)).await;
            left.unwrap_or_else(|_| Err(StoreError::Unavailable("no answer in time".to_owned())))
        })
    }
}

// === impl ShareStore ===

impl ShareStore for PgOutboxStore {
    fn write_shares<'a>(
        &'a self,
        node: &'a str,
        number: i64,
        writes: &'a [ShareWrite],
    ) -> BoxFuture<'a, Result<Written, StoreError>> {
        self.bounded("write_shares", 1, shares::write(self, node, number, writes))
    }

    fn forget_shares<'a>(&'a self, nodes: &'a [Arc<str>]) -> BoxFuture<'a, Result<(), StoreError>> {
        self.bounded("forget_shares", 1, shares::forget(self, nodes))
    }
}

// === impl ResendStore ===

impl ResendStore for PgOutboxStore {
    fn wanted_resends(&self) -> BoxFuture<'_, Result<Vec<String>, StoreError>> {
        self.bounded("wanted_resends", 1, replay::wanted(self))
    }

    fn next_replay<'a>(
        &'a self,
        pipeline: &'a str,
        epoch: Epoch,
    ) -> BoxFuture<'a, Result<Option<ReplayRequest>, StoreError>> {
        self.bounded("next_replay", 1, replay::next(self, pipeline, epoch))
    }

    fn read_again<'a>(
        &'a self,
        request: &'a AgainRequest,
    ) -> BoxFuture<'a, Result<RowPage, StoreError>> {
        self.bounded("read_again", 1, replay::read_again(self, request))
    }

    fn save_replay<'a>(
        &'a self,
        pipeline: &'a str,
        epoch: Epoch,
        progress: &'a ReplayProgress,
    ) -> BoxFuture<'a, Result<ReplayWrite, StoreError>> {
        self.bounded(
            "save_replay",
            1,
            replay::save(self, pipeline, epoch, progress),
        )
    }

    fn letters_to_send<'a>(
        &'a self,
        pipeline: &'a str,
        outbox: OutboxId,
        page: LetterPage<'a>,
    ) -> BoxFuture<'a, Result<LettersRead, StoreError>> {
        self.bounded(
            "letters_to_send",
            1,
            letters::to_send(self, pipeline, outbox, page),
        )
    }

    fn save_letters<'a>(
        &'a self,
        pipeline: &'a str,
        epoch: Epoch,
        outcomes: &'a [LetterOutcome],
    ) -> BoxFuture<'a, Result<Fenced, StoreError>> {
        self.bounded(
            "save_letters",
            1,
            letters::save(self, pipeline, epoch, outcomes),
        )
    }
}
