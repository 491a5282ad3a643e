//! How the roles come to be: on servers of their own, since roles are of the server.

use std::borrow::Cow;

use serde_json::Value;
use sqlx::{Executor, PgPool};
use tidegate::demo::private_postgres::{PrivatePostgres, PrivatePostgresOptions};
use tidegate::postgres::pool::{PoolSettings, connect_lazily};
use tidegate::postgres::schema;

use crate::relay::program;
use crate::statements::{assert_refused, run, value};

const NAMES: [&str; 4] = [
    "tide_publisher",
    "tide_relay",
    "tide_operator",
    "tide_reader",
];

fn server() -> PrivatePostgres {
    PrivatePostgres::start(PrivatePostgresOptions::default()).expect("a private server")
}

fn sessions(server: &PrivatePostgres, user: &str, database: &str) -> PgPool {
    connect_lazily(&PoolSettings::new(&server.url_as(user, database))).expect("a pool")
}

async fn administer(server: &PrivatePostgres, statements: &[&str]) {
    for statement in statements {
        let done = server.administer(statement).await;
        done.unwrap_or_else(|error| panic!("{statement}\n{error}"));
    }
}

async fn roles(pool: &PgPool) -> Vec<String> {
    let sql = "SELECT ARRAY(SELECT rolname::text FROM pg_roles WHERE rolname LIKE 'tide\\_%' AND NOT rolcanlogin ORDER BY 1)";
    value(pool, sql).await
}

fn sorted() -> Vec<&'static str> {
    let mut names = NAMES.to_vec();
    names.sort_unstable();
    names
}

/// A role with CREATEROLE makes them; two databases that are migrated at the same
/// moment both end well.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_may_create_roles_creates_them_also_from_two_databases_at_once() {
    let server = server();
    administer(
        &server,
        &[
            "CREATE ROLE deployer LOGIN CREATEROLE",
            "CREATE DATABASE a OWNER deployer",
            "CREATE DATABASE b OWNER deployer",
        ],
    )
    .await;
    let (a, b) = (
        sessions(&server, "deployer", "a"),
        sessions(&server, "deployer", "b"),
    );
    let (of_a, of_b) = tokio::join!(schema::migrate(&a), schema::migrate(&b));
    for migrated in [of_a, of_b] {
        let migrated = migrated.expect("migrated");
        assert!(migrated.roles_to_create.is_empty(), "{migrated:?}");
    }
    assert_eq!(roles(&a).await, sorted());
    for pool in [&a, &b] {
        let granted: bool = value(pool, "SELECT has_schema_privilege('tide_reader', 'tide', 'USAGE')
            AND has_function_privilege('tide_operator', 'tide.relay_resume(text, text)', 'EXECUTE')").await;
        assert!(granted);
    }
    // Who made the roles may give membership in them (16 and later: by ADMIN).
    administer(&server, &["CREATE ROLE tenant LOGIN"]).await;
    run(
        &a,
        "SELECT tide.outbox_create('o'), tide.outbox_grant_publish('o', 'tenant')",
    )
    .await;
    let member: bool = value(
        &a,
        "SELECT pg_has_role('tenant', 'tide_publisher', 'MEMBER')",
    )
    .await;
    assert!(member);
    value::<i64>(
        &sessions(&server, "tenant", "a"),
        "SELECT tide.outbox_publish('o', '1')",
    )
    .await;
}

/// Otherwise everything works without, and the program says what to run.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_may_not_is_told_what_to_have_run_and_goes_on() {
    let server = server();
    administer(
        &server,
        &[
            "CREATE ROLE plain LOGIN",
            "CREATE DATABASE a OWNER plain",
            "CREATE ROLE tenant LOGIN",
        ],
    )
    .await;
    let url = server.url_as("plain", "a");
    let migrate = |more: &[&str]| {
        let mut command = program(&[("DATABASE_URL".to_owned(), url.clone())]);
        let output = command.arg("migrate").args(more).output().expect("it runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    let said = migrate(&[]);
    for name in NAMES {
        assert!(
            said.contains(&format!("CREATE ROLE {name} NOLOGIN;")),
            "{said}"
        );
    }
    assert!(
        said.contains("tidegate migrate` again") && said.contains("SELECT tide.grant_roles()"),
        "{said}"
    );
    let plain = sessions(&server, "plain", "a");
    run(
        &plain,
        "SELECT tide.outbox_create('o'), tide.outbox_publish('o', '1')",
    )
    .await;
    run(&plain, "SELECT tide.outbox_grant_publish('o', 'tenant')").await;
    let tenant = sessions(&server, "tenant", "a");
    value::<i64>(&tenant, "SELECT tide.outbox_publish('o', '1')").await;

    let said: Value = serde_json::from_str(&migrate(&["--output", "json"])).expect("JSON");
    let asked = said["roles_to_create"].as_array().expect("a list");
    assert_eq!(asked.len(), 4, "{said}");
    for statement in asked {
        administer(&server, &[statement.as_str().expect("a statement")]).await;
    }
    assert!(!migrate(&[]).contains("CREATE ROLE"));
    let left: i64 = value(&plain, "SELECT count(*) FROM tide.grant_roles()").await;
    assert_eq!(left, 0);
    administer(&server, &["CREATE ROLE looker LOGIN IN ROLE tide_reader"]).await;
    run(
        &sessions(&server, "looker", "a"),
        "SELECT * FROM tide.outbox_lag",
    )
    .await;
    value::<i64>(&tenant, "SELECT tide.outbox_publish('o', '1')").await;
}

/// A database as the release before the roles left it, with rights that were granted
/// by hand.
#[tokio::test(flavor = "multi_thread")]
async fn rights_that_were_granted_by_hand_go_on_without_growing() {
    let server = server();
    administer(
        &server,
        &[
            "CREATE ROLE plain LOGIN",
            "CREATE DATABASE a OWNER plain",
            "CREATE ROLE app LOGIN",
            "CREATE ROLE by_hand LOGIN",
            "CREATE ROLE monitor LOGIN",
            "CREATE ROLE stranger LOGIN",
            "CREATE ROLE owners_friend LOGIN IN ROLE plain",
        ],
    )
    .await;
    let plain = sessions(&server, "plain", "a");
    let mut before = sqlx::migrate!("./migrations");
    before.migrations = Cow::Owned(
        before
            .iter()
            .filter(|one| one.version < 12)
            .cloned()
            .collect(),
    );
    before.dangerous_set_table_name("tide.migration");
    before.set_locking(false);
    plain.execute("CREATE SCHEMA tide").await.expect("a schema");
    before.run(&plain).await.expect("migrated");
    run(
        &plain,
        "SELECT tide.outbox_create('o');
        GRANT USAGE ON SCHEMA tide TO app, by_hand, monitor;
        GRANT SELECT ON tide.outbox TO app; GRANT SELECT, INSERT ON tide.outbox_message TO app;
        GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA tide TO by_hand;
        GRANT SELECT ON ALL TABLES IN SCHEMA tide TO monitor",
    )
    .await;
    let publish = "SELECT tide.outbox_publish('o', '1')";
    let app = sessions(&server, "app", "a");
    value::<i64>(&app, publish).await;

    schema::migrate(&plain).await.expect("migrated");
    schema::migrate(&plain).await.expect("and again");
    // The owner and whoever inherits from it notice nothing.
    for user in ["plain", "owners_friend"] {
        let sessions = sessions(&server, user, "a");
        value::<i64>(&sessions, publish).await;
        run(
            &sessions,
            "SELECT tide.relay_pause('tenant', 'acme'), tide.relay_resume('tenant', 'acme')",
        )
        .await;
    }
    value::<i64>(&app, publish).await;
    value::<Vec<i64>>(&app, "SELECT tide.outbox_publish_many('o', '{1,2}')").await;
    let by_hand = sessions(&server, "by_hand", "a");
    for relays in [
        publish,
        "SELECT * FROM tide.relay_this_database()",
        "SELECT tide.relay_is_here(NULL)",
        "SELECT * FROM tide.outbox_unseen(1, '1:1:', 1)",
        "SELECT tide.outbox_oldest_kept(1)",
    ] {
        run(&by_hand, relays).await;
    }
    let monitor = sessions(&server, "monitor", "a");
    run(&monitor, "SELECT tide.outbox_status('o'); SELECT * FROM tide.outbox_lag; SELECT * FROM tide.relay_status").await;

    // What runs with the owner's rights from now on is for whoever is granted it.
    let definers: Vec<String> = value(
        &plain,
        "SELECT ARRAY(SELECT u.name || ' ' || p.oid::regprocedure FROM pg_proc AS p
        CROSS JOIN unnest(ARRAY['app', 'by_hand', 'monitor', 'stranger']) AS u (name)
        WHERE p.pronamespace = 'tide'::regnamespace AND p.prosecdef AND has_function_privilege(u.name, p.oid, 'EXECUTE'))",
    )
    .await;
    assert!(definers.is_empty(), "{definers:?}");
    assert_refused(
        &by_hand,
        "SELECT tide.relay_pause('tenant', 'acme')",
        "42501",
        &["permission denied for function"],
    )
    .await;
    assert_refused(
        &sessions(&server, "stranger", "a"),
        publish,
        "42501",
        &["permission denied for schema"],
    )
    .await;
}
