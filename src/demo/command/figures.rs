//! The arithmetic of the final figures.

use std::collections::HashMap;

use tokio::time::Instant;

use super::observer::{FirstArrival, Sample, Taken};
use crate::core::shard_map::ShardId;
use crate::demo::delivered::EventId;
use crate::demo::load::CommittedRow;

/// A shard is saturated while at least so many committed rows wait for it: half a
/// second of work.
pub(super) const SATURATED_ROWS: usize = 500;

/// Latencies in milliseconds; zeros when there are none.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Serialize)]
pub(super) struct Latency {
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) max_ms: f64,
}

impl Latency {
    /// Of rows, from the sending of their COMMIT to their first arrival.
    pub(super) fn of<'a>(
        rows: impl Iterator<Item = &'a CommittedRow>,
        arrivals: &HashMap<EventId, FirstArrival>,
    ) -> Self {
        let mut all: Vec<f64> = rows
            .filter_map(|committed| {
                let arrival = arrivals.get(&event_of(committed))?;
                let latency = arrival
                    .at
                    .saturating_duration_since(committed.commit_sent_at);
                Some(latency.as_secs_f64() * 1000.0)
            })
            .collect();
        all.sort_by(f64::total_cmp);
        let at = |share: f64| quantile(&all, share);
        Self {
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            max_ms: at(1.0),
        }
    }
}

/// The row's name among arrivals.
pub(super) fn event_of(committed: &CommittedRow) -> EventId {
    (committed.row.outbox.clone(), committed.row.id)
}

/// The nearest rank of a share, to a tenth; 0 of nothing.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return 0.0;
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank is not negative and within the list"
    )]
    let rank = (share * sorted.len() as f64).ceil() as usize;
    let value = sorted[rank.saturating_sub(1).min(last)];
    (value * 10.0).round() / 10.0
}

/// When rows of one shard were committed and when they arrived.
#[derive(Debug, Default)]
struct Backlog {
    committed: Vec<Instant>,
    arrived: Vec<Instant>,
}

impl Backlog {
    fn at(&self, moment: Instant) -> usize {
        let until = |times: &[Instant]| times.partition_point(|time| *time <= moment);
        until(&self.committed).saturating_sub(until(&self.arrived))
    }
}

/// The part of its limit that each shard took while rows waited for it: over the
/// seconds at both ends of which at least [`SATURATED_ROWS`] did. `None` for a
/// shard that was never saturated.
pub(super) fn saturated_utilisation(
    shards: &[ShardId],
    samples: &[Sample],
    committed: &[CommittedRow],
    arrivals: &HashMap<EventId, FirstArrival>,
) -> Vec<Option<f64>> {
    let mut backlogs: HashMap<&ShardId, Backlog> = HashMap::new();
    for row in committed {
        let Some(arrival) = arrivals.get(&event_of(row)) else {
            continue;
        };
        let backlog = backlogs.entry(&arrival.shard).or_default();
        backlog.committed.push(row.commit_sent_at);
        backlog.arrived.push(arrival.at);
    }
    for backlog in backlogs.values_mut() {
        backlog.committed.sort_unstable();
        backlog.arrived.sort_unstable();
    }
    let of_shard = |shard| {
        let backlog = backlogs.get(shard)?;
        let mut sum = Taken::default();
        for pair in samples.windows(2) {
            let is_saturated = |sample: &Sample| backlog.at(sample.at) >= SATURATED_ROWS;
            if !pair.iter().all(is_saturated) {
                continue;
            }
            let taken = Taken::between(&pair[0], &pair[1], shard);
            sum.seconds += taken.seconds;
            sum.records += taken.records;
            sum.bytes += taken.bytes;
        }
        (sum.seconds > 0.0).then(|| (sum.utilisation() * 1000.0).round() / 1000.0)
    };
    shards.iter().map(of_shard).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::demo::tally::ShardCounts;
    use crate::demo::verdict::Committed;

    fn row(id: i64, at: Instant) -> CommittedRow {
        CommittedRow {
            row: Committed {
                outbox: "events".into(),
                id,
                key: None,
                order: None,
            },
            commit_sent_at: at,
        }
    }

    fn arrival(at: Instant) -> FirstArrival {
        FirstArrival {
            at,
            shard: "s0".into(),
        }
    }

    #[test]
    fn latencies_are_ranks() {
        let start = Instant::now();
        let rows: Vec<CommittedRow> = (1..=200).map(|id| row(id, start)).collect();
        let late = |id: i64| start + Duration::from_millis(id.unsigned_abs());
        let mut arrivals: HashMap<EventId, FirstArrival> = rows
            .iter()
            .map(|row| (event_of(row), arrival(late(row.row.id))))
            .collect();
        let latency = Latency::of(rows.iter(), &arrivals);
        assert_eq!(
            (latency.p50_ms, latency.p99_ms, latency.max_ms),
            (100.0, 198.0, 200.0)
        );
        arrivals.clear();
        assert_eq!(Latency::of(rows.iter(), &arrivals), Latency::default());
    }

    #[test]
    fn only_seconds_with_a_backlog_count() {
        let start = Instant::now();
        let second = |n: u64| start + Duration::from_secs(n);
        // 2,000 rows at once; a shard that takes 900 a second, and then has no more.
        let rows: Vec<CommittedRow> = (0..2000).map(|id| row(id, start)).collect();
        let arrivals = rows.iter().map(|row| {
            let at = second(1 + row.row.id.unsigned_abs() / 900);
            (event_of(row), arrival(at))
        });
        let arrivals: HashMap<EventId, FirstArrival> = arrivals.collect();
        let sample = |n: u64, accepted_records| Sample {
            at: second(n),
            shards: [(
                "s0".into(),
                ShardCounts {
                    accepted_records,
                    ..ShardCounts::default()
                },
            )]
            .into(),
        };
        let samples = [
            sample(0, 0),
            sample(1, 900),
            sample(2, 1800),
            sample(3, 2000),
        ];
        let shards: Vec<ShardId> = vec!["s0".into(), "s1".into()];
        let utilisation = saturated_utilisation(&shards, &samples, &rows, &arrivals);
        assert_eq!(utilisation, [Some(0.9), None]);
    }
}
