//! What the databases know of their pipelines: who owns them, in which state they are
//! as their relays said last, and what waits. Good while no relay runs, and the only
//! picture of the pipelines of all relays at once.

use futures::future::join_all;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::cli::Failure;
use crate::cli::migrate::pool_settings;
use crate::cli::table::{Side, grouped, lines};
use crate::config::settings::{DatabaseSettings, Settings};
use crate::core::checkup::age;
use crate::core::ports::StoreError;
use crate::postgres::pool::{PoolSettings, connect_lazily};

/// All that is known, as one JSON value: a statement of its own is a transaction of its
/// own, so it works behind a pooler, too.
const KNOWN: &str = "
SELECT coalesce(jsonb_agg(jsonb_build_object(
    'pipeline', s.pipeline, 'outbox', l.outbox, 'defined_in', s.defined_in, 'enabled', s.enabled,
    'state', s.state, 'reason', s.reason, 'since', s.since, 'owner', l.owner, 'paused', s.paused,
    'pending', l.pending, 'pending_at_least', l.pending_at_least,
    'oldest_seconds', extract(epoch FROM l.oldest_age),
    'dead_letters_open', (
        SELECT count(*) FROM (
            SELECT FROM tide.relay_dead_letter AS d
            WHERE d.pipeline = s.pipeline AND d.state IN ('parked', 'waiting', 'retry') LIMIT 10000
        ) AS open
    )
) ORDER BY s.pipeline), '[]')::text
FROM tide.relay_status AS s LEFT JOIN tide.outbox_lag AS l ON l.pipeline = s.pipeline";

/// The SQLSTATE of a missing privilege, as errors show it.
const DENIED: &str = "(42501)";

/// The relay's own role sees no more than it needs.
const NO_READER: &str = "the role of its url may not read tide.relay_status and tide.outbox_lag: use one that owns \
    the schema, or is a member of tide_reader or tide_operator (docs/security.md)";

/// The picture; `instead` says why no relay was asked, if that is a substitute.
pub(super) fn picture(
    settings: &Settings,
    instead: Option<&str>,
) -> Result<(String, Value), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("no runtime: {error}")))?;
    let looks = join_all(settings.databases.iter().map(look));
    let known = runtime.block_on(looks);
    let mut text = Vec::new();
    text.extend(instead.map(|reason| format!("{reason}; this is what the databases know")));
    let mut databases = Vec::new();
    let mut rows = Vec::new();
    for (database, known) in settings.databases.iter().zip(&known) {
        let name = &*database.name;
        match known {
            Ok(pipelines) => {
                let pipelines = pipelines.as_array().cloned().unwrap_or_default();
                rows.extend(pipelines.iter().map(|pipeline| row(name, pipeline)));
                databases.push(json!({ "name": name, "up": true, "pipelines": pipelines }));
            }
            Err(error) => {
                let problem = error.to_string();
                text.push(format!("database {name}: {problem}"));
                databases.push(json!({ "name": name, "up": false, "problem": problem }));
            }
        }
    }
    if known.iter().all(Result::is_err) {
        return Err(Failure::Failed(text.join("; ")));
    }
    text.extend(table(&rows));
    let value = json!({ "source": "database", "relay_problem": instead, "databases": databases });
    Ok((text.join("\n"), value))
}

async fn look(database: &DatabaseSettings) -> Result<Value, StoreError> {
    let pool = connect_lazily(&PoolSettings {
        max_connections: 1,
        ..pool_settings(database)
    })?;
    let known = ask(&pool).await;
    pool.close().await;
    known.map_err(|error| match error {
        StoreError::Refused(reason) if reason.contains(DENIED) => {
            StoreError::Refused(NO_READER.to_owned())
        }
        StoreError::Refused(_) | StoreError::Unavailable(_) => error,
    })
}

async fn ask(pool: &PgPool) -> Result<Value, StoreError> {
    let mut transaction = pool.begin().await?;
    let known: String = sqlx::query_scalar(KNOWN)
        .persistent(false)
        .fetch_one(&mut *transaction)
        .await?;
    serde_json::from_str(&known).map_err(|error| StoreError::Refused(error.to_string()))
}

fn row(database: &str, pipeline: &Value) -> Vec<String> {
    let string = |key: &str| pipeline[key].as_str().unwrap_or_default().to_owned();
    let is_disabled = pipeline["enabled"] == false;
    let state = match (is_disabled, pipeline["state"].as_str()) {
        (true, _) => "disabled",
        (false, Some(state)) => state,
        (false, None) => "unknown",
    };
    let more = match pipeline["pending_at_least"] == true {
        true => "+",
        false => "",
    };
    let pending = pipeline["pending"].as_u64();
    let pending = pending.map(|rows| format!("{}{more}", grouped(rows)));
    let oldest = pipeline["oldest_seconds"].as_f64().map(age);
    let dash = || "-".to_owned();
    vec![
        format!("{database}/{}", string("pipeline")),
        state.to_owned(),
        pipeline["owner"].as_str().map_or_else(dash, str::to_owned),
        pending.unwrap_or_else(dash),
        oldest.unwrap_or_else(dash),
        grouped(pipeline["dead_letters_open"].as_u64().unwrap_or(0)),
        string("reason"),
    ]
}

fn table(rows: &[Vec<String>]) -> Vec<String> {
    const COLUMNS: [(&str, Side); 7] = [
        ("PIPELINE", Side::Left),
        ("STATE", Side::Left),
        ("OWNER", Side::Left),
        ("LAG", Side::Right),
        ("OLDEST", Side::Right),
        ("PARKED", Side::Right),
        ("", Side::Left),
    ];
    if rows.is_empty() {
        return vec!["no pipelines".to_owned()];
    }
    lines(&COLUMNS, rows)
}
