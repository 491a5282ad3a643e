//! What a database defines: its pipelines, its tenants, and what is paused. And what
//! relays write beside it: what each pipeline is doing.

use std::fmt;

use futures::future::BoxFuture;

use super::pause::Pauses;
use super::ports::{Epoch, PipelineName, StoreError};

/// A pipeline as `tide.relay_set_outbox()` stored it.
#[derive(Clone, PartialEq)]
pub struct PipelineRow {
    /// Its name.
    pub name: String,
    /// The outbox it reads.
    pub outbox: String,
    /// Its consumer group: a label for people.
    pub consumer_group: String,
    /// Its configuration, secrets included: this type prints without it; or why
    /// it cannot be read.
    pub config: Result<serde_json::Value, String>,
    /// Whether it is to run.
    pub enabled: bool,
    /// Rises with every change of it.
    pub version: i64,
}

impl fmt::Debug for PipelineRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PipelineRow")
            .field("name", &self.name)
            .field("outbox", &self.outbox)
            .field("consumer_group", &self.consumer_group)
            .field("enabled", &self.enabled)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// A tenant as `tide.relay_set_tenant()` stored it.
#[derive(Debug, Clone, PartialEq)]
pub struct TenantRow {
    /// Its name.
    pub name: String,
    /// What it may have, or why that cannot be read.
    pub config: Result<serde_json::Value, String>,
    /// Rises with every change of it.
    pub version: i64,
}

/// All that a database defines.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct CatalogContent {
    /// Its pipelines, by name.
    pub pipelines: Vec<PipelineRow>,
    /// Its tenants, by name.
    pub tenants: Vec<TenantRow>,
    /// What of them is paused.
    pub pauses: Pauses,
}

/// What a pipeline is doing, to be written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateNote {
    /// The pipeline.
    pub pipeline: PipelineName,
    /// Under which epoch this node owns it; `None` if it does not.
    pub epoch: Option<Epoch>,
    /// The state's name.
    pub state: &'static str,
    /// Why it is in it.
    pub reason: Option<String>,
}

/// The pipelines that are defined in a database.
pub trait Catalog: Send + Sync {
    /// All pipelines and pauses; `None` when nothing has changed since the last
    /// answer of this catalog.
    fn read(&self) -> BoxFuture<'_, Result<Option<CatalogContent>, StoreError>>;

    /// Writes states down and takes `gone` pipelines off, but for those that
    /// another node runs: it speaks for them. Answers which of both it has done. By
    /// default nothing is kept.
    fn write_states<'a>(
        &'a self,
        node: &'a str,
        states: &'a [StateNote],
        gone: &'a [PipelineName],
    ) -> BoxFuture<'a, Result<Vec<String>, StoreError>> {
        let _ = node;
        let noted = states.iter().map(|note| &note.pipeline).chain(gone);
        let noted: Vec<String> = noted.map(ToString::to_string).collect();
        Box::pin(async { Ok(noted) })
    }
}
