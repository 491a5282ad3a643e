//! What should run: the pipelines of the file and of the databases, as one.
//!
//! A mistake in one definition is that pipeline's alone. What a reload does is the
//! difference of two such states: [`super::plan`].

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use super::pipeline::{DEFAULT_TENANT, PipelineSpec};
use super::settings::Settings;
use super::tenant::Tenancy;
use crate::core::ports::{PipelineRow, TenantRow};

/// A pipeline among all databases.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PipelineKey {
    /// The database it reads from.
    pub database: Arc<str>,
    /// Its name there.
    pub name: Arc<str>,
}

impl fmt::Display for PipelineKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.database, self.name)
    }
}

/// What is wanted of one pipeline.
#[derive(Debug, Clone, PartialEq)]
pub enum Wanted {
    /// It is to run.
    Run {
        /// Its definition.
        spec: Arc<PipelineSpec>,
        /// The version of the definition in the database; `None` in the file.
        version: Option<i64>,
    },
    /// Its definition is not acceptable.
    Invalid {
        /// What can be read of it all the same.
        named: Named,
        /// What is wrong, and what is expected.
        reason: String,
    },
}

/// What a definition names, whether it is acceptable or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The outbox.
    pub outbox: Arc<str>,
    /// The stream; empty where none can be read.
    pub stream: Arc<str>,
    /// The tenant; empty where none can be read.
    pub tenant: Arc<str>,
}

/// Everything that is wanted: the settings, and with them every pipeline.
#[derive(Debug, Clone, PartialEq)]
pub struct Desired {
    /// The file and the environment.
    pub settings: Arc<Settings>,
    /// The pipelines of the file and of the databases.
    pub pipelines: BTreeMap<PipelineKey, Wanted>,
    /// The tenants of the file and of the databases.
    pub tenants: Tenancy,
}

/// What the databases define, as it was read last.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Catalogs {
    /// The pipelines of each database.
    pub pipelines: BTreeMap<Arc<str>, Vec<PipelineRow>>,
    /// The tenants of each database.
    pub tenants: BTreeMap<Arc<str>, Vec<TenantRow>>,
}

// === impl Desired ===

impl Desired {
    /// What these settings want together with what the databases define. The
    /// definitions are read anew under these settings: a stream's budget in the file
    /// reaches pipelines of a database, too.
    #[must_use]
    pub fn new(settings: Arc<Settings>, catalogs: &Catalogs) -> Self {
        let pipelines = desired(&settings, &catalogs.pipelines);
        let tenants = Tenancy::new(&settings, &catalogs.tenants);
        Self {
            settings,
            pipelines,
            tenants,
        }
    }
}

impl From<BTreeMap<Arc<str>, Vec<PipelineRow>>> for Catalogs {
    /// Databases that define no tenants.
    fn from(pipelines: BTreeMap<Arc<str>, Vec<PipelineRow>>) -> Self {
        Self {
            pipelines,
            tenants: BTreeMap::new(),
        }
    }
}

/// Joins the file's pipelines with those of the databases. A database whose
/// catalog has not been read yet contributes nothing, nor does one that the
/// settings do not name (any more).
#[must_use]
pub fn desired(
    settings: &Settings,
    catalogs: &BTreeMap<Arc<str>, Vec<PipelineRow>>,
) -> BTreeMap<PipelineKey, Wanted> {
    let mut wanted = BTreeMap::new();
    for spec in &settings.pipelines {
        let key = PipelineKey {
            database: Arc::clone(&spec.database),
            name: Arc::clone(&spec.name),
        };
        let spec = Arc::new(spec.clone());
        wanted.insert(
            key,
            Wanted::Run {
                spec,
                version: None,
            },
        );
    }
    let is_known = |(database, _): &(&Arc<str>, _)| settings.database(database).is_some();
    for (database, rows) in catalogs.iter().filter(is_known) {
        for row in rows.iter().filter(|row| row.enabled) {
            let key = PipelineKey {
                database: Arc::clone(database),
                name: row.name.as_str().into(),
            };
            let is_twice = wanted.contains_key(&key);
            let one = if is_twice {
                let reason =
                    "it is defined in the configuration file and in the database (expected one \
                              of them): delete one, or tide.relay_disable() it"
                        .to_owned();
                Wanted::Invalid {
                    named: named(row),
                    reason,
                }
            } else {
                read(row, database, settings)
            };
            wanted.insert(key, one);
        }
    }
    wanted
}

fn read(row: &PipelineRow, database: &str, settings: &Settings) -> Wanted {
    let invalid = |reason: String| Wanted::Invalid {
        named: named(row),
        reason,
    };
    let config = match &row.config {
        Ok(config) => config,
        Err(reason) => return invalid(reason.clone()),
    };
    match PipelineSpec::from_json(&row.name, &row.outbox, database, config, settings) {
        Ok(spec) => Wanted::Run {
            spec: Arc::new(spec),
            version: Some(row.version),
        },
        Err(problems) => {
            let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
            invalid(problems.join("; "))
        }
    }
}

/// Who is in trouble can be said although the definition has mistakes elsewhere.
fn named(row: &PipelineRow) -> Named {
    let config = row.config.as_ref().ok().and_then(Value::as_object);
    let text = |key: &str, absent: &'static str| match config.map(|config| config.get(key)) {
        Some(None) => Arc::from(absent),
        Some(Some(Value::String(text))) => Arc::from(text.as_str()),
        Some(Some(_)) | None => Arc::from(""),
    };
    Named {
        outbox: row.outbox.as_str().into(),
        stream: text("stream_name", ""),
        tenant: text("tenant", DEFAULT_TENANT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::environment::Environment;

    fn settings() -> Settings {
        let environment = Environment::from_iter([("DATABASE_URL", "postgres://localhost/x")]);
        Settings::load(None, environment).expect("settings")
    }

    fn row(name: &str, config: serde_json::Value) -> PipelineRow {
        PipelineRow {
            name: name.to_owned(),
            outbox: "events".to_owned(),
            consumer_group: String::new(),
            config: Ok(config),
            enabled: true,
            version: 1,
        }
    }

    #[test]
    fn one_invalid_pipeline_harms_only_itself() {
        let good =
            serde_json::json!({"sink_type": "kinesis", "stream_name": "s", "region": "us-east-1"});
        let bad = serde_json::json!({"sink_type": "kinesis", "stream_name": "s", "tenant": "acme", "batch_size": 501});
        let mut unreadable = row("unreadable", serde_json::Value::Null);
        unreadable.config = Err("number out of range".to_owned());
        let rows = vec![row("bad", bad), row("good", good), unreadable];
        let catalogs = BTreeMap::from([(Arc::from("default"), rows)]);
        let wanted = desired(&settings(), &catalogs);
        let of = |name: &str| {
            &wanted[&PipelineKey {
                database: "default".into(),
                name: name.into(),
            }]
        };
        assert!(
            matches!(of("good"), Wanted::Run { spec, version: Some(1) } if spec.stream.name() == "s")
        );
        assert!(matches!(of("unreadable"), Wanted::Invalid { reason, named }
                if reason.contains("range") && named.tenant.is_empty() && named.stream.is_empty()));
        assert!(matches!(of("bad"), Wanted::Invalid { reason, named }
                if reason.contains("batch_size") && &*named.tenant == "acme" && &*named.stream == "s"));
    }
}
