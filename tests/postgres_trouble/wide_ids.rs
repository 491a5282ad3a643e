//! Transaction ids far beyond 32 bits.

use std::time::Duration;

use tidegate::core::ports::OutboxStore;
use tidegate::core::position::{Position, WindowNumber};
use tidegate::core::snapshot::Snapshot;
use tidegate::demo::private_postgres::{PrivatePostgres, PrivatePostgresOptions};
use tidegate::postgres::PgOutboxStore;
use tidegate::postgres::pool::{PoolSettings, connect_lazily};
use tidegate::postgres::rebase::rebase;
use tidegate::postgres::schema;

use crate::outbox::{Fixture, granted, publish, request};
use crate::rebase::read_on;

/// 2^32 times this is about 10^13.
const EPOCH: u32 = 2_500;

#[tokio::test]
async fn transaction_ids_beyond_32_bits_are_read_like_small_ones() {
    let server = PrivatePostgres::start(PrivatePostgresOptions {
        xid_epoch: EPOCH,
        ..PrivatePostgresOptions::default()
    })
    .expect("a server");
    let url = server.create_database("app").await.expect("a database");
    let pool = connect_lazily(&PoolSettings::new(&url)).expect("a pool");
    schema::migrate(&pool).await.expect("migrated");
    let fixture = Fixture::on(pool.clone(), PgOutboxStore::new(pool.clone())).await;
    let mut late = fixture.begin().await;
    let low = publish(&mut late).await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(fixture.publish().await);
    }
    let (epoch, position) = granted(fixture.claim("node").await);
    let (seen, windows) = read_on(&fixture, position.head(), 2).await;
    assert_eq!(windows, [ids.clone()]);
    assert!(seen.xmax() >> 32 == u64::from(EPOCH), "{seen}");
    assert_eq!(seen.in_progress().len(), 1, "{seen}");
    let settled = Position {
        base: seen.clone(),
        last_number: WindowNumber(1),
        ..Position::start()
    };
    let saved = fixture.store.save_position("p", epoch, &settled, &[]).await;
    assert!(saved.is_ok());
    let backlog = fixture.store.backlog(fixture.outbox, &seen, 10).await;
    assert_eq!(backlog.expect("a count").rows, 0);
    late.commit().await.expect("committed");
    let backlog = fixture.store.backlog(fixture.outbox, &seen, 10).await;
    let backlog = backlog.expect("a count");
    assert!(backlog.rows == 1 && backlog.oldest < Duration::from_secs(60));
    let (_, taken) = granted(
        fixture
            .store
            .claim(request("node"))
            .await
            .expect("an answer"),
    );
    assert_eq!(taken.base, seen);
    let (_, windows) = read_on(&fixture, taken.head(), 10).await;
    assert_eq!(windows, [[low]]);
    assert_eq!(Snapshot::nothing().xmax(), 1);

    // From there into a cluster that counts from the start.
    let fresh = PrivatePostgres::start(PrivatePostgresOptions::default()).expect("a server");
    let url = fresh.create_database("app").await.expect("a database");
    pool.close().await;
    server
        .dump_into("app", &fresh, "app", &[])
        .expect("restored");
    let pool = connect_lazily(&PoolSettings::new(&url)).expect("a pool");
    let fixture = Fixture {
        pool: pool.clone(),
        store: PgOutboxStore::new(pool.clone()),
        outbox: fixture.outbox,
    };
    let new = fixture.publish().await;
    let refused = fixture.store.claim(request("node")).await;
    assert!(refused.is_err_and(|error| error.to_string().contains("tidegate rebase")));
    rebase(&pool, "events", false).await.expect("rebased");
    let (_, taken) = granted(fixture.claim("node").await);
    let (_, windows) = read_on(&fixture, taken.head(), 10).await;
    // The saves knew no read messages above what this store had read itself.
    assert_eq!(windows, [[low, new]]);
}
