//! The relay's own settings.
//!
//! Defaults, then the file, then the environment: the variable
//! `TIDEGATE__ADMIN__LISTEN` is the key `listen` of `[admin]`. `DATABASE_URL`
//! alone is enough: it becomes the database `default` when the file names none.
//! The `AWS_*` variables are the SDK's.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::byte_size::ByteSize;
use super::environment::Environment;
use super::location;
use super::pipeline::{PipelineSpec, ShardBudgetSettings};
use super::problem::{ConfigError, ConfigProblem};
use super::secret::Secret;
use super::settings_reader;
use super::table::{Report, Typing};
use super::tenant::TenantSettings;

/// The name of the database that `DATABASE_URL` gives.
pub const DEFAULT_DATABASE: &str = "default";

/// All settings.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Where the outboxes are: at least one.
    pub databases: Vec<DatabaseSettings>,
    /// The admin port.
    pub admin: AdminSettings,
    /// This node among others.
    pub cluster: ClusterSettings,
    /// What the process may use.
    pub limits: LimitSettings,
    /// What it says of itself.
    pub log: LogSettings,
    /// How it talks to Kinesis.
    pub kinesis: KinesisSettings,
    /// How often it looks for news.
    pub probe: ProbeSettings,
    /// How it deletes what has outlived its outbox's retention.
    pub retention: RetentionSettings,
    /// What differs for some streams.
    pub streams: Vec<StreamSettings>,
    /// What differs for some tenants.
    pub tenants: Vec<TenantSettings>,
    /// The pipelines that the file defines.
    pub pipelines: Vec<PipelineSpec>,
    /// The environment: what `${env:NAME}` refers to.
    pub environment: Environment,
}

/// A database with outboxes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseSettings {
    /// What it is called in pipelines, statuses and metrics.
    pub name: Arc<str>,
    /// Its connection URL; it may hold a password.
    pub url: Secret,
    /// The most connections the relay opens to it.
    pub max_connections: u32,
    /// The longest a statement may take there. Finding the bounds of a large
    /// window takes about 0.1 s per million rows.
    pub statement_timeout: Duration,
    /// Whether statements are prepared once per connection; off for a pooler in
    /// transaction mode that cannot carry them.
    pub prepared_statements: bool,
}

/// The admin port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdminSettings {
    /// Where it listens.
    pub listen: SocketAddr,
}

/// This node among others on the same databases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterSettings {
    /// What it is called in leases; `None`: a name is made up at start.
    pub node_id: Option<Arc<str>>,
    /// How long a lease lasts; it is renewed at a quarter of it, or every second.
    pub lease: Duration,
    /// The database in which the nodes divide the shards' budgets; `None`: the first.
    pub database: Option<Arc<str>>,
}

/// What the process may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitSettings {
    /// What the process's resident memory is to stay under.
    pub memory: ByteSize,
    /// Rows in flight of one pipeline.
    pub pipeline_rows: u32,
    /// Rows in flight of one pipeline, by their bytes.
    pub pipeline_bytes: ByteSize,
    /// How long a drain may wait for what is in flight.
    pub drain_grace: Duration,
}

/// What the process says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    /// One line of text, or one JSON object, per event.
    pub format: LogFormat,
    /// Which events: the directives of `tracing_subscriber`'s `EnvFilter`.
    pub filter: String,
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For collectors.
    Json,
}

/// How the relay talks to Kinesis.
#[derive(Debug, Clone, PartialEq)]
pub struct KinesisSettings {
    /// The service's URL; `None` leaves it to the SDK.
    pub endpoint_url: Option<String>,
    /// The region of pipelines that name none; `None` leaves it to the SDK.
    pub region: Option<String>,
    /// The longest a call may take.
    pub operation_timeout: Duration,
    /// The longest a connection may take to open.
    pub connect_timeout: Duration,
    /// How often the shards of a stream are listed anew.
    pub shard_refresh: Duration,
    /// What a shard takes.
    pub shard_budget: ShardBudgetSettings,
}

/// How often the relay looks for news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeSettings {
    /// While there are some.
    pub min_interval: Duration,
    /// While there are none.
    pub max_interval: Duration,
}

/// How the relay deletes rows that have outlived their outbox's retention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetentionSettings {
    /// How often a database is looked at while there is nothing to delete.
    pub interval: Duration,
    /// The most rows deleted in one transaction.
    pub batch_rows: u32,
    /// The least time between two of them; as long as the last one took, if that
    /// is more.
    pub pause: Duration,
}

/// What differs for one stream.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamSettings {
    /// The stream's name.
    pub name: Arc<str>,
    /// The service's URL for it; `None`: that of `[kinesis]`.
    pub endpoint_url: Option<String>,
    /// What one of its shards takes.
    pub shard_budget: ShardBudgetSettings,
}

// === impl Settings ===

impl Settings {
    /// Reads the settings from a file, if there is one, and the environment.
    ///
    /// # Errors
    /// The file cannot be read, or everything that is wrong with the settings.
    pub fn load(file: Option<&Path>, environment: Environment) -> Result<Self, ConfigError> {
        let Some(path) = file else {
            return Self::read("(none)", "", environment);
        };
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::File {
            path: shown.clone(),
            reason: error.to_string(),
        })?;
        Self::read(&shown, &text, environment)
    }

    /// Reads the settings from the text of a file and the environment. `file` is
    /// what the file is called in problems.
    ///
    /// # Errors
    /// Everything that is wrong with the settings.
    pub fn read(file: &str, text: &str, environment: Environment) -> Result<Self, ConfigError> {
        let problems = location::syntax_problems(file, text);
        if !problems.is_empty() {
            return Err(ConfigError::Invalid(problems));
        }
        let merged = merge(file, text, &environment)?;
        let report = Report::new(Typing::FromText);
        let settings = settings_reader::read(&merged, environment, &report);
        let mut problems = report.into_problems();
        problems.extend(settings.validate());
        if problems.is_empty() {
            return Ok(settings);
        }
        location::locate(text, &settings.environment, &mut problems);
        Err(ConfigError::Invalid(problems))
    }

    /// What is wrong with the settings as a whole, each key being fine alone.
    #[must_use]
    pub fn validate(&self) -> Vec<ConfigProblem> {
        let mut problems = Vec::new();
        let LimitSettings {
            memory,
            pipeline_bytes,
            ..
        } = self.limits;
        if pipeline_bytes > memory {
            problems.push(ConfigProblem::new(
                "limits.pipeline_bytes",
                format!("got {pipeline_bytes}"),
                format!("at most limits.memory ({memory})"),
            ));
        }
        if self.probe.min_interval > self.probe.max_interval {
            problems.push(ConfigProblem::new(
                "probe.min_interval",
                "longer than probe.max_interval",
                "at most probe.max_interval",
            ));
        }
        if let Some(name) = &self.cluster.database
            && self.database(name).is_none()
        {
            problems.push(ConfigProblem::new(
                "cluster.database",
                format!("got {name:?}"),
                "the name of one of [[databases]]",
            ));
        }
        let mut unique = |list: &str, names: Vec<&str>| {
            for (index, name) in names.iter().enumerate() {
                if !name.is_empty() && names[..index].contains(name) {
                    let key = format!("{list}[{index}].name");
                    problems.push(ConfigProblem::new(
                        key,
                        format!("got {name:?} a second time"),
                        "every name once",
                    ));
                }
            }
        };
        unique(
            "databases",
            self.databases
                .iter()
                .map(|database| &*database.name)
                .collect(),
        );
        unique(
            "streams",
            self.streams.iter().map(|stream| &*stream.name).collect(),
        );
        unique(
            "tenants",
            self.tenants.iter().map(|tenant| &*tenant.name).collect(),
        );
        unique(
            "pipelines",
            self.pipelines
                .iter()
                .map(|pipeline| &*pipeline.name)
                .collect(),
        );
        problems
    }

    /// Every key there is, by its path; `[]` stands for a place in a list.
    #[must_use]
    pub fn known_keys() -> Vec<String> {
        let empty = serde_json::json!({});
        let one_of_each = serde_json::json!({
            "databases": [empty], "streams": [empty], "tenants": [empty], "pipelines": [empty],
        });
        let report = Report::new(Typing::FromText);
        settings_reader::read(&one_of_each, Environment::default(), &report);
        report.into_known_keys().into_iter().collect()
    }

    /// The database in which the nodes divide the shards' budgets.
    #[must_use]
    pub fn coordination(&self) -> Option<&Arc<str>> {
        let first = || self.databases.first().map(|database| &database.name);
        self.cluster.database.as_ref().or_else(first)
    }

    /// The database with this name.
    #[must_use]
    pub fn database(&self, name: &str) -> Option<&DatabaseSettings> {
        self.databases
            .iter()
            .find(|database| *database.name == *name)
    }
}

/// The file and the environment as one tree.
pub(super) fn merge(
    file: &str,
    text: &str,
    environment: &Environment,
) -> Result<serde_json::Value, ConfigError> {
    let problem = |error: config::ConfigError| ConfigError::File {
        path: file.to_owned(),
        reason: error.to_string(),
    };
    let source = config::File::from_str(text, config::FileFormat::Toml);
    let builder = config::Config::builder().add_source(source);
    let variables = config::Environment::with_prefix("TIDEGATE")
        .prefix_separator("__")
        .separator("__")
        .ignore_empty(true)
        .source(Some(environment.variables().clone()));
    let merged = builder.add_source(variables).build().map_err(problem)?;
    merged.try_deserialize().map_err(problem)
}

// === impl DatabaseSettings ===

impl DatabaseSettings {
    /// A database with default settings.
    #[must_use]
    pub fn new(name: &str, url: Secret) -> Self {
        Self {
            name: name.into(),
            url,
            max_connections: 8,
            statement_timeout: Duration::from_secs(60),
            prepared_statements: true,
        }
    }
}

// === impl ClusterSettings ===

impl ClusterSettings {
    /// The node's name: the configured one, or the host's, with process and
    /// chance behind it. Another one at every call: two processes must never share
    /// a name, or both would own what one of them does.
    #[must_use]
    pub fn node_name(&self) -> Arc<str> {
        let host = || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let name = self.node_id.as_deref().map_or_else(host, str::to_owned);
        let name = match name.trim() {
            "" => "node",
            name => name,
        };
        format!("{name}-{}-{:08x}", std::process::id(), fastrand::u32(..)).into()
    }
}
