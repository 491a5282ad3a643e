//! A time of the database, and how it is written.

use std::fmt;

use super::digits::write_padded;

const MICROS_PER_SECOND: i64 = 1_000_000;
const SECONDS_PER_DAY: i64 = 86_400;

/// Days of 400 years: after so many the calendar repeats.
const DAYS_PER_ERA: i64 = 146_097;

/// From 0000-03-01, where a year of this count begins, to 1970-01-01, in days.
const DAYS_BEFORE_EPOCH: i64 = 719_468;

/// A point in time as PostgreSQL keeps it. Displays as RFC 3339 in UTC with
/// microseconds, such as `2026-01-02T03:04:05.678901Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp {
    /// Microseconds since 1970-01-01T00:00:00Z.
    micros: i64,
}

// === impl Timestamp ===

impl Timestamp {
    /// The time so many microseconds after 1970-01-01T00:00:00Z.
    #[must_use]
    pub const fn from_unix_micros(micros: i64) -> Self {
        Self { micros }
    }

    /// The Gregorian date: year, month, day. (Howard Hinnant, "chrono-Compatible
    /// Low-Level Date Algorithms", `civil_from_days`.)
    const fn date(self) -> (i64, i64, i64) {
        let days = self.micros.div_euclid(MICROS_PER_SECOND * SECONDS_PER_DAY) + DAYS_BEFORE_EPOCH;
        let era = days.div_euclid(DAYS_PER_ERA);
        let day_of_era = days.rem_euclid(DAYS_PER_ERA);
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        // Months count from March, so that the day that leap years add is the last.
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let (month, next_year) = if month_from_march < 10 {
            (month_from_march + 3, 0)
        } else {
            (month_from_march - 9, 1)
        };
        (year_of_era + era * 400 + next_year, month, day)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = self.date();
        let micros = self.micros.rem_euclid(MICROS_PER_SECOND);
        let seconds = self
            .micros
            .div_euclid(MICROS_PER_SECOND)
            .rem_euclid(SECONDS_PER_DAY);
        let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        if !(0..=9999).contains(&year) {
            return write!(
                f,
                "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z"
            );
        }
        let mut text = *b"0000-00-00T00:00:00.000000Z";
        let fields = [
            (0..4, year),
            (5..7, month),
            (8..10, day),
            (11..13, hour),
            (14..16, minute),
            (17..19, second),
            (20..26, micros),
        ];
        for (place, number) in fields {
            write_padded(&mut text[place], number.unsigned_abs());
        }
        f.write_str(str::from_utf8(&text).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn is_written(micros: i64, text: &str) {
        assert_eq!(Timestamp::from_unix_micros(micros).to_string(), text);
    }

    #[test]
    fn times_are_written_as_rfc_3339() {
        is_written(0, "1970-01-01T00:00:00.000000Z");
        is_written(-1, "1969-12-31T23:59:59.999999Z");
        is_written(1_767_323_045_678_901, "2026-01-02T03:04:05.678901Z");
        is_written(951_782_400_000_000, "2000-02-29T00:00:00.000000Z");
        is_written(4_107_542_399_000_000, "2100-02-28T23:59:59.000000Z");
        is_written(4_107_542_400_000_000, "2100-03-01T00:00:00.000000Z");
        is_written(253_402_300_799_999_999, "9999-12-31T23:59:59.999999Z");
        is_written(253_402_300_800_000_000, "10000-01-01T00:00:00.000000Z");
        is_written(-62_167_219_200_000_000, "0000-01-01T00:00:00.000000Z");
    }

    proptest! {
        /// Whatever PostgreSQL can hold is written, and in order.
        #[test]
        fn texts_sort_as_times_do(a in 0_i64..253_402_300_800_000_000, b in 0_i64..253_402_300_800_000_000) {
            let text = |micros| Timestamp::from_unix_micros(micros).to_string();
            prop_assert_eq!(a.cmp(&b), text(a).cmp(&text(b)));
            prop_assert_eq!(text(a).len(), 27);
        }
    }
}
