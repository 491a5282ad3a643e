//! A server that cannot now: each condition is named, nothing is refused for
//! good, and the same store works when it is over.

use std::time::Duration;

use sqlx::{Connection, PgConnection, PgPool};
use tidegate::core::ports::{Catalog, OutboxStore, ProbeTarget, StoreError};
use tidegate::core::position::Position;
use tidegate::core::snapshot::Snapshot;
use tidegate::demo::private_postgres::{PrivatePostgres, PrivatePostgresOptions};
use tidegate::postgres::PgOutboxStore;
use tidegate::postgres::catalog::PgCatalog;
use tidegate::postgres::pool::{PoolSettings, connect_lazily, connect_watched};
use tidegate::postgres::schema;

use crate::outbox::{Fixture, LEASE, granted, request};
use crate::renew::renew;

const ROLE: &str = "relay";

/// A server with a role that owns a migrated database "app" and an outbox.
async fn server(settings: &[(&str, &str)], max_connections: u16) -> PrivatePostgres {
    let settings = settings.iter();
    let server = PrivatePostgres::start(PrivatePostgresOptions {
        settings: settings
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        max_connections,
        ..PrivatePostgresOptions::default()
    })
    .expect("a server");
    for statement in [
        format!("CREATE ROLE {ROLE} LOGIN"),
        format!("CREATE DATABASE app OWNER {ROLE}"),
    ] {
        server.administer(&statement).await.expect("done");
    }
    let pool = pool_of(&server);
    schema::migrate(&pool).await.expect("migrated");
    Fixture::on(pool.clone(), PgOutboxStore::new(pool.clone())).await;
    pool.close().await;
    server
}

fn pool_of(server: &PrivatePostgres) -> PgPool {
    connect_lazily(&PoolSettings::new(&server.url_as(ROLE, "app"))).expect("a pool")
}

/// A store with few and impatient connections.
fn store(server: &PrivatePostgres, own_sessions: bool) -> PgOutboxStore {
    store_and_catalog(server, own_sessions).0
}

fn store_and_catalog(server: &PrivatePostgres, own_sessions: bool) -> (PgOutboxStore, PgCatalog) {
    let mut settings = PoolSettings::new(&server.url_as(ROLE, "app"));
    settings.max_connections = 2;
    settings.acquire_timeout = Duration::from_millis(400);
    settings.statement_timeout = Duration::from_millis(500);
    settings.own_sessions = own_sessions;
    let (pool, watch) = connect_watched(&settings).expect("a pool");
    let catalog = PgCatalog::new(pool.clone()).with_watch(watch.clone());
    let store = PgOutboxStore::new(pool).with_watch(watch);
    let store = if own_sessions {
        store
    } else {
        store.with_shared_sessions()
    };
    (store, catalog)
}

#[track_caller]
fn assert_unavailable<T: std::fmt::Debug>(answer: Result<T, StoreError>, words: &[&str]) {
    let Err(StoreError::Unavailable(reason)) = answer else {
        panic!("{answer:?}");
    };
    for word in words {
        assert!(reason.contains(word), "no {word:?} in {reason:?}");
    }
}

#[tokio::test]
async fn a_read_only_database_is_named_and_recovers_on_new_sessions() {
    let server = server(&[], 20).await;
    for own_sessions in [true, false] {
        let store = store(&server, own_sessions);
        let (epoch, _) = granted(store.claim(request("node")).await.expect("an answer"));
        server
            .administer("ALTER DATABASE app SET default_transaction_read_only = on")
            .await
            .expect("done");
        // Sessions that are open keep what they were begun with: end them.
        server
            .administer(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'app'",
            )
            .await
            .expect("done");
        let words = ["25006", "default_transaction_read_only"];
        let deadline = tokio::time::Instant::now() + LEASE;
        loop {
            // The first answers are of the connections that were ended.
            let answer = store.claim(request("node")).await;
            assert!(tokio::time::Instant::now() < deadline, "{answer:?}");
            if matches!(&answer, Err(error) if error.to_string().contains(words[0])) {
                break;
            }
        }
        assert_unavailable(store.claim(request("node")).await, &words);
        let saved = store
            .save_position("p", epoch, &Position::start(), &[])
            .await;
        assert_unavailable(saved, &words);
        let held = [("p".into(), epoch)];
        assert_unavailable(renew(&store, "node", &held, LEASE).await, &words);
        server
            .administer("ALTER DATABASE app RESET default_transaction_read_only")
            .await
            .expect("done");
        granted(store.claim(request("node")).await.expect("it recovers"));
    }
}

#[tokio::test]
async fn a_table_that_is_locked_is_named_and_waited_for() {
    let server = server(&[], 20).await;
    server
        .administer("ALTER ROLE relay SET statement_timeout = '300ms'")
        .await
        .expect("done");
    let mut locker = PgConnection::connect(&server.url("app"))
        .await
        .expect("connected");
    for (own_sessions, words) in [
        (true, ["55P03", "pg_locks"]),
        // Behind a pooler what the role has counts where it is narrower.
        (false, ["57014", "statement_timeout"]),
    ] {
        let store = store(&server, own_sessions);
        granted(store.claim(request("node")).await.expect("an answer"));
        sqlx::raw_sql("BEGIN; LOCK TABLE tide.relay_position")
            .execute(&mut locker)
            .await
            .expect("locked");
        assert_unavailable(store.claim(request("node")).await, &words);
        sqlx::raw_sql("ROLLBACK")
            .execute(&mut locker)
            .await
            .expect("done");
        granted(store.claim(request("node")).await.expect("it recovers"));
    }
}

/// A connection, as soon as one is free: those of the set-up end a moment after they
/// were closed.
async fn connected(url: &str) -> PgConnection {
    let patience = std::time::Duration::from_secs(30);
    let connecting = async {
        loop {
            if let Ok(connection) = PgConnection::connect(url).await {
                return connection;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let connected = tokio::time::timeout(patience, connecting).await;
    connected.expect("a free connection")
}

#[tokio::test]
async fn a_server_without_a_free_connection_is_named_and_waited_for() {
    let server = server(&[("superuser_reserved_connections", "2")], 6).await;
    // An ordinary role may not have the last ones.
    let mut taken = Vec::new();
    for _ in 0..4 {
        taken.push(connected(&server.url_as(ROLE, "app")).await);
    }
    let store = store(&server, true);
    let reserved = ["53300", "reserved", "max_connections"];
    assert_unavailable(store.claim(request("node")).await, &reserved);
    for _ in 0..2 {
        taken.push(connected(&server.url("app")).await);
    }
    let full = ["53300", "max_connections"];
    assert_unavailable(store.claim(request("node")).await, &full);
    for connection in taken {
        connection.close().await.expect("closed");
    }
    granted(store.claim(request("node")).await.expect("it recovers"));

    server
        .administer("ALTER ROLE relay CONNECTION LIMIT 0")
        .await
        .expect("done");
    let store = self::store(&server, true);
    let limited = ["53300", "too many connections for role"];
    assert_unavailable(store.claim(request("node")).await, &limited);
}

/// Reading a standby would lose messages: its snapshots do not tell which
/// transactions still run.
#[tokio::test]
async fn a_standby_is_no_primary_until_it_is_promoted() {
    let primary = server(&[], 20).await;
    let replica = primary
        .start_replica(PrivatePostgresOptions {
            max_connections: 20,
            ..PrivatePostgresOptions::default()
        })
        .expect("a replica");
    let (before, _) = granted(
        store(&primary, true)
            .claim(request("node"))
            .await
            .expect("an answer"),
    );
    let timeline = {
        let store = store(&primary, true);
        granted(store.claim(request("node")).await.expect("an answer"));
        store.server().expect("a server").timeline
    };
    assert_eq!(timeline, Some(1));
    let outbox = tidegate::core::ports::OutboxId(1);
    let nothing = Snapshot::nothing();
    let target = ProbeTarget {
        outbox,
        seen: nothing.clone(),
    };
    let stores = [true, false].map(|own_sessions| store_and_catalog(&replica, own_sessions));
    for (store, catalog) in &stores {
        let words = ["standby", "primary"];
        assert_unavailable(store.claim(request("node")).await, &words);
        assert_unavailable(store.probe(std::slice::from_ref(&target)).await, &words);
        assert_unavailable(store.open_window(outbox, &nothing, 10.into()).await, &words);
        assert_unavailable(
            store
                .reopen_window(outbox, &nothing, &nothing, 10.into())
                .await,
            &words,
        );
        assert_unavailable(store.read_rows(outbox, &[1], usize::MAX).await, &words);
        assert_unavailable(store.backlog(outbox, &nothing, 10).await, &words);
        assert_unavailable(catalog.read().await, &words);
    }
    drop(primary);
    replica.promote().expect("promoted");
    for (store, catalog) in &stores {
        // The lease of before is the same node's.
        let (epoch, _) = granted(store.claim(request("node")).await.expect("a primary"));
        assert!(epoch >= before);
        assert!(catalog.read().await.expect("an answer").is_some());
        let server = store.server().expect("a server");
        assert_eq!(server.timeline, Some(2), "{server:?}");
        assert!(server.system_identifier.is_some());
    }
}
