//! Behind PgBouncer.

use std::time::Duration;

use serde_json::json;

use crate::pgbouncer::PgBouncer;
use crate::scenario::scenario;
use crate::world::World;
use crate::{Said, database, doctor};

const POOLER: (&str, &str) = ("database", "pooler");
const CONNECTION: (&str, &str) = ("database", "connection");

/// What is said of a database behind a PgBouncer with this mode and more settings.
async fn behind(pool_mode: &str, more: &str, prepares: bool) -> Said {
    let world = World::new(1).await;
    world.pipeline("events", json!({})).await;
    let port = database::server().port();
    let pooler = PgBouncer::start(port, database::OWNER, pool_mode, more).await;
    let name = world.url.rsplit('/').next().expect("a name");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("tidegate.toml");
    let text = format!(
        "[[databases]]\nname = \"default\"\nurl = \"{}\"\nprepared_statements = {prepares}\n",
        pooler.url(name)
    );
    std::fs::write(&file, text).expect("a file");
    let mut settings = world.settings(&[]);
    settings.retain(|(name, _)| name != "DATABASE_URL");
    doctor(&settings, &["--config", file.to_str().expect("text")]).await
}

/// What every relay needs of a PgBouncer before 1.20.
const TAKES_OURS: &str = "ignore_startup_parameters = extra_float_digits";

/// The same, and it drops what sessions are set up with.
const HIDES: &str = "ignore_startup_parameters = extra_float_digits,options";

#[tokio::test(flavor = "multi_thread")]
async fn transaction_mode_needs_its_setting() {
    scenario(Duration::from_secs(180), async {
        let said = behind("transaction", TAKES_OURS, true).await;
        let fix = "prepared_statements = false";
        said.has(CONNECTION, "fail", "a pooler does not take", fix);
        said.has(POOLER, "fail", "transaction mode", fix);
        said.is_good_but(&[CONNECTION, POOLER]);

        let said = behind("transaction", TAKES_OURS, false).await;
        said.has(POOLER, "ok", "transaction mode", "");
        said.is_good_but(&[]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_hides_what_it_does_is_found_out() {
    scenario(Duration::from_secs(180), async {
        let said = behind("transaction", HIDES, true).await;
        said.has(CONNECTION, "ok", "", "");
        said.has(
            POOLER,
            "fail",
            "transaction mode",
            "prepared_statements = false",
        );
        said.is_good_but(&[POOLER]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn session_mode_keeps_sessions() {
    scenario(Duration::from_secs(180), async {
        let said = behind("session", HIDES, true).await;
        said.has(POOLER, "ok", "keep their session", "");
        said.is_good_but(&[]);
    })
    .await;
}

/// PgBouncer 1.20 and later take the parameter by themselves.
#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_refuses_every_session_is_told_what_to_take() {
    scenario(Duration::from_secs(180), async {
        let said = behind("transaction", "", false).await;
        if said.line("database", "connection")["level"] == "ok" {
            said.is_good_but(&[]);
            return;
        }
        said.has(CONNECTION, "fail", "a pooler does not take", TAKES_OURS);
        assert_eq!(said.code, 1);
    })
    .await;
}
