//! Deleting old rows: how far it has come where it takes longer than a moment.

use serde_json::Value;

use crate::cli::table::{Side, grouped, lines};
use crate::core::checkup::age;

/// How many characters a bar has.
const BAR: usize = 20;

/// A line for each outbox of which more is deleted than one batch; nothing where there
/// is none.
pub(super) fn lines_of(status: &Value) -> Vec<String> {
    const COLUMNS: [(&str, Side); 6] = [
        ("RETENTION OF", Side::Left),
        ("DELETED", Side::Right),
        ("ROWS/S", Side::Right),
        ("", Side::Left),
        ("DONE", Side::Right),
        ("LEFT", Side::Right),
    ];
    let mut rows = Vec::new();
    for database in entries(&status["retention"]) {
        for outbox in entries(&database["outboxes"]) {
            let name = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let whose = format!(
                "{}/{}",
                name(&database["database"]),
                name(&outbox["outbox"])
            );
            rows.extend(row(whose, &outbox["sweep"]));
        }
    }
    if rows.is_empty() {
        return Vec::new();
    }
    lines(&COLUMNS, &rows)
}

fn row(outbox: String, sweep: &Value) -> Option<Vec<String>> {
    let deleted = sweep["deleted_rows"].as_u64()?;
    let seconds = sweep["seconds"].as_f64()?;
    let part = sweep["part"].as_f64()?.clamp(0.0, 1.0);
    #[expect(clippy::cast_precision_loss, reason = "shown as a whole number")]
    let rate = (seconds > 0.0).then(|| format!("{:.0}", deleted as f64 / seconds));
    let left = sweep["left_seconds"].as_f64();
    let left = left.map(|seconds| format!("about {}", age(seconds)));
    let unknown = || "-".to_owned();
    Some(vec![
        outbox,
        grouped(deleted),
        rate.unwrap_or_else(unknown),
        bar(part),
        format!("{:.0} %", part * 100.0),
        left.unwrap_or_else(unknown),
    ])
}

/// A part from 0 to 1: full only at its end.
fn bar(part: f64) -> String {
    let steps = (1..=BAR).filter(|step| part * BAR as f64 >= *step as f64);
    let full = steps.count();
    format!("{}{}", "#".repeat(full), ".".repeat(BAR - full))
}

fn entries(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(sweep: Value) -> Vec<String> {
        let outbox = json!({ "outbox": "events", "sweep": sweep });
        let retention = json!({ "database": "default", "outboxes": [outbox] });
        lines_of(&json!({ "retention": [retention] }))
    }

    #[test]
    fn a_sweep_is_a_line_with_a_bar() {
        let sweep = json!({
            "deleted_rows": 1_200_000, "seconds": 40.0, "part": 0.25, "left_seconds": 120.0
        });
        assert_eq!(
            of(sweep),
            [
                "RETENTION OF      DELETED  ROWS/S                        DONE             LEFT",
                "default/events  1,200,000   30000  #####...............  25 %  about 2 min 0 s"
            ]
        );
    }

    #[test]
    fn what_is_not_known_yet_is_not_said() {
        let sweep = json!({
            "deleted_rows": 5_000, "seconds": 0.0, "part": 0.0, "left_seconds": null
        });
        let line = of(sweep).pop().expect("a line");
        assert!(
            line.ends_with("-  ....................   0 %     -"),
            "{line}"
        );
        assert_eq!(of(Value::Null), Vec::<String>::new());
        assert_eq!(lines_of(&json!({})), Vec::<String>::new());
    }

    #[test]
    fn a_bar_is_full_at_its_end_alone() {
        assert_eq!(bar(0.999), format!("{}.", "#".repeat(BAR - 1)));
        assert_eq!(bar(1.0), "#".repeat(BAR));
    }
}
