//! Transactions that stay open.

use std::time::Duration;

use serde_json::json;
use sqlx::{Connection, PgConnection};

use crate::scenario::scenario;
use crate::world::World;
use crate::{Said, database, doctor};

const PLACE: (&str, &str) = ("database", "transactions");

async fn examine(world: &World) -> Said {
    doctor(&world.settings(&[]), &["--long-transaction", "1ms"]).await
}

/// A session of another role that has written and stays open, and its process.
async fn left_open(url: &str) -> (PgConnection, i32) {
    let mut session = PgConnection::connect(url).await.expect("connected");
    sqlx::raw_sql("BEGIN; SELECT pg_current_xact_id()")
        .execute(&mut session)
        .await
        .expect("begun");
    let pid = sqlx::query_scalar("SELECT pg_backend_pid()")
        .fetch_one(&mut session)
        .await
        .expect("a process");
    (session, pid)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_transaction_is_named_and_ended_by_the_fix() {
    scenario(Duration::from_secs(120), async {
        // A server of its own: transactions of other tests are not meant.
        let server = tidegate::demo::private_postgres::PrivatePostgres::start(Default::default());
        let server = server.expect("a server");
        let url = server.create_database("app").await.expect("a database");
        let world = World::at(url.clone(), 1, Default::default()).await;
        tidegate::postgres::schema::migrate(&world.pool)
            .await
            .expect("migrated");
        world.pipeline("events", json!({})).await;
        examine(&world).await.is_good_but(&[]);

        let (session, pid) = left_open(&url).await;
        let said = examine(&world).await;
        said.has(
            PLACE,
            "warn",
            "idle in transaction",
            &format!("pg_terminate_backend({pid})"),
        );
        said.is_good_but(&[PLACE]);
        assert_eq!(said.code, 0, "a warning alone fails nothing");
        // A young one is no matter.
        doctor(&world.settings(&[]), &[]).await.is_good_but(&[]);
        let fix = said.fix(PLACE.0, PLACE.1);
        let statement = fix
            .split_once(": ")
            .and_then(|(_, rest)| rest.split_once(';'));
        world.sql(statement.expect("a statement").0).await;
        drop(session);
        crate::scenario::until("it has ended", crate::scenario::PATIENCE, || {
            let runtime = tokio::runtime::Handle::current();
            let open = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in%'";
            tokio::task::block_in_place(|| runtime.block_on(world.number(open))) == 0
        })
        .await;
        examine(&world).await.is_good_but(&[]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_without_rights_to_see_learns_a_bound() {
    scenario(Duration::from_secs(120), async {
        let world = World::new(1).await;
        world.pipeline("events", json!({})).await;
        let name = world.url.rsplit('/').next().expect("a name").to_owned();
        let (_session, _) = left_open(&database::server().url(&name)).await;
        // Its transaction id is above the open one's.
        world.publish("events", "k", json!({})).await;
        let said = examine(&world).await;
        said.has(PLACE, "warn", "at least ", "pg_terminate_backend(");
        said.has(PLACE, "warn", "GRANT pg_read_all_stats", "");
    })
    .await;
}
