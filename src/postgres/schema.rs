//! Installing schema `tide`, and telling whether it is there.
//!
//! Rules:
//! - one transaction under one lock: two that migrate at once do so one after
//!   the other, and a failure leaves nothing behind;
//! - the record of applied migrations is the table `tide.migration`, inside the
//!   schema, so that dropping the schema removes every trace;
//! - somebody else's schema of that name is never touched.

use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::{Executor, PgConnection, PgPool};

use super::pool as connections;
use super::roles;
use crate::core::ports::StoreError;

/// The oldest server with transaction ids that do not wrap (`xid8`).
const OLDEST_SERVER: i32 = 130_000;

/// The table of applied migrations.
const MIGRATIONS_TABLE: &str = "tide.migration";

/// How long [`current_version`] and [`check`] may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A migration waits for a lock that somebody else has for a second. Publishers wait
/// behind it for as long.
const WAIT_BRIEFLY: &str = "SET LOCAL lock_timeout = '1s'";

/// How often a migration that did not get its locks is tried again, and how long is waited
/// before that: a minute and a half in all.
const LOCK_ATTEMPTS: u32 = 30;
const LOCK_PAUSE: Duration = Duration::from_secs(2);

/// `lock_not_available`.
const LOCKED: &str = "55P03";

/// Held by whoever migrates: the ASCII codes of "tidegate" as a big-endian
/// number.
const MIGRATION_LOCK: i64 = i64::from_be_bytes(*b"tidegate");

/// Why the schema could not be installed, or cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// The server is too old.
    #[error("the server is PostgreSQL {version}, tidegate needs 13 or later")]
    OldServer {
        /// What it says of itself.
        version: String,
    },
    /// Schema `tide` belongs to an extension.
    #[error(
        "schema tide belongs to the extension {extension}: tidegate cannot share it; use another database, or first DROP EXTENSION {extension} CASCADE (which drops its data) if it is not used any more"
    )]
    Extension {
        /// The extension.
        extension: String,
    },
    /// Schema `tide` has tables that tidegate has not made.
    #[error(
        "schema tide exists and has tables that tidegate has not made, such as tide.{table}: rename that schema or use another database"
    )]
    Foreign {
        /// One of them.
        table: String,
    },
    /// There is no schema.
    #[error("schema tide is not installed: run `tidegate migrate`")]
    Missing,
    /// The schema is older than this program.
    #[error(
        "schema tide has version {installed}, this program needs {needed}: run `tidegate migrate`"
    )]
    Old {
        /// Its version.
        installed: i64,
        /// The version this program brings.
        needed: i64,
    },
    /// The schema has been migrated by a newer program.
    #[error(
        "schema tide has version {installed}, this program knows only up to {known}: use the newer program"
    )]
    Newer {
        /// Its version.
        installed: i64,
        /// The version this program brings.
        known: i64,
    },
    /// Others had what is to be changed locked, however often it was tried.
    #[error(
        "migration failed, nothing was changed: a transaction that is open has a table of schema tide locked; it was tried {LOCK_ATTEMPTS} times, and not waited for any longer because publishers wait behind a migration that waits. Find the transaction in pg_stat_activity, let it end, and migrate again"
    )]
    Locked,
    /// A migration failed; nothing was changed.
    #[error("migration failed, nothing was changed: {0}")]
    Migrate(#[from] MigrateError),
    /// The database refused or did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for SchemaError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

impl From<SchemaError> for StoreError {
    fn from(error: SchemaError) -> Self {
        if let SchemaError::Store(error) = error {
            return error;
        }
        Self::Refused(error.to_string())
    }
}

/// What [`migrate`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migrated {
    /// The version before; `None` if there was no schema.
    pub from: Option<i64>,
    /// The version now.
    pub to: i64,
    /// What somebody who may create roles has to run, so that the roles of
    /// `docs/security.md` exist; the next migration then gives them their rights.
    /// Empty if they do.
    pub roles_to_create: Vec<String>,
}

fn migrator() -> Migrator {
    let mut migrator = sqlx::migrate!("./migrations");
    migrator.dangerous_set_table_name(MIGRATIONS_TABLE);
    // The lock of sqlx lasts as long as the session; ours ends with the
    // transaction, and so works through a pooler.
    migrator.set_locking(false);
    migrator
}

/// The version this program brings.
#[must_use]
pub fn latest_version() -> i64 {
    migrator()
        .iter()
        .map(|migration| migration.version)
        .max()
        .unwrap_or(0)
}

/// Installs or updates schema `tide`, and gives its roles their rights. Needs the right to create a schema in the
/// database (or an empty schema `tide` of the caller's), nothing more.
///
/// Who publishes is not kept waiting: a table that is in use is waited for a second
/// at a time, and everything is tried again later.
///
/// # Errors
/// The server is too old, the schema is somebody else's or newer, a table was in use for
/// all that time, or a statement failed. Nothing is changed then.
pub async fn migrate(pool: &PgPool) -> Result<Migrated, SchemaError> {
    for attempt in 1..=LOCK_ATTEMPTS {
        match migrate_now(pool).await {
            Err(error) if is_locked(&error) => {
                tracing::info!(attempt, "a table is in use; migrating again soon");
                tokio::time::sleep(LOCK_PAUSE).await;
            }
            other => return other,
        }
    }
    Err(SchemaError::Locked)
}

/// Whether a lock was not had in time.
fn is_locked(error: &SchemaError) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let code = error
            .downcast_ref::<sqlx::Error>()
            .and_then(sqlx::Error::as_database_error)
            .and_then(sqlx::error::DatabaseError::code);
        if code.as_deref() == Some(LOCKED) {
            return true;
        }
        cause = error.source();
    }
    false
}

async fn migrate_now(pool: &PgPool) -> Result<Migrated, SchemaError> {
    let migrator = migrator();
    let known = latest_version();
    let mut transaction = pool.begin().await?;
    // An update may rewrite a table, and a second migration waits for the first.
    transaction
        .execute("SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0")
        .await?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)")
        .bind(MIGRATION_LOCK)
        .persistent(false)
        .execute(&mut *transaction)
        .await?;
    check_server(&mut transaction).await?;
    check_owner(&mut transaction).await?;
    let from = installed_version(&mut transaction).await?;
    match from {
        Some(installed) if installed > known => {
            return Err(SchemaError::Newer { installed, known });
        }
        Some(_) => {}
        None => {
            let exists: bool = sqlx::query_scalar("SELECT to_regnamespace('tide') IS NOT NULL")
                .persistent(false)
                .fetch_one(&mut *transaction)
                .await?;
            // Not IF NOT EXISTS: that asks for the right to create even if there
            // is nothing to do.
            if !exists {
                transaction.execute("CREATE SCHEMA tide").await?;
            }
        }
    }
    // Migrations name the schema of everything; what a role or database has set
    // as its path must not matter.
    transaction
        .execute("SET LOCAL search_path = pg_catalog")
        .await?;
    transaction.execute(WAIT_BRIEFLY).await?;
    migrator.run(&mut *transaction).await?;
    transaction.execute("SET LOCAL lock_timeout = 0").await?;
    let roles_to_create = roles::grant(&mut transaction).await?;
    transaction.commit().await?;
    Ok(Migrated {
        from,
        to: known,
        roles_to_create,
    })
}

/// The installed version; `None` if there is no schema of ours.
///
/// # Errors
/// The database refused, or did not answer within 10 s.
pub async fn current_version(pool: &PgPool) -> Result<Option<i64>, SchemaError> {
    let question = async {
        let mut transaction = connections::begin(pool).await?;
        let version = installed_version(&mut transaction).await?;
        transaction.commit().await?;
        Ok(version)
    };
    tokio::time::timeout(TIMEOUT, question)
        .await
        .unwrap_or_else(|_| {
            Err(SchemaError::Store(StoreError::Unavailable(format!(
                "no answer within {TIMEOUT:?}"
            ))))
        })
}

/// Whether this program can run on the installed schema. A newer one is taken:
/// migrations keep what the previous release uses, so that relays can be
/// replaced one by one.
///
/// # Errors
/// The schema is missing or old, or the database refused, or did not answer
/// within 10 s.
pub async fn check(pool: &PgPool) -> Result<(), SchemaError> {
    let needed = latest_version();
    match current_version(pool).await? {
        None => Err(SchemaError::Missing),
        Some(installed) if installed < needed => Err(SchemaError::Old { installed, needed }),
        Some(_) => Ok(()),
    }
}

async fn check_server(connection: &mut PgConnection) -> Result<(), SchemaError> {
    let (number, version): (i32, String) = sqlx::query_as(
        "SELECT current_setting('server_version_num')::int, current_setting('server_version')",
    )
    .persistent(false)
    .fetch_one(connection)
    .await?;
    if number < OLDEST_SERVER {
        return Err(SchemaError::OldServer { version });
    }
    Ok(())
}

/// Refuses a schema `tide` that is not ours.
async fn check_owner(connection: &mut PgConnection) -> Result<(), SchemaError> {
    let extension: Option<String> = sqlx::query_scalar(
        "SELECT e.extname::text FROM pg_extension AS e
        WHERE e.extname = 'pg_tide' OR EXISTS (
            SELECT FROM pg_depend AS d
            WHERE d.classid = 'pg_namespace'::regclass AND d.objid = to_regnamespace('tide')
                AND d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
        ) LIMIT 1",
    )
    .persistent(false)
    .fetch_optional(&mut *connection)
    .await?;
    if let Some(extension) = extension {
        return Err(SchemaError::Extension { extension });
    }
    let foreign: Option<String> = sqlx::query_scalar(
        "SELECT c.relname::text FROM pg_class AS c
        WHERE c.relnamespace = to_regnamespace('tide') AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
            AND to_regclass($1) IS NULL ORDER BY c.relname LIMIT 1",
    )
    .bind(MIGRATIONS_TABLE)
    .persistent(false)
    .fetch_optional(connection)
    .await?;
    match foreign {
        Some(table) => Err(SchemaError::Foreign { table }),
        None => Ok(()),
    }
}

async fn installed_version(connection: &mut PgConnection) -> Result<Option<i64>, SchemaError> {
    let exists: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
        .bind(MIGRATIONS_TABLE)
        .persistent(false)
        .fetch_one(&mut *connection)
        .await?;
    if !exists {
        return Ok(None);
    }
    let version: Option<i64> =
        sqlx::query_scalar("SELECT max(m.version) FROM tide.migration AS m WHERE m.success")
            .persistent(false)
            .fetch_one(connection)
            .await?;
    Ok(version)
}
