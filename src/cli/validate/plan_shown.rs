//! A plan, for people and as JSON.
//!
//! What is touched comes first, one line each; what is kept is only counted.

use serde_json::{Value, json};

use crate::cli::output::problem_json;
use crate::config::plan::{DatabaseStep, Plan, SettingChange, Step};

/// The plan in lines of text.
pub(super) fn text(plan: &Plan, note: &str) -> String {
    let mut lines = Vec::new();
    for change in &plan.settings {
        lines.push(match change {
            SettingChange::Database { name, step } => {
                let (sign, what) = database_step(step);
                (sign, format!("database {name}"), what)
            }
            SettingChange::Value { setting, from, to } => {
                ('~', setting.key().to_owned(), format!("{from} -> {to}"))
            }
        });
    }
    let mut kept = 0;
    for (key, step) in &plan.pipelines {
        match step_shown(step) {
            Some((sign, what)) => lines.push((sign, format!("pipeline {key}"), what)),
            None => kept += 1,
        }
    }
    let width = lines.iter().map(|(_, name, _)| name.chars().count()).max();
    let width = width.unwrap_or_default();
    let mut text = if !plan.refused.is_empty() {
        let refused: String = plan
            .refused
            .iter()
            .map(|problem| format!("  {problem}\n"))
            .collect();
        let rest = if lines.is_empty() {
            ""
        } else {
            "Without that it would change:\n"
        };
        format!("a running relay would refuse this reload and change nothing:\n{refused}{rest}")
    } else if lines.is_empty() {
        "a reload would change nothing\n".to_owned()
    } else {
        "a reload would change:\n".to_owned()
    };
    for (sign, name, what) in lines {
        text.push_str(&format!("  {sign} {name:width$}  {what}\n"));
    }
    text.push_str(&format!("{kept} pipeline(s) not touched; {note}"));
    text
}

fn step_shown(step: &Step) -> Option<(char, String)> {
    Some(match step {
        Step::Keep => return None,
        Step::Start => ('+', "starts".to_owned()),
        Step::Stop => ('-', "drains and stops".to_owned()),
        Step::Restart { because } => ('!', format!("drains and restarts: {}", because.join(", "))),
        Step::Change { keys } => ('~', format!("changes while it runs: {}", keys.join(", "))),
        Step::Invalid { reason } => ('x', format!("is invalid and stops: {reason}")),
    })
}

fn database_step(step: &DatabaseStep) -> (char, String) {
    match step {
        DatabaseStep::Start => ('+', "connects".to_owned()),
        DatabaseStep::Stop => ('-', "drains and disconnects".to_owned()),
        DatabaseStep::Restart { because } => (
            '!',
            format!("drains and reconnects: {}", because.join(", ")),
        ),
    }
}

/// The plan as one object. Pipelines that are kept are in it.
pub(super) fn json(plan: &Plan, note: &str) -> Value {
    let pipelines = plan.pipelines.iter().map(|(key, step)| {
        let (name, detail) = match step {
            Step::Start => ("start", json!({})),
            Step::Stop => ("stop", json!({})),
            Step::Restart { because } => ("restart", json!({ "because": because })),
            Step::Change { keys } => ("change", json!({ "keys": keys })),
            Step::Keep => ("keep", json!({})),
            Step::Invalid { reason } => ("invalid", json!({ "reason": reason })),
        };
        let place = json!({ "database": &*key.database, "pipeline": &*key.name, "step": name });
        joined(place, detail)
    });
    let pipelines: Vec<Value> = pipelines.collect();
    let (mut databases, mut settings) = (Vec::new(), Vec::new());
    for change in &plan.settings {
        match change {
            SettingChange::Database { name, step } => {
                let (step, detail) = match step {
                    DatabaseStep::Start => ("start", json!({})),
                    DatabaseStep::Stop => ("stop", json!({})),
                    DatabaseStep::Restart { because } => ("restart", json!({ "because": because })),
                };
                let place = json!({ "database": &**name, "step": step });
                databases.push(joined(place, detail));
            }
            SettingChange::Value { setting, from, to } => {
                settings.push(json!({ "key": setting.key(), "from": from, "to": to }));
            }
        }
    }
    let refused: Vec<Value> = plan.refused.iter().map(problem_json).collect();
    json!({
        "ok": refused.is_empty(),
        "changes": !plan.is_empty(),
        "pipelines": pipelines,
        "databases": databases,
        "settings": settings,
        "refused": refused,
        "note": note,
    })
}

fn joined(mut one: Value, other: Value) -> Value {
    if let (Some(one), Value::Object(other)) = (one.as_object_mut(), other) {
        one.extend(other);
    }
    one
}
