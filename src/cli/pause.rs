//! `tidegate pause` and `tidegate resume`: holding pipelines, tenants and streams.
//!
//! The commands write to the database; the relays look every second. What they do
//! is also there in SQL (`tide.relay_pause()`, `tide.relay_resume()`,
//! `tide.relay_pauses()`).

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};
use sqlx::PgPool;

use super::dlq::with_hint;
use super::migrate::pool_settings;
use super::{Failure, Output};
use crate::config::settings::{DatabaseSettings, Settings};
use crate::core::pause::PauseKind;
use crate::postgres::pool::connect_lazily;
use crate::postgres::schema;

/// What is to be paused.
#[derive(Debug, Args)]
pub(super) struct PauseArguments {
    #[command(flatten)]
    target: Target,
    /// Why; shown wherever the pause is
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Also if the database knows no pipeline of this name yet
    #[arg(long, requires = "pipeline")]
    ahead: bool,
    /// List what is paused, and which pipelines that holds
    #[arg(long, conflicts_with_all = ["pipeline", "tenant", "stream", "reason", "ahead"])]
    list: bool,
    /// Only in this database; needed for a pipeline where several are configured
    #[arg(long, value_name = "NAME")]
    database: Option<String>,
}

/// What is to be resumed.
#[derive(Debug, Args)]
pub(super) struct ResumeArguments {
    #[command(flatten)]
    target: Target,
    /// Only in this database; needed for a pipeline where several are configured
    #[arg(long, value_name = "NAME")]
    database: Option<String>,
}

#[derive(Debug, Args)]
#[group(multiple = false)]
struct Target {
    /// One pipeline
    #[arg(long, value_name = "NAME")]
    pipeline: Option<String>,
    /// All pipelines of a tenant, in all configured databases
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
    /// All pipelines that write to a stream, in all configured databases
    #[arg(long, value_name = "NAME|ARN")]
    stream: Option<String>,
}

const STAYS_PAUSED: &str = "
SELECT ARRAY(SELECT s.pipeline FROM tide.relay_status AS s
    WHERE s.pauses <> '[]' AND s.pipeline = ANY ($1) ORDER BY s.pipeline)";

const HELD_BY: &str = "
SELECT coalesce((
    SELECT p.pipelines FROM tide.relay_pauses() AS p WHERE p.kind = $1 AND p.name = $2), '{}')";

const LIST: &str = "
SELECT coalesce(jsonb_agg(to_jsonb(p) ORDER BY p.kind, p.name), '[]') FROM tide.relay_pauses() AS p";

// === The commands ===

pub(super) fn pause(
    settings: &Settings,
    arguments: &PauseArguments,
    output: Output,
) -> Result<ExitCode, Failure> {
    let database = arguments.database.as_deref();
    if arguments.list {
        let databases = choose(settings, database)?;
        return block_on(list(&databases, output));
    }
    let (kind, name) = arguments.target.get("pause")?;
    let databases = choose_for(kind, settings, database)?;
    let is_of_the_file = |database: &DatabaseSettings| {
        let all = settings.pipelines.iter();
        let mut named = all.filter(|pipeline| *pipeline.name == *name);
        named.any(|pipeline| pipeline.database == database.name)
    };
    block_on(each(
        &databases,
        output,
        "paused",
        async |database, pool| {
            let ahead = arguments.ahead || is_of_the_file(database);
            let is_new: bool = sqlx::query_scalar("SELECT tide.relay_pause($1, $2, $3, $4)")
                .bind(kind.name())
                .bind(name)
                .bind(arguments.reason.as_deref())
                .bind(ahead)
                .fetch_one(pool)
                .await?;
            let pipelines = held_by(pool, kind, name).await?;
            let what = match is_new {
                true => format!("{} {name} is paused", kind.name()),
                false => format!("{} {name} was paused already", kind.name()),
            };
            let text = match pipelines.as_slice() {
                [] => what,
                held => format!("{what}; it holds {}", held.join(", ")),
            };
            let value = json!({
                "kind": kind.name(), "name": name, "was_paused": !is_new, "pipelines": pipelines,
            });
            Ok(Done { text, value })
        },
    ))
}

pub(super) fn resume(
    settings: &Settings,
    arguments: &ResumeArguments,
    output: Output,
) -> Result<ExitCode, Failure> {
    let (kind, name) = arguments.target.get("resume")?;
    let databases = choose_for(kind, settings, arguments.database.as_deref())?;
    block_on(each(&databases, output, "resumed", async |_, pool| {
        let mut pipelines = held_by(pool, kind, name).await?;
        let was_paused: bool = sqlx::query_scalar("SELECT tide.relay_resume($1, $2)")
            .bind(kind.name())
            .bind(name)
            .fetch_one(pool)
            .await?;
        if kind == PauseKind::Pipeline && !was_paused {
            pipelines.push(name.to_owned());
        }
        let still: Vec<String> = sqlx::query_scalar(STAYS_PAUSED)
            .bind(&pipelines)
            .fetch_one(pool)
            .await?;
        let what = match was_paused {
            true => format!("{} {name} is resumed", kind.name()),
            false => format!("{} {name} was not paused", kind.name()),
        };
        let text = match still.as_slice() {
            [] => what,
            still => format!("{what}; other pauses still hold {}", still.join(", ")),
        };
        let value = json!({
            "kind": kind.name(), "name": name, "was_paused": was_paused, "still_paused": still,
        });
        Ok(Done { text, value })
    }))
}

async fn held_by(pool: &PgPool, kind: PauseKind, name: &str) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar(HELD_BY)
        .bind(kind.name())
        .bind(name)
        .fetch_one(pool)
        .await
}

async fn list(databases: &[&DatabaseSettings], output: Output) -> Result<ExitCode, Failure> {
    let mut lines = Vec::new();
    let mut all = Vec::new();
    for database in databases {
        let pool = connect(database).await?;
        let pauses: Result<Value, _> = sqlx::query_scalar(LIST).fetch_one(&pool).await;
        pool.close().await;
        let pauses = pauses.map_err(|error| failed(database, &with_hint(&error)))?;
        for pause in pauses.as_array().into_iter().flatten() {
            let mut pause = pause.clone();
            lines.push(line(&database.name, &pause));
            pause["database"] = json!(database.name);
            all.push(pause);
        }
    }
    if lines.is_empty() {
        lines.push("nothing is paused".to_owned());
    }
    output.result(&lines.join("\n"), &json!({ "pauses": all }));
    Ok(ExitCode::SUCCESS)
}

fn line(database: &str, pause: &Value) -> String {
    let text = |key: &str| pause[key].as_str().unwrap_or_default().to_owned();
    let names = pause["pipelines"].as_array().into_iter().flatten();
    let names: Vec<&str> = names.filter_map(Value::as_str).collect();
    let mut line = format!(
        "{database}: {} {} is paused by {} since {}",
        text("kind"),
        text("name"),
        text("paused_by"),
        text("paused_at")
    );
    if !text("reason").is_empty() {
        line.push_str(": ");
        line.push_str(&text("reason").replace(char::is_control, " "));
    }
    if !names.is_empty() {
        line.push_str(&format!(" (holds {})", names.join(", ")));
    }
    line
}

// === Databases ===

impl Target {
    fn get(&self, verb: &str) -> Result<(PauseKind, &str), Failure> {
        let kinds = [
            (PauseKind::Pipeline, &self.pipeline),
            (PauseKind::Tenant, &self.tenant),
            (PauseKind::Stream, &self.stream),
        ];
        let mut given = kinds
            .into_iter()
            .filter_map(|(kind, name)| Some((kind, name.as_deref()?)));
        given.next().ok_or_else(|| {
            Failure::Usage(format!(
                "say what to {verb}: --pipeline, --tenant or --stream"
            ))
        })
    }
}

/// What was done in one database.
struct Done {
    text: String,
    value: Value,
}

/// Does something in every database, and says of each what came of it: one that is
/// away keeps none of the others from being paused.
async fn each(
    databases: &[&DatabaseSettings],
    output: Output,
    verb: &str,
    work: impl AsyncFn(&DatabaseSettings, &PgPool) -> sqlx::Result<Done>,
) -> Result<ExitCode, Failure> {
    let mut problems = Vec::new();
    for database in databases {
        let pool = match connect(database).await {
            Ok(pool) => pool,
            Err(problem) => {
                problems.push(problem.to_string());
                continue;
            }
        };
        match work(database, &pool).await {
            Ok(Done { text, mut value }) => {
                value["database"] = json!(database.name);
                output.result(&format!("{}: {text}", database.name), &value);
            }
            Err(error) => problems.push(failed(database, &with_hint(&error)).to_string()),
        }
        pool.close().await;
    }
    if problems.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let done = databases.len() - problems.len();
    let mut text = problems.join("; ");
    if done > 0 {
        text.push_str(&format!("; {verb} in the other {done}"));
    }
    Err(Failure::Failed(text))
}

fn block_on(work: impl Future<Output = Result<ExitCode, Failure>>) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("no runtime: {error}")))?;
    runtime.block_on(work)
}

fn choose<'a>(
    settings: &'a Settings,
    wanted: Option<&str>,
) -> Result<Vec<&'a DatabaseSettings>, Failure> {
    let all = settings.databases.iter();
    let chosen: Vec<&DatabaseSettings> = match wanted {
        Some(wanted) => all.filter(|known| &*known.name == wanted).collect(),
        None => all.collect(),
    };
    if let (Some(wanted), []) = (wanted, chosen.as_slice()) {
        let text = format!(
            "no database is named {wanted:?}; there are {}",
            names(settings)
        );
        return Err(Failure::Failed(text));
    }
    Ok(chosen)
}

/// A pipeline's name is its database's own; tenants and streams are everywhere.
fn choose_for<'a>(
    kind: PauseKind,
    settings: &'a Settings,
    wanted: Option<&str>,
) -> Result<Vec<&'a DatabaseSettings>, Failure> {
    let is_ambiguous =
        kind == PauseKind::Pipeline && wanted.is_none() && settings.databases.len() > 1;
    if is_ambiguous {
        let text = format!(
            "say which database with --database: there are {}",
            names(settings)
        );
        return Err(Failure::Failed(text));
    }
    choose(settings, wanted)
}

fn names(settings: &Settings) -> String {
    let names: Vec<&str> = settings
        .databases
        .iter()
        .map(|known| &*known.name)
        .collect();
    names.join(", ")
}

async fn connect(database: &DatabaseSettings) -> Result<PgPool, Failure> {
    let pool = connect_lazily(&pool_settings(database))
        .map_err(|error| failed(database, &error.to_string()))?;
    schema::check(&pool)
        .await
        .map_err(|error| failed(database, &error.to_string()))?;
    Ok(pool)
}

fn failed(database: &DatabaseSettings, what: &str) -> Failure {
    Failure::Failed(format!("database {:?}: {what}", database.name))
}
