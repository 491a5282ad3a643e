//! What the relay's role must be allowed: everything the statements of
//! [`crate::postgres`] do. A test runs a relay as a role that has this and nothing
//! else.

use sqlx::{PgPool, Row};

use super::question;
use crate::core::ports::StoreError;

/// A relation of schema `tide`, and what the relay does to it.
pub type Needed = (&'static str, &'static [&'static str]);

const READ: &[&str] = &["SELECT"];
const KEEP: &[&str] = &["SELECT", "INSERT", "UPDATE"];

/// The relations. `outbox` is updated in no column: its rows are locked, which asks
/// for the same right.
pub const RELATIONS: &[Needed] = &[
    ("migration", READ),
    ("outbox", &["SELECT", "UPDATE"]),
    ("outbox_message", &["SELECT", "DELETE"]),
    ("outbox_reader", READ),
    ("outbox_retention", KEEP),
    ("relay_database", KEEP),
    ("relay_dead_letter", KEEP),
    ("relay_lease", KEEP),
    ("relay_pause", READ),
    ("relay_pipeline", READ),
    (
        "relay_pipeline_state",
        &["SELECT", "INSERT", "UPDATE", "DELETE"],
    ),
    ("relay_position", KEEP),
    ("relay_replay", KEEP),
    ("relay_retention_turn", KEEP),
    ("relay_server_life", &["SELECT", "INSERT"]),
];

/// What a role lacks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lacking {
    /// The role.
    pub role: String,
    /// How many privileges were asked for.
    pub checked: usize,
    /// Each one that it lacks, in words.
    pub missing: Vec<String>,
    /// The statements that grant them.
    pub grants: Vec<String>,
}

/// Relations that are not there are the schema's matter. Functions of the schema may
/// be executed by everybody unless that was revoked.
const ASK: &str = "
SELECT quote_ident(current_user), current_user::text,
    coalesce(has_schema_privilege(current_user, to_regnamespace('tide'), 'USAGE'), true),
    ARRAY(
        SELECT w.relation || ' ' || w.privilege
        FROM unnest($1::text[], $2::text[]) AS w (relation, privilege)
        JOIN pg_class AS c ON c.relname = w.relation AND c.relnamespace = to_regnamespace('tide')
        WHERE NOT has_table_privilege(current_user, c.oid, w.privilege)
        ORDER BY w.relation, w.privilege
    ),
    ARRAY(
        SELECT DISTINCT p.proname::text FROM pg_proc AS p
        WHERE p.pronamespace = to_regnamespace('tide') AND NOT has_function_privilege(current_user, p.oid, 'EXECUTE')
            AND p.proname = ANY ($3::text[])
        ORDER BY 1
    )";

/// Functions that the relay's statements call.
const FUNCTIONS: &[&str] = &[
    "outbox_oldest_kept",
    "outbox_unseen",
    "relay_is_here",
    "relay_this_database",
];

/// Asks the server what the role may do; nothing is tried.
///
/// # Errors
/// The database did not answer, or refused.
pub async fn lacking(pool: &PgPool) -> Result<Lacking, StoreError> {
    let pairs = || {
        let all = RELATIONS.iter();
        all.flat_map(|(relation, privileges)| privileges.iter().map(|one| (*relation, *one)))
    };
    let relations: Vec<&str> = pairs().map(|(relation, _)| relation).collect();
    let privileges: Vec<&str> = pairs().map(|(_, privilege)| privilege).collect();
    let checked = relations.len() + FUNCTIONS.len() + 1;
    let mut transaction = question(pool).await?;
    let row = sqlx::query(ASK)
        .bind(relations)
        .bind(privileges)
        .bind(FUNCTIONS)
        .persistent(false)
        .fetch_one(&mut *transaction)
        .await?;
    let grantee: String = row.try_get(0)?;
    let is_usable: bool = row.try_get(2)?;
    let of_tables: Vec<String> = row.try_get(3)?;
    let of_functions: Vec<String> = row.try_get(4)?;
    let mut lacking = Lacking {
        role: row.try_get(1)?,
        checked,
        ..Lacking::default()
    };
    if !is_usable {
        lacking.missing.push("USAGE on schema tide".to_owned());
        let grant = format!("GRANT USAGE ON SCHEMA tide TO {grantee}");
        lacking.grants.push(grant);
    }
    let pairs: Vec<(&str, &str)> = of_tables
        .iter()
        .filter_map(|pair| pair.split_once(' '))
        .collect();
    for (relation, privilege) in &pairs {
        let missing = format!("{privilege} on tide.{relation}");
        lacking.missing.push(missing);
    }
    for (relation, privileges) in by_relation(&pairs) {
        let privileges = privileges.join(", ");
        let grant = format!("GRANT {privileges} ON tide.{relation} TO {grantee}");
        lacking.grants.push(grant);
    }
    for function in of_functions {
        lacking
            .missing
            .push(format!("EXECUTE on tide.{function}()"));
        let grant = format!("GRANT EXECUTE ON FUNCTION tide.{function} TO {grantee}");
        lacking.grants.push(grant);
    }
    Ok(lacking)
}

/// Pairs of relation and privilege, sorted by relation, as one entry per relation.
fn by_relation<'a>(pairs: &[(&'a str, &'a str)]) -> Vec<(&'a str, Vec<&'a str>)> {
    let mut grouped: Vec<(&str, Vec<&str>)> = Vec::new();
    for (relation, privilege) in pairs {
        match grouped.last_mut() {
            Some((last, privileges)) if last == relation => privileges.push(privilege),
            Some(_) | None => grouped.push((relation, vec![privilege])),
        }
    }
    grouped
}
