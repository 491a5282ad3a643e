//! What a relay knows does not outlive a crash of the server, not even one that
//! the postmaster survives.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test says what it expects"
)]
#![cfg(feature = "demo")]

#[path = "common/renew.rs"]
mod renew;

use std::process::Command;
use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};
use tidegate::core::ports::{Claim, ClaimRequest, Epoch, Fenced, OutboxStore};
use tidegate::core::position::{Position, WindowNumber};
use tidegate::demo::private_postgres::{PrivatePostgres, PrivatePostgresOptions};
use tidegate::postgres::PgOutboxStore;
use tidegate::postgres::pool::{PoolSettings, connect_lazily};
use tidegate::postgres::schema;

use crate::renew::renew;

const LEASE: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(30);

const REQUEST: ClaimRequest<'_> = ClaimRequest {
    pipeline: "p",
    version: None,
    outbox: "events",
    node: "node",
    lease: LEASE,
};

async fn claim(store: &PgOutboxStore) -> (Epoch, Position) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match store.claim(REQUEST).await {
            Ok(Claim::Granted {
                epoch, position, ..
            }) => return (epoch, position),
            Ok(held @ (Claim::Held { .. } | Claim::PausesChanged)) => panic!("{held:?}"),
            Err(error) => {
                assert!(tokio::time::Instant::now() < deadline, "{error}");
                tokio::task::yield_now().await;
            }
        }
    }
}

async fn started(pool: &PgPool) -> String {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let asked = sqlx::query_scalar("SELECT pg_postmaster_start_time()::text")
            .fetch_one(pool)
            .await;
        match asked {
            Ok(started) => return started,
            Err(error) => assert!(tokio::time::Instant::now() < deadline, "{error}"),
        }
    }
}

#[tokio::test]
async fn a_backend_that_is_killed_voids_what_relays_know() {
    let server = PrivatePostgres::start(PrivatePostgresOptions::default()).expect("a server");
    server.create_database("app").await.expect("a database");
    let url = server.url("app");
    let pool = connect_lazily(&PoolSettings::new(&url)).expect("a pool");
    schema::migrate(&pool).await.expect("migrated");
    sqlx::query("SELECT tide.outbox_create('events')")
        .execute(&pool)
        .await
        .expect("an outbox");
    let store = PgOutboxStore::new(pool.clone());
    let (epoch, mut position) = claim(&store).await;
    position.last_number = WindowNumber(7);
    let save = async |position: &Position| {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            match store.save_position("p", epoch, position, &[]).await {
                Ok(fenced) => return fenced,
                Err(error) => assert!(tokio::time::Instant::now() < deadline, "{error}"),
            }
        }
    };
    assert_eq!(save(&position).await, Fenced::Written);
    let held = [("p".into(), epoch)];
    assert_eq!(renew(&store, "node", &held, LEASE).await, Ok(vec![true]));
    // What was written asynchronously is on disk before the crash.
    sqlx::query("CHECKPOINT")
        .execute(&pool)
        .await
        .expect("superuser");

    let before = started(&pool).await;
    let mut victim = PgConnection::connect(&url).await.expect("connected");
    let mut witness = PgConnection::connect(&url).await.expect("connected");
    let backend: i32 = sqlx::query_scalar(AssertSqlSafe("SELECT pg_backend_pid()"))
        .fetch_one(&mut victim)
        .await
        .expect("a pid");
    let killed = Command::new("kill")
        .args(["-9", &backend.to_string()])
        .status();
    assert!(killed.expect("kill").success());
    let gone = sqlx::query("SELECT 1").execute(&mut victim).await;
    assert!(gone.is_err(), "the backend lives");
    // The postmaster ends all other sessions when it notices; what is written
    // before that is written before the crash.
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while sqlx::query("SELECT 1").execute(&mut witness).await.is_ok() {
        assert!(tokio::time::Instant::now() < deadline, "the witness lives");
    }

    assert_eq!(started(&pool).await, before, "the postmaster survived");
    position.last_number = WindowNumber(8);
    assert_eq!(save(&position).await, Fenced::Stale);
    // The pool may still hold connections that the server has ended.
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let renewed = loop {
        match renew(&store, "node", &held, LEASE).await {
            Ok(renewed) => break renewed,
            Err(error) => assert!(tokio::time::Instant::now() < deadline, "{error}"),
        }
    };
    assert_eq!(renewed, [false]);
    let (_, taken) = claim(&store).await;
    assert!(
        taken.last_number > WindowNumber(1_000_000),
        "numbers that may have been used are skipped: {:?}",
        taken.last_number
    );
}
