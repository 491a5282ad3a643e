//! Reads the keys of a pipeline. The rules are those of
//! `tide.relay_set_outbox`, so that what the database accepts is accepted here.

use std::sync::Arc;

use super::client_spec::{ClientSpec, CredentialSource, Secret};
use super::pipeline::{
    DEFAULT_BATCH_SIZE, DEFAULT_TENANT, PipelineSpec, RateLimit, ShardBudgetSettings, StreamRef,
    StreamTarget,
};
use super::settings::Settings;
use super::table::Table;
use crate::core::aggregation::{Aggregation, DEFAULT_MAX_BYTES, LEAST_MAX_BYTES, MOST_MAX_BYTES};
use crate::core::body::BodyFormat;
use crate::core::compression::Compression;
use crate::core::dead_letter::OnPoison;
use crate::core::render::MAX_KEY_CHARACTERS;
use crate::core::template::KeyTemplate;

/// Who defined a pipeline, and so what it may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// The operator.
    File,
    /// Whoever may call `tide.relay_set_outbox`.
    Database,
}

/// What is said of a pipeline outside its config keys.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) name: &'a str,
    pub(super) outbox: &'a str,
    pub(super) database: &'a str,
}

/// The most messages a second that make sense as a limit.
const MOST_MESSAGES_PER_SECOND: f64 = 1e9;

/// Reads the config keys. `None` only together with a problem in the report;
/// with a problem in the report the spec is not to be used.
pub(super) fn read(
    table: &mut Table<'_, '_>,
    place: Place<'_>,
    origin: Origin,
    settings: &Settings,
) -> Option<PipelineSpec> {
    table.choice("sink_type", &[("kinesis", ())]);
    let stream = read_stream(table);
    let region = read_region(table, stream.as_ref());
    let credentials = read_credentials(table, settings);
    let (role_arn, external_id) = read_role(table, settings, origin);
    let endpoint_url = read_endpoint(table, origin);
    let partition_key = table.parsed("partition_key", |text| {
        text.parse::<KeyTemplate>()
            .map_err(|error| format!("a key template ({error})"))
    });
    let format = table.choice(
        "format",
        &BodyFormat::ALL.map(|format| (format.as_str(), format)),
    );
    let batch_size = table
        .integer("batch_size", 1..=500)
        .unwrap_or(DEFAULT_BATCH_SIZE);
    let rate_limit = read_rate_limit(table);
    let tenant = table.name("tenant").unwrap_or(DEFAULT_TENANT);
    let weight = table.integer("weight", 1..=1000);
    only(table, "ordering", "key");
    let (aggregation, aggregation_max_bytes) = read_aggregation(table);
    let compression = table.choice(
        "compression",
        &Compression::ALL.map(|one| (one.as_str(), one)),
    );
    let on_poison = table.choice(
        "on_poison",
        &OnPoison::ALL.map(|choice| (choice.name(), choice)),
    );
    let on_missing = read_on_missing(table);

    let stream = stream?;
    let known = settings
        .streams
        .iter()
        .find(|known| *known.name == *stream.name());
    Some(PipelineSpec {
        name: place.name.into(),
        database: place.database.into(),
        outbox: place.outbox.into(),
        partition_key: partition_key.unwrap_or_default(),
        format: format.unwrap_or_default(),
        batch_size: usize::try_from(batch_size).ok()?,
        aggregation,
        aggregation_max_bytes,
        compression: compression.unwrap_or_default(),
        on_poison: on_poison.unwrap_or_default(),
        on_missing,
        rate_limit,
        tenant: tenant.into(),
        weight: weight.unwrap_or(1),
        shard_budget: known.map_or(settings.kinesis.shard_budget, |known| known.shard_budget),
        stream: StreamTarget {
            client: ClientSpec {
                region: region.or_else(|| settings.kinesis.region.clone()),
                endpoint_url: endpoint_url
                    .or_else(|| known.and_then(|known| known.endpoint_url.clone()))
                    .or_else(|| settings.kinesis.endpoint_url.clone()),
                credentials,
                role_arn,
                external_id,
            },
            stream,
        },
    })
}

fn read_stream(table: &mut Table<'_, '_>) -> Option<StreamRef> {
    let name = table.parsed("stream_name", parse_stream_name);
    let named = table.value("stream_name").is_some();
    let arn = table.parsed("stream_arn", |text| {
        arn_region(text).map(|_| text.to_owned())
    });
    let has_arn = table.value("stream_arn").is_some();
    if !named && !has_arn {
        table.missing(
            "stream_name",
            "the name of the Kinesis stream (or stream_arn)",
        );
    }
    if let (Some(name), Some(arn)) = (&name, &arn) {
        let by_arn = StreamRef::Arn(arn.clone());
        if by_arn.name() != name {
            let expected = format!("{:?}, the stream that stream_arn names", by_arn.name());
            table.refuse("stream_name", format!("got {name:?}"), expected);
        }
    }
    arn.map(StreamRef::Arn).or(name.map(StreamRef::Name))
}

/// A stream's name, as the Kinesis API states for `StreamName`.
fn parse_stream_name(text: &str) -> Result<String, &'static str> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    if (1..=128).contains(&text.len()) && text.bytes().all(allowed) {
        return Ok(text.to_owned());
    }
    Err("1 to 128 letters, digits, \"_\", \".\" or \"-\"")
}

/// The region in a stream's ARN.
fn arn_region(text: &str) -> Result<&str, &'static str> {
    let parts: Vec<&str> = text.splitn(6, ':').collect();
    if let ["arn", partition, "kinesis", region, account, stream] = parts[..]
        && !partition.is_empty()
        && !region.is_empty()
        && account.len() == 12
        && account.bytes().all(|byte| byte.is_ascii_digit())
        && stream
            .strip_prefix("stream/")
            .is_some_and(|name| parse_stream_name(name).is_ok())
    {
        return Ok(region);
    }
    Err("an ARN such as \"arn:aws:kinesis:us-east-1:123456789012:stream/NAME\"")
}

fn read_region(table: &mut Table<'_, '_>, stream: Option<&StreamRef>) -> Option<String> {
    let region = table.parsed("region", parse_region);
    let from_arn = match stream {
        Some(StreamRef::Arn(arn)) => arn_region(arn).ok(),
        Some(StreamRef::Name(_)) | None => None,
    };
    if let (Some(region), Some(from_arn)) = (&region, from_arn)
        && region != from_arn
    {
        let expected = format!("{from_arn:?}, the region in stream_arn");
        table.refuse("region", format!("got {region:?}"), expected);
    }
    region.or_else(|| from_arn.map(str::to_owned))
}

/// A region's name: a part of host names, so nothing else may be in it.
pub(super) fn parse_region(text: &str) -> Result<String, &'static str> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if (1..=63).contains(&text.len()) && text.bytes().all(allowed) {
        return Ok(text.to_owned());
    }
    Err("an AWS region such as \"us-east-1\"")
}

/// A URL of an endpoint.
pub(super) fn parse_endpoint_url(text: &str) -> Result<String, &'static str> {
    let host = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"));
    if host.is_some_and(|host| !host.is_empty() && !host.contains(char::is_whitespace)) {
        return Ok(text.to_owned());
    }
    Err("a URL that begins with https:// or http://")
}

fn read_credentials(table: &mut Table<'_, '_>, settings: &Settings) -> CredentialSource {
    const TOGETHER: [&str; 2] = ["access_key_id", "secret_access_key"];
    let given = TOGETHER.map(|key| table.value(key).is_some());
    let id = table.secret("access_key_id", &settings.environment);
    let secret = table.secret("secret_access_key", &settings.environment);
    let token = table.secret("session_token", &settings.environment);
    match given {
        [true, false] => table.missing(TOGETHER[1], "it together with access_key_id"),
        [false, true] => table.missing(TOGETHER[0], "it together with secret_access_key"),
        [false, false] if token.is_some() => {
            let expected = "access_key_id and secret_access_key beside it";
            table.refuse("session_token", "given alone", expected);
        }
        [false, false] | [true, true] => {}
    }
    match (id, secret) {
        (Some(access_key_id), Some(secret)) => CredentialSource::Static {
            access_key_id,
            secret_access_key: Secret::new(secret),
            session_token: token.map(Secret::new),
        },
        (Some(_), None) | (None, Some(_)) | (None, None) => CredentialSource::DefaultChain,
    }
}

fn read_role(
    table: &mut Table<'_, '_>,
    settings: &Settings,
    origin: Origin,
) -> (Option<String>, Option<String>) {
    let role_arn = table.parsed("role_arn", |text| {
        let is_role =
            text.starts_with("arn:") && text.contains(":iam::") && text.contains(":role/");
        let example = "an ARN such as \"arn:aws:iam::123456789012:role/NAME\"";
        is_role.then(|| text.to_owned()).ok_or(example)
    });
    let external_id = match origin {
        Origin::File => table.secret("external_id", &settings.environment),
        // It is sent to whoever owns the role: a definition in a database must not
        // be able to name one of the relay's own secrets.
        Origin::Database => table.parsed("external_id", |text| {
            let is_plain = !text.is_empty() && !text.contains("${");
            is_plain.then(|| text.to_owned()).ok_or(
                "a text that is not empty; ${env:NAME} and ${file:/path} work only in the relay's file",
            )
        }),
    };
    if external_id.is_some() && table.value("role_arn").is_none() {
        table.refuse("external_id", "given alone", "role_arn beside it");
    }
    (role_arn, external_id)
}

fn read_endpoint(table: &mut Table<'_, '_>, origin: Origin) -> Option<String> {
    match origin {
        Origin::File => table.parsed("endpoint_url", parse_endpoint_url),
        Origin::Database => {
            if table.value("endpoint_url").is_some() {
                table.refuse(
                    "endpoint_url",
                    "given in the database",
                    "it only in the operator's configuration file: a pipeline defined in a \
                     database must not send credentials to another host",
                );
            }
            None
        }
    }
}

fn read_rate_limit(table: &mut Table<'_, '_>) -> Option<RateLimit> {
    let is_given = table.value("rate_limit").is_some();
    let mut limits = table.table("rate_limit");
    let enabled = limits.boolean("enabled").unwrap_or(is_given);
    let limit = RateLimit {
        max_messages_per_second: limits
            .positive("max_messages_per_second", MOST_MESSAGES_PER_SECOND),
        burst_size: limits.integer("burst_size", 1..=1_000_000),
        max_bytes_per_second: limits.size_or_bytes("max_bytes_per_second"),
    };
    let rates = ["max_messages_per_second", "max_bytes_per_second"];
    let has_rate = rates.map(|key| limits.value(key).is_some()).contains(&true);
    limits.finish();
    if enabled && !has_rate {
        let expected = "max_messages_per_second, max_bytes_per_second or both";
        table.refuse("rate_limit", "enabled without a limit", expected);
    }
    (enabled && has_rate).then_some(limit)
}

/// Whether rows share records, and up to what weight.
fn read_aggregation(table: &mut Table<'_, '_>) -> (Aggregation, usize) {
    let one = table.choice(
        "aggregation",
        &Aggregation::ALL.map(|one| (one.as_str(), one)),
    );
    let one = one.unwrap_or_default();
    let is_alone = table.value("aggregation").is_none();
    let is_given = table.value("aggregation_max_bytes").is_some();
    let range = LEAST_MAX_BYTES..=MOST_MAX_BYTES;
    let max_bytes = table.bytes_within("aggregation_max_bytes", range);
    if is_given && is_alone {
        let expected = "aggregation = \"kpl\" or \"ndjson\" beside it";
        table.refuse("aggregation_max_bytes", "given alone", expected);
    }
    (one, max_bytes.unwrap_or(DEFAULT_MAX_BYTES))
}

/// The text that stands for a missing variable; `None`: the row is poison.
fn read_on_missing(table: &mut Table<'_, '_>) -> Option<Arc<str>> {
    let value = table.value("on_missing")?;
    if value.as_str() == Some("park") {
        return None;
    }
    if !value.is_object() {
        let expected = "\"park\", or a text to take in its place: {default = \"unknown\"}";
        table.refuse("on_missing", format!("got {value}"), expected);
        return None;
    }
    let mut inner = table.table("on_missing");
    if inner.value("default").is_none() {
        inner.missing("default", "the text to take in place of a missing variable");
    }
    let text = inner.parsed("default", |text| {
        let is_key = (1..=MAX_KEY_CHARACTERS).contains(&text.chars().count());
        let text = is_key.then(|| Arc::from(text));
        text.ok_or("a text of 1 to 256 characters")
    });
    inner.finish();
    text
}

/// Accepts the one value of a key that this version knows.
fn only(table: &mut Table<'_, '_>, key: &'static str, supported: &str) {
    let Some(value) = table.value(key) else {
        return;
    };
    if value.as_str() != Some(supported) {
        let expected = format!("{supported:?}: nothing else is supported in this version");
        table.refuse(key, format!("got {value}"), expected);
    }
}

/// Reads a shard budget; keys that are absent are those of `defaults`.
pub(super) fn read_shard_budget(
    mut table: Table<'_, '_>,
    defaults: ShardBudgetSettings,
) -> ShardBudgetSettings {
    let budget = ShardBudgetSettings {
        records_per_second: table
            .integer("records_per_second", 1..=1_000_000)
            .unwrap_or(defaults.records_per_second),
        bytes_per_second: table
            .size("bytes_per_second", super::ByteSize::from_bytes(1024))
            .map_or(defaults.bytes_per_second, super::ByteSize::bytes),
        fraction: table.positive("fraction", 1.0).unwrap_or(defaults.fraction),
    };
    table.finish();
    budget
}
