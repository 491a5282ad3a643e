//! What is made of a database's facts.

use super::{Finding, age};

/// The oldest server with transaction ids that do not wrap, as the server numbers it.
const OLDEST_SERVER: i32 = 130_000;

/// A table whose dead rows, or rows inserted since the last vacuum, are so many times
/// what autovacuum is to start at is behind, if it was not vacuumed for [`LONG_AGO`].
const FAR_BEHIND: f64 = 2.0;

/// Ten rounds of autovacuum, which looks every minute by default: in one of them a busy
/// table may well pass what it starts at several times.
const LONG_AGO: f64 = 600.0;

/// The same for a table that was never vacuumed, which may just be new.
const FAR_BEHIND_IF_NEVER: f64 = 10.0;

/// Who answers.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerFacts {
    /// Its version as a number: 150004.
    pub number: i32,
    /// Its version in words.
    pub version: String,
    /// Whether it is a standby.
    pub is_standby: bool,
    /// The role the relay works as.
    pub role: String,
}

/// A transaction that holds things back.
#[derive(Debug, Clone, PartialEq)]
pub struct OldTransaction {
    /// Its server process, if that is known.
    pub pid: Option<i32>,
    /// Its role, program and state, as far as they are known.
    pub who: String,
    /// How long it has run, in seconds: at least, when `at_least`.
    pub seconds: f64,
    /// Whether its true age may be higher.
    pub at_least: bool,
}

/// The oldest transaction, and whether all could be seen.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TransactionFacts {
    /// The oldest one, if any runs.
    pub oldest: Option<OldTransaction>,
    /// Whether the role sees other roles' transactions (`pg_read_all_stats`).
    pub sees_all: bool,
}

/// A transaction that was prepared for two-phase commit and never ended.
#[derive(Debug, Clone, PartialEq)]
pub struct PreparedTransaction {
    /// Its name.
    pub gid: String,
    /// Its database: it ends only from there.
    pub database: String,
    /// How long ago it was prepared, in seconds.
    pub seconds: f64,
}

/// A replication slot.
#[derive(Debug, Clone, PartialEq)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// Whether somebody uses it.
    pub active: bool,
    /// How many transactions ago its horizon is, if it holds rows of tables.
    pub xmin_age: Option<i32>,
    /// What becomes of the log it keeps: `reserved`, `extended`, `unreserved`, `lost`.
    pub wal_status: Option<String>,
}

/// An index of schema `tide`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// Its name.
    pub name: String,
    /// Whether it is complete and in use.
    pub is_valid: bool,
}

/// How a table is vacuumed.
#[derive(Debug, Clone, PartialEq)]
pub struct VacuumFacts {
    /// The table.
    pub table: String,
    /// Whether its own settings switch autovacuum off.
    pub is_off: bool,
    /// Dead rows, by what autovacuum starts at.
    pub dead: (f64, f64),
    /// Rows inserted since the last vacuum, by what autovacuum starts at.
    pub inserted: (f64, f64),
    /// How long ago it was vacuumed, in seconds, if ever.
    pub vacuumed: Option<f64>,
}

/// Whether connections keep their server session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sessions {
    /// Each connection has one of its own.
    Own,
    /// A pooler gives them out per transaction.
    Shared,
}

/// Version and role of the server.
#[must_use]
pub fn server(facts: &ServerFacts) -> Finding {
    const CHECK: &str = "server";
    let version = &facts.version;
    if facts.number < OLDEST_SERVER {
        let message = format!("PostgreSQL {version} is too old: 13 or later is needed");
        let fix =
            "upgrade the server (pg_upgrade keeps transaction ids, so nothing has to be rebased)";
        return Finding::fail(CHECK, message, fix);
    }
    if facts.is_standby {
        let message = format!("PostgreSQL {version} is a standby: nothing is read there");
        return Finding::fail(CHECK, message, "point the database URL at the primary");
    }
    let role = &facts.role;
    Finding::ok(
        CHECK,
        format!("PostgreSQL {version}, primary, as role {role:?}"),
    )
}

/// The version of schema `tide`.
#[must_use]
pub fn schema(installed: Option<i64>, needed: i64) -> Finding {
    const CHECK: &str = "schema";
    const FIX: &str = "run `tidegate migrate` with a role that owns schema tide (or may create it)";
    match installed {
        None => Finding::fail(CHECK, "schema tide is not installed", FIX),
        Some(installed) if installed < needed => {
            let message =
                format!("schema tide has version {installed}, this program needs {needed}");
            Finding::fail(CHECK, message, FIX)
        }
        Some(installed) if installed > needed => Finding::ok(
            CHECK,
            format!(
                "schema tide has version {installed}, newer than this program's {needed}: good \
                 while relays are replaced one by one"
            ),
        ),
        Some(installed) => Finding::ok(CHECK, format!("schema tide has version {installed}")),
    }
}

/// What the relay's role lacks; `grants` are the statements that give it.
#[must_use]
pub fn privileges(role: &str, checked: usize, missing: &[String], grants: &[String]) -> Finding {
    const CHECK: &str = "privileges";
    if missing.is_empty() {
        let message = format!("role {role:?} has all {checked} that the relay's statements need");
        return Finding::ok(CHECK, message);
    }
    let message = format!("role {role:?} lacks {}", missing.join(", "));
    Finding::fail(CHECK, message, grants.join("; "))
}

/// Whether the indexes that windows are found through are there, and all are valid.
#[must_use]
pub fn indexes(found: &[Index], needed: &[(&str, &str)]) -> Finding {
    const CHECK: &str = "indexes";
    let is_there = |name: &str| found.iter().any(|index| index.name == name);
    let absent: Vec<_> = needed.iter().filter(|(name, _)| !is_there(name)).collect();
    let invalid: Vec<&Index> = found.iter().filter(|index| !index.is_valid).collect();
    if absent.is_empty() && invalid.is_empty() {
        return Finding::ok(CHECK, format!("all {} are there and valid", found.len()));
    }
    let mut words = Vec::new();
    let mut fixes = Vec::new();
    for (name, statement) in absent {
        words.push(format!("tide.{name} is missing"));
        fixes.push((*statement).to_owned());
    }
    for Index { name, .. } in invalid {
        words.push(format!("tide.{name} is invalid"));
        // What a concurrent rebuild that failed has left behind.
        fixes.push(if name.contains("_ccnew") || name.contains("_ccold") {
            format!("DROP INDEX CONCURRENTLY tide.{name}")
        } else {
            format!("REINDEX INDEX CONCURRENTLY tide.{name}")
        });
    }
    Finding::fail(CHECK, words.join(", "), fixes.join("; "))
}

/// The oldest transaction; `most` seconds are no matter.
#[must_use]
pub fn transactions(facts: &TransactionFacts, most: f64) -> Finding {
    const CHECK: &str = "transactions";
    let partly = if facts.sees_all {
        ""
    } else {
        " (as far as this role may see: GRANT pg_read_all_stats shows all)"
    };
    let Some(oldest) = &facts.oldest else {
        return Finding::ok(CHECK, format!("none is open{partly}"));
    };
    let at_least = if oldest.at_least { "at least " } else { "" };
    let who = &oldest.who;
    let message = format!(
        "the oldest open one has run for {at_least}{}: {who}{partly}",
        age(oldest.seconds)
    );
    if oldest.seconds <= most {
        return Finding::ok(CHECK, message);
    }
    let end = oldest.pid.map_or_else(
        || "find it in pg_stat_activity and end it".to_owned(),
        |pid| format!("end it: SELECT pg_terminate_backend({pid})"),
    );
    let fix = format!(
        "{end}; idle_in_transaction_session_timeout and statement_timeout keep such from lasting. \
         Delivery goes on, but what was inserted since is neither swept nor vacuumed"
    );
    Finding::warn(CHECK, message, fix)
}

/// Prepared transactions; younger ones than `most` seconds are no matter.
#[must_use]
pub fn prepared(found: &[PreparedTransaction], most: f64) -> Finding {
    const CHECK: &str = "prepared_transactions";
    let old: Vec<_> = found.iter().filter(|one| one.seconds > most).collect();
    let Some(oldest) = old.iter().max_by(|a, b| a.seconds.total_cmp(&b.seconds)) else {
        return Finding::ok(CHECK, format!("{} open, none of them old", found.len()));
    };
    let gid = oldest.gid.replace('\'', "''");
    let message = format!(
        "{} old one(s); {:?} in database {:?} was prepared {} ago and never ended",
        old.len(),
        oldest.gid,
        oldest.database,
        age(oldest.seconds)
    );
    let fix = format!(
        "ask its transaction manager, then in that database COMMIT PREPARED '{gid}' or ROLLBACK \
         PREPARED '{gid}': till then its rows are not delivered and nothing is vacuumed"
    );
    Finding::warn(CHECK, message, fix)
}

/// Replication slots that nobody uses and that hold something.
#[must_use]
pub fn slots(found: &[Slot]) -> Finding {
    const CHECK: &str = "replication_slots";
    let keeps_log = |slot: &Slot| {
        let status = slot.wal_status.as_deref();
        status.is_some_and(|status| status != "reserved")
    };
    let holds = |slot: &&Slot| !slot.active && (slot.xmin_age.is_some() || keeps_log(slot));
    let Some(worst) = found
        .iter()
        .filter(holds)
        .max_by_key(|slot| slot.xmin_age.unwrap_or(0))
    else {
        return Finding::ok(
            CHECK,
            format!("{}, none unused that holds anything", found.len()),
        );
    };
    let name = &worst.name;
    let held = match worst.xmin_age {
        Some(transactions) => format!("rows deleted in the last {transactions} transactions"),
        None => "the server's log beyond max_wal_size".to_owned(),
    };
    let fix = format!(
        "start its consumer, or if it is gone: SELECT pg_drop_replication_slot('{}')",
        name.replace('\'', "''")
    );
    Finding::warn(
        CHECK,
        format!("slot {name:?} is not used and keeps {held}"),
        fix,
    )
}

/// How the relay's tables are vacuumed. `is_on`: `autovacuum` and `track_counts` of the
/// server.
#[must_use]
pub fn vacuum(is_on: bool, tables: &[VacuumFacts]) -> Finding {
    const CHECK: &str = "autovacuum";
    if !is_on {
        return Finding::warn(
            CHECK,
            "the server's autovacuum is off (autovacuum or track_counts)",
            "ALTER SYSTEM SET autovacuum = on; ALTER SYSTEM SET track_counts = on; SELECT pg_reload_conf()",
        );
    }
    let off: Vec<&str> = tables
        .iter()
        .filter(|table| table.is_off)
        .map(|table| table.table.as_str())
        .collect();
    if !off.is_empty() {
        let reset = |table: &&str| format!("ALTER TABLE tide.{table} RESET (autovacuum_enabled)");
        let fixes: Vec<String> = off.iter().map(reset).collect();
        let message = format!("switched off for tide.{}", off.join(", tide."));
        return Finding::warn(CHECK, message, fixes.join("; "));
    }
    let Some(late) = tables.iter().find(|table| is_behind(table)) else {
        return Finding::ok(CHECK, "on, and not behind in the relay's tables");
    };
    let since = late.vacuumed.map_or_else(
        || "it has never been vacuumed".to_owned(),
        |seconds| format!("it was vacuumed {} ago", age(seconds)),
    );
    let name = &late.table;
    let message = format!(
        "far behind in tide.{name}: {:.0} dead rows (it starts at {:.0}), {:.0} inserted since (it starts at \
         {:.0}); {since}",
        late.dead.0, late.dead.1, late.inserted.0, late.inserted.1
    );
    let fix = format!(
        "VACUUM (ANALYZE) tide.{name} now; then look for what holds it up (the lines above), and raise \
         autovacuum_max_workers or autovacuum_vacuum_cost_limit"
    );
    Finding::warn(CHECK, message, fix)
}

/// A negative start says that inserted rows alone are no reason to vacuum.
fn is_behind(table: &VacuumFacts) -> bool {
    let times = match table.vacuumed {
        Some(seconds) if seconds < LONG_AGO => return false,
        Some(_) => FAR_BEHIND,
        None => FAR_BEHIND_IF_NEVER,
    };
    let passes = |(now, start): (f64, f64)| start >= 0.0 && now > times * start.max(1.0);
    passes(table.dead) || passes(table.inserted)
}

/// Whether the settings fit to how connections are made.
#[must_use]
pub fn sessions(found: Sessions, prepares: bool) -> Finding {
    const CHECK: &str = "pooler";
    match (found, prepares) {
        (Sessions::Own, true) => Finding::ok(
            CHECK,
            "connections keep their session: direct, or a pooler in session mode",
        ),
        (Sessions::Own, false) => Finding::ok(
            CHECK,
            "connections keep their session, so prepared_statements = true would do and saves round trips",
        ),
        (Sessions::Shared, false) => Finding::ok(
            CHECK,
            "a pooler in transaction mode, and prepared_statements = false",
        ),
        (Sessions::Shared, true) => Finding::fail(
            CHECK,
            "a pooler in transaction mode (such as PgBouncer): what the relay sets up at connect and prepares \
             is lost or meets another session",
            "set prepared_statements = false for this database, or the pooler's pool_mode = session",
        ),
    }
}

#[cfg(test)]
mod tests;
