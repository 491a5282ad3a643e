//! A database whose four roles exist, and sessions of others in it.

use sqlx::PgPool;
use tidegate::postgres::pool::{PoolSettings, connect_lazily};
use tokio::sync::OnceCell;

use crate::database::{self, OWNER};
use crate::statements::value;

static ROLES: OnceCell<()> = OnceCell::const_new();

/// A database with schema `tide` on a server that has the roles.
pub(crate) struct House {
    pub(crate) database: String,
    /// A session of the owner of the schema.
    pub(crate) owner: PgPool,
}

impl House {
    pub(crate) async fn new() -> Self {
        let database = database::migrated_database().await;
        let of_server = ROLES.get_or_init(|| async {
            for name in [
                "tide_publisher",
                "tide_relay",
                "tide_operator",
                "tide_reader",
            ] {
                administer(&format!("CREATE ROLE {name} NOLOGIN")).await;
            }
        });
        of_server.await;
        let owner = database::pool(&database);
        let missing: i64 = value(&owner, "SELECT count(*) FROM tide.grant_roles()").await;
        assert_eq!(missing, 0);
        Self { database, owner }
    }

    /// A new role that may log in, named after this database, member of a role or
    /// of none.
    pub(crate) async fn login(&self, name: &str, member_of: &str) -> String {
        let login = format!("{name}_{}", self.database);
        administer(&format!("CREATE ROLE {login} LOGIN")).await;
        if !member_of.is_empty() {
            administer(&format!("GRANT {member_of} TO {login}")).await;
        }
        login
    }

    /// Sessions of a role.
    pub(crate) fn sessions(&self, login: &str) -> PgPool {
        let mut settings = PoolSettings::new(&self.url(login));
        settings.max_connections = 3;
        connect_lazily(&settings).expect("a pool")
    }

    /// A role that may log in, and its sessions.
    pub(crate) async fn user(&self, name: &str, member_of: &str) -> (String, PgPool) {
        let login = self.login(name, member_of).await;
        let sessions = self.sessions(&login);
        (login, sessions)
    }

    pub(crate) fn url(&self, login: &str) -> String {
        database::server().url_as(login, &self.database)
    }
}

/// As the superuser.
pub(crate) async fn administer(statement: &str) {
    // The first database of the process makes the owner.
    let done = database::server().administer(statement).await;
    done.unwrap_or_else(|error| panic!("{statement}\n{error}"));
}

/// The schema's owner, as SQL names it.
pub(crate) const SCHEMA_OWNER: &str = OWNER;

/// Waits until a query's one number is 1.
pub(crate) async fn wait_for(world: &crate::world::World, what: &str, sql: &str) {
    let deadline = tokio::time::Instant::now() + crate::scenario::PATIENCE;
    while world.number(sql).await != 1 {
        assert!(
            tokio::time::Instant::now() < deadline,
            "not in time: {what}"
        );
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}
