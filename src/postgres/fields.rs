//! Single fields of a row's payload: what a partition key needs of a row that is too
//! large to be read.

use super::store::PgOutboxStore;
use crate::core::ports::{OutboxId, StoreError};
use crate::core::position::RowId;

/// $1 outbox, $2 row, $3 the names of a path. Steps go through objects alone, as
/// those of key templates do.
const READ_FIELD: &str = "
WITH RECURSIVE walk AS (
    SELECT m.payload AS value, 0 AS depth
    FROM tide.outbox_message AS m WHERE m.outbox_id = $1 AND m.id = $2
    UNION ALL
    SELECT CASE WHEN jsonb_typeof(w.value) = 'object' THEN w.value -> ($3::text[])[w.depth + 1] END, w.depth + 1
    FROM walk AS w WHERE w.depth < cardinality($3::text[])
)
SELECT CASE jsonb_typeof(w.value)
    WHEN 'object' THEN '{}' WHEN 'array' THEN '[]'
    WHEN 'string' THEN to_jsonb(left(w.value #>> '{}', 300))::text
    ELSE w.value::text END
FROM walk AS w WHERE w.depth = cardinality($3::text[])";

pub(super) async fn read(
    store: &PgOutboxStore,
    outbox: OutboxId,
    row: RowId,
    paths: &[Vec<String>],
) -> Result<Vec<Option<String>>, StoreError> {
    let mut session = store.statement().await?;
    let mut fields = Vec::with_capacity(paths.len());
    for path in paths {
        let field: Option<Option<String>> = sqlx::query_scalar(READ_FIELD)
            .bind(outbox.0)
            .bind(row)
            .bind(path)
            .persistent(store.prepares())
            .fetch_optional(session.connection())
            .await?;
        fields.push(field.flatten());
    }
    session.finish().await?;
    Ok(fields)
}
