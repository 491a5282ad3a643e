//! Reads the keys of the settings, section by section, defaults included.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde_json::Value;

use super::byte_size::ByteSize;
use super::environment::Environment;
use super::pipeline::{PipelineSpec, ShardBudgetSettings};
use super::pipeline_reader::{
    self, Origin, Place, parse_endpoint_url, parse_region, read_shard_budget,
};
use super::secret::Secret;
use super::settings::{
    AdminSettings, ClusterSettings, DEFAULT_DATABASE, DatabaseSettings, KinesisSettings,
    LimitSettings, LogFormat, LogSettings, ProbeSettings, RetentionSettings, Settings,
    StreamSettings,
};
use super::table::{Report, Table};
use super::tenant::{self, TenantSettings};

/// Where the admin port is unless the settings say otherwise: reachable from
/// this machine alone.
const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9464);

const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);

/// Reads all settings. What is wrong is in the report; the settings are to be
/// used only if nothing is.
pub(super) fn read(merged: &Value, environment: Environment, report: &Report) -> Settings {
    let mut root = Table::new("", Some(merged), report);
    let kinesis = read_kinesis(root.table("kinesis"));
    let mut settings = Settings {
        databases: read_databases(&mut root, &environment),
        admin: read_admin(root.table("admin")),
        cluster: read_cluster(root.table("cluster")),
        limits: read_limits(root.table("limits")),
        log: read_log(root.table("log")),
        probe: read_probe(root.table("probe")),
        retention: read_retention(root.table("retention")),
        streams: read_streams(&mut root, kinesis.shard_budget),
        tenants: read_tenants(&mut root),
        pipelines: Vec::new(),
        kinesis,
        environment,
    };
    let pipelines = root.tables("pipelines").into_iter();
    settings.pipelines = pipelines
        .filter_map(|table| read_pipeline(table, &settings))
        .collect();
    root.finish();
    settings
}

fn read_databases(root: &mut Table<'_, '_>, environment: &Environment) -> Vec<DatabaseSettings> {
    let tables = root.tables("databases");
    if tables.is_empty() {
        if let Some(url) = environment.get("DATABASE_URL") {
            if !is_database_url(url) {
                root.refuse("DATABASE_URL", "no such URL", EXPECTED_DATABASE_URL);
            }
            return vec![DatabaseSettings::new(DEFAULT_DATABASE, url.into())];
        }
        let expected = "[[databases]] with a url, or DATABASE_URL in the environment";
        root.missing("databases", expected);
    }
    tables
        .into_iter()
        .map(|table| read_database(table, environment))
        .collect()
}

const EXPECTED_DATABASE_URL: &str = "a URL such as \"postgres://user:password@host:5432/database\"";

fn is_database_url(url: &str) -> bool {
    url.starts_with("postgres://") || url.starts_with("postgresql://")
}

fn read_database(mut table: Table<'_, '_>, environment: &Environment) -> DatabaseSettings {
    let name = table.required_name("name", "a name for the database");
    let url = table.secret("url", environment);
    match &url {
        Some(url) if !is_database_url(url) => {
            table.refuse("url", "another text", EXPECTED_DATABASE_URL);
        }
        None if table.value("url").is_none() => table.missing("url", EXPECTED_DATABASE_URL),
        Some(_) | None => {}
    }
    let url = Secret::new(url.unwrap_or_default());
    let mut database = DatabaseSettings::new(name.unwrap_or_default(), url);
    if let Some(most) = table.integer("max_connections", 2..=1000) {
        database.max_connections = most;
    }
    if let Some(timeout) = table.duration("statement_timeout", 100 * MILLISECOND..=HOUR) {
        database.statement_timeout = timeout;
    }
    if let Some(prepared) = table.boolean("prepared_statements") {
        database.prepared_statements = prepared;
    }
    table.finish();
    database
}

pub(super) fn read_admin(mut table: Table<'_, '_>) -> AdminSettings {
    let parse = |text: &str| {
        let expected = "an address and a port such as \"127.0.0.1:9464\" or \"0.0.0.0:9464\"";
        text.parse::<SocketAddr>().map_err(|_| expected)
    };
    let listen = table.parsed("listen", parse).unwrap_or(DEFAULT_LISTEN);
    table.finish();
    AdminSettings { listen }
}

fn read_cluster(mut table: Table<'_, '_>) -> ClusterSettings {
    let cluster = ClusterSettings {
        node_id: table.name("node_id").map(Into::into),
        lease: table.duration("lease", SECOND..=HOUR).unwrap_or(4 * SECOND),
        database: table.name("database").map(Into::into),
    };
    table.finish();
    cluster
}

fn read_limits(mut table: Table<'_, '_>) -> LimitSettings {
    let least = ByteSize::from_mib(1);
    let limits = LimitSettings {
        memory: table
            .size("memory", least)
            .unwrap_or(ByteSize::from_mib(256)),
        pipeline_rows: table
            .integer("pipeline_rows", 1..=10_000_000)
            .unwrap_or(40_000),
        pipeline_bytes: table
            .size("pipeline_bytes", least)
            .unwrap_or(ByteSize::from_mib(32)),
        drain_grace: table
            .duration("drain_grace", Duration::ZERO..=HOUR)
            .unwrap_or(20 * SECOND),
    };
    table.finish();
    limits
}

fn read_log(mut table: Table<'_, '_>) -> LogSettings {
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    let filter = table.parsed("filter", |text| {
        tracing_subscriber::EnvFilter::try_new(text)
            .map(|_| text.to_owned())
            .map_err(|error| format!("directives such as \"info,tidegate=debug\" ({error})"))
    });
    let log = LogSettings {
        format: table.choice("format", &formats).unwrap_or(LogFormat::Text),
        filter: filter.unwrap_or_else(|| "info,actix_server=warn".to_owned()),
    };
    table.finish();
    log
}

fn read_kinesis(mut table: Table<'_, '_>) -> KinesisSettings {
    let timeout = 10 * MILLISECOND..=300 * SECOND;
    let kinesis = KinesisSettings {
        endpoint_url: table.parsed("endpoint_url", parse_endpoint_url),
        region: table.parsed("region", parse_region),
        operation_timeout: table
            .duration("operation_timeout", timeout.clone())
            .unwrap_or(10 * SECOND),
        connect_timeout: table
            .duration("connect_timeout", timeout)
            .unwrap_or(3 * SECOND),
        shard_refresh: table
            .duration("shard_refresh", 100 * MILLISECOND..=HOUR)
            .unwrap_or(30 * SECOND),
        shard_budget: read_shard_budget(
            table.table("shard_budget"),
            ShardBudgetSettings::default(),
        ),
    };
    table.finish();
    kinesis
}

fn read_probe(mut table: Table<'_, '_>) -> ProbeSettings {
    let range = MILLISECOND..=60 * SECOND;
    let probe = ProbeSettings {
        min_interval: table
            .duration("min_interval", range.clone())
            .unwrap_or(5 * MILLISECOND),
        max_interval: table
            .duration("max_interval", range)
            .unwrap_or(100 * MILLISECOND),
    };
    table.finish();
    probe
}

fn read_retention(mut table: Table<'_, '_>) -> RetentionSettings {
    let retention = RetentionSettings {
        interval: table
            .duration("interval", 100 * MILLISECOND..=HOUR)
            .unwrap_or(10 * SECOND),
        batch_rows: table.integer("batch_rows", 1..=100_000).unwrap_or(5_000),
        pause: table
            .duration("pause", Duration::ZERO..=HOUR)
            .unwrap_or(100 * MILLISECOND),
    };
    table.finish();
    retention
}

fn read_streams(root: &mut Table<'_, '_>, budget: ShardBudgetSettings) -> Vec<StreamSettings> {
    let read = |mut table: Table<'_, '_>| {
        let name = table.required_name("name", "the stream's name");
        let stream = StreamSettings {
            name: name.unwrap_or_default().into(),
            endpoint_url: table.parsed("endpoint_url", parse_endpoint_url),
            shard_budget: read_shard_budget(table.table("shard_budget"), budget),
        };
        table.finish();
        stream
    };
    root.tables("streams").into_iter().map(read).collect()
}

fn read_tenants(root: &mut Table<'_, '_>) -> Vec<TenantSettings> {
    let read = |mut table: Table<'_, '_>| {
        let name = table.required_name("name", "the tenant's name");
        let tenant = tenant::read(&mut table, name.unwrap_or_default());
        table.finish();
        tenant
    };
    root.tables("tenants").into_iter().map(read).collect()
}

fn read_pipeline(mut table: Table<'_, '_>, settings: &Settings) -> Option<PipelineSpec> {
    let name = table.required_name("name", "a name for the pipeline");
    let outbox = table.required_name("outbox", "the name of the outbox to read");
    let database = read_database_of(&mut table, settings);
    // Taken so that a definition can be moved from the database as it is; the
    // position belongs to the pipeline, not to a group.
    table.name("consumer_group");
    let place = Place {
        name: name.unwrap_or_default(),
        outbox: outbox.unwrap_or_default(),
        database: database.unwrap_or_default(),
    };
    let spec = pipeline_reader::read(&mut table, place, Origin::File, settings);
    table.finish();
    spec
}

fn read_database_of<'a>(table: &mut Table<'_, '_>, settings: &'a Settings) -> Option<&'a str> {
    let mut databases = settings.databases.iter().map(|database| &*database.name);
    let names = databases.clone().collect::<Vec<_>>().join(", ");
    let Some(name) = table.name("database") else {
        if settings.databases.len() > 1 && table.value("database").is_none() {
            table.missing("database", format!("one of {names}: there are several"));
        }
        return databases.next();
    };
    let found = databases.find(|known| *known == name);
    if found.is_none() {
        table.refuse(
            "database",
            format!("got {name:?}"),
            format!("one of {names}"),
        );
    }
    found
}
