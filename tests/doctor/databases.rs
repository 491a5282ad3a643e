//! Schemas, indexes, autovacuum, definitions, and databases that are not there.

use std::time::Duration;

use serde_json::json;

use crate::database;
use crate::scenario::scenario;
use crate::world::World;
use crate::{doctor, examine};

#[tokio::test(flavor = "multi_thread")]
async fn an_old_schema_is_to_be_migrated() {
    scenario(Duration::from_secs(120), async {
        let world = World::new(1).await;
        world.pipeline("events", json!({})).await;
        world
            .sql("DELETE FROM tide.migration WHERE version = (SELECT max(m.version) FROM tide.migration AS m)")
            .await;
        let said = examine(&world).await;
        said.has(("database", "schema"), "fail", "this program needs", "tidegate migrate");
        said.is_good_but(&[("database", "schema")]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_database_is_to_be_migrated() {
    scenario(Duration::from_secs(120), async {
        let name = database::empty_database().await;
        let url = database::server().url_as(database::OWNER, &name);
        let settings = [("DATABASE_URL".to_owned(), url)];
        let said = doctor(&settings, &[]).await;
        said.has(
            ("database", "schema"),
            "fail",
            "not installed",
            "tidegate migrate",
        );
        said.has(
            ("pipelines", "definition"),
            "warn",
            "no pipeline",
            "relay_set_outbox",
        );
        said.is_good_but(&[("database", "schema"), ("pipelines", "definition")]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_is_invalid_or_missing_is_made_anew_by_the_fix() {
    scenario(Duration::from_secs(120), async {
        let world = World::new(1).await;
        world.pipeline("events", json!({})).await;
        let place = ("database", "indexes");
        let name = world.url.rsplit('/').next().expect("a name").to_owned();
        let as_superuser = database::server().url(&name);
        let superuser = sqlx::PgPool::connect_lazy(&as_superuser).expect("a URL");
        sqlx::raw_sql(
            "UPDATE pg_index SET indisvalid = false
            WHERE indexrelid = 'tide.outbox_message_by_transaction'::regclass",
        )
        .execute(&superuser)
        .await
        .expect("as a superuser");
        let said = examine(&world).await;
        said.has(
            place,
            "fail",
            "outbox_message_by_transaction is invalid",
            "REINDEX INDEX CONCURRENTLY",
        );
        said.is_good_but(&[place]);
        world.sql(&said.fix(place.0, place.1)).await;
        examine(&world).await.is_good_but(&[]);

        world
            .sql("DROP INDEX tide.outbox_message_by_transaction")
            .await;
        let said = examine(&world).await;
        said.has(place, "fail", "is missing", "CREATE INDEX CONCURRENTLY");
        world.sql(&said.fix(place.0, place.1)).await;
        examine(&world).await.is_good_but(&[]);
        superuser.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn autovacuum_that_is_off_is_switched_on_by_the_fix() {
    scenario(Duration::from_secs(120), async {
        let world = World::new(1).await;
        world.pipeline("events", json!({})).await;
        world
            .sql("ALTER TABLE tide.outbox_message SET (autovacuum_enabled = false)")
            .await;
        let place = ("database", "autovacuum");
        let said = examine(&world).await;
        said.has(place, "warn", "off for tide.outbox_message", "RESET");
        said.is_good_but(&[place]);
        world.sql(&said.fix(place.0, place.1)).await;
        examine(&world).await.is_good_but(&[]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_or_an_outbox_that_is_wrong_is_named() {
    scenario(Duration::from_secs(120), async {
        let world = World::new(1).await;
        world.pipeline("good", json!({})).await;
        world.outbox("gone").await;
        world.set_pipeline("lost", "gone", json!({})).await;
        // What no function of ours lets in, but an older release might have.
        world
            .sql("UPDATE tide.relay_pipeline SET config = config || '{\"batch_size\": 501}' WHERE name = 'good'")
            .await;
        world
            .sql("UPDATE tide.outbox SET name = 'moved' WHERE name = 'gone'")
            .await;
        let said = examine(&world).await;
        let lines = said.checks();
        let invalid = lines.iter().find(|line| {
            line["check"] == "definition" && line["level"] == "fail"
        });
        let invalid = invalid.expect("a line").to_string();
        assert!(invalid.contains("pipeline default/good does not run: batch_size"), "{said}");
        said.has(("stream", "outbox"), "fail", "\"gone\", which is not there", "tide.outbox_create('gone')");
        assert_eq!(said.code, 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_down_stops_no_other_check() {
    scenario(Duration::from_secs(120), async {
        let world = World::new(1).await;
        world.pipeline("events", json!({})).await;
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("tidegate.toml");
        let text = format!(
            "[[databases]]\nname = \"up\"\nurl = \"{}\"\n[[databases]]\nname = \"down\"\n\
             url = \"postgres://me:sesame@127.0.0.1:1/app\"\n",
            world.url
        );
        std::fs::write(&file, text).expect("a file");
        let mut settings = world.settings(&[]);
        settings.retain(|(name, _)| name != "DATABASE_URL");
        let config = ["--config", file.to_str().expect("text")];
        let said = doctor(&settings, &config).await;
        assert_eq!(said.code, 1, "{said}");
        let of = |name: &str| {
            let lines = said
                .checks()
                .into_iter()
                .filter(|line| line["name"] == name);
            lines.cloned().collect::<Vec<_>>()
        };
        let [down] = of("down").try_into().expect("one line");
        assert_eq!(
            (&down["check"], &down["level"]),
            (&json!("connection"), &json!("fail"))
        );
        assert!(
            down["message"].as_str().expect("text").contains("refused"),
            "{down}"
        );
        assert!(of("up").len() > 10, "{said}");
        assert!(of("up").iter().all(|line| line["level"] == "ok"), "{said}");
        said.has(("stream", "put_records"), "ok", "", "");
        assert!(
            !said.to_string().contains("sesame"),
            "it shows the password"
        );

        let only = [&config[..], &["--database", "up"]].concat();
        doctor(&settings, &only).await.is_good_but(&[]);
    })
    .await;
}
