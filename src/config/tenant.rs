//! What tenants are: what the pipelines that name one may have together.
//!
//! A tenant is defined in the operator's file (`[[tenants]]`) or in a database
//! (`tide.relay_set_tenant`), by the same keys. Rules:
//! - a name that nobody defines is a tenant too: of weight 1, without limits;
//! - a mistake in one definition is that tenant's alone;
//! - what is defined twice is a mistake of that name: the file's definition stays in
//!   force, and without one that of the database whose name comes first;
//! - a definition of a database that cannot be read counts as none.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::problem::ConfigProblem;
use super::settings::Settings;
use super::table::{Report, Table, Typing};
use crate::core::ports::TenantRow;
use crate::core::rate_limit::RateLimits;
use crate::core::tenant::TenantLimits;

/// What differs for one tenant.
#[derive(Debug, Clone, PartialEq)]
pub struct TenantSettings {
    /// The tenant.
    pub name: Arc<str>,
    /// Its share where tenants contend: 1 to 1000.
    pub weight: u32,
    /// The most messages of all its pipelines in a second.
    pub max_messages_per_second: Option<f64>,
    /// The most bytes (data plus keys) of all its pipelines in a second.
    pub max_bytes_per_second: Option<u64>,
    /// How many messages may go at once after a pause; one second's worth when not
    /// given.
    pub burst: Option<u32>,
    /// The most bytes of its rows in memory.
    pub max_in_flight_bytes: Option<usize>,
}

/// All tenants that are defined, and what is wrong with definitions.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Tenancy {
    /// The definitions in force.
    pub known: BTreeMap<Arc<str>, TenantSettings>,
    /// What is wrong, by tenant.
    pub problems: BTreeMap<Arc<str>, String>,
}

/// The most messages a second that make sense as a limit.
const MOST_MESSAGES_PER_SECOND: f64 = 1e9;

/// Less memory than this would not hold a read, in bytes.
const LEAST_IN_FLIGHT: usize = 64 * 1024;

/// More memory than this nobody has, in bytes.
const MOST_IN_FLIGHT: usize = 1 << 40;

// === impl TenantSettings ===

impl TenantSettings {
    /// A tenant nobody has defined.
    #[must_use]
    pub fn undefined(name: Arc<str>) -> Self {
        Self {
            name,
            weight: 1,
            max_messages_per_second: None,
            max_bytes_per_second: None,
            burst: None,
            max_in_flight_bytes: None,
        }
    }

    /// Reads a tenant as a database defines it. `config` is the object given to
    /// `tide.relay_set_tenant`.
    ///
    /// # Errors
    /// Everything that is wrong with it; keys are named as they stand in `config`.
    pub fn from_json(name: &str, config: &serde_json::Value) -> Result<Self, Vec<ConfigProblem>> {
        let report = Report::new(Typing::Strict);
        let mut table = Table::new("", Some(config), &report);
        let tenant = read(&mut table, name);
        table.finish();
        match report.into_problems() {
            problems if problems.is_empty() => Ok(tenant),
            problems => Err(problems),
        }
    }

    /// Its limits, as they are enforced.
    #[must_use]
    pub fn limits(&self) -> TenantLimits {
        TenantLimits {
            name: Arc::clone(&self.name),
            weight: self.weight,
            rate: RateLimits {
                rows_per_second: self.max_messages_per_second,
                burst_rows: self.burst,
                bytes_per_second: self.max_bytes_per_second,
            },
            max_in_flight_bytes: self.max_in_flight_bytes,
        }
    }
}

/// Reads the keys of a tenant beside its name.
pub(super) fn read(table: &mut Table<'_, '_>, name: &str) -> TenantSettings {
    let tenant = TenantSettings {
        name: name.into(),
        weight: table.integer("weight", 1..=1000).unwrap_or(1),
        max_messages_per_second: table
            .positive("max_messages_per_second", MOST_MESSAGES_PER_SECOND),
        max_bytes_per_second: table.size_or_bytes("max_bytes_per_second"),
        burst: table.integer("burst", 1..=1_000_000),
        max_in_flight_bytes: table
            .bytes_within("max_in_flight_bytes", LEAST_IN_FLIGHT..=MOST_IN_FLIGHT),
    };
    let has_burst = table.value("burst").is_some();
    if has_burst && table.value("max_messages_per_second").is_none() {
        table.refuse("burst", "given alone", "max_messages_per_second beside it");
    }
    tenant
}

// === impl Tenancy ===

impl Tenancy {
    /// Joins the tenants of the file with those of the databases that the settings
    /// name.
    #[must_use]
    pub fn new(settings: &Settings, rows: &BTreeMap<Arc<str>, Vec<TenantRow>>) -> Self {
        let mut tenancy = Self::default();
        for tenant in &settings.tenants {
            let name = Arc::clone(&tenant.name);
            tenancy.known.insert(name, tenant.clone());
        }
        let mut defined_in: BTreeMap<Arc<str>, String> = tenancy
            .known
            .keys()
            .map(|name| (Arc::clone(name), "the configuration file".to_owned()))
            .collect();
        let is_known = |(database, _): &(&Arc<str>, _)| settings.database(database).is_some();
        for (database, rows) in rows.iter().filter(is_known) {
            for row in rows {
                let name: Arc<str> = row.name.as_str().into();
                if let Some(other) = defined_in.get(&name) {
                    let problem = format!(
                        "it is defined in {other} and in database {database:?} (expected one of \
                         them): the definition of {other} is in force; delete that one, or \
                         tide.relay_delete_tenant() the other"
                    );
                    tenancy.add_problem(&name, problem);
                    continue;
                }
                match read_row(row) {
                    Ok(tenant) => {
                        tenancy.known.insert(Arc::clone(&name), tenant);
                        defined_in.insert(name, format!("database {database:?}"));
                    }
                    Err(reason) => {
                        let problem = format!(
                            "its definition in database {database:?} counts as none: {reason}"
                        );
                        tenancy.add_problem(&name, problem);
                    }
                }
            }
        }
        tenancy
    }

    /// What a tenant may have, whether somebody has defined it or not.
    #[must_use]
    pub fn of(&self, name: &Arc<str>) -> TenantSettings {
        let known = self.known.get(name).cloned();
        known.unwrap_or_else(|| TenantSettings::undefined(Arc::clone(name)))
    }

    fn add_problem(&mut self, name: &Arc<str>, problem: String) {
        let said = self.problems.entry(Arc::clone(name)).or_default();
        if !said.is_empty() {
            said.push_str("; ");
        }
        said.push_str(&problem);
    }
}

fn read_row(row: &TenantRow) -> Result<TenantSettings, String> {
    let config = row.config.as_ref().map_err(Clone::clone)?;
    TenantSettings::from_json(&row.name, config).map_err(|problems| {
        let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        problems.join("; ")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::environment::Environment;
    use serde_json::json;

    fn settings(tenants: &str) -> Settings {
        let text = format!(
            "{tenants}\n[[databases]]\nname = \"a\"\nurl = \"postgres://x/a\"\n\
             [[databases]]\nname = \"b\"\nurl = \"postgres://x/b\"\n"
        );
        Settings::read("t", &text, Environment::default()).expect("settings")
    }

    fn row(name: &str, config: serde_json::Value) -> TenantRow {
        TenantRow {
            name: name.to_owned(),
            config: Ok(config),
            version: 1,
        }
    }

    #[test]
    fn a_mistake_is_that_tenants_alone_and_the_file_comes_first() {
        let settings = settings(
            "[[tenants]]\nname = \"acme\"\nweight = 3\nburst = 5\nmax_messages_per_second = 10\n",
        );
        let mut unreadable = row("unreadable", json!({}));
        unreadable.config = Err("no JSON".to_owned());
        let rows = BTreeMap::from([
            (
                Arc::from("a"),
                vec![
                    row("acme", json!({"weight": 9})),
                    row("bad", json!({"wieght": 2})),
                    row("twice", json!({"weight": 4})),
                    unreadable,
                ],
            ),
            (
                Arc::from("b"),
                vec![
                    row("good", json!({"weight": 7, "max_bytes_per_second": 1000})),
                    row("twice", json!({"weight": 5})),
                ],
            ),
            (Arc::from("gone"), vec![row("gone", json!({"weight": 2}))]),
        ]);
        let tenancy = Tenancy::new(&settings, &rows);
        let weight = |name: &str| tenancy.of(&name.into()).weight;
        assert_eq!(
            ["acme", "bad", "twice", "unreadable", "good", "gone"].map(weight),
            [3, 1, 4, 1, 7, 1]
        );
        let problem = |name: &str| tenancy.problems.get(name).map_or("", String::as_str);
        assert!(problem("acme").contains("the configuration file is in force"));
        assert!(problem("twice").contains("database \"a\" is in force"));
        assert!(problem("bad").contains("wieght") && problem("bad").contains("weight, perhaps"));
        assert!(problem("unreadable").contains("no JSON"));
        assert_eq!(tenancy.problems.len(), 4);
        let limits = tenancy.of(&"acme".into()).limits();
        assert_eq!(limits.rate.burst_rows, Some(5));
    }

    #[test]
    fn every_key_is_judged() {
        let config = json!({
            "weight": 0, "max_messages_per_second": "5", "max_bytes_per_second": 0,
            "burst": 1.5, "max_in_flight_bytes": 100,
        });
        let problems = TenantSettings::from_json("t", &config).expect_err("problems");
        let keys: Vec<&str> = problems.iter().map(|problem| &*problem.key).collect();
        assert_eq!(
            keys,
            [
                "weight",
                "max_messages_per_second",
                "max_bytes_per_second",
                "burst",
                "max_in_flight_bytes"
            ]
        );
        let alone = TenantSettings::from_json("t", &json!({"burst": 5})).expect_err("alone");
        assert_eq!(alone.len(), 1, "{alone:?}");
    }
}
