//! The demo's result: a table for people, one line of JSON for programs.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use super::figures::{Latency, SATURATED_ROWS, saturated_utilisation};
use super::observer::Observer;
use super::scene::{CONSUMER_POLL, FLOOD, STREAM};
use crate::demo::load::{CommittedRow, LoadCounts, LoadReport};
use crate::demo::tally::Tally;
use crate::demo::verdict::Verdict;

/// How many of a kind of fault are shown.
const EXAMPLES: usize = 10;

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Played {
    /// How long was published.
    pub(super) seconds: f64,
    /// How long it then took until everything had arrived.
    pub(super) drain_seconds: f64,
    /// How often the relay was killed.
    pub(super) kills: usize,
}

/// One outbox.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct OutboxFigures {
    published: u64,
    delivered: u64,
    duplicates: u64,
    #[serde(flatten)]
    latency: Latency,
}

/// One shard.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct ShardFigures {
    shard: String,
    /// Records stored.
    records: u64,
    /// Records refused for the shard's limit.
    throttled: u64,
    /// The part of its limit it took while it was saturated.
    utilisation: Option<f64>,
    /// The most records offered in any window of one second.
    busiest_second_records: u64,
}

/// The result. Its names are those of the JSON line.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Report {
    ok: bool,
    published: u64,
    delivered: u64,
    lost: u64,
    duplicates: u64,
    order_violations: u64,
    /// Records refused for a shard's limit, of all that were offered.
    throttled_ratio: f64,
    /// Per shard, while it was saturated.
    shard_utilisation: Vec<Option<f64>>,
    /// Of all outboxes but the flooding one.
    p50_ms: f64,
    p99_ms: f64,
    /// Of all outboxes.
    all: Latency,
    seq_violations: u64,
    unknown: u64,
    unreadable: u64,
    wrong_shard: u64,
    wrong_key: u64,
    consumer_gaps: u64,
    #[serde(flatten)]
    played: Played,
    outboxes: BTreeMap<String, OutboxFigures>,
    shards: Vec<ShardFigures>,
    load: LoadCounts,
    latency_is: String,
    examples: Vec<String>,
}

// === impl Report ===

impl Report {
    pub(super) fn new(
        played: Played,
        verdict: Verdict,
        books: &LoadReport,
        observer: &Observer,
        tally: &Tally,
    ) -> Self {
        let arrivals = observer.first_arrivals();
        let is_calm = |row: &&CommittedRow| &*row.row.outbox != FLOOD;
        let calm = Latency::of(books.committed.iter().filter(is_calm), arrivals);
        let total = tally.total(STREAM);
        let throttled_ratio = total.throttled_records as f64 / total.offered_records.max(1) as f64;
        let shard_utilisation = saturated_utilisation(
            observer.shards(),
            observer.samples(),
            &books.committed,
            arrivals,
        );
        let unreadable = observer.unreadable();
        let mut examples = verdict.examples.clone();
        examples.extend(unreadable.iter().take(EXAMPLES).cloned());
        Self {
            ok: verdict.is_clean() && unreadable.is_empty(),
            published: verdict.published,
            delivered: verdict.delivered,
            lost: verdict.lost,
            duplicates: verdict.duplicates,
            order_violations: verdict.order_violations,
            throttled_ratio: (throttled_ratio * 1e6).round() / 1e6,
            p50_ms: calm.p50_ms,
            p99_ms: calm.p99_ms,
            all: Latency::of(books.committed.iter(), arrivals),
            seq_violations: verdict.seq_violations,
            unknown: verdict.unknown,
            unreadable: unreadable.len() as u64,
            wrong_shard: verdict.wrong_shard,
            wrong_key: verdict.wrong_key,
            consumer_gaps: verdict.consumer_gaps,
            played,
            outboxes: outboxes(books, observer),
            shards: shards(observer, tally, &shard_utilisation),
            shard_utilisation,
            load: books.counts,
            latency_is: format!(
                "from the sending of COMMIT to the record in the hands of a consumer that asks \
                 each shard every {} ms; p50_ms and p99_ms are of all outboxes but {FLOOD}",
                CONSUMER_POLL.as_millis()
            ),
            examples,
        }
    }

    /// Whether no promise was broken.
    pub(super) const fn is_clean(&self) -> bool {
        self.ok
    }

    /// The table.
    pub(super) fn table(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        self.write_table(&mut text).unwrap_or_default();
        text
    }

    fn write_table(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "{:<12}{:>10}{:>11}{:>8}{:>12}{:>10}{:>10}{:>10}",
            "outbox", "published", "delivered", "lost", "duplicates", "p50 ms", "p99 ms", "max ms"
        )?;
        for (name, outbox) in &self.outboxes {
            write_row(out, name, outbox)?;
        }
        let all = OutboxFigures {
            published: self.published,
            delivered: self.delivered,
            duplicates: self.duplicates,
            latency: self.all,
        };
        write_row(out, "all", &all)?;
        writeln!(out)?;
        writeln!(
            out,
            "{:<22}{:>10}{:>11}{:>13}{:>16}",
            "shard", "records", "throttled", "utilisation", "busiest second"
        )?;
        for shard in &self.shards {
            let utilisation = shard
                .utilisation
                .map_or_else(|| "-".to_owned(), |part| format!("{:.1} %", part * 100.0));
            writeln!(
                out,
                "{:<22}{:>10}{:>11}{:>13}{:>16}",
                shard.shard,
                grouped(shard.records),
                grouped(shard.throttled),
                utilisation,
                grouped(shard.busiest_second_records)
            )?;
        }
        writeln!(out)?;
        writeln!(out, "latency: {}", self.latency_is)?;
        writeln!(
            out,
            "utilisation: part of 1,000 records/s (or 1 MiB/s) that a shard took in the seconds in which \
             at least {SATURATED_ROWS} rows waited for it"
        )?;
        let Played {
            seconds,
            drain_seconds,
            kills,
        } = self.played;
        writeln!(
            out,
            "published for {seconds:.1} s, all delivered {drain_seconds:.1} s later; relay killed {kills} times"
        )?;
        writeln!(
            out,
            "order violations {}, seq violations {}, never committed {}, unreadable {}, on the wrong shard {}, \
             under the wrong key {}, consumer gaps {}",
            self.order_violations,
            self.seq_violations,
            self.unknown,
            self.unreadable,
            self.wrong_shard,
            self.wrong_key,
            self.consumer_gaps
        )?;
        for example in &self.examples {
            writeln!(out, "  {example}")?;
        }
        let verdict = if self.ok {
            "OK: every committed row arrived, in order"
        } else {
            "FAILED: see above"
        };
        writeln!(out, "{verdict}")
    }
}

fn write_row(out: &mut String, name: &str, figures: &OutboxFigures) -> std::fmt::Result {
    writeln!(
        out,
        "{name:<12}{:>10}{:>11}{:>8}{:>12}{:>10.1}{:>10.1}{:>10.1}",
        grouped(figures.published),
        grouped(figures.delivered),
        grouped(figures.published - figures.delivered),
        grouped(figures.duplicates),
        figures.latency.p50_ms,
        figures.latency.p99_ms,
        figures.latency.max_ms
    )
}

fn outboxes(books: &LoadReport, observer: &Observer) -> BTreeMap<String, OutboxFigures> {
    let mut rows: BTreeMap<&str, Vec<&CommittedRow>> = BTreeMap::new();
    for committed in &books.committed {
        rows.entry(&committed.row.outbox)
            .or_default()
            .push(committed);
    }
    let arrivals = observer.first_arrivals();
    let mut records: BTreeMap<&str, u64> = BTreeMap::new();
    for delivered in observer.delivered() {
        *records.entry(&delivered.outbox).or_default() += 1;
    }
    let mut firsts: BTreeMap<&str, u64> = BTreeMap::new();
    for (outbox, _) in arrivals.keys() {
        *firsts.entry(outbox).or_default() += 1;
    }
    let figures = |(name, rows): (&str, Vec<&CommittedRow>)| {
        let of = |counts: &BTreeMap<&str, u64>| counts.get(name).copied().unwrap_or_default();
        let arrived = |row: &&&CommittedRow| arrivals.contains_key(&super::figures::event_of(row));
        let figures = OutboxFigures {
            published: rows.len() as u64,
            delivered: rows.iter().filter(arrived).count() as u64,
            duplicates: of(&records) - of(&firsts),
            latency: Latency::of(rows.iter().copied(), arrivals),
        };
        (name.to_owned(), figures)
    };
    rows.into_iter().map(figures).collect()
}

fn shards(observer: &Observer, tally: &Tally, utilisation: &[Option<f64>]) -> Vec<ShardFigures> {
    let counts = tally.shards(STREAM);
    let figures = |(shard, utilisation): (&crate::core::shard_map::ShardId, &Option<f64>)| {
        let counts = counts.get(shard).copied().unwrap_or_default();
        ShardFigures {
            shard: shard.to_string(),
            records: counts.accepted_records,
            throttled: counts.throttled_records,
            utilisation: *utilisation,
            busiest_second_records: tally.busiest_second(STREAM, shard).records,
        }
    };
    observer
        .shards()
        .iter()
        .zip(utilisation)
        .map(figures)
        .collect()
}

/// A number with a comma between groups of three digits.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_digits() {
        let numbers = [0, 999, 1000, 48_210, 1_234_567];
        let texts: Vec<String> = numbers.into_iter().map(grouped).collect();
        assert_eq!(texts, ["0", "999", "1,000", "48,210", "1,234,567"]);
    }
}
