//! The configuration as an operator meets it: the example file, the
//! environment, and what is said of mistakes.
#![allow(clippy::expect_used, reason = "a test may fail by panicking")]

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tidegate::config::pipeline::ShardBudgetSettings;
use tidegate::config::{
    ConfigError, ConfigProblem, CredentialSource, Environment, RateLimit, Secret, Settings,
};

#[path = "config/pipelines.rs"]
mod pipelines;

const EXAMPLE: &str = include_str!("../configs/tidegate.toml");

/// What the example file refers to.
const EXAMPLE_ENVIRONMENT: [(&str, &str); 5] = [
    ("DATABASE_URL", "postgres://localhost/app"),
    ("ORDERS_PASSWORD", "pw"),
    ("ACME_ACCESS_KEY_ID", "AKIA"),
    ("ACME_SESSION_TOKEN", "token"),
    ("ACME_EXTERNAL_ID", "external"),
];

/// A file of its own, removed when dropped.
struct File(PathBuf);

impl File {
    fn with(text: &str) -> Self {
        let name = format!(
            "tidegate-config-{}-{:016x}",
            std::process::id(),
            fastrand::u64(..)
        );
        let path = std::env::temp_dir().join(name);
        let mut file = std::fs::File::create_new(&path).expect("a new file");
        file.write_all(text.as_bytes()).expect("written");
        Self(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // A file left behind in the temporary directory harms nobody.
        drop(std::fs::remove_file(&self.0));
    }
}

fn load<'a>(
    text: &str,
    variables: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<Settings, ConfigError> {
    let file = File::with(text);
    Settings::load(Some(&file.0), Environment::from_iter(variables))
}

fn load_with_database(text: &str) -> Result<Settings, ConfigError> {
    load(text, [("DATABASE_URL", "postgres://localhost/app")])
}

/// A problem as it is said of a key, wherever that stands.
fn without_location(problem: &ConfigProblem) -> String {
    let mut problem = problem.clone();
    problem.location = None;
    problem.to_string()
}

#[track_caller]
fn problems(loaded: Result<Settings, ConfigError>) -> Vec<String> {
    match loaded.expect_err("a problem") {
        ConfigError::Invalid(problems) => problems.iter().map(without_location).collect(),
        ConfigError::File { path, reason } => panic!("{path}: {reason}"),
    }
}

fn default_settings() -> Settings {
    let environment = Environment::from_iter(EXAMPLE_ENVIRONMENT);
    Settings::load(None, environment).expect("DATABASE_URL is enough")
}

/// The example with everything in it that is commented out.
fn whole_example() -> String {
    let active = |line: &str| match line.strip_prefix('#') {
        Some(key) if !key.is_empty() && !key.starts_with(' ') => format!("{key}\n"),
        Some(_) | None => format!("{line}\n"),
    };
    EXAMPLE.lines().map(active).collect()
}

fn paths(value: &serde_json::Value, path: &str, found: &mut BTreeSet<String>) {
    if !path.is_empty() && !path.ends_with("[]") {
        found.insert(path.to_owned());
    }
    let dot = if path.is_empty() { "" } else { "." };
    for (key, member) in value.as_object().into_iter().flatten() {
        paths(member, &format!("{path}{dot}{key}"), found);
    }
    for element in value.as_array().into_iter().flatten() {
        paths(element, &format!("{path}[]"), found);
    }
}

// === The example file ===

#[test]
fn the_example_shows_the_defaults() {
    let example = load(EXAMPLE, EXAMPLE_ENVIRONMENT).expect("the example is valid");
    assert_eq!(example, default_settings());
}

#[test]
fn the_example_has_every_key_and_no_other() {
    let tree: serde_json::Value = config::Config::builder()
        .add_source(config::File::from_str(
            &whole_example(),
            config::FileFormat::Toml,
        ))
        .build()
        .and_then(config::Config::try_deserialize)
        .expect("TOML");
    let mut in_the_example = BTreeSet::new();
    paths(&tree, "", &mut in_the_example);
    assert_eq!(in_the_example, Settings::known_keys().into_iter().collect());
}

#[test]
fn everything_commented_out_in_the_example_is_valid() {
    let secret = File::with("from-a-file\n");
    let text = whole_example().replace(
        "/run/secrets/acme_secret_access_key",
        &secret.0.display().to_string(),
    );
    let settings = load(&text, EXAMPLE_ENVIRONMENT).expect("valid");
    let pipeline = &settings.pipelines[0];
    assert_eq!(
        settings.databases[0].url.expose(),
        "postgres://relay:pw@db.internal:5432/orders?sslmode=require"
    );
    assert_eq!(&*pipeline.database, "orders");
    assert_eq!(
        pipeline.stream.client.credentials,
        CredentialSource::Static {
            access_key_id: "AKIA".to_owned(),
            secret_access_key: Secret::from("from-a-file"),
            session_token: Some(Secret::from("token")),
        }
    );
    assert_eq!(
        pipeline.rate_limit,
        Some(RateLimit {
            max_messages_per_second: Some(500.0),
            burst_size: Some(1000),
            max_bytes_per_second: Some(512 << 10),
        })
    );
    let budget = ShardBudgetSettings {
        records_per_second: 500,
        bytes_per_second: 512 << 10,
        fraction: 0.98,
    };
    assert_eq!(pipeline.shard_budget, budget);
    let shown = format!("{settings:?}");
    for secret in ["from-a-file", "token", "relay:pw"] {
        assert!(
            !shown.contains(&format!("\"{secret}")),
            "Debug shows {secret}"
        );
    }
}

// === Where settings come from ===

#[test]
fn the_database_url_alone_is_enough() {
    let settings = default_settings();
    assert_eq!(settings.databases.len(), 1);
    assert_eq!(&*settings.databases[0].name, "default");
    assert_eq!(
        settings.databases[0].url.expose(),
        "postgres://localhost/app"
    );
    assert_eq!(settings.admin.listen.to_string(), "127.0.0.1:9464");
    assert_eq!(settings.cluster.lease, Duration::from_secs(4));
    assert_ne!(settings.cluster.node_name(), settings.cluster.node_name());
}

#[test]
fn the_environment_goes_before_the_file() {
    let settings = load(
        "[limits]\npipeline_rows = 5\ndrain_grace = \"1s\"\n",
        [
            ("DATABASE_URL", "postgres://localhost/app"),
            ("TIDEGATE__LIMITS__PIPELINE_ROWS", "7"),
            ("TIDEGATE__ADMIN__LISTEN", "0.0.0.0:80"),
            ("TIDEGATE__CLUSTER__NODE_ID", "007"),
            ("TIDEGATE__KINESIS__SHARD_BUDGET__FRACTION", "0.5"),
            ("TIDEGATE__KINESIS__REGION", ""),
        ],
    )
    .expect("valid");
    assert_eq!(settings.limits.pipeline_rows, 7);
    assert_eq!(settings.limits.drain_grace, Duration::from_secs(1));
    assert_eq!(settings.admin.listen.to_string(), "0.0.0.0:80");
    assert_eq!(settings.cluster.node_id.as_deref(), Some("007"));
    assert!((settings.kinesis.shard_budget.fraction - 0.5).abs() < f64::EPSILON);
    assert_eq!(settings.kinesis.region, None);
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let load = |path| Settings::load(Some(Path::new(path)), Environment::default());
    let error = load("/no/such/tidegate.toml")
        .expect_err("no file")
        .to_string();
    assert!(error.contains("/no/such/tidegate.toml"), "{error}");
    let error = load_with_database("[admin\nlisten = 1")
        .expect_err("no TOML")
        .to_string();
    assert!(error.contains("line 1: /"), "{error}");
    assert!(error.contains("no TOML: "), "{error}");
}

// === Mistakes ===

#[test]
fn all_mistakes_are_named_at_once() {
    let text = r#"
        [admin]
        lisen = "127.0.0.1:1"
        [limits]
        memory = "64"
        drain_grace = 20
        pipeline_rows = 0
        [cluster]
        lease = "10ms"
        [kinesis.shard_budget]
        fraction = 1.5
        [[tenants]]
        name = "acme"
        weight = 1001
        [[tenants]]
        name = "acme"
        [metrics]
        on = true
    "#;
    let found = problems(load_with_database(text));
    let expected = [
        "admin.lisen: unknown key; expected listen, perhaps (allowed are listen)",
        "limits.memory: got \"64\"; expected a size with a unit",
        "limits.drain_grace: got 20; expected a duration with units",
        "limits.pipeline_rows: got 0; expected a whole number from 1 to 10000000",
        "cluster.lease: got \"10ms\"; expected a duration with units",
        "kinesis.shard_budget.fraction: got 1.5; expected a number above 0, at most 1",
        "tenants[0].weight: got 1001; expected a whole number from 1 to 1000",
        "tenants[1].name: got \"acme\" a second time; expected every name once",
        "metrics: unknown key; expected one of kinesis, databases, admin,",
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(
            found.starts_with(expected),
            "{found} does not begin with {expected}"
        );
    }
}

#[test]
fn databases_are_needed_and_named_once() {
    assert_eq!(
        problems(load("", [])),
        [
            "databases: missing; expected [[databases]] with a url, or DATABASE_URL in the environment"
        ]
    );
    let text = r#"
        [[databases]]
        name = "a"
        url = "mysql://user:hunter2@h/d"
        [[databases]]
        name = "a"
        url = "${env:NOT_THERE}"
        [[databases]]
        [[pipelines]]
        name = "p"
        outbox = "o"
        stream_name = "s"
    "#;
    let found = problems(load(text, []));
    assert_eq!(
        found,
        [
            "databases[0].url: another text; expected a URL such as \
             \"postgres://user:password@host:5432/database\"",
            "databases[1].name: got \"a\" a second time; expected every name once",
            "databases[1].url: refers to ${env:NOT_THERE}, but the environment variable NOT_THERE \
             is not set or empty; expected a reference that can be resolved",
            "databases[2].name: missing; expected a name for the database",
            "databases[2].url: missing; expected a URL such as \
             \"postgres://user:password@host:5432/database\"",
            "pipelines[0].database: missing; expected one of a, a, : there are several",
        ]
    );
}

#[test]
fn a_pipeline_of_the_file_says_what_it_lacks() {
    let text = r#"
        [[pipelines]]
        strean_name = "s"
        database = "other"
        [[pipelines]]
        name = "q"
        outbox = "o"
        stream_name = "s"
        batch_size = 501
    "#;
    let found = problems(load_with_database(text));
    assert_eq!(found.len(), 6, "{found:#?}");
    for (found, expected) in found.iter().zip([
        "pipelines[0].name: missing",
        "pipelines[0].outbox: missing",
        "pipelines[0].stream_name: missing; expected the name of the Kinesis stream (or stream_arn)",
        "pipelines[0].strean_name: unknown key; expected stream_name, perhaps (allowed are name, ",
        "pipelines[0].database: got \"other\"; expected one of default",
        "pipelines[1].batch_size: got 501; expected a whole number from 1 to 500",
    ]) {
        assert!(found.starts_with(expected), "{found} does not begin with {expected}");
    }
}
