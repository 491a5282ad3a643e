//! What the relay's role must be allowed: the rights of `tide_relay`, whether the role is
//! a member of it or was granted the same by hand.
//!
//! They are read from the list that `tidegate migrate` grants by (`roles.sql`), so that
//! there is one list. `tide.role_rights()` itself may be asked by the schema's owner alone.

use sqlx::{PgPool, Row};

use super::question;
use crate::core::ports::StoreError;

/// The list. Its lines are `('ROLE ...', 'PRIVILEGE ...', 'OBJECT', 'COLUMN ...' or NULL)`.
const RIGHTS: &str = include_str!("../roles.sql");

/// The role whose rights a relay needs.
const RELAY: &str = "tide_relay";

/// One privilege on one thing of schema `tide`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Need {
    /// `schema`, a function (`name()`), or a table or view.
    pub object: String,
    /// The privilege.
    pub privilege: String,
    /// The columns it is needed on; none for the whole.
    pub columns: Vec<String>,
}

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

/// What a relay needs, sorted.
#[must_use]
pub fn needed() -> Vec<Need> {
    let values = RIGHTS.split_once("VALUES").map_or("", |(_, after)| after);
    let values = values.split_once("$$;").map_or(values, |(list, _)| list);
    let is_comment = |line: &&str| line.trim_start().starts_with("--");
    let lines: Vec<&str> = values.lines().filter(|line| !is_comment(line)).collect();
    let mut needs = Vec::new();
    for tuple in lines.join("\n").split("\n    (") {
        let texts: Vec<&str> = tuple.split('\'').skip(1).step_by(2).collect();
        let [roles, privileges, object, columns @ ..] = texts.as_slice() else {
            continue;
        };
        if !roles.split(' ').any(|role| role == RELAY) {
            continue;
        }
        let columns = columns
            .first()
            .map_or("", |columns| columns)
            .split_whitespace();
        let columns: Vec<String> = columns.map(str::to_owned).collect();
        // A function may be said to run as its owner; that is no privilege.
        let privileges = privileges.trim_end_matches(" as owner").split(' ');
        needs.extend(privileges.map(|privilege| Need {
            object: (*object).to_owned(),
            privilege: privilege.to_owned(),
            columns: columns.clone(),
        }));
    }
    needs.sort();
    needs
}

/// What is not there is the schema's matter.
const ASK: &str = "
SELECT quote_ident(current_user), current_user::text,
    CASE WHEN to_regrole('tide_relay') IS NULL THEN NULL
        ELSE pg_has_role(current_user, to_regrole('tide_relay'), 'USAGE') END,
    ARRAY(
        SELECT w.place::int FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY
            AS w (object, privilege, columns, place)
        LEFT JOIN pg_class AS c ON c.relname = w.object AND c.relnamespace = to_regnamespace('tide')
        WHERE NOT CASE
            WHEN w.object = 'schema'
                THEN coalesce(has_schema_privilege(current_user, to_regnamespace('tide'), w.privilege), true)
            WHEN w.object LIKE '%()' THEN NOT EXISTS (
                SELECT FROM pg_proc AS p
                WHERE p.pronamespace = to_regnamespace('tide') AND p.proname || '()' = w.object
                    AND NOT has_function_privilege(current_user, p.oid, w.privilege))
            WHEN c.oid IS NULL THEN true
            WHEN w.columns = '' THEN has_table_privilege(current_user, c.oid, w.privilege)
            ELSE (
                SELECT bool_and(has_column_privilege(current_user, c.oid, a.name, w.privilege))
                FROM unnest(string_to_array(w.columns, ' ')) AS a (name))
        END
        ORDER BY w.place
    )";

/// Asks the server what the role may do; nothing is tried.
///
/// # Errors
/// The database did not answer, or refused.
pub async fn lacking(pool: &PgPool) -> Result<Lacking, StoreError> {
    let needs = needed();
    let texts = |of: fn(&Need) -> String| needs.iter().map(of).collect::<Vec<String>>();
    let mut transaction = question(pool).await?;
    let row = sqlx::query(ASK)
        .bind(texts(|need| need.object.clone()))
        .bind(texts(|need| need.privilege.clone()))
        .bind(texts(|need| need.columns.join(" ")))
        .persistent(false)
        .fetch_one(&mut *transaction)
        .await?;
    let grantee: String = row.try_get(0)?;
    let is_member: Option<bool> = row.try_get(2)?;
    let places: Vec<i32> = row.try_get(3)?;
    let missing: Vec<&Need> = places
        .iter()
        .filter_map(|place| needs.get(usize::try_from(*place).ok()?.checked_sub(1)?))
        .collect();
    let grants = match is_member {
        _ if missing.is_empty() => Vec::new(),
        Some(false) => vec![format!("GRANT {RELAY} TO {grantee}")],
        // Its own rights are not what they should be: only the owner may give them.
        Some(true) => vec!["SELECT * FROM tide.grant_roles()".to_owned()],
        None => missing.iter().map(|need| need.grant(&grantee)).collect(),
    };
    Ok(Lacking {
        role: row.try_get(1)?,
        checked: needs.len(),
        missing: missing.iter().map(|need| need.words()).collect(),
        grants,
    })
}

// === impl Need ===

impl Need {
    /// In words.
    fn words(&self) -> String {
        match self.object.as_str() {
            "schema" => format!("{} on schema tide", self.privilege),
            object => format!("{} on tide.{object}", self.privilege),
        }
    }

    /// The statement that grants it.
    #[must_use]
    pub fn grant(&self, grantee: &str) -> String {
        let Self {
            object,
            privilege,
            columns,
        } = self;
        let columns = match columns.as_slice() {
            [] => String::new(),
            columns => format!(" ({})", columns.join(", ")),
        };
        match object.strip_suffix("()") {
            _ if object == "schema" => format!("GRANT {privilege} ON SCHEMA tide TO {grantee}"),
            Some(function) => format!("GRANT {privilege} ON FUNCTION tide.{function} TO {grantee}"),
            None => format!("GRANT {privilege}{columns} ON tide.{object} TO {grantee}"),
        }
    }
}
