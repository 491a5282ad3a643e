//! `tidegate migrate`: installs or upgrades schema `tide`.

use std::process::ExitCode;

use serde_json::json;

use super::progress::Progress;
use super::{Failure, Output};
use crate::config::settings::{DatabaseSettings, Settings};
use crate::postgres::pool::{PoolSettings, connect_lazily};
use crate::postgres::schema;

/// How a pool is made from the settings of a database.
pub(super) fn pool_settings(database: &DatabaseSettings) -> PoolSettings {
    PoolSettings {
        max_connections: database.max_connections,
        statement_timeout: database.statement_timeout,
        own_sessions: database.prepared_statements,
        ..PoolSettings::new(database.url.expose())
    }
}

pub(super) fn run(settings: &Settings, output: Output) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("no runtime: {error}")))?;
    runtime.block_on(migrate_all(settings, output))
}

async fn migrate_all(settings: &Settings, output: Output) -> Result<ExitCode, Failure> {
    for database in &settings.databases {
        let name = &database.name;
        let failed =
            |error: &dyn std::fmt::Display| Failure::Failed(format!("database {name:?}: {error}"));
        let pool = connect_lazily(&pool_settings(database)).map_err(|error| failed(&error))?;
        let progress = Progress::spinner(output, &format!("migrating database {name:?}"));
        let migrated = schema::migrate(&pool).await;
        progress.clear();
        let migrated = migrated.map_err(|error| failed(&error))?;
        pool.close().await;
        let text = match migrated.from {
            Some(from) if from == migrated.to => {
                format!("database {name:?}: schema tide is at version {from} already")
            }
            Some(from) => format!(
                "database {name:?}: schema tide upgraded from version {from} to {}",
                migrated.to
            ),
            None => format!(
                "database {name:?}: schema tide installed, version {}",
                migrated.to
            ),
        };
        let asked = ask_for_roles(&migrated.roles_to_create);
        let value = json!({
            "database": &**name, "from": migrated.from, "to": migrated.to,
            "roles_to_create": migrated.roles_to_create,
        });
        output.result(&format!("{text}{asked}"), &value);
    }
    Ok(ExitCode::SUCCESS)
}

/// What is to be done about roles that do not exist; nothing is wrong without them.
fn ask_for_roles(statements: &[String]) -> String {
    if statements.is_empty() {
        return String::new();
    }
    format!(
        "\nThis role may not create roles, so some of those that docs/security.md speaks of are missing. \
        The owner of the schema can do everything without them. To have them, let a role with CREATEROLE run\n  {};\n\
        and then run `tidegate migrate` again, or as the owner of the schema: SELECT tide.grant_roles();",
        statements.join(";\n  ")
    )
}
