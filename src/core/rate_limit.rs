//! A rate in rows and bytes a second, kept by waiting: a pipeline's own, or what is
//! left of its tenant's ([`super::tenant_quota`]).
//!
//! Rules:
//! - over any time `t` at most `burst + rate * t` goes, but for the last read, whose
//!   rows may be heavier than those before them: that debt is waited off;
//! - whoever always has work gets the rate: nothing of it is lost between two looks,
//!   which may be [`LEAST_DEPTH`] apart.

use std::time::Duration;

use super::time::Moment;

/// A bucket holds at least so long a time's worth, whatever burst is allowed: readers
/// look every 20 ms and a read takes its time, and what overflows meanwhile would
/// be missing from the rate.
pub const LEAST_DEPTH: Duration = Duration::from_millis(100);

/// The longest that a bucket says to wait, in seconds (12 days): a part of a very low
/// rate has its next row later than a time can say.
const LONGEST_WAIT: f64 = 1e6;

/// The limits of a pipeline or a tenant; `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct RateLimits {
    /// Rows a second.
    pub rows_per_second: Option<f64>,
    /// Rows that may go at once after a pause; one second's worth when `None`, and
    /// at least 100 ms' worth.
    pub burst_rows: Option<u32>,
    /// Bytes (data plus keys) a second; after a pause one second's worth may go
    /// at once.
    pub bytes_per_second: Option<u64>,
}

impl RateLimits {
    /// A part of them, above 0 and at most 1: rates and burst.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counts far below 2^52, never negative"
    )]
    pub fn part(self, fraction: f64) -> Self {
        Self {
            rows_per_second: self.rows_per_second.map(|rate| rate * fraction),
            burst_rows: self
                .burst_rows
                .map(|burst| (f64::from(burst) * fraction).ceil() as u32),
            bytes_per_second: self
                .bytes_per_second
                .map(|rate| ((rate as f64 * fraction) as u64).max(1)),
        }
    }

    /// Whether there is any.
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.rows_per_second.is_none() && self.bytes_per_second.is_none()
    }
}

/// One token bucket. It starts full; a read may overdraw it.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    per_second: f64,
    depth: f64,
    tokens: f64,
}

impl Bucket {
    fn full(per_second: f64, depth: f64) -> Self {
        let depth = depth.max(per_second * LEAST_DEPTH.as_secs_f64()).max(1.0);
        Self {
            per_second,
            depth,
            tokens: depth,
        }
    }

    fn fill(&mut self, passed: Duration) {
        self.tokens = (self.tokens + self.per_second * passed.as_secs_f64()).min(self.depth);
    }

    fn has_one_in(&self) -> Duration {
        let seconds = (1.0 - self.tokens) / self.per_second;
        // Also no number is a long time.
        if seconds < LONGEST_WAIT {
            Duration::from_secs_f64(seconds.max(0.0))
        } else {
            Duration::from_secs_f64(LONGEST_WAIT)
        }
    }
}

/// What a pipeline may hand over.
#[derive(Debug, Clone)]
pub struct RateLimiter {
    rows: Option<Bucket>,
    bytes: Option<Bucket>,
    filled_at: Moment,
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts far below 2^52, never negative"
)]
impl RateLimiter {
    /// Full buckets.
    #[must_use]
    pub fn new(limits: RateLimits, now: Moment) -> Self {
        let rows = limits.rows_per_second.map(|per_second| {
            Bucket::full(per_second, limits.burst_rows.map_or(per_second, f64::from))
        });
        let bytes = limits.bytes_per_second.map(|per_second| {
            let per_second = per_second as f64;
            Bucket::full(per_second, per_second)
        });
        Self {
            rows,
            bytes,
            filled_at: now,
        }
    }

    /// From now on these limits hold. What has been used or is owed stays so: a
    /// limit that is changed every moment grants no burst each time. A limit that
    /// was not there begins without anything saved.
    pub fn change(&mut self, limits: RateLimits, now: Moment) {
        self.fill(now);
        let before = std::mem::replace(self, Self::new(limits, now));
        let keep = |bucket: &mut Option<Bucket>, before: Option<Bucket>| {
            if let Some(bucket) = bucket {
                let tokens = before.map_or(0.0, |before| before.tokens);
                bucket.tokens = tokens.min(bucket.depth);
            }
        };
        keep(&mut self.rows, before.rows);
        keep(&mut self.bytes, before.bytes);
    }

    /// How many rows may go now that weigh so many bytes each; 0 while bytes are
    /// owed, at least 1 while none are.
    pub fn rows(&mut self, row_bytes: usize, now: Moment) -> usize {
        self.fill(now);
        let by_bytes = match self.bytes {
            Some(bytes) if bytes.tokens < 1.0 => return 0,
            Some(bytes) => ((bytes.tokens / row_bytes.max(1) as f64) as usize).max(1),
            None => usize::MAX,
        };
        let by_rows = self
            .rows
            .map_or(usize::MAX, |rows| rows.tokens.max(0.0) as usize);
        by_rows.min(by_bytes)
    }

    /// What part of its buckets is saved up, of the emptier one: at 1 what comes in is
    /// lost.
    pub fn saved(&mut self, now: Moment) -> f64 {
        self.fill(now);
        let buckets = [self.rows, self.bytes].into_iter().flatten();
        let parts = buckets.map(|bucket| bucket.tokens / bucket.depth);
        parts.fold(1.0, f64::min)
    }

    /// What part of a second's worth these rows are, of the scarcer of the two.
    #[must_use]
    pub fn seconds_of(&self, rows: usize, bytes: usize) -> f64 {
        let part = |bucket: Option<Bucket>, amount: usize| {
            bucket.map_or(0.0, |bucket| amount as f64 / bucket.per_second)
        };
        part(self.rows, rows).max(part(self.bytes, bytes))
    }

    /// The rows of so many bytes that are so many seconds' worth.
    #[must_use]
    pub fn rows_in(&self, seconds: f64, row_bytes: usize) -> usize {
        let one = self.seconds_of(1, row_bytes);
        if one > 0.0 {
            (seconds / one) as usize
        } else {
            usize::MAX
        }
    }

    /// When a row may go, if none may now.
    pub fn next_at(&mut self, now: Moment) -> Moment {
        self.fill(now);
        let waits = [self.rows, self.bytes].into_iter().flatten();
        let longest = waits
            .map(|bucket| bucket.has_one_in())
            .max()
            .unwrap_or_default();
        now + longest
    }

    /// Rows have gone.
    pub fn charge(&mut self, rows: usize, bytes: usize) {
        if let Some(bucket) = &mut self.rows {
            bucket.tokens -= rows as f64;
        }
        if let Some(bucket) = &mut self.bytes {
            bucket.tokens -= bytes as f64;
        }
    }

    /// Rows that were charged have not gone.
    pub fn refund(&mut self, rows: usize, bytes: usize) {
        let back = |bucket: &mut Option<Bucket>, amount: usize| {
            if let Some(bucket) = bucket {
                bucket.tokens = (bucket.tokens + amount as f64).min(bucket.depth);
            }
        };
        back(&mut self.rows, rows);
        back(&mut self.bytes, bytes);
    }

    fn fill(&mut self, now: Moment) {
        let passed = now.since(self.filled_at);
        for bucket in [&mut self.rows, &mut self.bytes].into_iter().flatten() {
            bucket.fill(passed);
        }
        self.filled_at = now.max(self.filled_at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Moment {
        Moment::from_origin(Duration::from_millis(millis))
    }

    fn sent_in(limits: RateLimits, row_bytes: usize, seconds: u64) -> usize {
        let mut limiter = RateLimiter::new(limits, at(0));
        let mut sent = 0;
        for millis in 0..seconds * 1000 {
            let rows = limiter.rows(row_bytes, at(millis)).min(2000);
            limiter.charge(rows, rows * row_bytes);
            sent += rows;
        }
        sent
    }

    #[test]
    fn keeps_the_long_run_rate_after_the_burst() {
        let limits = RateLimits {
            rows_per_second: Some(250.0),
            burst_rows: Some(50),
            bytes_per_second: None,
        };
        let sent = sent_in(limits, 100, 100);
        assert!((25_000..=25_050).contains(&sent), "{sent}");
    }

    #[test]
    fn keeps_the_byte_rate_by_waiting_off_the_debt() {
        let limits = RateLimits {
            bytes_per_second: Some(100_000),
            ..RateLimits::default()
        };
        let bytes = sent_in(limits, 700, 100) * 700;
        // One second's worth at the start, and a row on credit.
        assert!((10_000_000..=10_101_400).contains(&bytes), "{bytes}");
    }

    /// Whoever looks only every 20 ms, and takes 40 ms for each read, gets the rate
    /// with the smallest burst; over 1,000 s it is exact to a thousandth.
    #[test]
    fn the_rate_is_exact_however_small_the_burst() {
        for (rate, burst) in [(1.0, 1), (37.5, 1), (1_000.0, 1), (20_000.0, 10)] {
            let limits = RateLimits {
                rows_per_second: Some(rate),
                burst_rows: Some(burst),
                bytes_per_second: None,
            };
            let mut limiter = RateLimiter::new(limits, at(0));
            let (mut sent, mut now) = (0_usize, at(0));
            let end = at(1_000_000);
            while now < end {
                let rows = limiter.rows(100, now).min(2_000);
                limiter.charge(rows, rows * 100);
                sent += rows;
                now = if rows > 0 {
                    now + Duration::from_millis(40)
                } else {
                    limiter.next_at(now).max(now + Duration::from_millis(20))
                };
            }
            let expected = rate * 1_000.0;
            let most = f64::from(burst).max(rate / 10.0).max(1.0);
            let sent = sent as f64;
            assert!(
                sent >= expected * 0.999 - 1.0 && sent <= expected + most + 1.0,
                "{sent} of {expected} at {rate}/s"
            );
        }
    }

    #[test]
    fn no_more_than_the_burst_goes_at_once() {
        let limits = RateLimits {
            rows_per_second: Some(100.0),
            burst_rows: Some(40),
            bytes_per_second: Some(5_000),
        };
        let mut limiter = RateLimiter::new(limits, at(0));
        assert_eq!(limiter.rows(1, at(60_000)), 40);
        assert_eq!(
            limiter.rows(500, at(60_000)),
            10,
            "a second's worth of bytes"
        );
        limiter.charge(10, 5_000);
        assert_eq!(limiter.rows(500, at(60_000)), 0);
        limiter.refund(10, 5_000);
        assert_eq!(limiter.rows(500, at(60_000)), 10);
        let half = limits.part(0.5);
        assert_eq!(half.rows_per_second, Some(50.0));
        assert_eq!(
            (half.burst_rows, half.bytes_per_second),
            (Some(20), Some(2_500))
        );
    }

    #[test]
    fn says_when_to_come_back() {
        let limits = RateLimits {
            rows_per_second: Some(2.0),
            burst_rows: Some(1),
            bytes_per_second: None,
        };
        let mut limiter = RateLimiter::new(limits, at(0));
        assert_eq!(limiter.rows(10, at(0)), 1);
        limiter.charge(1, 10);
        assert_eq!(limiter.rows(10, at(100)), 0);
        assert_eq!(limiter.next_at(at(100)), at(500));
        assert_eq!(limiter.rows(10, at(500)), 1);
    }

    #[test]
    fn however_low_a_rate_is_there_is_a_next_moment() {
        for rate in [1e-300, 1e-20, 0.0] {
            let limits = RateLimits {
                rows_per_second: Some(rate),
                burst_rows: Some(1),
                bytes_per_second: None,
            };
            let mut limiter = RateLimiter::new(limits, at(0));
            limiter.charge(1, 10);
            assert_eq!(limiter.rows(10, at(1000)), 0);
            let next = limiter.next_at(at(1000));
            assert!(next > at(1000 + 86_400_000), "{next:?}");
        }
    }

    #[test]
    fn a_change_every_moment_grants_nothing_more() {
        let rate = |rows| RateLimits {
            rows_per_second: Some(rows),
            burst_rows: Some(50),
            bytes_per_second: Some(1_000_000),
        };
        let mut limiter = RateLimiter::new(rate(250.0), at(0));
        let mut sent = 0;
        for millis in 0..100_000 {
            let rows = limiter.rows(10, at(millis));
            limiter.charge(rows, rows * 100);
            sent += rows;
            let limits = match millis % 3 {
                0 => rate(250.0),
                1 => RateLimits {
                    burst_rows: Some(10),
                    ..rate(250.0)
                },
                _ => rate(250.5),
            };
            limiter.change(limits, at(millis));
        }
        assert!((24_900..=25_100).contains(&sent), "{sent}");
    }

    #[test]
    fn a_changed_rate_holds_from_then_on() {
        let mut limiter = RateLimiter::new(RateLimits::default(), at(0));
        limiter.charge(1_000_000, 1 << 30);
        let limits = RateLimits {
            rows_per_second: Some(100.0),
            ..RateLimits::default()
        };
        limiter.change(limits, at(1000));
        assert_eq!(limiter.rows(10, at(1000)), 0, "nothing is saved up");
        assert_eq!(limiter.rows(10, at(1500)), 50);
        limiter.change(RateLimits::default(), at(1500));
        assert_eq!(limiter.rows(10, at(1500)), usize::MAX);
    }

    #[test]
    fn without_limits_anything_goes() {
        let mut limiter = RateLimiter::new(RateLimits::default(), at(0));
        limiter.charge(1_000_000, 1 << 40);
        assert_eq!(limiter.rows(10, at(0)), usize::MAX);
    }
}
