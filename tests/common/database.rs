//! One private server per test binary, a fresh migrated database per test.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::PgPool;
use tidegate::demo::private_postgres::{PrivatePostgres, PrivatePostgresOptions};
use tidegate::postgres::pool::{PoolSettings, connect_lazily};
use tidegate::postgres::schema;

/// Owns the databases: a role without any special right.
pub(crate) const OWNER: &str = "tide_owner";

static SERVER: OnceLock<PrivatePostgres> = OnceLock::new();
static TEMPLATE: tokio::sync::OnceCell<()> = tokio::sync::OnceCell::const_new();
static COUNT: AtomicU32 = AtomicU32::new(0);

/// The server of this test process; its watchdog ends it with the process.
pub(crate) fn server() -> &'static PrivatePostgres {
    SERVER.get_or_init(|| {
        PrivatePostgres::start(PrivatePostgresOptions::default()).expect("a private server")
    })
}

/// Connections to a database, as its owner.
pub(crate) fn pool(database: &str) -> PgPool {
    let mut settings = PoolSettings::new(&server().url_as(OWNER, database));
    settings.max_connections = 20;
    connect_lazily(&settings).expect("a pool")
}

/// The name of a fresh, empty database of [`OWNER`].
pub(crate) async fn empty_database() -> String {
    prepare_template().await;
    let name = fresh_name();
    create_owned(&name, "template0").await;
    name
}

/// The name of a fresh database with schema `tide`.
pub(crate) async fn migrated_database() -> String {
    prepare_template().await;
    let name = fresh_name();
    create_owned(&name, "tide_template").await;
    name
}

/// Connections to a fresh database with schema `tide`.
pub(crate) async fn migrated() -> PgPool {
    pool(&migrated_database().await)
}

fn fresh_name() -> String {
    format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

async fn create_owned(name: &str, template: &str) {
    let statement = format!("CREATE DATABASE {name} OWNER {OWNER} TEMPLATE {template}");
    server().administer(&statement).await.expect("a database");
}

async fn prepare_template() {
    TEMPLATE
        .get_or_init(|| async {
            server()
                .administer(&format!("CREATE ROLE {OWNER} LOGIN"))
                .await
                .expect("a role");
            create_owned("tide_template", "template0").await;
            let pool = pool("tide_template");
            schema::migrate(&pool)
                .await
                .expect("migrations run as a plain role");
            pool.close().await;
        })
        .await;
}
