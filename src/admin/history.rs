//! `/api/history`: how many rows a second each pipeline delivered lately.
//!
//! The admin port's own thread looks at the board every [`EVERY`] and keeps [`POINTS`]
//! numbers of each of at most [`MOST_PIPELINES`] pipelines: about 3 MB with all of them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior};

use super::status::{PipelineId, StatusBoard};

/// How often the board is looked at.
const EVERY: Duration = Duration::from_secs(5);

/// How many numbers are kept of a pipeline: those of five minutes.
const POINTS: usize = 60;

/// The most pipelines whose numbers are kept: the first by database and name.
const MOST_PIPELINES: usize = 10_000;

/// What was delivered lately, for all who ask.
#[derive(Debug, Default)]
pub(super) struct History {
    rates: Mutex<Rates>,
}

/// The numbers themselves.
#[derive(Debug, Default)]
struct Rates {
    /// How often the board was looked at.
    looks: u64,
    looked_at: Option<Instant>,
    pipelines: BTreeMap<PipelineId, Series>,
}

#[derive(Debug, Default)]
struct Series {
    /// The rows delivered when the board was looked at last.
    delivered: u64,
    /// Rows a second between two looks, the newest last.
    rates: VecDeque<f32>,
}

// === impl History ===

impl History {
    /// Looks at a board for ever.
    pub(super) async fn keep(&self, board: &StatusBoard) {
        let mut timer = tokio::time::interval(EVERY);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            timer.tick().await;
            self.rates().look(Instant::now(), board.delivered());
        }
    }

    /// The numbers since a look that was shown before, or all that are kept.
    pub(super) fn shown(&self, after: Option<u64>) -> Value {
        self.rates().shown(after)
    }

    // A look that panicked left at worst one number of one pipeline out.
    fn rates(&self) -> MutexGuard<'_, Rates> {
        self.rates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// After which look a query asks for numbers.
///
/// # Errors
/// What is wrong with the query, and what is expected.
pub(super) fn after(asked: &BTreeMap<String, String>) -> Result<Option<u64>, String> {
    if let Some(other) = asked.keys().find(|name| *name != "after") {
        return Err(format!("unknown parameter {other:?}; expected after=LOOK"));
    }
    let Some(after) = asked.get("after") else {
        return Ok(None);
    };
    let number = after.parse().map(Some);
    number.map_err(|_| format!("after is {after:?}; expected a number of `looks`"))
}

// === impl Rates ===

impl Rates {
    fn look(&mut self, now: Instant, delivered: Vec<(PipelineId, u64)>) {
        self.looks += 1;
        let since = self.looked_at.replace(now);
        let seconds = since.map_or(0.0, |since| now.duration_since(since).as_secs_f64());
        let mut before = std::mem::take(&mut self.pipelines);
        for (key, delivered) in delivered.into_iter().take(MOST_PIPELINES) {
            let Some(mut series) = before.remove(&key) else {
                // What it delivered before nobody knows when.
                let rates = VecDeque::new();
                self.pipelines.insert(key, Series { delivered, rates });
                continue;
            };
            // A count that fell began anew.
            let rows = delivered.checked_sub(series.delivered).unwrap_or(delivered);
            if series.rates.len() == POINTS {
                series.rates.pop_front();
            }
            series.rates.push_back(rate(rows, seconds));
            series.delivered = delivered;
            self.pipelines.insert(key, series);
        }
    }

    fn shown(&self, after: Option<u64>) -> Value {
        // A number from before a restart of the process asks for everything.
        let new = after.and_then(|after| self.looks.checked_sub(after));
        let new = new.map_or(POINTS, |new| usize::try_from(new).unwrap_or(POINTS));
        let pipelines = self
            .pipelines
            .iter()
            .filter_map(|((database, name), series)| {
                let skipped = series.rates.len().saturating_sub(new);
                let rates: Vec<f64> = series.rates.iter().skip(skipped).map(short).collect();
                // What flows is short beside what exists.
                let flows = rates.iter().any(|rate| *rate > 0.0);
                flows.then(|| json!({"database": database, "name": name, "rows_per_second": rates}))
            });
        json!({
            "every_seconds": EVERY.as_secs(),
            "points": POINTS,
            "looks": self.looks,
            "pipelines": pipelines.collect::<Vec<Value>>(),
        })
    }
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "a rate is shown with few digits"
)]
fn rate(rows: u64, seconds: f64) -> f32 {
    if seconds > 0.0 {
        (rows as f64 / seconds) as f32
    } else {
        0.0
    }
}

/// With one digit behind the point.
fn short(rate: &f32) -> f64 {
    (f64::from(*rate) * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> PipelineId {
        ("default".into(), name.into())
    }

    /// Rates after looks at one pipeline, five seconds apart.
    fn looked(counts: &[u64]) -> Rates {
        let begin = Instant::now();
        let mut rates = Rates::default();
        for (number, count) in (0..).zip(counts) {
            rates.look(begin + EVERY * number, vec![(key("p"), *count)]);
        }
        rates
    }

    #[test]
    fn a_rate_is_what_was_delivered_between_two_looks() {
        let shown = looked(&[100, 150, 150, 20]).shown(None);
        assert_eq!(shown["looks"], 4);
        assert_eq!(
            shown["pipelines"],
            json!([{"database": "default", "name": "p", "rows_per_second": [10.0, 0.0, 4.0]}])
        );
    }

    #[test]
    fn who_has_seen_some_is_shown_the_rest() {
        let rates = looked(&[0, 5, 10, 20]);
        let numbers = |after| rates.shown(after)["pipelines"][0]["rows_per_second"].clone();
        assert_eq!(numbers(Some(3)), json!([2.0]));
        assert_eq!(numbers(Some(2)), json!([1.0, 2.0]));
        assert_eq!(numbers(Some(99)), numbers(None));
        assert_eq!(rates.shown(Some(4))["pipelines"], json!([]));
    }

    #[test]
    fn what_is_kept_is_bounded_and_ends_with_the_pipeline() {
        let counts: Vec<u64> = (0..200).collect();
        let mut rates = looked(&counts);
        assert_eq!(rates.pipelines[&key("p")].rates.len(), POINTS);
        let many: Vec<(PipelineId, u64)> = (0..MOST_PIPELINES + 5)
            .map(|number| (key(&format!("{number:05}")), 1))
            .collect();
        rates.look(Instant::now(), many);
        assert_eq!(rates.pipelines.len(), MOST_PIPELINES);
        assert!(!rates.pipelines.contains_key(&key("p")));
    }

    #[test]
    fn a_query_is_understood_or_refused() {
        let asks =
            |name: &str, value: &str| after(&BTreeMap::from([(name.to_owned(), value.to_owned())]));
        assert_eq!(after(&BTreeMap::new()), Ok(None));
        assert_eq!(asks("after", "7"), Ok(Some(7)));
        assert!(asks("after", "x").is_err_and(|reason| reason.contains("expected a number")));
        assert!(asks("before", "7").is_err_and(|reason| reason.contains("expected after=LOOK")));
    }
}
