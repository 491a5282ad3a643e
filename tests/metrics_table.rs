//! `docs/metrics.md` against the registry: every family is documented with its type
//! and labels, nothing else is, and each label whose values are written in the
//! program has them listed.
//!
//! Adding a metric: use it in [`one_of_everything`], then do as the failure says.
#![allow(clippy::expect_used, reason = "a test may fail by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prometheus::Registry;
use prometheus::proto::{MetricFamily, MetricType};
use tidegate::actors::child::{ChildId, Exit};
use tidegate::admin::metrics::{HeldRows, KeptRows, LeaseEvent, Metrics, Nodes, PositionWrite};
use tidegate::core::invariants::Invariant;
use tidegate::postgres::PgOutboxStore;

/// Labels whose values come from outside of the program.
const OPEN_LABELS: [&str; 8] = [
    "pipeline", "tenant", "stream", "shard", "database", "outbox", "version", "hash",
];

/// Events of every kind, so that each family and each value shows itself.
fn one_of_everything(metrics: &Metrics) {
    // These make the series of all their values themselves.
    metrics.pipeline(["d", "p", "t", "s"]).rows_read(1, 1);
    metrics.shard("s", "shardId-0").offered(1, 1);
    drop(metrics.stream("s"));
    metrics.tenant("t").shows(1, 1.0);
    metrics.database_up("d", true);
    metrics.config_taken("hash", SystemTime::UNIX_EPOCH);
    for query in PgOutboxStore::QUERIES {
        metrics.database_query("d", query, Duration::ZERO, true);
    }
    metrics.horizon_held("d", Duration::ZERO);
    // All directions of hand-overs are there with the nodes.
    let nodes = Nodes {
        all: 2,
        draining: 1,
        held: 1,
        target: 1,
    };
    metrics.nodes("d", nodes);
    metrics.coordination_age("d", Duration::ZERO);
    metrics.rows_removed("d", "o", 1);
    let kept = KeptRows {
        outbox: "o",
        oldest: Duration::ZERO,
        held: vec![HeldRows {
            pipeline: "p",
            held_for: Duration::ZERO,
        }],
    };
    metrics.retention("d", Some(&[kept]));
    for (actor, cause) in restarts() {
        metrics.actor_restarted(actor, cause);
        // What runs is the actors alone: not the stage, and not who counts them.
        if !["stage", "supervisor"].contains(&actor) {
            metrics.actor_began(actor);
        }
    }
    for invariant in Invariant::ALL {
        if invariant.is_checked_at_run_time() {
            metrics.invariant_violated(invariant);
        }
    }
    for outcome in [PositionWrite::Written, PositionWrite::Stale] {
        metrics.position_write(outcome);
    }
    for event in [
        LeaseEvent::Claimed,
        LeaseEvent::Held,
        LeaseEvent::Renewed,
        LeaseEvent::Lost,
        LeaseEvent::Released,
    ] {
        metrics.lease_event(event);
    }
}

/// Every kind of actor and every cause, in pairs that need not happen.
fn restarts() -> Vec<(&'static str, &'static str)> {
    let name: Arc<str> = "d".into();
    let whole = ["stage", "supervisor"];
    let alone = [ChildId::Probe(Arc::clone(&name)), ChildId::Retention(name)];
    // What a reader, a router and a writer are is private to the actors.
    let kinds = ["outbox_reader", "stream_router", "shard_writer"].into_iter();
    let kinds = kinds.chain(alone.iter().map(ChildId::kind)).chain(whole);
    let causes = [
        Exit::Stopped,
        Exit::Drained,
        Exit::LeaseLost,
        Exit::LeaseExpired,
        Exit::RowsLost,
        Exit::Refused(String::new()),
        Exit::Blocked(String::new()),
        Exit::Stuck,
        Exit::Panicked(String::new()),
    ];
    let pair = |actor| causes.iter().map(move |exit| (actor, exit.cause()));
    kinds.flat_map(pair).collect()
}

fn gathered() -> Vec<MetricFamily> {
    let registry = Registry::new();
    let metrics = Metrics::new(registry.clone()).expect("fresh names");
    one_of_everything(&metrics);
    registry.gather()
}

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What stands in backticks.
fn quoted(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(Into::into).collect()
}

/// The cells of the page's table rows whose first cell is a metric's name.
fn rows() -> Vec<(String, Vec<String>)> {
    let page = read("docs/metrics.md");
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches('|')
            .split('|')
            .map(|cell| cell.trim().to_owned())
            .collect()
    };
    let rows = page
        .lines()
        .filter(|line| line.starts_with("| `tidegate_") || line.starts_with("| `process_"));
    rows.map(|line| {
        let cells = cells(line);
        (quoted(&cells[0]).remove(0), cells)
    })
    .collect()
}

const fn type_name(of: MetricType) -> &'static str {
    match of {
        MetricType::COUNTER => "counter",
        MetricType::GAUGE => "gauge",
        MetricType::HISTOGRAM => "histogram",
        MetricType::SUMMARY => "summary",
        MetricType::UNTYPED => "untyped",
    }
}

fn labels_of(family: &MetricFamily) -> BTreeMap<String, BTreeSet<String>> {
    let mut labels: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for series in family.get_metric() {
        for label in series.get_label() {
            let values = labels.entry(label.name().to_owned()).or_default();
            values.insert(label.value().to_owned());
        }
    }
    labels
}

#[test]
fn every_family_is_in_the_table_with_its_type_and_labels() {
    let table: BTreeMap<String, Vec<String>> = rows()
        .into_iter()
        .filter(|(_, cells)| cells.len() == 6)
        .collect();
    let mut wrong = Vec::new();
    let families = gathered();
    for family in &families {
        let (name, kind) = (family.name(), type_name(family.get_field_type()));
        let labels: BTreeSet<String> = labels_of(family).into_keys().collect();
        let Some(row) = table.get(name) else {
            let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
            wrong.push(format!(
                "docs/metrics.md lacks a row, such as:\n| `{name}` | {kind} | {} | UNIT | {} | WHAT TO DO |",
                labels.join(", "),
                family.help()
            ));
            continue;
        };
        if row[1] != kind {
            wrong.push(format!(
                "docs/metrics.md: {name} is a {kind}, not a {}",
                row[1]
            ));
        }
        if quoted(&row[2]).into_iter().collect::<BTreeSet<_>>() != labels {
            wrong.push(format!(
                "docs/metrics.md: the labels of {name} are {labels:?}, not {}",
                row[2]
            ));
        }
        if row[3].is_empty() || row[4].is_empty() {
            wrong.push(format!("docs/metrics.md: {name} has no unit or no meaning"));
        }
    }
    for name in table.keys() {
        if !families.iter().any(|family| family.name() == name) {
            wrong.push(format!(
                "docs/metrics.md documents {name}, which no event of one_of_everything (tests/metrics_table.rs) shows: add one, or delete the row"
            ));
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn every_value_of_the_program_is_listed() {
    let listed: BTreeMap<(String, String), BTreeSet<String>> = rows()
        .into_iter()
        .filter(|(_, cells)| cells.len() == 3)
        .map(|(name, cells)| {
            let label = quoted(&cells[1]).remove(0);
            ((name, label), quoted(&cells[2]).into_iter().collect())
        })
        .collect();
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for family in gathered() {
        for (label, values) in labels_of(&family) {
            if OPEN_LABELS.contains(&label.as_str()) {
                continue;
            }
            let series = (family.name().to_owned(), label);
            if listed.get(&series) != Some(&values) {
                let (name, label) = &series;
                let values: Vec<String> = values.iter().map(|value| format!("`{value}`")).collect();
                wrong.push(format!("| `{name}` | `{label}` | {} |", values.join(", ")));
            }
            seen.insert(series);
        }
    }
    assert!(
        wrong.is_empty(),
        "the last table of docs/metrics.md needs these rows (a label whose values come from outside of the program belongs into OPEN_LABELS here):\n{}\n",
        wrong.join("\n")
    );
    let gone: Vec<_> = listed
        .keys()
        .filter(|series| !seen.contains(*series))
        .collect();
    assert!(
        gone.is_empty(),
        "docs/metrics.md lists values of what is not there: {gone:?}"
    );
}

/// A family without a series is not gathered: the names in the source are.
#[test]
fn everything_that_is_registered_is_looked_at() {
    let shown: BTreeSet<String> = gathered()
        .iter()
        .map(|family| family.name().to_owned())
        .collect();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/admin/metrics");
    let files = fs::read_dir(folder).expect("a folder").map(|entry| {
        let name = entry.expect("an entry").file_name();
        format!("src/admin/metrics/{}", name.to_string_lossy())
    });
    let mut names = 0;
    for file in files.chain(["src/admin/metrics.rs".to_owned()]) {
        for literal in read(&file).split('"') {
            let is_name = literal.starts_with("tidegate_")
                && literal
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte == b'_');
            if is_name {
                names += 1;
                assert!(
                    shown.contains(literal),
                    "{file} registers {literal}, which no event of one_of_everything (tests/metrics_table.rs) shows: add one"
                );
            }
        }
    }
    assert!(names >= shown.len(), "{names} names found in the source");
}

#[test]
fn names_keep_the_conventions() {
    let families = gathered();
    for family in &families {
        let name = family.name();
        let kind = family.get_field_type();
        assert!(
            name.starts_with("tidegate_") || name.starts_with("process_"),
            "{name}"
        );
        assert_eq!(
            name.ends_with("_total"),
            kind == MetricType::COUNTER,
            "{name}: counters end in _total, and nothing else does"
        );
        let foreign = ["_ms", "_millis", "_minutes", "_kib", "_mib", "_percent"];
        assert!(
            !foreign.iter().any(|unit| name.ends_with(unit)),
            "{name}: seconds, bytes, and ratios of 0 to 1"
        );
        assert!(
            !family.help().is_empty() && !family.help().ends_with('.'),
            "{name}"
        );
        let bounds = family
            .get_metric()
            .iter()
            .filter(|_| kind == MetricType::HISTOGRAM);
        for series in bounds {
            let bounds: Vec<f64> = series
                .get_histogram()
                .get_bucket()
                .iter()
                .map(|bucket| bucket.upper_bound())
                .collect();
            assert!(name.ends_with("_seconds"), "{name}");
            assert!(
                bounds[0] <= 0.001 && bounds[bounds.len() - 1] >= 30.0,
                "{name}: {bounds:?} do not reach from a healthy to a stuck service"
            );
        }
    }
}
