//! Which cases are run, and how large.

use std::path::PathBuf;
use std::time::Duration;

use crate::Failure;

/// What the environment says.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    wanted: Vec<String>,
    /// Rows of a backlog.
    pub(crate) rows: u64,
    /// How long what is timed is watched.
    pub(crate) watch: Duration,
    /// The most rows of kept history.
    pub(crate) history: u64,
    /// How long a transaction stays open.
    pub(crate) open: Duration,
    /// Where curves go.
    pub(crate) plots: PathBuf,
}

/// A drain of a backlog in all its dimensions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    /// Bytes of a payload.
    pub(crate) payload: u32,
    /// What a call takes at least, in milliseconds.
    pub(crate) round_trip_ms: u64,
    pub(crate) shards: u32,
    pub(crate) outboxes: u32,
    pub(crate) keys: u64,
    /// `none` or `kpl`.
    pub(crate) aggregation: &'static str,
}

/// As many keys as make two rows of a page rarely share one.
pub(crate) const MANY_KEYS: u64 = 100_000;

/// What the goals for a drain speak of; the others differ from it in one thing.
pub(crate) const USUAL: Case = Case {
    payload: 200,
    round_trip_ms: 15,
    shards: 64,
    outboxes: 1,
    keys: MANY_KEYS,
    aggregation: "none",
};

// === impl Settings ===

impl Settings {
    /// Reads the environment.
    ///
    /// # Errors
    /// A number is none.
    pub(crate) fn from_environment() -> Result<Self, Failure> {
        let text = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
        let number = |name, usual| match text(name) {
            None => Ok(usual),
            Some(text) => text
                .parse::<u64>()
                .map_err(|error| format!("{name}={text}: {error}")),
        };
        Ok(Self {
            wanted: text("CASES")
                .map(|list| list.split(',').map(str::to_owned).collect())
                .unwrap_or_default(),
            rows: number("ROWS", 400_000)?,
            watch: Duration::from_secs(number("WATCH_SECONDS", 20)?),
            history: number("HISTORY", 10_000_000)?,
            open: Duration::from_secs(60 * number("OPEN_MINUTES", 10)?),
            plots: text("PLOTS").map_or_else(
                || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/performance"),
                PathBuf::from,
            ),
        })
    }

    /// Whether a case is to be run.
    pub(crate) fn wants(&self, case: &str) -> bool {
        self.wanted.is_empty() || self.wanted.iter().any(|part| case.contains(part))
    }
}

// === impl Case ===

impl Case {
    /// Its name, such as `drain/200B/15ms/64/1/many/none`: payload, round trip,
    /// shards, outboxes, keys, aggregation.
    pub(crate) fn name(&self) -> String {
        let payload = match self.payload {
            bytes if bytes % 1000 == 0 => format!("{}KB", bytes / 1000),
            bytes => format!("{bytes}B"),
        };
        let keys = if self.keys == 1 { "hot" } else { "many" };
        format!(
            "drain/{payload}/{}ms/{}/{}/{keys}/{}",
            self.round_trip_ms, self.shards, self.outboxes, self.aggregation
        )
    }

    /// The usual one and those that differ from it in one thing, first without and
    /// then with aggregation.
    pub(crate) fn matrix() -> Vec<Self> {
        let with = |aggregation| {
            let usual = Self {
                aggregation,
                ..USUAL
            };
            [
                usual,
                Self {
                    payload: 1000,
                    ..usual
                },
                Self {
                    payload: 10_000,
                    ..usual
                },
                Self {
                    round_trip_ms: 0,
                    ..usual
                },
                Self {
                    round_trip_ms: 50,
                    ..usual
                },
                Self { shards: 1, ..usual },
                Self { shards: 8, ..usual },
                Self {
                    outboxes: 200,
                    ..usual
                },
                Self { keys: 1, ..usual },
            ]
        };
        ["none", "kpl"].into_iter().flat_map(with).collect()
    }
}
