//! `/runbooks/NAME`: what to do about each alert, as the documentation has it.
//!
//! Whoever is woken at night has the page of the relay at hand, and maybe nothing else:
//! the runbooks are built into the program.

use actix_web::{HttpResponse, web};

use super::markdown;
use super::page::{escaped, shown};

/// A runbook: its name and its text.
type Runbook = (&'static str, &'static str);

macro_rules! runbooks {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("../../docs/runbooks/", $name, ".md")))),*]
    };
}

const RUNBOOKS: [Runbook; 17] = runbooks![
    "TidegateAbsent",
    "TidegateActorRestarts",
    "TidegateDatabaseDown",
    "TidegateHorizonHeld",
    "TidegateInvariantViolated",
    "TidegateKeyOrderLimited",
    "TidegateLeaseFlapping",
    "TidegateNoProgress",
    "TidegateOldestRow",
    "TidegatePipelineFailed",
    "TidegateReloadFailed",
    "TidegateRetentionHeld",
    "TidegateRowsParked",
    "TidegateShardNearBudget",
    "TidegateStreamTrouble",
    "TidegateTargetDown",
    "TidegateThrottled",
];

/// Answers for each runbook, and for the list of them.
pub(super) fn configure(app: &mut web::ServiceConfig) {
    app.service(web::resource("/runbooks/").get(list))
        .service(web::resource("/runbooks/{name}").get(one));
}

async fn list() -> HttpResponse {
    let items = RUNBOOKS
        .iter()
        .map(|(name, _)| format!("<li><a href=\"{name}\">{name}</a></li>\n"));
    let items: String = items.collect();
    answer(
        "Runbooks",
        &format!("<h1>Runbooks</h1>\n<ul>\n{items}</ul>\n"),
    )
}

async fn one(name: web::Path<String>) -> HttpResponse {
    let found = RUNBOOKS.iter().find(|(known, _)| **known == **name);
    match found {
        Some((name, text)) => answer(name, &markdown::html(text, "docs/runbooks")),
        None => {
            HttpResponse::NotFound().body("there is no such runbook; / and /runbooks/ list them")
        }
    }
}

fn answer(title: &str, body: &str) -> HttpResponse {
    let title = escaped(title);
    let text = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{title} - tidegate</title>\n\
         <link rel=\"icon\" href=\"../page/icon.svg\">\n\
         <link rel=\"stylesheet\" href=\"../page/style.css\">\n</head>\n\
         <body class=\"runbook\">\n<nav aria-label=\"Back\"><a href=\"../\">Status</a> \
         <a href=\"./\">All runbooks</a></nav>\n<main>\n{body}</main>\n</body>\n</html>\n"
    );
    shown("text/html; charset=utf-8", text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    #[test]
    fn every_runbook_of_the_documentation_is_built_in() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/runbooks");
        let names = fs::read_dir(folder).expect("a folder").map(|entry| {
            let path = entry.expect("an entry").path();
            let name = path.file_stem().and_then(|stem| stem.to_str());
            name.expect("a name").to_owned()
        });
        let built_in = RUNBOOKS.iter().map(|(name, _)| (*name).to_owned());
        assert_eq!(built_in.collect::<BTreeSet<_>>(), names.collect());
    }

    #[test]
    fn no_runbook_shows_the_signs_of_its_source() {
        for (name, text) in &RUNBOOKS {
            let html = markdown::html(text, "docs/runbooks");
            let prose: String = html
                .split("<pre>")
                .enumerate()
                .map(|(number, part)| match number {
                    0 => part,
                    _ => part.split_once("</pre>").expect("an end").1,
                })
                .collect();
            assert!(html.starts_with(&format!("<h1>{name}</h1>")), "{html}");
            for sign in ["```", "](", "**", "\n- ", "## "] {
                assert!(!prose.contains(sign), "{name} has {sign:?}: {html}");
            }
            assert!(html.contains("<h2>What to do</h2>"), "{html}");
        }
    }
}
