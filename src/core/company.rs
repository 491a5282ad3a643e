//! How long a call may wait for more rows.
//!
//! A call costs the same processor time with one record as a hundred records do. A
//! backlog spread over many shards would go in thousands of calls a second with a few
//! records each. So rows that are late anyway wait for company. Rules:
//! - a row waits at most a twentieth of what it was late already: rows that come as
//!   they are published do not wait at all;
//! - at most [`MOST`], or [`MOST_OF_MANY`] where there are many shards, after the last
//!   call began: a shard that was quiet sends at once;
//! - a pipeline's rows in flight bound what it delivers while they wait: never so long
//!   that it would fall below [`LEAST_RATE`], or [`LEAST_RATE_OF_MANY`];
//! - rows that are sent again (dead letters, replays) do not wait: each of a key may be
//!   handed only once the one before has arrived;
//! - not when the call is full anyway, or a record of rows that share one, and not when rows are left behind by calls: then
//!   it is not company that is missing but budget, or the answer for the key before.

use std::time::Duration;

use super::time::Moment;

/// The longest a call waits for more rows.
pub const MOST: Duration = Duration::from_millis(200);

/// The same where there are `MANY` shards, for pipelines that may have as many rows in
/// flight: a call to one of 500 has 16 records then at 20,000 rows a second.
pub const MOST_OF_MANY: Duration = Duration::from_millis(400);

/// So many shards are many.
const MANY: usize = 200;

/// What waiting never takes a pipeline below, in rows a second.
pub const LEAST_RATE: u32 = 400_000;

/// The same where there are `MANY` shards: calls with few rows are what costs there.
pub const LEAST_RATE_OF_MANY: u32 = 150_000;

/// The part of its age that a row may wait.
const PART_OF_AGE: u32 = 20;

/// A call of so many records, or bytes, costs per row what a larger one does.
const FULL_RECORDS: usize = 500;
const FULL_BYTES: usize = 256 * 1024;

/// How long a row that is so late may wait, of a pipeline that may have so many rows
/// in flight, to so many shards.
#[must_use]
pub fn patience(age: Duration, rows_in_flight: usize, shards: usize) -> Duration {
    let (most, least_rate) = if shards < MANY {
        (MOST, LEAST_RATE)
    } else {
        (MOST_OF_MANY, LEAST_RATE_OF_MANY)
    };
    let rows = u32::try_from(rows_in_flight).unwrap_or(u32::MAX);
    let at_least_rate = Duration::from_secs(1) / least_rate * rows;
    (age / PART_OF_AGE).min(most).min(at_least_rate)
}

/// What the rows of one shard wait for.
#[derive(Debug, Clone, Copy)]
pub struct Company {
    /// The least that rows which came since the queue was empty may wait.
    patience: Option<Duration>,
    called_at: Moment,
    /// The last call left many rows behind.
    is_crowded: bool,
}

// === impl Company ===

impl Company {
    /// Of a shard without rows, to which nothing was sent.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            patience: None,
            called_at: Moment::ORIGIN,
            is_crowded: false,
        }
    }

    /// Rows have come that may wait so long.
    pub fn joined(&mut self, patience: Duration) {
        self.patience = Some(self.patience.map_or(patience, |least| least.min(patience)));
    }

    /// A call began that took so many records and left so many rows behind.
    pub const fn called(&mut self, now: Moment, taken: usize, left: usize) {
        self.called_at = now;
        self.is_crowded = left > taken / 4;
        if left == 0 {
            self.patience = None;
        }
    }

    /// Until when the rows that are there wait for more, if they do.
    #[must_use]
    pub fn until(&self, rows: usize, bytes: usize, now: Moment) -> Option<Moment> {
        let is_full = rows >= FULL_RECORDS || bytes >= FULL_BYTES;
        let until = self.called_at + self.patience?;
        (!is_full && !self.is_crowded && now < until).then_some(until)
    }
}

impl Default for Company {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Moment = Moment::from_origin(Duration::from_secs(100));

    const HOUR: Duration = Duration::from_secs(3600);

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn only_late_rows_wait() {
        assert_eq!(patience(Duration::ZERO, 20_000, 64), Duration::ZERO);
        assert_eq!(patience(ms(100), 20_000, 64), ms(5));
        assert_eq!(patience(HOUR, 80_000, 64), MOST);
        assert_eq!(patience(HOUR, 80_000, 500), MOST_OF_MANY);
    }

    #[test]
    fn a_pipeline_with_few_rows_in_flight_waits_less() {
        assert_eq!(patience(HOUR, 40_000, 64), ms(100));
        assert_eq!(patience(HOUR, 4000, 64), ms(10));
        assert_eq!(patience(HOUR, 3000, 500), Duration::from_nanos(6666 * 3000));
        assert_eq!(patience(HOUR, usize::MAX, 64), MOST);
    }

    #[test]
    fn the_least_patient_row_decides() {
        let mut company = Company::new();
        company.called(AT, 10, 0);
        company.joined(ms(150));
        assert_eq!(company.until(1, 100, AT + ms(1)), Some(AT + ms(150)));
        company.joined(Duration::ZERO);
        company.joined(ms(150));
        assert_eq!(company.until(3, 300, AT + ms(1)), None);
    }

    #[test]
    fn a_shard_that_was_quiet_sends_at_once() {
        let mut company = Company::new();
        company.called(AT, 10, 0);
        company.joined(MOST);
        assert_eq!(company.until(1, 100, AT + MOST), None);
    }

    #[test]
    fn a_full_call_does_not_wait() {
        let mut company = Company::new();
        company.called(AT, 10, 0);
        company.joined(MOST);
        assert_eq!(company.until(FULL_RECORDS, 100, AT), None);
        assert_eq!(company.until(1, FULL_BYTES, AT), None);
        assert_eq!(company.until(1, 100, AT), Some(AT + MOST));
    }

    #[test]
    fn rows_that_calls_leave_behind_do_not_wait() {
        let mut company = Company::new();
        company.joined(MOST);
        company.called(AT, 1, 50);
        assert_eq!(company.until(50, 5000, AT), None);
        // A few of a key that is in flight are no crowd.
        company.called(AT, 100, 2);
        assert_eq!(company.until(2, 200, AT), Some(AT + MOST));
    }

    #[test]
    fn rows_that_come_back_do_not_wait() {
        let mut company = Company::new();
        company.joined(MOST);
        company.called(AT, 100, 0);
        assert_eq!(company.until(100, 10_000, AT), None);
    }
}
