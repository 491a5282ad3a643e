//! A failover to a replica whose position is behind: rows again, none lost, and
//! the change is logged. A replica that is not promoted yet is not read.

use serde_json::json;
use tidegate::demo::emulator::EmulatorOptions;
use tidegate::demo::load::OutboxLoad;
use tidegate::demo::private_postgres::{PrivatePostgres, PrivatePostgresOptions};

use crate::proxy::Proxy;
use crate::relay::program;
use crate::scenario::{PATIENCE, scenario, until};
use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_to_a_replica_loses_nothing_and_is_logged() {
    scenario(2 * PATIENCE, async {
        let mut primary =
            PrivatePostgres::start(PrivatePostgresOptions::default()).expect("a server");
        primary.create_database("app").await.expect("a database");
        let replica = primary
            .start_replica(PrivatePostgresOptions::default())
            .expect("a replica");
        // What publishers are told is committed is on the replica; what the relay
        // writes without waiting may not be.
        primary
            .administer("ALTER SYSTEM SET synchronous_standby_names = '*'")
            .await
            .expect("done");
        primary
            .administer("SELECT pg_reload_conf()")
            .await
            .expect("done");
        let (for_relay, for_load) = (Proxy::start(primary.port()), Proxy::start(primary.port()));
        let world = World::at(
            for_load.url("postgres", "app"),
            2,
            EmulatorOptions::default(),
        )
        .await;
        let migrated = program(&world.settings(&[])).arg("migrate").output();
        assert!(migrated.expect("a migration").status.success());
        world.pipeline("events", json!({})).await;
        let url = for_relay.url("postgres", "app");
        let relay = world.relay_with(&[("DATABASE_URL", &url)]).await;
        let load = OutboxLoad {
            workers: 4,
            rows_per_second: Some(150.0),
            ..OutboxLoad::new("events")
        };
        let load = world.load(vec![load], 52).await;
        world.wait_until_received(200).await;
        let server = &relay.status()["databases"][0]["server"];
        assert_eq!(server["timeline"], 1, "{server}");
        let cluster = server["system_identifier"].clone();

        primary.kill().expect("killed");
        for_relay.lead_to(replica.port());
        until("the standby is named", PATIENCE, || {
            let status = relay.status();
            status["databases"][0]["up"] == false
                && status["databases"][0]["problem"]
                    .to_string()
                    .contains("standby")
        })
        .await;
        assert_eq!(relay.get("/livez").expect("an answer").0, 200);
        replica.promote().expect("promoted");
        replica
            .administer("ALTER SYSTEM RESET synchronous_standby_names")
            .await
            .expect("done");
        replica
            .administer("SELECT pg_reload_conf()")
            .await
            .expect("done");
        for_load.lead_to(replica.port());

        let published = load.published();
        load.wait_until_published(published + 200, PATIENCE)
            .await
            .expect("rows");
        relay.wait_for_state("events", "running").await;
        until("the change is logged", PATIENCE, || {
            relay.log_lines(&["WARN", "timeline of the server has changed"]) == 1
        })
        .await;
        let server = &relay.status()["databases"][0]["server"];
        assert_eq!(server["timeline"], 2, "{server}");
        assert_eq!(server["system_identifier"], cluster);
        let report = load.stop().await.expect("the books");
        world.judge_after_a_crash(&report.rows()).await;
        assert_eq!(relay.terminate().await, 0);
    })
    .await;
}
