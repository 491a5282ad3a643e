//! Definitions of databases as they may be shown to anybody.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::mark;
use crate::config::settings::Settings;
use crate::core::ports::{PipelineRow, TenantRow};

/// Keys of a pipeline whose values are never shown.
const SECRET_KEYS: [&str; 4] = [
    "access_key_id",
    "secret_access_key",
    "session_token",
    "external_id",
];

/// The definitions of all databases, marked, as they may be shown.
#[must_use]
pub fn catalogs_tree(catalogs: &BTreeMap<Arc<str>, Vec<PipelineRow>>) -> Value {
    let known = Settings::known_keys();
    let of_database = |(database, rows): (&Arc<str>, &Vec<PipelineRow>)| {
        let rows: Vec<Value> = rows.iter().map(|row| row_tree(row, &known)).collect();
        (database.to_string(), json!(rows))
    };
    Value::Object(catalogs.iter().map(of_database).collect())
}

fn row_tree(row: &PipelineRow, known: &[String]) -> Value {
    let mut tree = json!({
        "name": row.name, "outbox": row.outbox, "consumer_group": row.consumer_group,
        "enabled": row.enabled, "version": row.version,
    });
    match &row.config {
        Ok(config) => tree["config"] = marked_config("pipelines[]", config, known),
        Err(reason) => tree["error"] = json!(reason),
    }
    tree
}

/// The tenants of all databases, as they may be shown: nothing of them is secret, but
/// what stands under a key that no tenant has is marked.
#[must_use]
pub fn tenants_tree(tenants: &BTreeMap<Arc<str>, Vec<TenantRow>>) -> Value {
    let known = Settings::known_keys();
    let one = |row: &TenantRow| {
        let mut tree = json!({ "name": row.name, "version": row.version });
        match &row.config {
            Ok(config) => tree["config"] = marked_config("tenants[]", config, &known),
            Err(reason) => tree["error"] = json!(reason),
        }
        tree
    };
    let of_database = |(database, rows): (&Arc<str>, &Vec<TenantRow>)| {
        let rows: Vec<Value> = rows.iter().map(one).collect();
        (database.to_string(), json!(rows))
    };
    Value::Object(tenants.iter().map(of_database).collect())
}

/// Reads tenants that were shown; `None` for what is none.
#[must_use]
pub fn read_tenants(tree: &Value) -> Option<BTreeMap<Arc<str>, Vec<TenantRow>>> {
    let one = |tree: &Value| {
        let text = |key: &str| Some(tree.get(key)?.as_str()?.to_owned());
        Some(TenantRow {
            name: text("name")?,
            config: match tree.get("config") {
                Some(config) => Ok(config.clone()),
                None => Err(text("error")?),
            },
            version: tree.get("version")?.as_i64()?,
        })
    };
    let read = |(database, rows): (&String, &Value)| {
        let rows: Option<Vec<TenantRow>> = rows.as_array()?.iter().map(one).collect();
        Some((Arc::from(database.as_str()), rows?))
    };
    tree.as_object()?.iter().map(read).collect()
}

/// A definition with marks for its secrets, and for what no pipeline has: a secret
/// may stand under a key that is misspelt.
fn marked_config(path: &str, config: &Value, known: &[String]) -> Value {
    let Value::Object(members) = config else {
        return config.clone();
    };
    let shown = |(key, value): (&String, &Value)| {
        let path = format!("{path}.{key}");
        let is_known = known.contains(&path) || path == "pipelines[].on_missing.default";
        let value = if !is_known || SECRET_KEYS.contains(&key.as_str()) {
            json!(mark(&value.to_string()))
        } else {
            marked_config(&path, value, known)
        };
        (key.clone(), value)
    };
    Value::Object(members.iter().map(shown).collect::<Map<String, Value>>())
}

/// Reads definitions that were shown; `None` for what is none.
#[must_use]
pub fn read_catalogs(tree: &Value) -> Option<BTreeMap<Arc<str>, Vec<PipelineRow>>> {
    let read = |(database, rows): (&String, &Value)| {
        let rows: Option<Vec<PipelineRow>> = rows.as_array()?.iter().map(read_row).collect();
        Some((Arc::from(database.as_str()), rows?))
    };
    tree.as_object()?.iter().map(read).collect()
}

fn read_row(tree: &Value) -> Option<PipelineRow> {
    let text = |key: &str| Some(tree.get(key)?.as_str()?.to_owned());
    Some(PipelineRow {
        name: text("name")?,
        outbox: text("outbox")?,
        consumer_group: text("consumer_group")?,
        config: match tree.get("config") {
            Some(config) => Ok(config.clone()),
            None => Err(text("error")?),
        },
        enabled: tree.get("enabled")?.as_bool()?,
        version: tree.get("version")?.as_i64()?,
    })
}
