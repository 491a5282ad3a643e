//! PostgreSQL is killed ten times under load: the whole server, and backends of
//! it, which the server survives by recovering.

use std::process::Command;

use serde_json::json;
use tidegate::demo::emulator::EmulatorOptions;
use tidegate::demo::load::{KeyOrder, OutboxLoad};
use tidegate::demo::private_postgres::{PrivatePostgres, PrivatePostgresOptions};

use crate::relay::program;
use crate::scenario::{PATIENCE, scenario};
use crate::world::World;

const KILLS: u64 = 10;

#[tokio::test(flavor = "multi_thread")]
async fn ten_kills_of_the_database_lose_nothing() {
    scenario(3 * PATIENCE, async {
        let mut server =
            PrivatePostgres::start(PrivatePostgresOptions::default()).expect("a server");
        let url = server.create_database("app").await.expect("a database");
        let world = World::at(url, 2, EmulatorOptions::default()).await;
        let migrated = program(&world.settings(&[])).arg("migrate").output();
        assert!(migrated.expect("a migration").status.success());
        world.pipeline("events", json!({})).await;
        world.pipeline("racing", json!({})).await;
        let relay = world.relay().await;
        let loads = [("events", KeyOrder::Locked), ("racing", KeyOrder::Unlocked)];
        let loads = loads.map(|(outbox, key_order)| OutboxLoad {
            workers: 3,
            keys: 4,
            rows_per_second: Some(120.0),
            key_order,
            ..OutboxLoad::new(outbox)
        });
        let load = world.load(loads.to_vec(), 53).await;
        for kill in 0..KILLS {
            let received = world.consumer.received();
            world.wait_until_received(received + 60).await;
            if kill % 2 == 0 {
                server.kill().expect("killed");
                server.restart().expect("a server again");
            } else {
                kill_a_backend(&world).await;
            }
        }
        let published = load.published();
        load.wait_until_published(published + 100, PATIENCE)
            .await
            .expect("rows");
        let report = load.stop().await.expect("the books");
        assert!(report.counts.reconnects > 0, "{:?}", report.counts);
        world.judge_after_a_crash(&report.rows()).await;
        for pipeline in ["events", "racing"] {
            relay.wait_for_state(pipeline, "running").await;
        }
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}

/// SIGKILL to a backend of the relay's: the postmaster ends all others and
/// recovers.
async fn kill_a_backend(world: &World) {
    let find = "SELECT pid FROM pg_stat_activity WHERE application_name = 'tidegate' LIMIT 1";
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let pid: Result<Option<i32>, _> =
            sqlx::query_scalar(find).fetch_optional(&world.pool).await;
        if let Ok(Some(pid)) = pid {
            let killed = Command::new("kill").args(["-9", &pid.to_string()]).status();
            assert!(killed.expect("kill").success());
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{pid:?}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}
