//! `tidegate run --check`: what `validate` checks, and whether the databases are
//! there and can be relayed from. Nothing is started, locked or written.
//!
//! A database that cannot be used fails the check: it does not answer, its server
//! is a standby, its schema is missing or too old. What concerns one pipeline is
//! said and fails nothing, as it stops nothing but that pipeline in a running relay.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;

use futures::future::join_all;
use serde_json::{Value, json};

use super::migrate::pool_settings;
use super::{FAILED, Failure, Output, validate};
use crate::config::desired::{Catalogs, Desired, PipelineKey, Wanted};
use crate::config::settings::{DatabaseSettings, Settings};
use crate::core::ports::{PipelineRow, TenantRow};
use crate::postgres::catalog::{list_pipelines, list_tenants};
use crate::postgres::pool::{PoolSettings, connect_watched};
use crate::postgres::{rebase, schema};

/// What is found in a database that can be used.
struct Found {
    server: String,
    schema: i64,
    outboxes: Vec<String>,
    rows: Vec<PipelineRow>,
    tenants: Vec<TenantRow>,
}

pub(super) fn run(settings: Settings, output: Output) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("no runtime: {error}")))?;
    let settings = Arc::new(settings);
    let looks = join_all(settings.databases.iter().map(look));
    let found = runtime.block_on(looks);

    let pipelines: BTreeMap<_, _> = settings
        .databases
        .iter()
        .zip(&found)
        .filter_map(|(database, found)| {
            let found = found.as_ref().ok()?;
            Some((Arc::clone(&database.name), found.rows.clone()))
        })
        .collect();
    let tenants = settings.databases.iter().zip(&found);
    let tenants = tenants.filter_map(|(database, found)| {
        let found = found.as_ref().ok()?;
        Some((Arc::clone(&database.name), found.tenants.clone()))
    });
    let catalogs = Catalogs {
        pipelines,
        tenants: tenants.collect(),
    };
    let desired = Desired::new(Arc::clone(&settings), &catalogs);
    let mut lines = vec![validate::summary(&settings)];
    let mut databases = Vec::new();
    for (database, found) in settings.databases.iter().zip(&found) {
        let (text, value) = match found {
            Ok(found) => usable(database, found, &desired),
            Err(reason) => unusable(database, reason),
        };
        lines.push(text);
        databases.push(value);
    }
    for (tenant, problem) in &desired.tenants.problems {
        lines.push(format!("tenant {:?}: {problem}", &**tenant));
    }
    let is_good = found.iter().all(Result::is_ok);
    let mut value = validate::summary_json(&settings);
    value["ok"] = json!(is_good);
    value["databases"] = json!(databases);
    value["tenants_with_problems"] = json!(
        desired
            .tenants
            .problems
            .iter()
            .map(|(tenant, problem)| json!({ "tenant": &**tenant, "reason": problem }))
            .collect::<Vec<Value>>()
    );
    output.result(&lines.join("\n"), &value);
    Ok(if is_good {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FAILED)
    })
}

/// Looks into a database, on one connection after the other.
async fn look(database: &DatabaseSettings) -> Result<Found, String> {
    let one_connection = PoolSettings {
        max_connections: 1,
        ..pool_settings(database)
    };
    let (pool, watch) = connect_watched(&one_connection).map_err(|error| error.to_string())?;
    let question = async {
        schema::check(&pool)
            .await
            .map_err(|error| error.to_string())?;
        let version = schema::current_version(&pool).await;
        let rows = list_pipelines(&pool)
            .await
            .map_err(|error| error.to_string())?;
        let tenants = list_tenants(&pool)
            .await
            .map_err(|error| error.to_string())?;
        let outboxes = rebase::outboxes(&pool, None, None).await;
        Ok(Found {
            server: watch
                .server()
                .map_or_else(String::new, |server| server.version.clone()),
            schema: version
                .map_err(|error| error.to_string())?
                .unwrap_or_default(),
            outboxes: outboxes.map_err(|error| error.to_string())?,
            rows,
            tenants,
        })
    };
    let found = question.await;
    pool.close().await;
    found
}

fn unusable(database: &DatabaseSettings, reason: &str) -> (String, Value) {
    let name = &*database.name;
    let text = format!("database {name:?} cannot be used: {reason}");
    (
        text,
        json!({ "database": name, "ok": false, "error": reason }),
    )
}

fn usable(database: &DatabaseSettings, found: &Found, desired: &Desired) -> (String, Value) {
    let name = &*database.name;
    let is_here = |(key, _): &(&PipelineKey, &Wanted)| key.database == database.name;
    let mut troubles = Vec::new();
    let mut to_run = 0;
    for (key, wanted) in desired.pipelines.iter().filter(is_here) {
        match wanted {
            Wanted::Run { spec, .. } if found.outboxes.iter().any(|one| *one == *spec.outbox) => {
                to_run += 1;
            }
            Wanted::Run { spec, .. } => {
                let reason = format!(
                    "there is no outbox {:?} in the database; expected one of: {}",
                    &*spec.outbox,
                    found.outboxes.join(", ")
                );
                troubles.push((key, reason));
            }
            Wanted::Invalid { reason, .. } => troubles.push((key, reason.clone())),
        }
    }
    let disabled = found.rows.iter().filter(|row| !row.enabled).count();
    let (server, schema, outboxes) = (&found.server, found.schema, found.outboxes.len());
    let mut text = format!(
        "database {name:?}: PostgreSQL {server}, schema version {schema}, {outboxes} outbox(es), \
         {to_run} pipeline(s) to run, {disabled} disabled, {} that cannot run",
        troubles.len()
    );
    for (key, reason) in &troubles {
        text.push_str(&format!("\n  pipeline {key} cannot run: {reason}"));
    }
    let trouble = |(key, reason): &(&PipelineKey, String)| json!({ "pipeline": &*key.name, "reason": reason });
    let value = json!({
        "database": name,
        "ok": true,
        "server_version": server,
        "schema_version": schema,
        "outboxes": found.outboxes,
        "pipelines_to_run": to_run,
        "pipelines_disabled": disabled,
        "pipelines_that_cannot_run": troubles.iter().map(trouble).collect::<Vec<Value>>(),
    });
    (text, value)
}
