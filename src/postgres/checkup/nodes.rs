//! The relay processes that use a database.

use sqlx::PgPool;

use super::question;
use crate::core::checkup::nodes::NodeFacts;
use crate::core::ports::StoreError;

const NODES: &str = "
SELECT n.node, n.state, extract(epoch FROM n.silent_for)::float8, n.pipelines
FROM tide.relay_nodes AS n WHERE n.state <> 'gone' ORDER BY n.node";

/// All that have not surely stopped.
///
/// # Errors
/// The database does not answer, or the role may not look.
pub async fn all(pool: &PgPool) -> Result<Vec<NodeFacts>, StoreError> {
    let mut transaction = question(pool).await?;
    let rows: Vec<(String, String, f64, i64)> = sqlx::query_as(NODES)
        .persistent(false)
        .fetch_all(&mut *transaction)
        .await?;
    let facts = rows
        .into_iter()
        .map(|(node, state, silent, pipelines)| NodeFacts {
            node,
            is_draining: state == "draining",
            silent,
            pipelines: u64::try_from(pipelines).unwrap_or_default(),
        });
    Ok(facts.collect())
}
