//! How the relay's tables and indexes are.

use sqlx::{PgPool, Row};

use super::question;
use crate::core::checkup::database::{Index, VacuumFacts};
use crate::core::ports::StoreError;

/// The indexes that windows are found through, and how they are made anew.
pub const NEEDED_INDEXES: &[(&str, &str)] = &[
    (
        "outbox_message_by_transaction",
        "CREATE INDEX CONCURRENTLY outbox_message_by_transaction ON tide.outbox_message (outbox_id, xact, id)",
    ),
    (
        "outbox_message_pkey",
        "ALTER TABLE tide.outbox_message ADD PRIMARY KEY (outbox_id, id)",
    ),
];

const INDEXES: &str = "
SELECT c.relname::text, i.indisvalid AND i.indisready AND i.indislive
FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
WHERE c.relnamespace = to_regnamespace('tide') ORDER BY c.relname";

const IS_ON: &str =
    "SELECT current_setting('autovacuum')::bool AND current_setting('track_counts')::bool";

/// The tables whose bloat the relay feels: the messages, and what is written many times
/// a second. Where a table does not say when its autovacuum begins the server's
/// settings hold. A table that was never analyzed has -1 rows.
const VACUUM: &str = "
SELECT c.relname::text,
    coalesce(own.settings ->> 'autovacuum_enabled', 'true')::bool,
    coalesce(s.n_dead_tup, 0)::float8,
    coalesce(own.settings ->> 'autovacuum_vacuum_threshold', current_setting('autovacuum_vacuum_threshold'))::float8
        + coalesce(own.settings ->> 'autovacuum_vacuum_scale_factor', current_setting('autovacuum_vacuum_scale_factor'))::float8
        * greatest(c.reltuples, 0),
    coalesce(s.n_ins_since_vacuum, 0)::float8,
    coalesce(own.settings ->> 'autovacuum_vacuum_insert_threshold', current_setting('autovacuum_vacuum_insert_threshold'))::float8
        + coalesce(own.settings ->> 'autovacuum_vacuum_insert_scale_factor', current_setting('autovacuum_vacuum_insert_scale_factor'))::float8
        * greatest(c.reltuples, 0),
    extract(epoch FROM clock_timestamp() - greatest(s.last_vacuum, s.last_autovacuum))::float8
FROM pg_class AS c
LEFT JOIN pg_stat_user_tables AS s ON s.relid = c.oid
CROSS JOIN LATERAL (
    SELECT coalesce(jsonb_object_agg(o.option_name, o.option_value), '{}') AS settings
    FROM pg_options_to_table(c.reloptions) AS o
) AS own
WHERE c.relnamespace = to_regnamespace('tide') AND c.relname IN ('outbox_message', 'relay_position', 'relay_lease')
ORDER BY c.relname";

/// The indexes of schema `tide`.
///
/// # Errors
/// The database did not answer, or refused.
pub async fn indexes(pool: &PgPool) -> Result<Vec<Index>, StoreError> {
    let mut transaction = question(pool).await?;
    let rows = sqlx::raw_sql(INDEXES).fetch_all(&mut *transaction).await?;
    let mut found = Vec::with_capacity(rows.len());
    for row in rows {
        found.push(Index {
            name: row.try_get(0)?,
            is_valid: row.try_get(1)?,
        });
    }
    Ok(found)
}

/// Whether the server vacuums by itself, and how far it is with the relay's tables.
///
/// # Errors
/// The database did not answer, or refused.
pub async fn vacuum(pool: &PgPool) -> Result<(bool, Vec<VacuumFacts>), StoreError> {
    let mut transaction = question(pool).await?;
    let is_on: bool = sqlx::query_scalar(IS_ON)
        .persistent(false)
        .fetch_one(&mut *transaction)
        .await?;
    let rows = sqlx::raw_sql(VACUUM).fetch_all(&mut *transaction).await?;
    let mut tables = Vec::with_capacity(rows.len());
    for row in rows {
        let is_enabled: bool = row.try_get(1)?;
        tables.push(VacuumFacts {
            table: row.try_get(0)?,
            is_off: !is_enabled,
            dead: (row.try_get(2)?, row.try_get(3)?),
            inserted: (row.try_get(4)?, row.try_get(5)?),
            vacuumed: row.try_get(6)?,
        });
    }
    Ok((is_on, tables))
}
