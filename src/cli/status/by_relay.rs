//! A relay's own words as a table.

use std::collections::BTreeMap;

use serde_json::Value;
use tokio::time::Instant;

use super::sweeps;
use crate::cli::shards::title;
use crate::cli::table::{Side, grouped, lines};
use crate::core::checkup::age;

/// What was delivered when it was looked at last, by pipeline: what a rate is made of.
#[derive(Debug, Default)]
pub(super) struct Rates {
    seen: BTreeMap<String, (Instant, u64)>,
}

impl Rates {
    /// Rows a second since the last look; nothing at the first one, or when the relay
    /// was started in between.
    fn of(&mut self, pipeline: &str, delivered: u64) -> String {
        let now = Instant::now();
        let before = self.seen.insert(pipeline.to_owned(), (now, delivered));
        let rate = before.and_then(|(at, before)| {
            let rows = delivered.checked_sub(before)?;
            let seconds = now.duration_since(at).as_secs_f64();
            #[expect(clippy::cast_precision_loss, reason = "shown as a whole number")]
            let rate = rows as f64 / seconds;
            (seconds > 0.0).then_some(rate)
        });
        rate.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.0}"))
    }
}

pub(super) fn text(status: &Value, rates: &mut Rates) -> String {
    let mut text = vec![head(status)];
    let kinds = [
        ("database", "databases"),
        ("stream", "streams"),
        ("tenant", "tenants"),
    ];
    for (kind, list) in kinds {
        for one in entries(status, list) {
            let name = string(one, "name");
            if let Some(problem) = one["problem"].as_str() {
                text.push(format!("{kind} {name}: {problem}"));
            }
            for trouble in entries(one, "troubles") {
                let (call, reason) = (string(trouble, "call"), string(trouble, "reason"));
                text.push(format!("{kind} {name}: {call}: {reason}"));
            }
        }
    }
    let nodes = nodes(status);
    if !nodes.is_empty() {
        text.push(String::new());
        text.extend(nodes);
    }
    text.push(String::new());
    text.extend(pipelines(status, rates));
    text.push(String::new());
    text.extend(streams(status));
    let tenants = tenants(status);
    if !tenants.is_empty() {
        text.push(String::new());
        text.extend(tenants);
    }
    let sweeps = sweeps::lines_of(status);
    if !sweeps.is_empty() {
        text.push(String::new());
        text.extend(sweeps);
    }
    text.join("\n")
}

fn head(status: &Value) -> String {
    let number = |key: &str| status[key].as_f64().unwrap_or(0.0);
    let mut head = format!(
        "relay {} (tidegate {}), {} for {}",
        string(status, "node"),
        string(status, "version"),
        string(status, "phase"),
        age(number("uptime_seconds"))
    );
    let silent = number("heartbeat_age_seconds");
    if silent > 5.0 {
        head.push_str(&format!(", no sign of life for {}", age(silent)));
    }
    let is_refused = status["config"]["last_reload"]["successful"] == false;
    if is_refused {
        head.push_str(", its last reload was refused: it runs by the configuration before");
    }
    head
}

/// A line for each relay on each database; none where this one is alone.
fn nodes(status: &Value) -> Vec<String> {
    const COLUMNS: [(&str, Side); 5] = [
        ("DATABASE", Side::Left),
        ("NODE", Side::Left),
        ("STATE", Side::Left),
        ("SILENT", Side::Right),
        ("PIPELINES", Side::Right),
    ];
    let mut rows = Vec::new();
    for database in entries(status, "databases") {
        let cluster = &database["cluster"];
        if entries(cluster, "nodes").count() < 2 {
            continue;
        }
        for node in entries(cluster, "nodes") {
            let is_asked = node["node"] == status["node"];
            let silent = node["silent_seconds"].as_f64().unwrap_or(0.0);
            let held = grouped(node["pipelines"].as_u64().unwrap_or(0));
            let target = grouped(cluster["target"].as_u64().unwrap_or(0));
            rows.push(vec![
                string(database, "name").to_owned(),
                string(node, "node").to_owned(),
                string(node, "state").to_owned(),
                format!("{silent:.1} s"),
                if is_asked {
                    format!("{held} of {target}")
                } else {
                    held
                },
            ]);
        }
    }
    if rows.is_empty() {
        return Vec::new();
    }
    let mut lines = lines(&COLUMNS, &rows);
    lines.extend(other_budgets(status));
    lines
}

/// A line for each relay that divides the shards in another database.
fn other_budgets(status: &Value) -> impl Iterator<Item = String> {
    entries(status, "databases").flat_map(|database| {
        entries(database, "other_budgets").map(|node| {
            format!(
                "relay {} on {} divides the shards in another database: name the same cluster.database on every node",
                node.as_str().unwrap_or("?"),
                string(database, "name")
            )
        })
    })
}

fn pipelines(status: &Value, rates: &mut Rates) -> Vec<String> {
    const COLUMNS: [(&str, Side); 10] = [
        ("PIPELINE", Side::Left),
        ("STATE", Side::Left),
        ("STREAM", Side::Left),
        ("LAG", Side::Right),
        ("OLDEST", Side::Right),
        ("IN FLIGHT", Side::Right),
        ("DELIVERED", Side::Right),
        ("ROWS/S", Side::Right),
        ("PARKED", Side::Right),
        ("", Side::Left),
    ];
    let count = |one: &Value, key: &str| grouped(one[key].as_u64().unwrap_or(0));
    let unknown = || "-".to_owned();
    let row = |one: &Value| {
        // Only who holds a pipeline counts what waits.
        let is_held = !one["epoch"].is_null();
        let name = format!("{}/{}", string(one, "database"), string(one, "name"));
        let rate = rates.of(&name, one["delivered_rows"].as_u64().unwrap_or(0));
        let more = if one["lag_at_least"] == true { "+" } else { "" };
        let lag = is_held.then(|| format!("{}{more}", count(one, "lag_rows")));
        let parked = is_held.then(|| count(one, "dead_letters_open"));
        let oldest = one["lag_oldest_seconds"].as_f64();
        let oldest = oldest.filter(|age| is_held && *age > 0.0);
        vec![
            name,
            string(one, "state").to_owned(),
            string(one, "stream").to_owned(),
            lag.unwrap_or_else(unknown),
            oldest.map_or_else(unknown, age),
            count(one, "in_flight_rows"),
            count(one, "delivered_rows"),
            rate,
            parked.unwrap_or_else(unknown),
            why(one),
        ]
    };
    let rows: Vec<Vec<String>> = entries(status, "pipelines").map(row).collect();
    if rows.is_empty() {
        return vec!["no pipelines".to_owned()];
    }
    lines(&COLUMNS, &rows)
}

/// Why a pipeline is in its state, if that says so.
fn why(one: &Value) -> String {
    let reason = string(one, "reason");
    if let Some(row) = one["row_id"].as_u64() {
        return format!("row {row}: {reason}");
    }
    match one["owner"].as_str() {
        Some(owner) => format!("owned by {owner}"),
        None => reason.to_owned(),
    }
}

/// A line for each stream: its fullest shard tells how near the edge it is.
fn streams(status: &Value) -> Vec<String> {
    const COLUMNS: [(&str, Side); 5] = [
        ("STREAM", Side::Left),
        ("STATUS", Side::Left),
        ("SHARDS", Side::Right),
        ("FULLEST", Side::Right),
        ("QUEUED", Side::Right),
    ];
    let all = status["streams"].as_array().map_or(&[][..], Vec::as_slice);
    let row = |stream: &Value| {
        let used = |shard: &Value| {
            let part = |key: &str| shard[key].as_f64().unwrap_or(0.0);
            part("records_utilisation").max(part("bytes_utilisation"))
        };
        let shards = || entries(stream, "shards");
        let fullest = shards().map(used).fold(0.0, f64::max);
        let queued = shards().filter_map(|shard| shard["queued_rows"].as_u64());
        vec![
            title(stream, all).to_owned(),
            string(stream, "status").to_owned(),
            shards().count().to_string(),
            format!("{:.0} %", fullest * 100.0),
            grouped(queued.sum()),
        ]
    };
    let rows: Vec<Vec<String>> = all.iter().map(row).collect();
    if rows.is_empty() {
        return vec!["no streams".to_owned()];
    }
    lines(&COLUMNS, &rows)
}

/// A line for each tenant: what it may have, and what keeps it waiting.
fn tenants(status: &Value) -> Vec<String> {
    const COLUMNS: [(&str, Side); 7] = [
        ("TENANT", Side::Left),
        ("WEIGHT", Side::Right),
        ("PIPELINES", Side::Right),
        ("ROWS/S AT MOST", Side::Right),
        ("BYTES/S AT MOST", Side::Right),
        ("IN MEMORY", Side::Right),
        ("LIMITED BY", Side::Left),
    ];
    let row = |tenant: &Value| {
        let whole = |key: &str| tenant[key].as_u64().map_or_else(|| "-".to_owned(), grouped);
        let rate = tenant["max_messages_per_second"].as_f64();
        let here = grouped(tenant["pipelines_here"].as_u64().unwrap_or(0));
        vec![
            string(tenant, "name").to_owned(),
            whole("weight"),
            format!("{here} of {}", whole("pipelines")),
            rate.map_or_else(|| "-".to_owned(), |rate| format!("{rate}")),
            whole("max_bytes_per_second"),
            whole("in_flight_bytes"),
            tenant["limited_by"].as_str().unwrap_or("-").to_owned(),
        ]
    };
    let rows: Vec<Vec<String>> = entries(status, "tenants").map(row).collect();
    if rows.is_empty() {
        return Vec::new();
    }
    lines(&COLUMNS, &rows)
}

fn string<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn entries<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value[key].as_array().into_iter().flatten()
}
