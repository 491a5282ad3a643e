//! The roles of schema `tide` and what each may do.
//!
//! Rules:
//! - `roles.sql` says it, and is applied by every `tidegate migrate` in the
//!   migrations' own transaction: rights never lag behind the schema;
//! - roles belong to the server, not to a database: they are made when the
//!   migrating role may, and otherwise asked for. Everything else works without;
//! - rights that other roles were granted are left alone.

use sqlx::{Executor, PgConnection};

/// The functions that know the rights and give them.
const RIGHTS: &str = include_str!("roles.sql");

/// Gives the roles their rights. Answers the statements that somebody with more
/// rights must run, after which it is to be called again; none if all is done.
pub(super) async fn grant(connection: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
    connection.execute(RIGHTS).await?;
    sqlx::query_scalar("SELECT s FROM tide.grant_roles() AS s")
        .persistent(false)
        .fetch_all(connection)
        .await
}
