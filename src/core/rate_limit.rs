//! A pipeline's own rate: rows and bytes a second, kept by waiting.

use std::time::Duration;

use super::time::Moment;

/// The limits of one pipeline; `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct RateLimits {
    /// Rows a second.
    pub rows_per_second: Option<f64>,
    /// Rows that may go at once after a pause; one second's worth when `None`.
    pub burst_rows: Option<u32>,
    /// Bytes (data plus keys) a second; after a pause one second's worth may go
    /// at once.
    pub bytes_per_second: Option<u64>,
}

/// One token bucket. It starts full; bytes may overdraw it by one page.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    per_second: f64,
    depth: f64,
    tokens: f64,
}

impl Bucket {
    fn full(per_second: f64, depth: f64) -> Self {
        let depth = depth.max(1.0);
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
        Duration::from_secs_f64(((1.0 - self.tokens) / self.per_second).max(0.0))
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

    /// How many rows may go now; 0 while bytes are owed.
    pub fn rows(&mut self, now: Moment) -> usize {
        self.fill(now);
        if self.bytes.is_some_and(|bytes| bytes.tokens < 1.0) {
            return 0;
        }
        self.rows
            .map_or(usize::MAX, |rows| rows.tokens.max(0.0) as usize)
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
            let rows = limiter.rows(at(millis)).min(2000);
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
        assert!((9_900_000..=11_600_000).contains(&bytes), "{bytes}");
    }

    #[test]
    fn says_when_to_come_back() {
        let limits = RateLimits {
            rows_per_second: Some(2.0),
            burst_rows: Some(1),
            bytes_per_second: None,
        };
        let mut limiter = RateLimiter::new(limits, at(0));
        assert_eq!(limiter.rows(at(0)), 1);
        limiter.charge(1, 10);
        assert_eq!(limiter.rows(at(100)), 0);
        assert_eq!(limiter.next_at(at(100)), at(500));
        assert_eq!(limiter.rows(at(500)), 1);
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
            let rows = limiter.rows(at(millis));
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
        assert_eq!(limiter.rows(at(1000)), 0, "nothing is saved up");
        assert_eq!(limiter.rows(at(1500)), 50);
        limiter.change(RateLimits::default(), at(1500));
        assert_eq!(limiter.rows(at(1500)), usize::MAX);
    }

    #[test]
    fn without_limits_anything_goes() {
        let mut limiter = RateLimiter::new(RateLimits::default(), at(0));
        limiter.charge(1_000_000, 1 << 40);
        assert_eq!(limiter.rows(at(0)), usize::MAX);
    }
}
