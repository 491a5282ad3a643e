//! By how much the local clock differs from the service's.
//!
//! The SDK corrects a wrong clock by itself (seen with aws-runtime 1.10): it
//! learns the difference from the `Date` header of each answer, a refusal
//! included, and signs the next call of the same client by it. So a wrong clock
//! costs one refused call per client, as long as the client is kept. What is
//! measured here is for people.

use std::time::SystemTime;

use aws_sdk_kinesis::config::http::HttpResponse;
use aws_sdk_kinesis::primitives::{DateTime, DateTimeFormat};

/// An answer's `Date` header, if it has one.
pub(super) fn date(answer: &HttpResponse) -> Option<&str> {
    answer.headers().get("date")
}

/// Seconds by which the local clock, which shows `now`, is ahead of the one that
/// `date` (an HTTP date) was read off; negative when it is behind. The way of the
/// answer counts in, so a second or two mean nothing.
pub(super) fn skew(date: &str, now: SystemTime) -> Option<i64> {
    let theirs = DateTime::from_str(date, DateTimeFormat::HttpDate).ok()?;
    let ours = DateTime::from(now);
    Some(ours.secs().saturating_sub(theirs.secs()))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn a_clock_that_is_ahead_counts_positive() {
        let date = "Thu, 01 Jan 1970 00:10:00 GMT";
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(skew(date, at(1500)), Some(900));
        assert_eq!(skew(date, at(0)), Some(-600));
        assert_eq!(skew("yesterday", at(0)), None);
    }
}
