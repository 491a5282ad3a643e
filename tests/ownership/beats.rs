//! What a beat answers of locked and expired rows, and what each transaction on a
//! shared session is bounded by.

use std::time::Duration;

use sqlx::AssertSqlSafe;
use tidegate::core::nodes::Renewal;
use tidegate::core::ports::{ClaimRequest, Epoch, OutboxStore, PipelineName};
use tidegate::core::shard_map::ShardId;
use tidegate::core::shares::{ShardName, Share, ShareStore, ShareWrite};
use tidegate::postgres::PgOutboxStore;
use tidegate::postgres::pool::{PoolSettings, connect_lazily};

use crate::database;
use crate::outbox::{Fixture, LEASE, granted, request};
use crate::renew::beat;

#[tokio::test]
async fn a_beat_waits_for_no_lease_that_somebody_has_locked() {
    let fixture = Fixture::new().await;
    let (free, _) = granted(fixture.claim("node").await);
    let claim = fixture.store.claim(ClaimRequest {
        pipeline: "locked",
        ..request("node")
    });
    let (locked, _) = granted(claim.await.expect("an answer"));
    let mut operator = fixture.begin().await;
    sqlx::raw_sql("SELECT FROM tide.relay_lease WHERE pipeline = 'locked' FOR UPDATE")
        .execute(&mut *operator)
        .await
        .expect("locked");
    let held: [(PipelineName, Epoch); 3] = [
        ("locked".into(), locked),
        ("nobodys".into(), locked),
        ("p".into(), free),
    ];
    let done = beat(&fixture.store, "node", &held, LEASE).await;
    let done = done.expect("an answer although the row is locked");
    assert_eq!(
        done.held,
        [Renewal::Locked, Renewal::Lost, Renewal::Renewed]
    );
    operator.rollback().await.expect("unlocked");
    let done = beat(&fixture.store, "node", &held, LEASE).await;
    let done = done.expect("an answer");
    assert_eq!(
        done.held,
        [Renewal::Renewed, Renewal::Lost, Renewal::Renewed]
    );
}

#[tokio::test]
async fn a_beat_tells_whether_the_row_had_expired() {
    let fixture = Fixture::new().await;
    let first = beat(&fixture.store, "node", &[], LEASE)
        .await
        .expect("a beat");
    let second = beat(&fixture.store, "node", &[], LEASE)
        .await
        .expect("a beat");
    assert_eq!(second.runs_since, first.runs_since);
    fixture
        .run("UPDATE tide.relay_node SET expires_at = clock_timestamp() - interval '1 second'")
        .await;
    let third = beat(&fixture.store, "node", &[], LEASE)
        .await
        .expect("a beat");
    assert!(third.runs_since > first.runs_since, "{third:?}");
    // Others see the same.
    let other = beat(&fixture.store, "other", &[], LEASE)
        .await
        .expect("a beat");
    assert_eq!(other.nodes[0].runs_since, third.runs_since);
    assert!(other.runs_since > third.runs_since);
}

/// What a pooler that shares sessions gives: sessions as the database has them.
#[tokio::test]
async fn on_shared_sessions_each_transaction_is_set_up() {
    let name = database::migrated_database().await;
    let mut settings = PoolSettings::new(&database::server().url_as(database::OWNER, &name));
    let direct = connect_lazily(&settings).expect("a pool");
    sqlx::raw_sql(AssertSqlSafe(format!(
        "ALTER ROLE {} IN DATABASE {name} SET default_transaction_isolation = 'repeatable read';
        CREATE TABLE seen (name text, isolation text, idle text, lock text, statement text);
        CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO seen VALUES (TG_TABLE_NAME, current_setting('transaction_isolation'),
                current_setting('idle_in_transaction_session_timeout'), current_setting('lock_timeout'),
                current_setting('statement_timeout'));
            RETURN NULL;
        END $$;
        CREATE TRIGGER see AFTER INSERT ON tide.relay_node EXECUTE FUNCTION see();
        CREATE TRIGGER see AFTER INSERT ON tide.relay_lease EXECUTE FUNCTION see();",
        database::OWNER
    )))
    .execute(&direct)
    .await
    .expect("watched");
    settings.own_sessions = false;
    let pool = connect_lazily(&settings).expect("a pool");
    let store = PgOutboxStore::new(pool.clone())
        .with_shared_sessions()
        .with_statement_timeout(Duration::from_secs(7));
    let fixture = Fixture::on(pool, store).await;
    granted(fixture.claim("node").await);
    beat(&fixture.store, "node", &[], LEASE)
        .await
        .expect("a beat");
    let write = ShareWrite {
        shard: ShardName {
            stream: "s".into(),
            shard: ShardId::from("shardId-000000000000"),
        },
        uses: Share::NOTHING,
        wants: Share::ALL,
        keeps: Share::NOTHING,
    };
    let written = fixture.store.write_shares("node", 1, &[write]).await;
    assert_eq!(written.expect("a grant").granted[0].share, Share::ALL);
    let seen: Vec<(String, String, String, String, String)> =
        sqlx::query_as("SELECT DISTINCT * FROM seen ORDER BY name")
            .fetch_all(&direct)
            .await
            .expect("what was seen");
    let expected = ["relay_lease", "relay_node"]
        .map(|table| [table, "read committed", "2s", "5600ms", "7s"].map(str::to_owned));
    assert_eq!(seen, expected.map(Into::into));
}
