//! Settings as they may be shown to anybody: a tree of the file's own form, with
//! every default filled in and a mark in the place of every secret.
//!
//! It can be read again ([`read`]) and compared with the marked form of other
//! settings, so what a reload would do can be found out from outside the process.
//!
//! A mark is 16 bits of a hash without any salt. Two secrets differ in it except once
//! in 65,536 times; and whoever reads it can rule guesses out, but confirm none: of a
//! million likely passwords 15 or so have the same mark. A salt that is another one in
//! every process would give 16 more bits away with each restart.

mod catalogs;
#[cfg(test)]
mod tests;

pub use self::catalogs::{catalogs_tree, read_catalogs, read_tenants, tenants_tree};
use md5::{Digest, Md5};
use serde_json::{Value, json};

use super::byte_size::ByteSize;
use super::client_spec::{ClientSpec, CredentialSource};
use super::environment::Environment;
use super::human_duration::HumanDuration;
use super::pipeline::{PipelineSpec, RateLimit, ShardBudgetSettings, StreamRef};
use super::problem::ConfigProblem;
use super::secret::Secret;
use super::settings::{
    ClusterSettings, DatabaseSettings, KinesisSettings, LimitSettings, LogFormat, LogSettings,
    ProbeSettings, RetentionSettings, Settings, StreamSettings,
};
use super::settings_reader;
use super::table::{Report, Typing};
use super::tenant::TenantSettings;

/// What stands for a secret.
fn mark(text: &str) -> String {
    let hash = Md5::digest(text.as_bytes());
    format!("masked-{:02x}{:02x}", hash[0], hash[1])
}

/// The settings, marked, as they may be shown.
#[must_use]
pub fn tree(settings: &Settings) -> Value {
    let Settings {
        databases,
        admin,
        cluster:
            ClusterSettings {
                node_id,
                lease,
                database: coordination,
            },
        limits,
        log: LogSettings { format, filter },
        kinesis,
        probe,
        retention,
        streams,
        tenants,
        pipelines,
        environment: _,
    } = settings;
    let LimitSettings {
        memory,
        pipeline_rows,
        pipeline_bytes,
        drain_grace,
    } = limits;
    let ProbeSettings {
        min_interval,
        max_interval,
    } = probe;
    let RetentionSettings {
        interval,
        batch_rows,
        pause,
    } = retention;
    let format = match format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    };
    let time = |duration: &std::time::Duration| HumanDuration(*duration).to_string();
    json!({
        "databases": databases.iter().map(database).collect::<Vec<Value>>(),
        "admin": { "listen": admin.listen.to_string() },
        "cluster": {
            "node_id": node_id.as_deref(), "lease": time(lease), "database": coordination.as_deref(),
        },
        "limits": {
            "memory": memory.to_string(),
            "pipeline_rows": pipeline_rows,
            "pipeline_bytes": pipeline_bytes.to_string(),
            "drain_grace": time(drain_grace),
        },
        "log": { "format": format, "filter": filter },
        "kinesis": of_kinesis(kinesis),
        "probe": { "min_interval": time(min_interval), "max_interval": time(max_interval) },
        "retention": {
            "interval": time(interval), "batch_rows": batch_rows, "pause": time(pause),
        },
        "streams": streams.iter().map(stream).collect::<Vec<Value>>(),
        "tenants": tenants.iter().map(tenant).collect::<Vec<Value>>(),
        "pipelines": pipelines.iter().map(pipeline).collect::<Vec<Value>>(),
    })
}

fn tenant(tenant: &TenantSettings) -> Value {
    let TenantSettings {
        name,
        weight,
        max_messages_per_second,
        max_bytes_per_second,
        burst,
        max_in_flight_bytes,
    } = tenant;
    json!({
        "name": &**name,
        "weight": weight,
        "max_messages_per_second": max_messages_per_second,
        "max_bytes_per_second": max_bytes_per_second,
        "burst": burst,
        "max_in_flight_bytes": max_in_flight_bytes,
    })
}

fn database(database: &DatabaseSettings) -> Value {
    let DatabaseSettings {
        name,
        url,
        max_connections,
        statement_timeout,
        prepared_statements,
    } = database;
    json!({
        "name": &**name,
        "url": marked_url(url),
        "max_connections": max_connections,
        "statement_timeout": HumanDuration(*statement_timeout).to_string(),
        "prepared_statements": prepared_statements,
    })
}

/// A mark of a URL is a URL.
fn marked_url(url: &Secret) -> String {
    format!("postgres://{}", mark(url.expose()))
}

fn of_kinesis(kinesis: &KinesisSettings) -> Value {
    let KinesisSettings {
        endpoint_url,
        region,
        operation_timeout,
        connect_timeout,
        shard_refresh,
        shard_budget,
    } = kinesis;
    json!({
        "endpoint_url": endpoint_url,
        "region": region,
        "operation_timeout": HumanDuration(*operation_timeout).to_string(),
        "connect_timeout": HumanDuration(*connect_timeout).to_string(),
        "shard_refresh": HumanDuration(*shard_refresh).to_string(),
        "shard_budget": budget(*shard_budget),
    })
}

fn budget(budget: ShardBudgetSettings) -> Value {
    let ShardBudgetSettings {
        records_per_second,
        bytes_per_second,
        fraction,
    } = budget;
    json!({
        "records_per_second": records_per_second,
        "bytes_per_second": ByteSize::from_bytes(bytes_per_second).to_string(),
        "fraction": fraction,
    })
}

fn stream(stream: &StreamSettings) -> Value {
    let StreamSettings {
        name,
        endpoint_url,
        shard_budget,
    } = stream;
    json!({
        "name": &**name, "endpoint_url": endpoint_url, "shard_budget": budget(*shard_budget),
    })
}

fn pipeline(spec: &PipelineSpec) -> Value {
    let PipelineSpec {
        name,
        database,
        outbox,
        stream,
        partition_key,
        format,
        batch_size,
        aggregation,
        aggregation_max_bytes,
        compression,
        on_poison,
        on_missing,
        rate_limit,
        tenant,
        weight,
        // It is its stream's.
        shard_budget: _,
    } = spec;
    let ClientSpec {
        region,
        endpoint_url,
        credentials,
        role_arn,
        external_id,
    } = &stream.client;
    let on_missing = match on_missing {
        Some(text) => json!({ "default": &**text }),
        None => json!("park"),
    };
    let mut tree = json!({
        "name": &**name,
        "database": &**database,
        "outbox": &**outbox,
        "region": region,
        "endpoint_url": endpoint_url,
        "role_arn": role_arn,
        "external_id": external_id.as_deref().map(mark),
        "partition_key": partition_key.to_string(),
        "format": format.as_str(),
        "batch_size": batch_size,
        "aggregation": aggregation.as_str(),
        "aggregation_max_bytes": aggregation_max_bytes,
        "compression": compression.as_str(),
        "on_poison": on_poison.name(),
        "on_missing": on_missing,
        "tenant": &**tenant,
        "weight": weight,
    });
    match &stream.stream {
        StreamRef::Name(name) => tree["stream_name"] = json!(name),
        StreamRef::Arn(arn) => tree["stream_arn"] = json!(arn),
    }
    match credentials {
        CredentialSource::DefaultChain => {}
        CredentialSource::Static {
            access_key_id,
            secret_access_key,
            session_token,
        } => {
            tree["access_key_id"] = json!(mark(access_key_id));
            tree["secret_access_key"] = json!(mark(secret_access_key.expose()));
            let token = session_token.as_ref().map(Secret::expose);
            tree["session_token"] = json!(token.map(mark));
        }
    }
    if let Some(RateLimit {
        max_messages_per_second,
        burst_size,
        max_bytes_per_second,
    }) = rate_limit
    {
        tree["rate_limit"] = json!({
            "max_messages_per_second": max_messages_per_second,
            "burst_size": burst_size,
            "max_bytes_per_second": max_bytes_per_second,
        });
    }
    tree
}

/// Reads settings that were shown. Their secrets are marks.
///
/// # Errors
/// What cannot be read: they were shown by another version.
pub fn read(tree: &Value) -> Result<Settings, Vec<ConfigProblem>> {
    let report = Report::new(Typing::Strict);
    let settings = settings_reader::read(tree, Environment::default(), &report);
    let problems = report.into_problems();
    if problems.is_empty() {
        return Ok(settings);
    }
    Err(problems)
}
