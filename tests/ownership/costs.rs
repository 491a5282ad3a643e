//! How many statements each call of coordination is: what `tests/scaling/counts.rs`
//! multiplies with.

use tidegate::core::ports::{ClaimRequest, OutboxStore};
use tidegate::core::shard_map::ShardId;
use tidegate::core::shares::{ShardName, Share, ShareStore, ShareWrite};
use tidegate::postgres::PgOutboxStore;
use tidegate::postgres::pool::{PoolSettings, connect_lazily};

use crate::database;
use crate::outbox::{Fixture, LEASE, granted, request};
use crate::proxy::Proxy;
use crate::renew::beat;

/// What a connection sends once all is prepared; beginning and ending a transaction
/// are statements too.
#[tokio::test]
async fn claiming_is_so_many_statements() {
    let name = database::migrated_database().await;
    let proxy = Proxy::start(database::server().port());
    let mut settings = PoolSettings::new(&proxy.url(database::OWNER, &name));
    settings.max_connections = 1;
    let pool = connect_lazily(&settings).expect("a pool");
    let fixture = Fixture::on(pool.clone(), PgOutboxStore::new(pool)).await;
    let define = r#"SELECT tide.relay_set_outbox('p', 'events', '{"sink_type": "kinesis", "stream_name": "s"}')"#;
    fixture.run(define).await;
    let version: i64 = sqlx::query_scalar("SELECT version FROM tide.relay_pipeline")
        .fetch_one(&fixture.pool)
        .await
        .expect("defined");
    let store = &fixture.store;
    let write = ShareWrite {
        shard: ShardName {
            stream: "s".into(),
            shard: ShardId::from("shardId-000000000000"),
        },
        uses: Share::NOTHING,
        wants: Share::ALL,
        keeps: Share::NOTHING,
    };
    let mut counted = [0; 6];
    // The first time everything is prepared.
    for number in 1..=2 {
        let mut last = proxy.units();
        let mut since = || {
            let now = proxy.units();
            // Of each call the last one is no statement: the pool asks a connection that
            // comes back whether it is sound.
            now - std::mem::replace(&mut last, now) - 1
        };
        let defined = ClaimRequest {
            version: Some(version),
            ..request("node")
        };
        let (epoch, _) = granted(store.claim(defined).await.expect("an answer"));
        let claim = since();
        let held = [("p".into(), epoch)];
        beat(store, "node", &held, LEASE).await.expect("a beat");
        let beat_of_one = since();
        beat(store, "node", &[], LEASE).await.expect("a beat");
        let beat_of_nothing = since();
        let written = store.write_shares("node", number, std::slice::from_ref(&write));
        written.await.expect("written");
        let write = since();
        store.forget_shares(&["other".into()]).await.expect("done");
        let forget = since();
        store.release("p", "node", epoch).await.expect("released");
        counted = [claim, beat_of_one, beat_of_nothing, write, forget, since()];
    }
    assert_eq!(counted, [12, 1, 1, 1, 1, 1]);
}
