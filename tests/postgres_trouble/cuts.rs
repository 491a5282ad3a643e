//! Every statement of the store with its connection cut at every step, before
//! the server saw it and after it was done: the answer is "unavailable", and the
//! next try is right.

use std::time::Duration;

use tidegate::core::ports::{
    Catalog, Claim, Epoch, Fenced, OutboxId, OutboxStore, PageRequest, ProbeTarget, StoreError,
};
use tidegate::core::position::{OpenWindow, Position, RowId, WindowNumber};
use tidegate::core::resend::{
    AgainRequest, LetterOutcome, LetterPage, ReplayProgress, ReplayWrite, ResendStore,
};
use tidegate::core::retention::{RetentionStore, Survey};
use tidegate::core::snapshot::Snapshot;
use tidegate::postgres::PgOutboxStore;
use tidegate::postgres::catalog::PgCatalog;
use tidegate::postgres::pool::{PoolSettings, connect_watched};

use crate::cut_statements::{ALL, Answer, Statement};
use crate::database;
use crate::outbox::{Fixture, LEASE, granted, ids, request, whole};
use crate::proxy::{Cut, Proxy};
use crate::renew::renew;

/// More units than any call has.
const MOST_UNITS: u64 = 60;

/// A store behind the proxy, and one that is never cut.
pub(crate) struct Cuts {
    pub(crate) direct: Fixture,
    /// The outbox that retention deletes from.
    pub(crate) old: OutboxId,
    database: String,
    proxy: Proxy,
    pub(crate) rows: Vec<RowId>,
    seen: Snapshot,
    position: Position,
    shares_sessions: bool,
}

impl Cuts {
    async fn new(shares_sessions: bool) -> Self {
        let database = database::migrated_database().await;
        let pool = database::pool(&database);
        let direct = Fixture::on(pool.clone(), PgOutboxStore::new(pool)).await;
        direct
            .run(
                r#"SELECT tide.relay_set_outbox('d', 'events', '{"sink_type": "kinesis", "stream_name": "s",
                "region": "us-east-1", "partition_key": "{dedup_key}"}')"#,
            )
            .await;
        direct.run("SELECT tide.outbox_create('old', 1)").await;
        let old = "SELECT outbox_id FROM tide.outbox WHERE name = 'old'";
        let old = OutboxId(
            sqlx::query_scalar(old)
                .fetch_one(&direct.pool)
                .await
                .expect("an id"),
        );
        for _ in 0..8 {
            direct.publish().await;
        }
        let (seen, rows) = direct.open(&Snapshot::nothing()).await;
        let position = Position {
            open: vec![OpenWindow {
                number: WindowNumber(5),
                snapshot: seen.clone(),
            }],
            settled_id: rows[2],
            last_number: WindowNumber(5),
            ..Position::start()
        };
        Self {
            direct,
            old,
            database,
            proxy: Proxy::start(database::server().port()),
            rows,
            seen,
            position,
            shares_sessions,
        }
    }

    /// A store and a catalog on one fresh connection through the proxy.
    fn connect(&self) -> (PgOutboxStore, PgCatalog) {
        let url = self.proxy.url(database::OWNER, &self.database);
        let mut settings = PoolSettings::new(&url);
        settings.max_connections = 1;
        settings.own_sessions = !self.shares_sessions;
        let (pool, watch) = connect_watched(&settings).expect("a pool");
        let store = PgOutboxStore::new(pool.clone()).with_watch(watch.clone());
        let store = if self.shares_sessions {
            store.with_shared_sessions()
        } else {
            store
        };
        (store, PgCatalog::new(pool).with_watch(watch))
    }

    async fn ask(
        &self,
        statement: Statement,
        epoch: Epoch,
        store: &PgOutboxStore,
        catalog: &PgCatalog,
    ) -> Result<Answer, StoreError> {
        let (outbox, nothing) = (self.direct.outbox, Snapshot::nothing());
        Ok(match statement {
            Statement::Claim => match store.claim(request("node")).await? {
                Claim::Granted {
                    epoch, position, ..
                } => Answer::Epoch(epoch, position),
                held @ (Claim::Held { .. } | Claim::PausesChanged) => panic!("{held:?}"),
            },
            Statement::Renew => {
                Answer::Held(renew(store, "node", &[("p".into(), epoch)], LEASE).await?)
            }
            Statement::Release => {
                store.release("p", "node", epoch).await?;
                Answer::Done
            }
            Statement::SavePosition => {
                Answer::Fenced(store.save_position("p", epoch, &self.position, &[]).await?)
            }
            Statement::Park => {
                let letters = [self.letter()];
                Answer::Fenced(
                    store
                        .save_position("p", epoch, &self.position, &letters)
                        .await?,
                )
            }
            Statement::OpenWindow => Answer::Rows(ids(&whole(
                store.open_window(outbox, &nothing, 100.into()).await?.rows,
            ))),
            Statement::ReopenWindow => Answer::Rows(ids(&whole(
                store
                    .reopen_window(outbox, &nothing, &self.seen, 100.into())
                    .await?,
            ))),
            Statement::ReadPage => {
                let page = PageRequest {
                    outbox,
                    from: nothing,
                    to: self.seen.clone(),
                    after: self.rows[1],
                    first_fresh: self.rows[0],
                    last: self.rows[7],
                    bound: 4.into(),
                };
                Answer::Rows(ids(&store.read_page(&page).await?.rows))
            }
            Statement::ReadRows => {
                let page = store
                    .read_rows(outbox, &self.rows[3..5], usize::MAX)
                    .await?;
                Answer::Rows(ids(&page.rows))
            }
            Statement::Probe => {
                let target = |seen| ProbeTarget { outbox, seen };
                let targets = [target(nothing), target(self.seen.clone())];
                Answer::News(store.probe(&targets).await?.news)
            }
            Statement::Backlog => Answer::Count(store.backlog(outbox, &nothing, 100).await?.rows),
            Statement::Catalog => {
                let content = catalog.read().await?.unwrap_or_default();
                Answer::Names(content.pipelines.into_iter().map(|row| row.name).collect())
            }
            Statement::Letters => Answer::Rows(vec![store.letters("p", outbox).await?.highest_row]),
            Statement::RowsWithLetters => {
                Answer::Rows(store.rows_with_letters("p", outbox, &self.rows).await?)
            }
            Statement::LettersToSend => {
                let page = LetterPage {
                    after: None,
                    letters: 10,
                    bytes: 8 * 1024 * 1024,
                };
                let letters = store.letters_to_send("p", outbox, page).await?;
                Answer::Rows(letters.letters.iter().map(|letter| letter.row.id).collect())
            }
            Statement::SaveLetters => {
                let delivered = LetterOutcome {
                    row: self.rows[1],
                    refused: None,
                };
                Answer::Fenced(store.save_letters("p", epoch, &[delivered]).await?)
            }
            Statement::WantedResends => Answer::Names(store.wanted_resends().await?),
            Statement::NextReplay => {
                let replay = store.next_replay("p", epoch).await?;
                Answer::Rows(replay.map_or(vec![], |replay| vec![replay.from, replay.to]))
            }
            Statement::ReadAgain => {
                let again = AgainRequest {
                    pipeline: "p".into(),
                    outbox,
                    seen: self.seen.clone(),
                    after: 0,
                    to: self.rows[4],
                    bound: 100.into(),
                };
                Answer::Rows(ids(&store.read_again(&again).await?.rows))
            }
            Statement::SaveReplay | Statement::FinishReplay => {
                let progress = ReplayProgress {
                    request: 1,
                    next: self.rows[4],
                    sent: 3,
                    skipped: 1,
                    done: statement == Statement::FinishReplay,
                };
                Answer::Replay(store.save_replay("p", epoch, &progress).await?)
            }
            Statement::Survey => match store.survey("node", LEASE, &[]).await? {
                Survey::Ours(all) => {
                    Answer::Names(all.iter().map(|outbox| outbox.name.to_string()).collect())
                }
                Survey::NotOurs => panic!("nobody else sweeps"),
            },
            Statement::RemoveBatch => {
                store.remove_batch(self.old, &[], 2).await?;
                Answer::Done
            }
        })
    }

    /// What the second try must answer after a first that was cut.
    fn expected(&self, statement: Statement, before: Epoch, again: &Answer) {
        match (statement, again) {
            (Statement::Claim, Answer::Epoch(epoch, position)) => {
                assert!(*epoch > before, "an epoch was given twice: {epoch}");
                assert_eq!(position.base, self.position.base);
                assert_eq!(position.open, self.position.open);
                assert_eq!(position.settled_id, self.position.settled_id);
            }
            (_, again) => {
                let rows = |range: std::ops::Range<usize>| Answer::Rows(self.rows[range].to_vec());
                let expected = match statement {
                    Statement::Claim => panic!("not a claim: {again:?}"),
                    Statement::Renew => Answer::Held(vec![true]),
                    Statement::Release | Statement::RemoveBatch => Answer::Done,
                    Statement::SavePosition | Statement::Park | Statement::SaveLetters => {
                        Answer::Fenced(Fenced::Written)
                    }
                    Statement::OpenWindow | Statement::ReopenWindow => rows(0..8),
                    Statement::ReadPage => rows(2..6),
                    Statement::ReadRows => rows(3..5),
                    Statement::Probe => Answer::News(vec![true, false]),
                    Statement::Backlog => Answer::Count(8),
                    Statement::Catalog => Answer::Names(vec!["d".to_owned()]),
                    Statement::Letters | Statement::LettersToSend => rows(1..2),
                    Statement::RowsWithLetters => rows(0..2),
                    Statement::WantedResends => Answer::Names(vec!["p".to_owned()]),
                    Statement::NextReplay => Answer::Rows(vec![self.rows[0], self.rows[7]]),
                    Statement::ReadAgain => rows(2..5),
                    Statement::SaveReplay | Statement::FinishReplay => {
                        Answer::Replay(ReplayWrite::Written)
                    }
                    Statement::Survey => Answer::Names(vec!["events".to_owned(), "old".to_owned()]),
                };
                assert_eq!(*again, expected, "{statement:?}");
            }
        }
    }

    /// Cuts a statement at each of its units in turn; answers how many there were
    /// and how many of them the caller heard of.
    async fn cut_everywhere(&self, statement: Statement, cut: Cut) -> (u64, u64) {
        let mut heard_of = 0;
        for n in 1..MOST_UNITS {
            let (epoch, _) = granted(self.direct.claim("node").await);
            let saved = self
                .direct
                .store
                .save_position("p", epoch, &self.position, &[])
                .await;
            assert_eq!(saved, Ok(Fenced::Written));
            let (store, catalog) = self.connect();
            self.prepare(statement).await;
            if matches!(statement, Statement::SavePosition | Statement::Park) {
                // As the relay does: the claim and the saves are of one store.
                self.direct
                    .run("UPDATE tide.relay_position SET save_number = 0, settled_id = 0")
                    .await;
            }
            let cuts = self.proxy.cuts();
            self.proxy.cut_at(n, cut);
            let first = self.ask(statement, epoch, &store, &catalog).await;
            if self.proxy.cuts() == cuts {
                assert!(first.is_ok(), "{statement:?}: {first:?}");
                return (n - 1, heard_of);
            }
            match &first {
                Ok(_) => {}
                Err(StoreError::Unavailable(_)) => heard_of += 1,
                Err(error @ StoreError::Refused(_)) => {
                    panic!("{statement:?} {cut:?} at {n}: {error}")
                }
            }
            if statement == Statement::Park {
                let whole = "SELECT (p.settled_id <> 0) = EXISTS (
                        SELECT FROM tide.relay_dead_letter AS d WHERE d.message = 'cut')
                    FROM tide.relay_position AS p WHERE p.pipeline = 'p'";
                assert!(
                    self.value::<bool>(whole).await,
                    "{cut:?} at {n}: half a save"
                );
            }
            let again = if first.is_ok() && statement == Statement::Catalog {
                // A catalog answers a change once.
                first
            } else {
                self.ask(statement, epoch, &store, &catalog).await
            };
            let again =
                again.unwrap_or_else(|error| panic!("{statement:?} {cut:?} at {n}: {error}"));
            self.expected(statement, epoch, &again);
            self.check_effect(statement, epoch).await;
        }
        panic!("{statement:?} has no end");
    }

    async fn check_effect(&self, statement: Statement, epoch: Epoch) {
        match statement {
            Statement::Release => {
                granted(self.direct.claim("another").await);
                self.direct
                    .run("UPDATE tide.relay_lease SET owner = '', expires_at = '-infinity'")
                    .await;
            }
            Statement::Claim | Statement::Renew => {
                let claim = self.direct.claim("another").await;
                assert!(matches!(claim, Claim::Held { .. }), "{claim:?}");
            }
            Statement::SavePosition => {
                let (next, position) = granted(self.direct.claim("node").await);
                assert!(next > epoch);
                assert_eq!(position, self.position);
            }
            Statement::Park => {
                let (_, position) = granted(self.direct.claim("node").await);
                assert_eq!(position, self.position);
                let parked = "SELECT count(*) FROM tide.relay_dead_letter WHERE message = 'cut'";
                assert_eq!(self.value::<i64>(parked).await, 1);
            }
            Statement::SaveLetters => {
                let states =
                    "SELECT string_agg(state, ' ' ORDER BY row_id) FROM tide.relay_dead_letter";
                assert_eq!(self.value::<String>(states).await, "parked delivered");
            }
            Statement::SaveReplay | Statement::FinishReplay => {
                let counts =
                    "SELECT next_id || ' ' || sent || ' ' || skipped FROM tide.relay_replay";
                let expected = format!("{} 3 1", self.rows[4]);
                assert_eq!(
                    self.value::<String>(counts).await,
                    expected,
                    "{statement:?}"
                );
            }
            Statement::RemoveBatch => self.sweep_the_rest().await,
            Statement::OpenWindow
            | Statement::ReopenWindow
            | Statement::ReadPage
            | Statement::ReadRows
            | Statement::Probe
            | Statement::Backlog
            | Statement::Catalog
            | Statement::Letters
            | Statement::RowsWithLetters
            | Statement::LettersToSend
            | Statement::WantedResends
            | Statement::NextReplay
            | Statement::ReadAgain
            | Statement::Survey => {}
        }
    }
}

async fn every_statement(shares_sessions: bool) {
    let cuts = Cuts::new(shares_sessions).await;
    for statement in ALL {
        for cut in [Cut::Before, Cut::After] {
            let (units, heard_of) = cuts.cut_everywhere(statement, cut).await;
            eprintln!("{statement:?} {cut:?}: {units} units, {heard_of} times unavailable");
            assert!(units >= 3, "{statement:?}: {units} units");
            assert!(heard_of >= 1, "{statement:?}: no cut was noticed");
        }
    }
}

#[tokio::test]
async fn every_statement_may_lose_its_connection_at_every_step() {
    every_statement(false).await;
}

#[tokio::test]
async fn every_statement_may_lose_its_connection_behind_a_pooler() {
    every_statement(true).await;
}

/// A server that is not there is named, not "no connection in time".
#[tokio::test]
async fn a_server_that_is_away_is_named() {
    let proxy = Proxy::start(1);
    let mut settings = PoolSettings::new(&proxy.url("nobody", "nowhere"));
    settings.acquire_timeout = Duration::from_millis(300);
    let (pool, watch) = connect_watched(&settings).expect("a pool");
    let store = PgOutboxStore::new(pool).with_watch(watch);
    let answer = store.claim(request("node")).await;
    assert!(
        matches!(answer, Err(StoreError::Unavailable(_))),
        "{answer:?}"
    );
    let mut settings = PoolSettings::new("postgres://nobody@127.0.0.1:1/nowhere");
    settings.acquire_timeout = Duration::from_millis(300);
    let (pool, _) = connect_watched(&settings).expect("a pool");
    let answer = PgOutboxStore::new(pool).claim(request("node")).await;
    let Err(StoreError::Unavailable(reason)) = answer else {
        panic!("{answer:?}");
    };
    assert!(reason.contains("refused"), "{reason}");
}
