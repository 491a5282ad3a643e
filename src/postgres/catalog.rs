//! The pipelines that are defined in the database.
//!
//! Whoever follows them asks for [`catalog_version`] every second or two, which
//! reads one small table, and lists them again when it has changed.

use std::future::Future;
use std::time::Duration;

use sqlx::PgPool;

use crate::core::ports::StoreError;

/// A pipeline as `tide.relay_set_outbox()` stored it.
#[derive(Clone, PartialEq)]
pub struct PipelineRow {
    /// Its name.
    pub name: String,
    /// The outbox it reads.
    pub outbox: String,
    /// Its consumer group: a label for people.
    pub consumer_group: String,
    /// Its configuration, secrets included: this type prints without it.
    pub config: serde_json::Value,
    /// Whether it is to run.
    pub enabled: bool,
    /// Rises with every change of it.
    pub version: i64,
}

impl std::fmt::Debug for PipelineRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PipelineRow")
            .field("name", &self.name)
            .field("outbox", &self.outbox)
            .field("consumer_group", &self.consumer_group)
            .field("enabled", &self.enabled)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// Two states of the catalog differ if and only if their versions do: each
/// change gives a pipeline a version above all versions given before, so with
/// the same number of pipelines the sum has risen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogVersion {
    pipelines: i64,
    version_sum: String,
}

const VERSION: &str = "
SELECT count(*), coalesce(sum(r.version), 0)::text FROM tide.relay_pipeline AS r";

const LIST: &str = "
SELECT r.name, r.outbox, r.consumer_group, r.config::text, r.enabled, r.version
FROM tide.relay_pipeline AS r ORDER BY r.name";

/// How long a question may take, waiting for a connection included.
const TIMEOUT: Duration = Duration::from_secs(10);

async fn bounded<T>(question: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    tokio::time::timeout(TIMEOUT, question).await.unwrap_or_else(|_| {
        Err(StoreError::Unavailable(format!("no answer within {TIMEOUT:?}")))
    })
}

/// The state of the catalog, to be compared with a later one.
///
/// # Errors
/// The database does not answer within 10 s, or has no such table.
pub async fn catalog_version(pool: &PgPool) -> Result<CatalogVersion, StoreError> {
    bounded(read_version(pool)).await
}

/// All pipelines, by name.
///
/// # Errors
/// The database does not answer within 10 s, or has no such table.
pub async fn list_pipelines(pool: &PgPool) -> Result<Vec<PipelineRow>, StoreError> {
    bounded(read_pipelines(pool)).await
}

async fn read_version(pool: &PgPool) -> Result<CatalogVersion, StoreError> {
    let mut transaction = pool.begin().await?;
    let (pipelines, version_sum) =
        sqlx::query_as(VERSION).persistent(false).fetch_one(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(CatalogVersion { pipelines, version_sum })
}

async fn read_pipelines(pool: &PgPool) -> Result<Vec<PipelineRow>, StoreError> {
    let mut transaction = pool.begin().await?;
    let rows: Vec<(String, String, String, String, bool, i64)> =
        sqlx::query_as(LIST).persistent(false).fetch_all(&mut *transaction).await?;
    transaction.commit().await?;
    let mut pipelines = Vec::with_capacity(rows.len());
    for (name, outbox, consumer_group, config, enabled, version) in rows {
        let config = serde_json::from_str(&config).map_err(|error| {
            StoreError::Refused(format!("the configuration of pipeline {name:?} cannot be read: {error}"))
        })?;
        pipelines.push(PipelineRow { name, outbox, consumer_group, config, enabled, version });
    }
    Ok(pipelines)
}
