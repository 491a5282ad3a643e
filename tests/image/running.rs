//! What Compose would start, as processes: the same commands, SQL and environment on a
//! real database and an emulator, with their addresses in the place of the services'.

use std::process::Stdio;

use tidegate::demo::emulator::{Emulator, EmulatorOptions};

use super::health::free_port;
use super::*;
use crate::process::Process;
use crate::relay::program;
use crate::scenario::{PATIENCE, scenario, until};

/// The environment of one of our services, here.
fn environment(name: &str, url: &str, emulator: &Emulator, port: u16) -> Vec<(String, String)> {
    let mut all = compose::environment_of_ours(name);
    for (name, value) in &mut all {
        match name.as_str() {
            "DATABASE_URL" => url.clone_into(value),
            "TIDEGATE__KINESIS__ENDPOINT_URL" => *value = emulator.endpoint_url(),
            "TIDEGATE__ADMIN__LISTEN" => *value = value.replace("9464", &port.to_string()),
            _ => {}
        }
    }
    all
}

/// A file of psql's: comments are PostgreSQL's business, lines of psql's are left out.
fn statements(file: &str) -> String {
    let file = text(file);
    let is_sql = |line: &&str| !line.starts_with('\\');
    file.lines().filter(is_sql).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn the_example_relays_what_its_publisher_publishes() {
    scenario(PATIENCE, async {
        let name = database::empty_database().await;
        let pool = database::pool(&name);
        let url = database::server().url_as(database::OWNER, &name);
        let emulator = Emulator::start(&EmulatorOptions::default()).expect("an emulator");
        emulator
            .create_stream("pg-tide-events", 2)
            .await
            .expect("a stream");
        let port = free_port();

        let migrate = environment("migrate", &url, &emulator, port);
        // Compose runs jobs again at every `up`.
        for version in ["installed", "already"] {
            let migrated = tidegate(&["migrate"], &migrate);
            assert_eq!(migrated.code, 0, "{migrated:?}");
            assert!(migrated.out.contains(version), "{migrated:?}");
            let setup = statements("deploy/compose/setup.sql");
            sqlx::raw_sql(sqlx::AssertSqlSafe(setup))
                .execute(&pool)
                .await
                .expect("set up");
        }

        let settings = environment("tidegate", &url, &emulator, port);
        let folder = tempfile::tempdir().expect("a folder");
        let mut command = program(&settings);
        command.arg("run").current_dir(folder.path());
        let mut relay = Process::start(command.stdout(Stdio::null()).stderr(Stdio::null()));
        let (check, _) = dockerfile::health_check();
        let check: Vec<&str> = check.iter().skip(1).map(String::as_str).collect();
        until("it is healthy", PATIENCE, || {
            tidegate(&check, &settings).code == 0
        })
        .await;
        let publish = statements("deploy/compose/publish.sql");
        for _ in 0..20 {
            let publish = sqlx::AssertSqlSafe(publish.clone());
            sqlx::raw_sql(publish)
                .execute(&pool)
                .await
                .expect("published");
        }
        until("twenty rows are delivered", PATIENCE, || {
            emulator.tally().total("pg-tide-events").accepted_records == 20
        })
        .await;
        relay.signal("TERM");
        let mut ended = None;
        until("it has drained", PATIENCE, || {
            ended = relay.exit_code();
            ended.is_some()
        })
        .await;
        assert_eq!(ended, Some(0));
        let left = std::fs::read_dir(folder.path()).expect("a folder").count();
        assert_eq!(left, 0, "it wrote where it was started");
    })
    .await;
}
