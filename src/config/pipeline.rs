//! What one pipeline is: where it reads, where it writes, and how.
//!
//! A pipeline is defined in the operator's file (`[[pipelines]]`) or in a
//! database (`tide.relay_set_outbox`). Both are read by the same rules into a
//! [`PipelineSpec`]; two specs that are equal describe the same pipeline, so a
//! reload restarts only what has changed.

use std::fmt;
use std::sync::Arc;

use super::client_spec::ClientSpec;
use super::pipeline_reader::{self, Origin};
use super::problem::ConfigProblem;
use super::settings::Settings;
use super::table::{Report, Table, Typing};
use crate::core::aggregation::{Aggregation, Container, Packing};
use crate::core::body::BodyFormat;
use crate::core::compression::Compression;
use crate::core::dead_letter::OnPoison;
use crate::core::ports::PipelineName;
use crate::core::template::KeyTemplate;

/// The tenant of a pipeline that names none.
pub const DEFAULT_TENANT: &str = "default";

/// The records of one pipeline in one PutRecords call, unless it says otherwise.
pub const DEFAULT_BATCH_SIZE: u32 = 100;

/// A pipeline, all defaults filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct PipelineSpec {
    /// Its name, unique in its database.
    pub name: PipelineName,
    /// The name of the database it reads from.
    pub database: Arc<str>,
    /// The outbox it reads.
    pub outbox: Arc<str>,
    /// Where it writes.
    pub stream: StreamTarget,
    /// What its partition keys are made of.
    pub partition_key: KeyTemplate,
    /// What its record bodies are made of.
    pub format: BodyFormat,
    /// The most of its records in one PutRecords call: 1 to 500.
    pub batch_size: usize,
    /// Whether its rows share records, and in what form.
    pub aggregation: Aggregation,
    /// The most a record that rows share weighs, partition key included, in bytes.
    pub aggregation_max_bytes: usize,
    /// How what it sends is compressed.
    pub compression: Compression,
    /// What becomes of a row that can never be sent.
    pub on_poison: OnPoison,
    /// The text that stands for a variable the row lacks; `None`: such a row can
    /// never be sent.
    pub on_missing: Option<Arc<str>>,
    /// Its own limits, if it has any.
    pub rate_limit: Option<RateLimit>,
    /// Whom it belongs to: tenants share a shard fairly.
    pub tenant: Arc<str>,
    /// Its share of what its tenant gets, relative to the tenant's other pipelines: 1
    /// to 1000.
    pub weight: u32,
    /// What the shards of its stream take.
    pub shard_budget: ShardBudgetSettings,
}

/// A stream, through one client: pipelines with an equal target share the
/// stream's writers and budgets.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StreamTarget {
    /// The client.
    pub client: ClientSpec,
    /// The stream.
    pub stream: StreamRef,
}

/// How a stream is named to the service.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum StreamRef {
    /// By its name, in the account of the credentials.
    Name(String),
    /// By its ARN, possibly in another account.
    Arn(String),
}

/// Limits of one pipeline. At least one of the two rates is given.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RateLimit {
    /// The most records in a second.
    pub max_messages_per_second: Option<f64>,
    /// How many records may go at once after a pause; one second's worth when
    /// not given.
    pub burst_size: Option<u32>,
    /// The most bytes (data plus keys) in a second.
    pub max_bytes_per_second: Option<u64>,
}

/// What one shard takes in a second, and how much of that is used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ShardBudgetSettings {
    /// Records in a second. The service's limit: 1,000.
    pub records_per_second: u32,
    /// Bytes (data plus keys) in a second. The service's limit: 1 MiB.
    pub bytes_per_second: u64,
    /// The part of both that is used, above 0 and at most 1.
    pub fraction: f64,
}

// === impl PipelineSpec ===

impl PipelineSpec {
    /// How its rows share records, if they do.
    #[must_use]
    pub fn packing(&self) -> Option<Packing> {
        let container = self.aggregation.container()?;
        Some(Packing {
            container,
            // The rows of the other container are compressed one by one, before.
            compression: match container {
                Container::Kpl => Compression::None,
                Container::Ndjson => self.compression,
            },
            max_bytes: self.aggregation_max_bytes,
        })
    }

    /// Reads a pipeline as a database defines it. `config` is the object given to
    /// `tide.relay_set_outbox`.
    ///
    /// # Errors
    /// Everything that is wrong with it; keys are named as they stand in
    /// `config`. `endpoint_url` is refused here: whoever may write to the
    /// database must not be able to send the relay's credentials elsewhere.
    pub fn from_json(
        name: &str,
        outbox: &str,
        database: &str,
        config: &serde_json::Value,
        settings: &Settings,
    ) -> Result<Self, Vec<ConfigProblem>> {
        let report = Report::new(Typing::Strict);
        let mut table = Table::new("", Some(config), &report);
        let spec = pipeline_reader::read(
            &mut table,
            pipeline_reader::Place {
                name,
                outbox,
                database,
            },
            Origin::Database,
            settings,
        );
        table.finish();
        match (spec, report.into_problems()) {
            (Some(spec), problems) if problems.is_empty() => Ok(spec),
            (_, problems) => Err(problems),
        }
    }
}

// === impl StreamRef ===

impl StreamTarget {
    /// The stream's name: an ARN's last part.
    #[must_use]
    pub fn name(&self) -> &str {
        self.stream.name()
    }

    /// Its region, its account and its name, as far as they are configured, with `/`
    /// between them: streams of one name are told apart by it. Targets that differ in
    /// their credentials alone are one.
    #[must_use]
    pub fn key(&self) -> String {
        let account = |arn| account_of(arn).filter(|account| !account.is_empty());
        let account = match &self.stream {
            StreamRef::Arn(arn) => account(arn),
            StreamRef::Name(_) => self.client.role_arn.as_deref().and_then(account),
        };
        let parts = [self.client.region.as_deref(), account, Some(self.name())];
        let known: Vec<&str> = parts.into_iter().flatten().collect();
        known.join("/")
    }
}

/// The account in an ARN.
fn account_of(arn: &str) -> Option<&str> {
    arn.split(':').nth(4)
}

impl StreamRef {
    /// The stream's name: an ARN's last part.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Name(name) => name,
            Self::Arn(arn) => arn.rsplit('/').next().unwrap_or(arn),
        }
    }
}

impl fmt::Display for StreamRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(text) | Self::Arn(text) => f.write_str(text),
        }
    }
}

impl Default for ShardBudgetSettings {
    fn default() -> Self {
        Self {
            records_per_second: 1_000,
            bytes_per_second: 1 << 20,
            fraction: 0.98,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::client_spec::CredentialSource;

    #[test]
    fn a_streams_key_says_where_it_is_as_far_as_that_is_configured() {
        let name = || StreamRef::Name("s".to_owned());
        let arn = || StreamRef::Arn("arn:aws:kinesis:us-east-1:111122223333:stream/s".to_owned());
        let role = Some("arn:aws:iam::444455556666:role/r");
        for (stream, region, role, key) in [
            (name(), None, None, "s"),
            (name(), Some("us-east-1"), None, "us-east-1/s"),
            (name(), Some("us-east-1"), role, "us-east-1/444455556666/s"),
            (arn(), Some("us-east-1"), role, "us-east-1/111122223333/s"),
        ] {
            let client = ClientSpec {
                region: region.map(str::to_owned),
                endpoint_url: None,
                credentials: CredentialSource::DefaultChain,
                role_arn: role.map(str::to_owned),
                external_id: None,
            };
            assert_eq!(StreamTarget { client, stream }.key(), key);
        }
    }
}
