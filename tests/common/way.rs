//! How relays reach the databases of the private server: directly, or through a pooler.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use crate::database;
use crate::pgbouncer::PgBouncer;
use crate::relay::Relay;
use crate::world::World;

/// What stands between relays and the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Direct,
    /// PgBouncer in transaction mode.
    Pooled,
}

/// What PgBouncer is told to let pass, as `docs/postgresql.md` says; and connections
/// enough for all nodes: one that is frozen keeps those of its transactions.
const PARAMETERS: &str = "ignore_startup_parameters = extra_float_digits\ndefault_pool_size = 30";

/// The way of some relays, and what lies on it. It ends when it is dropped.
pub(crate) struct Road {
    role: String,
    bouncer: Option<PgBouncer>,
    folder: tempfile::TempDir,
}

impl Road {
    /// For relays that are the owner of their databases.
    pub(crate) async fn new(way: Way) -> Self {
        Self::of_role(way, database::OWNER).await
    }

    /// For relays that are this role.
    pub(crate) async fn of_role(way: Way, role: &str) -> Self {
        let bouncer = match way {
            Way::Direct => None,
            Way::Pooled => {
                let port = database::server().port();
                Some(PgBouncer::start(port, role, "transaction", PARAMETERS).await)
            }
        };
        Self {
            role: role.to_owned(),
            bouncer,
            folder: tempfile::tempdir().expect("a folder"),
        }
    }

    /// The port of this machine that relays connect to.
    pub(crate) fn port(&self) -> u16 {
        let server = || database::server().port();
        self.bouncer.as_ref().map_or_else(server, PgBouncer::port)
    }

    /// Where relays find a database.
    pub(crate) fn url(&self, database: &str) -> String {
        match &self.bouncer {
            None => database::server().url_as(&self.role, database),
            Some(bouncer) => bouncer.url(database),
        }
    }

    /// A database in their file, found at this URL.
    pub(crate) fn section(&self, name: &str, url: &str) -> String {
        let prepares = self.bouncer.is_none();
        format!(
            "[[databases]]\nname = \"{name}\"\nurl = \"{url}\"\nprepared_statements = {prepares}\n"
        )
    }

    /// The world's database in a configuration, as JSON has it.
    pub(crate) fn database(&self, world: &World) -> serde_json::Value {
        serde_json::json!({
            "name": "default",
            "url": self.url(name_in(&world.url)),
            "prepared_statements": self.bouncer.is_none(),
        })
    }

    /// The path of a new file of this text.
    pub(crate) fn file(&self, text: &str) -> String {
        let name = format!("{:016x}", fastrand::u64(..));
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    }

    /// Starts a relay with usual settings and more on top, which reaches the world's
    /// database this way.
    pub(crate) async fn relay(&self, world: &World, more: &[(&str, &str)]) -> Relay {
        let url = self.url(name_in(&world.url));
        self.relay_at(&url, world, more).await
    }

    /// The same by this URL of the world's database.
    pub(crate) async fn relay_at(&self, url: &str, world: &World, more: &[(&str, &str)]) -> Relay {
        let file = self.file(&self.section("default", url));
        let mut settings = world.settings(more);
        settings.retain(|(name, _)| name != "DATABASE_URL");
        settings.push(("TIDEGATE_CONFIG".to_owned(), file));
        world.keeps_book_of(Relay::start(&settings).await)
    }
}

/// The database that a URL of the private server names.
pub(crate) fn name_in(url: &str) -> &str {
    url.rsplit('/').next().expect("a name")
}
