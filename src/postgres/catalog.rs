//! The pipelines that are defined in the database.
//!
//! Whoever follows them asks for [`catalog_version`] every second or two, which
//! reads one small table, and lists them again when it has changed.

use std::future::Future;
use std::time::Duration;

use futures::future::BoxFuture;
use sqlx::PgPool;
use tokio::sync::Mutex;

use super::server::{ServerWatch, standby};
use super::{pool as connections, schema};
use crate::core::ports::{Catalog, PipelineRow, StoreError};

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

async fn bounded<T>(
    question: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    tokio::time::timeout(TIMEOUT, question)
        .await
        .unwrap_or_else(|_| {
            Err(StoreError::Unavailable(format!(
                "no answer within {TIMEOUT:?}"
            )))
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
    let mut transaction = connections::begin(pool).await?;
    let (pipelines, version_sum) = sqlx::query_as(VERSION)
        .persistent(false)
        .fetch_one(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(CatalogVersion {
        pipelines,
        version_sum,
    })
}

async fn read_pipelines(pool: &PgPool) -> Result<Vec<PipelineRow>, StoreError> {
    let mut transaction = connections::begin(pool).await?;
    let rows: Vec<(String, String, String, String, bool, i64)> = sqlx::query_as(LIST)
        .persistent(false)
        .fetch_all(&mut *transaction)
        .await?;
    transaction.commit().await?;
    let mut pipelines = Vec::with_capacity(rows.len());
    for (name, outbox, consumer_group, config, enabled, version) in rows {
        let config = serde_json::from_str(&config)
            .map_err(|error| format!("its configuration cannot be read: {error}"));
        pipelines.push(PipelineRow {
            name,
            outbox,
            consumer_group,
            config,
            enabled,
            version,
        });
    }
    Ok(pipelines)
}

/// The catalog of one database, which remembers what it answered last.
pub struct PgCatalog {
    pool: PgPool,
    answered: Mutex<Option<CatalogVersion>>,
    watch: ServerWatch,
}

impl PgCatalog {
    /// A catalog that has answered nothing yet.
    #[must_use]
    pub fn new(pool: PgPool) -> Self {
        Self {
            pool,
            answered: Mutex::const_new(None),
            watch: ServerWatch::default(),
        }
    }

    /// Lets the catalog know which server the connections meet: a standby's
    /// pipelines are not listed.
    #[must_use]
    pub fn with_watch(mut self, watch: ServerWatch) -> Self {
        self.watch = watch;
        self
    }
}

impl Catalog for PgCatalog {
    fn read(&self) -> BoxFuture<'_, Result<Option<Vec<PipelineRow>>, StoreError>> {
        Box::pin(async move {
            let mut answered = self.answered.lock().await;
            if answered.is_none() {
                schema::check(&self.pool).await.map_err(StoreError::from)?;
            }
            // Taken before the list: a change between the two is seen next time.
            let version = catalog_version(&self.pool).await?;
            if self.watch.is_standby() {
                return Err(standby());
            }
            if answered.as_ref() == Some(&version) {
                return Ok(None);
            }
            let rows = list_pipelines(&self.pool).await?;
            *answered = Some(version);
            Ok(Some(rows))
        })
    }
}
