//! The pipelines and tenants that are defined in the database, and what is paused.
//!
//! Whoever follows them asks for [`catalog_version`] every second or two, which
//! reads one small table, and lists them again when it has changed.

use std::future::Future;
use std::time::Duration;

use futures::future::BoxFuture;
use sqlx::PgPool;
use tokio::sync::Mutex;

use super::server::{ServerWatch, standby};
use super::{pipeline_states, pool as connections, schema};
use crate::core::catalog::{Catalog, CatalogContent, PipelineRow, StateNote, TenantRow};
use crate::core::pause::{Pause, PauseKind, PausesVersion};
use crate::core::ports::{PipelineName, StoreError};

/// Two states of the catalog differ if and only if their versions do: each
/// change gives a pipeline a version above all versions given before, so with
/// the same number of pipelines the sum has risen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogVersion {
    pipelines: i64,
    version_sum: String,
    pauses: PausesVersion,
    tenants: i64,
    tenants_sum: String,
}

/// Pauses and tenants ride along: looking for changes is one statement, whatever changes.
const VERSION: &str = "
SELECT count(*), coalesce(sum(r.version), 0)::text,
    (SELECT count(*) FROM tide.relay_pause AS p),
    (SELECT coalesce(sum(p.version), 0)::text FROM tide.relay_pause AS p),
    (SELECT count(*) FROM tide.relay_tenant AS t),
    (SELECT coalesce(sum(t.version), 0)::text FROM tide.relay_tenant AS t)
FROM tide.relay_pipeline AS r";

const LIST: &str = "
SELECT r.name, r.outbox, r.consumer_group, r.config::text, r.enabled, r.version
FROM tide.relay_pipeline AS r ORDER BY r.name";

const TENANTS: &str = "
SELECT t.name, t.config::text, t.version FROM tide.relay_tenant AS t ORDER BY t.name";

const PAUSES: &str = "
SELECT p.kind, p.name, p.reason, p.paused_by, date_trunc('second', p.paused_at)::text
FROM tide.relay_pause AS p ORDER BY p.kind, p.name";

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

/// What is paused.
///
/// # Errors
/// The database does not answer within 10 s, or has no such table.
pub async fn list_pauses(pool: &PgPool) -> Result<Vec<Pause>, StoreError> {
    bounded(read_pauses(pool)).await
}

/// All tenants that are defined, by name.
///
/// # Errors
/// The database does not answer within 10 s, or has no such table.
pub async fn list_tenants(pool: &PgPool) -> Result<Vec<TenantRow>, StoreError> {
    bounded(read_tenants(pool)).await
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
    let (pipelines, version_sum, count, sum, tenants, tenants_sum) = sqlx::query_as(VERSION)
        .persistent(false)
        .fetch_one(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(CatalogVersion {
        pipelines,
        version_sum,
        pauses: PausesVersion { count, sum },
        tenants,
        tenants_sum,
    })
}

async fn read_pauses(pool: &PgPool) -> Result<Vec<Pause>, StoreError> {
    let mut transaction = connections::begin(pool).await?;
    let rows: Vec<(String, String, String, String, String)> = sqlx::query_as(PAUSES)
        .persistent(false)
        .fetch_all(&mut *transaction)
        .await?;
    transaction.commit().await?;
    let mut pauses = Vec::with_capacity(rows.len());
    for (kind, name, reason, by, at) in rows {
        let Some(kind) = PauseKind::of_name(&kind) else {
            let what = format!("pauses of a {kind:?}, which this version does not know");
            return Err(StoreError::Refused(what));
        };
        pauses.push(Pause {
            kind,
            name,
            reason,
            by,
            at,
        });
    }
    Ok(pauses)
}

async fn read_tenants(pool: &PgPool) -> Result<Vec<TenantRow>, StoreError> {
    let mut transaction = connections::begin(pool).await?;
    let rows: Vec<(String, String, i64)> = sqlx::query_as(TENANTS)
        .persistent(false)
        .fetch_all(&mut *transaction)
        .await?;
    transaction.commit().await?;
    let read = |(name, config, version): (String, String, i64)| TenantRow {
        name,
        config: serde_json::from_str(&config)
            .map_err(|error| format!("its definition cannot be read: {error}")),
        version,
    };
    Ok(rows.into_iter().map(read).collect())
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
    fn read(&self) -> BoxFuture<'_, Result<Option<CatalogContent>, StoreError>> {
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
            let mut content = CatalogContent {
                pipelines: list_pipelines(&self.pool).await?,
                ..CatalogContent::default()
            };
            if version.tenants > 0 {
                content.tenants = list_tenants(&self.pool).await?;
            }
            if version.pauses.count > 0 {
                content.pauses.list = list_pauses(&self.pool).await?;
            }
            content.pauses.version = version.pauses.clone();
            *answered = Some(version);
            Ok(Some(content))
        })
    }

    fn write_states<'a>(
        &'a self,
        node: &'a str,
        states: &'a [StateNote],
        gone: &'a [PipelineName],
    ) -> BoxFuture<'a, Result<Vec<String>, StoreError>> {
        Box::pin(bounded(pipeline_states::write(
            &self.pool,
            &self.watch,
            node,
            states,
            gone,
        )))
    }
}
