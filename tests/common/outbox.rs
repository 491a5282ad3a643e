//! An outbox in a fresh database, and a store that reads it.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::time::Duration;

use sqlx::{AssertSqlSafe, PgConnection, PgPool, Postgres, Transaction};
use tidegate::core::ports::{
    Claim, ClaimRequest, Epoch, Opened, OutboxId, OutboxStore, PageRequest, WindowRows,
};
use tidegate::core::position::{Position, RowId};
use tidegate::core::row::OutboxRow;
use tidegate::core::snapshot::Snapshot;
use tidegate::postgres::PgOutboxStore;

use crate::database;

pub(crate) const LEASE: Duration = Duration::from_secs(60);
pub(crate) const PAGE: u32 = 2_000;

/// A store, its connections, and its outbox `events`.
pub(crate) struct Fixture {
    pub(crate) pool: PgPool,
    pub(crate) store: PgOutboxStore,
    pub(crate) outbox: OutboxId,
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        let pool = database::migrated().await;
        Self::on(pool.clone(), PgOutboxStore::new(pool)).await
    }

    pub(crate) async fn on(pool: PgPool, store: PgOutboxStore) -> Self {
        let id: i32 = sqlx::query_scalar("SELECT tide.outbox_create('events')")
            .fetch_one(&pool)
            .await
            .expect("an outbox");
        Self {
            pool,
            store,
            outbox: OutboxId(id),
        }
    }

    pub(crate) async fn run(&self, sql: &str) {
        if let Err(error) = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
            .execute(&self.pool)
            .await
        {
            panic!("{sql}\n{error}");
        }
    }

    pub(crate) async fn begin(&self) -> Transaction<'static, Postgres> {
        self.pool.begin().await.expect("begun")
    }

    pub(crate) async fn publish(&self) -> RowId {
        let mut connection = self.pool.acquire().await.expect("connected");
        publish(&mut connection).await
    }

    pub(crate) async fn open(&self, seen: &Snapshot) -> (Snapshot, Vec<RowId>) {
        let Opened { snapshot, rows } = self
            .store
            .open_window(self.outbox, seen, PAGE.into())
            .await
            .expect("a window");
        (snapshot, ids(&whole(rows)))
    }

    pub(crate) async fn claim(&self, node: &str) -> Claim {
        self.store.claim(request(node)).await.expect("an answer")
    }

    /// All rows of a window, page by page if need be.
    pub(crate) async fn read_all(
        &self,
        from: &Snapshot,
        to: &Snapshot,
        rows: WindowRows,
        page: u32,
    ) -> Vec<RowId> {
        let (first, first_fresh, last) = match rows {
            WindowRows::Whole(rows) => return ids(&rows),
            WindowRows::Bounds {
                first,
                first_fresh,
                last,
                ..
            } => (first, first_fresh, last),
        };
        let mut all = Vec::new();
        let mut after = first - 1;
        loop {
            let request = PageRequest {
                outbox: self.outbox,
                from: from.clone(),
                to: to.clone(),
                after,
                first_fresh,
                last,
                bound: page.into(),
            };
            let page_read = self.store.read_page(&request).await.expect("a page");
            let rows = page_read.rows;
            all.extend(ids(&rows));
            if rows.len() < page as usize {
                return all;
            }
            after = rows.last().expect("a full page").id;
        }
    }
}

pub(crate) async fn publish(connection: &mut PgConnection) -> RowId {
    sqlx::query_scalar("SELECT tide.outbox_publish('events', '{\"a\": 1}')")
        .fetch_one(connection)
        .await
        .expect("published")
}

pub(crate) fn ids(rows: &[OutboxRow]) -> Vec<RowId> {
    rows.iter().map(|row| row.id).collect()
}

pub(crate) fn whole(rows: WindowRows) -> Vec<OutboxRow> {
    match rows {
        WindowRows::Whole(rows) => rows,
        WindowRows::Bounds { first, last, .. } => panic!("a large window: {first} to {last}"),
    }
}

pub(crate) fn snapshot(text: &str) -> Snapshot {
    text.parse().expect("a snapshot")
}

pub(crate) fn granted(claim: Claim) -> (Epoch, Position) {
    match claim {
        Claim::Granted {
            epoch, position, ..
        } => (epoch, position),
        Claim::Held { owner, .. } => panic!("held by {owner}"),
        Claim::PausesChanged => panic!("nothing is paused"),
    }
}

/// A claim of pipeline "p" on outbox "events", as if a file defined it.
pub(crate) const fn request(node: &str) -> ClaimRequest<'_> {
    ClaimRequest {
        pipeline: "p",
        version: None,
        outbox: "events",
        node,
        lease: LEASE,
    }
}
