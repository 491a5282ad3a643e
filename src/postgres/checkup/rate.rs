//! What an outbox publishes, from its newest rows: at most `MOST_ROWS` are counted,
//! whatever it holds.

use sqlx::{PgPool, Row};

use super::question;
use crate::core::checkup::capacity::Rate;
use crate::core::ports::StoreError;

/// The most rows that are counted. An outbox that publishes more in [`MINUTES`] is
/// measured over the time these took.
const MOST_ROWS: i64 = 20_000;

/// The rows whose bytes are weighed.
const SAMPLE: i64 = 200;

/// Over how long it is measured.
const MINUTES: f64 = 5.0;

/// What a record has besides payload, headers and keys in the native format, in bytes:
/// ids, seq, time and field names.
const ENVELOPE: f64 = 230.0;

const MEASURE: &str = "
WITH latest AS MATERIALIZED (
    SELECT m.created_at FROM tide.outbox_message AS m
    WHERE m.outbox_id = $1 ORDER BY m.id DESC LIMIT $2
), recent AS (
    SELECT count(*) AS rows, min(l.created_at) AS first
    FROM latest AS l WHERE l.created_at > clock_timestamp() - make_interval(secs => $4)
), sample AS (
    SELECT avg(octet_length(m.payload::text) + octet_length(m.headers::text)
        + 2 * coalesce(octet_length(m.dedup_key), 36))::float8 AS bytes
    FROM (
        SELECT n.payload, n.headers, n.dedup_key FROM tide.outbox_message AS n
        WHERE n.outbox_id = $1 ORDER BY n.id DESC LIMIT $3
    ) AS m
)
SELECT r.rows, r.rows = $2 AS is_full, extract(epoch FROM clock_timestamp() - r.first)::float8, s.bytes
FROM recent AS r CROSS JOIN sample AS s";

/// Rows and bytes a second of the outbox of this name; `None` if there is none.
///
/// # Errors
/// The database did not answer, or refused.
pub async fn of_outbox(pool: &PgPool, outbox: &str) -> Result<Option<Rate>, StoreError> {
    let mut transaction = question(pool).await?;
    let id: Option<i32> =
        sqlx::query_scalar("SELECT o.outbox_id FROM tide.outbox AS o WHERE o.name = $1")
            .bind(outbox)
            .persistent(false)
            .fetch_optional(&mut *transaction)
            .await?;
    let Some(id) = id else {
        return Ok(None);
    };
    let row = sqlx::query(MEASURE)
        .bind(id)
        .bind(MOST_ROWS)
        .bind(SAMPLE)
        .bind(MINUTES * 60.0)
        .persistent(false)
        .fetch_one(&mut *transaction)
        .await?;
    let rows: i64 = row.try_get(0)?;
    let is_full: bool = row.try_get(1)?;
    let took: Option<f64> = row.try_get(2)?;
    let weight: Option<f64> = row.try_get(3)?;
    let seconds = match took {
        // Less than a second is a burst, and no rate.
        Some(took) if is_full => took.max(1.0),
        Some(_) | None => MINUTES * 60.0,
    };
    #[expect(clippy::cast_precision_loss, reason = "at most MOST_ROWS")]
    let rows = rows as f64 / seconds;
    Ok(Some(Rate {
        rows,
        bytes: rows * (weight.unwrap_or(0.0) + ENVELOPE),
    }))
}
