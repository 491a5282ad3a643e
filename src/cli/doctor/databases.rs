//! One database after all its checks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;

use crate::cli::migrate::pool_settings;
use crate::config::desired::{Desired, Wanted};
use crate::config::settings::DatabaseSettings;
use crate::core::checkup::capacity::Rate;
use crate::core::checkup::database::{self, Sessions};
use crate::core::checkup::{Finding, Section, Subject, clock, nodes};
use crate::core::ports::{PipelineRow, StoreError};
use crate::postgres::catalog::list_pipelines;
use crate::postgres::checkup::privileges::lacking;
use crate::postgres::checkup::{self as ask, held, rate, sessions, tables, within};
use crate::postgres::pool::{PoolSettings, connect_lazily};
use crate::postgres::schema;

/// Enough to tell whether sessions are shared: one connection and three others.
const CONNECTIONS: u32 = 4;

/// How PgBouncer says that it does not take what a session is set up with.
const NOT_TAKEN: &str = "unsupported startup parameter";

/// What the driver asks for in every session; PgBouncer before 1.20 has to be told.
const OF_THE_DRIVER: &str = "extra_float_digits";

/// What was found.
pub(super) struct Examined {
    pub(super) section: Section,
    /// The pipelines it defines.
    pub(super) rows: Vec<PipelineRow>,
    /// Connections to it, if it answers and has the schema.
    pool: Option<PgPool>,
}

pub(super) async fn examine(database: &DatabaseSettings, most: f64) -> Examined {
    let mut examined = Examined {
        section: Section {
            subject: Subject::Database,
            name: database.name.to_string(),
            findings: Vec::new(),
        },
        rows: Vec::new(),
        pool: None,
    };
    let findings = &mut examined.section.findings;
    let settings = PoolSettings {
        max_connections: CONNECTIONS,
        own_sessions: false,
        ..pool_settings(database)
    };
    let pool = match connect_lazily(&settings) {
        Ok(pool) => pool,
        Err(error) => {
            let fix = format!("correct the url of database {:?}", &*database.name);
            findings.push(Finding::fail("connection", error.to_string(), fix));
            return examined;
        }
    };
    let server = match within(ask::server(&pool)).await {
        Ok(server) => server,
        Err(error) => {
            findings.push(no_answer(&error));
            return examined;
        }
    };
    findings.push(connection(database).await);
    findings.push(database::server(&server));
    if server.is_standby {
        // Its transactions and statistics are not the primary's.
        return examined;
    }
    findings.push(session(&pool, database).await);
    findings.push(time(&pool).await);
    let installed = schema::current_version(&pool).await;
    let installed = match installed {
        Ok(installed) => {
            findings.push(database::schema(installed, schema::latest_version()));
            installed
        }
        Err(error) => {
            // A role without USAGE of the schema: the next check says which grant helps.
            findings.push(not_checked("schema", &error.into()));
            None
        }
    };
    findings.push(rights(&pool).await);
    if installed.is_some() {
        findings.push(indexes(&pool).await);
        findings.push(vacuum(&pool).await);
        findings.push(relays(&pool).await);
    }
    findings.push(transactions(&pool, most).await);
    findings.push(prepared(&pool, most).await);
    findings.push(slots(&pool).await);
    if installed.is_some() {
        match Box::pin(within(list_pipelines(&pool))).await {
            Ok(rows) => examined.rows = rows,
            Err(error) => findings.push(not_checked("pipelines", &error)),
        }
        examined.pool = Some(pool);
    }
    examined
}

/// What the outboxes of pipelines that are to run publish, by outbox. One that is not
/// there is a finding of its pipeline's stream.
pub(super) async fn rates(
    database: &DatabaseSettings,
    examined: &Examined,
    desired: &Desired,
) -> BTreeMap<Arc<str>, Result<Option<Rate>, String>> {
    let mut rates = BTreeMap::new();
    let Some(pool) = &examined.pool else {
        return rates;
    };
    for (key, wanted) in &desired.pipelines {
        let Wanted::Run { spec, .. } = wanted else {
            continue;
        };
        if key.database != database.name || rates.contains_key(&spec.outbox) {
            continue;
        }
        let rate = within(rate::of_outbox(pool, &spec.outbox)).await;
        let rate = rate.map_err(|error| error.to_string());
        rates.insert(Arc::clone(&spec.outbox), rate);
    }
    pool.close().await;
    rates
}

// === Checks ===

fn no_answer(error: &StoreError) -> Finding {
    const CHECK: &str = "connection";
    let said = error.to_string();
    if said.contains(NOT_TAKEN) && said.contains(OF_THE_DRIVER) {
        let message = format!("a pooler does not take what every session begins with: {said}");
        let fix = "in pgbouncer.ini: ignore_startup_parameters = extra_float_digits; then RELOAD";
        return Finding::fail(CHECK, message, fix);
    }
    if said.contains(NOT_TAKEN) {
        let message =
            format!("a pooler does not take what the relay's sessions are set up with: {said}");
        let fix =
            "set prepared_statements = false for this database, or connect to PostgreSQL itself";
        return Finding::fail(CHECK, message, fix);
    }
    let fix = "look at host, port, user and password of its url, at pg_hba.conf, and whether the server runs; the \
               relay waits for it by itself";
    Finding::fail(CHECK, said, fix)
}

/// A connection as the relay makes it.
async fn connection(database: &DatabaseSettings) -> Finding {
    const CHECK: &str = "connection";
    let settings = PoolSettings {
        max_connections: 1,
        acquire_timeout: Duration::from_secs(5),
        ..pool_settings(database)
    };
    let pool = match connect_lazily(&settings) {
        Ok(pool) => pool,
        Err(error) => return no_answer(&error),
    };
    let asked = within(ask::server(&pool)).await;
    pool.close().await;
    match asked {
        Ok(_) => Finding::ok(CHECK, "it answers"),
        Err(error) => no_answer(&error),
    }
}

async fn session(pool: &PgPool, database: &DatabaseSettings) -> Finding {
    match within(sessions::look(pool)).await {
        Ok(found @ (Sessions::Own | Sessions::Shared)) => {
            database::sessions(found, database.prepared_statements)
        }
        Err(error) => not_checked("pooler", &error),
    }
}

async fn time(pool: &PgPool) -> Finding {
    match within(ask::clock(pool)).await {
        Ok((ahead, unsure)) => clock::of_database(ahead, unsure),
        Err(error) => not_checked(clock::CHECK, &error),
    }
}

async fn relays(pool: &PgPool) -> Finding {
    match within(ask::nodes::all(pool)).await {
        Ok(found) => nodes::nodes(&found),
        Err(error) => not_checked(nodes::CHECK, &error),
    }
}

async fn rights(pool: &PgPool) -> Finding {
    match within(lacking(pool)).await {
        Ok(found) => {
            database::privileges(&found.role, found.checked, &found.missing, &found.grants)
        }
        Err(error) => not_checked("privileges", &error),
    }
}

async fn indexes(pool: &PgPool) -> Finding {
    match within(tables::indexes(pool)).await {
        Ok(found) => database::indexes(&found, tables::NEEDED_INDEXES),
        Err(error) => not_checked("indexes", &error),
    }
}

async fn vacuum(pool: &PgPool) -> Finding {
    match within(tables::vacuum(pool)).await {
        Ok((is_on, found)) => database::vacuum(is_on, &found),
        Err(error) => not_checked("autovacuum", &error),
    }
}

async fn transactions(pool: &PgPool, most: f64) -> Finding {
    match within(held::transactions(pool)).await {
        Ok(found) => database::transactions(&found, most),
        Err(error) => not_checked("transactions", &error),
    }
}

async fn prepared(pool: &PgPool, most: f64) -> Finding {
    match within(held::prepared(pool)).await {
        Ok(found) => database::prepared(&found, most),
        Err(error) => not_checked("prepared_transactions", &error),
    }
}

async fn slots(pool: &PgPool) -> Finding {
    match within(held::slots(pool)).await {
        Ok(found) => database::slots(&found),
        Err(error) => not_checked("replication_slots", &error),
    }
}

fn not_checked(check: &'static str, error: &StoreError) -> Finding {
    Finding::skip(check, format!("it could not be looked at: {error}"))
}
