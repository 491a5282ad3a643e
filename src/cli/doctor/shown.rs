//! How the findings are printed.

use serde_json::{Value, json};

use crate::core::checkup::{Finding, Level, Section, count};

pub(super) fn text(sections: &[Section]) -> String {
    let mut lines = Vec::new();
    for section in sections {
        lines.push(format!("{} {}", section.subject.name(), section.name));
        let width = section.findings.iter().map(|one| one.check.len()).max();
        for finding in &section.findings {
            let (level, check) = (finding.level.name(), finding.check);
            let width = width.unwrap_or_default();
            lines.push(format!(
                "  {level:<4}  {check:<width$}  {}",
                finding.message
            ));
            if let Some(fix) = &finding.fix {
                lines.push(format!("  {:<4}  {:<width$}  -> {fix}", "", ""));
            }
        }
        lines.push(String::new());
    }
    let of = |level| count(sections, level);
    lines.push(format!(
        "{} failed, {} to look at, {} not checked, {} good",
        of(Level::Fail),
        of(Level::Warn),
        of(Level::Skip),
        of(Level::Ok)
    ));
    lines.join("\n")
}

pub(super) fn json(sections: &[Section]) -> Value {
    let of = |level| count(sections, level);
    let findings = sections.iter().flat_map(|section| {
        let of_section = move |finding| finding_json(section, finding);
        section.findings.iter().map(of_section)
    });
    json!({
        "ok": of(Level::Fail) == 0,
        "failed": of(Level::Fail),
        "warned": of(Level::Warn),
        "skipped": of(Level::Skip),
        "good": of(Level::Ok),
        "checks": findings.collect::<Vec<Value>>(),
    })
}

fn finding_json(section: &Section, finding: &Finding) -> Value {
    json!({
        "subject": section.subject.name(),
        "name": section.name,
        "check": finding.check,
        "level": finding.level.name(),
        "message": finding.message,
        "fix": finding.fix,
    })
}
