//! Who may run a pipeline and write its position; errors, and manners in a database
//! that is somebody else's.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test says what it expects"
)]
#![cfg(feature = "demo")]

#[path = "common/database.rs"]
mod database;
#[path = "common/outbox.rs"]
mod outbox;
#[path = "common/proxy.rs"]
mod proxy;
#[path = "common/renew.rs"]
mod renew;

#[path = "ownership/beats.rs"]
mod beats;
#[path = "ownership/costs.rs"]
mod costs;

use std::time::Duration;

use tidegate::core::ports::{
    Claim, ClaimRequest, Epoch, Fenced, OutboxId, OutboxStore, PipelineName, ProbeTarget,
    StoreError,
};
use tidegate::core::position::{Mark, OpenWindow, Position, Seq, WindowNumber};
use tidegate::core::shard_map::HashRange;
use tidegate::core::snapshot::Snapshot;
use tidegate::postgres::PgOutboxStore;
use tidegate::postgres::pool::{PoolSettings, connect_lazily};
use tokio::time::Instant;

use crate::outbox::{Fixture, LEASE, granted, ids, request, snapshot, whole};
use crate::renew::renew;

// === Leases and positions ===

#[tokio::test]
async fn a_pipeline_has_one_owner_at_a_time() {
    let fixture = Fixture::new().await;
    let (first, position) = granted(fixture.claim("node-1").await);
    assert_eq!((first, position), (Epoch(1), Position::start()));
    let Claim::Held { owner, expires_in } = fixture.claim("node-2").await else {
        panic!("granted twice");
    };
    assert_eq!(owner, "node-1");
    assert!(
        expires_in <= LEASE && expires_in > LEASE / 2,
        "{expires_in:?}"
    );

    let (second, _) = granted(fixture.claim("node-1").await);
    assert_eq!(second, Epoch(2), "its owner may begin anew");
    let held: Vec<(PipelineName, Epoch)> = vec![
        ("p".into(), first),
        ("p".into(), second),
        ("other".into(), second),
    ];
    let renewed = renew(&fixture.store, "node-1", &held, LEASE)
        .await
        .expect("an answer");
    assert_eq!(renewed, [false, true, false]);
    let renewed = renew(&fixture.store, "node-2", &held, LEASE)
        .await
        .expect("an answer");
    assert_eq!(renewed, [false; 3]);

    fixture
        .store
        .release("p", "node-1", first)
        .await
        .expect("an old epoch releases nothing");
    assert!(matches!(fixture.claim("node-2").await, Claim::Held { .. }));
    fixture
        .store
        .release("p", "node-1", second)
        .await
        .expect("released");
    let (third, _) = granted(fixture.claim("node-2").await);
    assert_eq!(third, Epoch(3));
}

#[tokio::test]
async fn an_expired_lease_is_taken_over_and_its_owner_fenced_off() {
    let fixture = Fixture::new().await;
    let claim = fixture
        .store
        .claim(ClaimRequest {
            lease: Duration::from_millis(50),
            ..request("node-1")
        })
        .await;
    let (old, mut position) = granted(claim.expect("an answer"));
    let deadline = Instant::now() + Duration::from_secs(20);
    let new = loop {
        if let Claim::Granted { epoch, .. } = fixture.claim("node-2").await {
            break epoch;
        }
        assert!(Instant::now() < deadline, "never expired");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert!(new > old);
    position.settled_id = 7;
    let fenced = fixture.store.save_position("p", old, &position, &[]).await;
    assert_eq!(fenced, Ok(Fenced::Stale));
    let renewed = renew(&fixture.store, "node-1", &[("p".into(), old)], LEASE).await;
    assert_eq!(renewed, Ok(vec![false]));
    let (_, position) = granted(fixture.claim("node-2").await);
    assert_eq!(position, Position::start(), "nothing was written");
}

#[tokio::test]
async fn of_many_claims_at_once_one_is_granted() {
    let fixture = Fixture::new().await;
    for round in 0..5 {
        fixture
            .run("UPDATE tide.relay_lease SET expires_at = '-infinity'")
            .await;
        let nodes: Vec<String> = (0..8).map(|node| format!("{round}-{node}")).collect();
        let claims = futures::future::join_all(nodes.iter().map(|node| fixture.claim(node))).await;
        let granted = claims
            .iter()
            .filter(|claim| matches!(claim, Claim::Granted { .. }))
            .count();
        assert_eq!(granted, 1, "{claims:?}");
    }
}

#[tokio::test]
async fn a_position_is_kept_as_written() {
    let fixture = Fixture::new().await;
    let (epoch, _) = granted(fixture.claim("node").await);
    fixture
        .run(
            "SELECT pg_current_xact_id(); SELECT pg_current_xact_id(); SELECT pg_current_xact_id()",
        )
        .await;
    let position = Position {
        base: snapshot("5:9:5,7"),
        last_number: WindowNumber(41),
        open: vec![
            OpenWindow {
                number: WindowNumber(42),
                snapshot: snapshot("7:12:7,10"),
            },
            OpenWindow {
                number: WindowNumber(45),
                snapshot: snapshot("12:13:"),
            },
        ],
        settled_id: i64::MAX,
        marks: vec![Mark {
            range: HashRange {
                first: 0,
                last: u128::MAX,
            },
            settled: Seq {
                window: WindowNumber(u64::try_from(i64::MAX).expect("fits")),
                id: i64::MAX,
            },
        }],
        ahead: [(42, 7), (42, i64::MAX), (45, 1)]
            .map(|(window, id)| Seq {
                window: WindowNumber(window),
                id,
            })
            .to_vec(),
        keyed_by: "tenant {dedup_key}".to_owned(),
    };
    for _ in 0..2 {
        let written = fixture
            .store
            .save_position("p", epoch, &position, &[])
            .await;
        assert_eq!(written, Ok(Fenced::Written));
    }
    let (next, kept) = granted(fixture.claim("node").await);
    assert_eq!(kept, position);
    assert_eq!(
        fixture
            .store
            .save_position("p", epoch, &Position::start(), &[])
            .await,
        Ok(Fenced::Stale)
    );
    assert_eq!(
        fixture.store.save_position("q", next, &position, &[]).await,
        Ok(Fenced::Stale)
    );
    assert_eq!(
        fixture
            .store
            .save_position("p", next, &Position::start(), &[])
            .await,
        Ok(Fenced::Written)
    );
    let (_, kept) = granted(fixture.claim("node").await);
    assert_eq!(kept, Position::start());
}

/// A commit that waits for the disk leaves nothing unflushed behind it; one that
/// does not wait mostly does.
#[tokio::test]
async fn saving_a_position_does_not_wait_for_the_disk_but_a_claim_does() {
    let fixture = Fixture::new().await;
    let unflushed = "SELECT pg_current_wal_insert_lsn() > pg_current_wal_flush_lsn()";
    let (mut epoch, position) = granted(fixture.claim("node").await);
    let mut unflushed_saves = 0;
    for _ in 0..40 {
        let written = fixture
            .store
            .save_position("p", epoch, &position, &[])
            .await;
        assert_eq!(written, Ok(Fenced::Written));
        let behind: bool = sqlx::query_scalar(unflushed)
            .fetch_one(&fixture.pool)
            .await
            .expect("known");
        unflushed_saves += usize::from(behind);
    }
    assert!(unflushed_saves > 0, "every save waited");
    // Even where the database does not wait by default. (What other tests of this
    // server write meanwhile may be unflushed, hence the repetition.)
    let name: String = sqlx::query_scalar("SELECT current_database()::text")
        .fetch_one(&fixture.pool)
        .await
        .expect("a name");
    fixture
        .run(&format!(
            "ALTER DATABASE {name} SET synchronous_commit = off"
        ))
        .await;
    let pool = database::pool(&name);
    let store = PgOutboxStore::new(pool.clone());
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let claimed: String = sqlx::query_scalar("SELECT pg_current_wal_insert_lsn()::text")
            .fetch_one(&pool)
            .await
            .expect("known");
        (epoch, _) = granted(store.claim(request("node")).await.expect("an answer"));
        let flushed: bool =
            sqlx::query_scalar("SELECT pg_current_wal_flush_lsn() > $1::text::pg_lsn")
                .bind(claimed)
                .fetch_one(&pool)
                .await
                .expect("known");
        assert!(flushed, "epoch {epoch} was granted before it was flushed");
        if epoch > Epoch(20) {
            break;
        }
        assert!(Instant::now() < deadline);
    }
}

#[tokio::test]
async fn a_pipeline_without_a_sound_position_is_refused() {
    let fixture = Fixture::new().await;
    let refused = |outbox: &'static str| {
        let store = &fixture.store;
        async move {
            match store
                .claim(ClaimRequest {
                    outbox,
                    ..request("node")
                })
                .await
            {
                Err(StoreError::Refused(text)) => text,
                other => panic!("{other:?}"),
            }
        }
    };
    let text = refused("nosuch").await;
    assert!(
        text.contains("\"nosuch\" does not exist") && text.contains("outbox_create"),
        "{text}"
    );
    granted(fixture.claim("node").await);
    fixture.run("SELECT tide.outbox_create('other')").await;
    let text = refused("other").await;
    assert!(
        text.contains("\"p\" has a position in the outbox with id"),
        "{text}"
    );
    fixture
        .run("UPDATE tide.relay_position SET base = '900000000:900000000:'")
        .await;
    let text = refused("events").await;
    assert!(text.contains("lies in the database's future"), "{text}");
    // A refused claim leaves nothing behind.
    let epoch: i64 = sqlx::query_scalar("SELECT epoch FROM tide.relay_lease")
        .fetch_one(&fixture.pool)
        .await
        .expect("a lease");
    assert_eq!(epoch, 1);
}

#[tokio::test]
async fn a_deleted_pipeline_begins_anew_above_its_old_numbers() {
    let fixture = Fixture::new().await;
    fixture
        .run(r#"SELECT tide.relay_set_outbox('p', 'events', '{"sink_type": "kinesis", "stream_name": "s"}')"#)
        .await;
    let (old, mut position) = granted(fixture.claim("node").await);
    position.last_number = WindowNumber(9);
    position.open = vec![OpenWindow {
        number: WindowNumber(9),
        snapshot: snapshot("3:3:"),
    }];
    assert_eq!(
        fixture.store.save_position("p", old, &position, &[]).await,
        Ok(Fenced::Written)
    );
    fixture.run("SELECT tide.relay_delete('p')").await;
    assert_eq!(
        fixture.store.save_position("p", old, &position, &[]).await,
        Ok(Fenced::Stale)
    );
    assert_eq!(
        renew(&fixture.store, "node", &[("p".into(), old)], LEASE).await,
        Ok(vec![false])
    );
    let (new, position) = granted(fixture.claim("other node").await);
    assert!(new > old);
    assert_eq!(
        position,
        Position {
            last_number: WindowNumber(9),
            ..Position::start()
        }
    );
}

// === Errors and manners ===

#[tokio::test]
async fn a_missing_schema_is_refused_with_what_to_do() {
    let pool = database::pool(&database::empty_database().await);
    let store = PgOutboxStore::new(pool);
    match store.claim(request("node")).await {
        Err(StoreError::Refused(text)) => {
            assert!(text.contains("run `tidegate migrate`"), "{text}")
        }
        other => panic!("{other:?}"),
    }
    let error = store
        .open_window(OutboxId(1), &Snapshot::nothing(), 1.into())
        .await
        .expect_err("refused");
    assert!(matches!(error, StoreError::Refused(_)), "{error}");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_a_condition() {
    // Nobody listens on port 1.
    let mut settings = PoolSettings::new("postgres://nobody@127.0.0.1:1/none");
    settings.acquire_timeout = Duration::from_millis(300);
    let store = PgOutboxStore::new(connect_lazily(&settings).expect("a pool"));
    let error = store.probe(&[]).await.expect_err("unavailable");
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    // Nor does the server have this database: somebody must act.
    let missing = PoolSettings::new(&database::server().url("nosuch"));
    let store = PgOutboxStore::new(connect_lazily(&missing).expect("a pool"));
    let error = store.probe(&[]).await.expect_err("refused");
    assert!(matches!(error, StoreError::Refused(_)), "{error}");
}

#[tokio::test]
async fn a_call_is_given_up_in_time_and_leaves_no_transaction() {
    let fixture = Fixture::new().await;
    let name: String = sqlx::query_scalar("SELECT current_database()::text")
        .fetch_one(&fixture.pool)
        .await
        .expect("a name");
    let mut settings = PoolSettings::new(&database::server().url_as(database::OWNER, &name));
    settings.statement_timeout = Duration::from_secs(2);
    let pool = connect_lazily(&settings).expect("a pool");
    let store = PgOutboxStore::new(pool).with_timeout(Duration::from_millis(300));
    let mut blocker = fixture.begin().await;
    sqlx::raw_sql("LOCK TABLE tide.relay_lease")
        .execute(&mut *blocker)
        .await
        .expect("locked");
    let begun = Instant::now();
    let error = store.claim(request("node")).await.expect_err("given up");
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    // The server gives up too, though the lock is still there.
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let busy: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'tidegate'
            AND pid <> pg_backend_pid() AND state <> 'idle' AND pid NOT IN (SELECT pid FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted)",
        )
        .fetch_one(&fixture.pool)
        .await
        .expect("counted");
        if busy == 0 {
            break;
        }
        assert!(Instant::now() < deadline, "a transaction stays open");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    blocker.rollback().await.expect("unlocked");
    granted(store.claim(request("node")).await.expect("it works again"));
}

#[tokio::test]
async fn everything_works_on_shared_sessions_too() {
    let name = database::migrated_database().await;
    let mut settings = PoolSettings::new(&database::server().url_as(database::OWNER, &name));
    settings.own_sessions = false;
    settings.max_connections = 1;
    let pool = connect_lazily(&settings).expect("a pool");
    let fixture = Fixture::on(
        pool.clone(),
        PgOutboxStore::new(pool).with_shared_sessions(),
    )
    .await;
    let (epoch, mut position) = granted(fixture.claim("node").await);
    let id = fixture.publish().await;
    let (seen, rows) = fixture.open(&Snapshot::nothing()).await;
    assert_eq!(rows, [id]);
    let again = fixture
        .store
        .reopen_window(fixture.outbox, &Snapshot::nothing(), &seen, 5.into())
        .await;
    assert_eq!(ids(&whole(again.expect("a window"))), [id]);
    position.settled_id = id;
    assert_eq!(
        fixture
            .store
            .save_position("p", epoch, &position, &[])
            .await,
        Ok(Fenced::Written)
    );
    let target = ProbeTarget {
        outbox: fixture.outbox,
        seen,
    };
    assert_eq!(
        fixture.store.probe(&[target]).await.expect("a report").news,
        [false]
    );
    assert_eq!(
        renew(&fixture.store, "node", &[("p".into(), epoch)], LEASE).await,
        Ok(vec![true])
    );
    fixture
        .store
        .release("p", "node", epoch)
        .await
        .expect("released");
    // What this test itself runs is prepared; what the store runs is not.
    let prepared: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_prepared_statements
        WHERE statement LIKE '%tide.relay\\_%' OR statement LIKE '%tide.outbox\\_message%'",
    )
    .persistent(false)
    .fetch_one(&fixture.pool)
    .await
    .expect("counted");
    assert_eq!(prepared, 0);
}
