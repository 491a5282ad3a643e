//! Durations with units: `50ms`, `4s`, `1m30s`. A bare number is refused, since
//! it does not say whether seconds or milliseconds are meant.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A duration that reads and shows itself with units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HumanDuration(pub Duration);

/// Every unit and its milliseconds, largest first: parts of a duration come in
/// this order.
const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// What a duration looks like, for error messages.
pub const EXPECTED_DURATION: &str =
    "a duration with units (h, m, s, ms) such as \"50ms\", \"4s\" or \"1m30s\"";

/// A text that is no duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected {EXPECTED_DURATION}")]
pub struct NoDuration;

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        if rest == 0 {
            return f.write_str("0ms");
        }
        for (unit, milliseconds) in UNITS {
            if rest >= milliseconds {
                write!(f, "{}{unit}", rest / milliseconds)?;
                rest %= milliseconds;
            }
        }
        Ok(())
    }
}

impl FromStr for HumanDuration {
    type Err = NoDuration;

    fn from_str(text: &str) -> Result<Self, NoDuration> {
        let mut milliseconds: u64 = 0;
        let mut units = UNITS.iter();
        let mut rest = text;
        while !rest.is_empty() {
            let after_number = rest.trim_start_matches(|c: char| c.is_ascii_digit());
            let number: u64 = rest[..rest.len() - after_number.len()]
                .parse()
                .map_err(|_| NoDuration)?;
            let after_unit = after_number.trim_start_matches(|c: char| c.is_ascii_alphabetic());
            let unit = &after_number[..after_number.len() - after_unit.len()];
            let (_, size) = units.find(|(name, _)| *name == unit).ok_or(NoDuration)?;
            milliseconds = number
                .checked_mul(*size)
                .and_then(|part| milliseconds.checked_add(part))
                .ok_or(NoDuration)?;
            rest = after_unit;
        }
        if text.is_empty() {
            return Err(NoDuration);
        }
        Ok(Self(Duration::from_millis(milliseconds)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_parts_with_units() {
        let milliseconds = |text: &str| text.parse().map(|HumanDuration(read)| read.as_millis());
        assert_eq!(milliseconds("50ms"), Ok(50));
        assert_eq!(milliseconds("4s"), Ok(4_000));
        assert_eq!(milliseconds("1m30s"), Ok(90_000));
        assert_eq!(milliseconds("2h"), Ok(7_200_000));
    }

    #[test]
    fn refuses_what_is_no_duration() {
        for text in [
            "",
            "50",
            "s",
            "1s1m",
            "1s2s",
            "1.5s",
            "-1s",
            "1m 30s",
            "1d",
            "99999999999999999h",
        ] {
            assert_eq!(
                text.parse::<HumanDuration>(),
                Err(NoDuration),
                "{text:?} was accepted"
            );
        }
    }

    proptest! {
        #[test]
        fn reads_what_it_shows(milliseconds in 0u64..10_000_000_000) {
            let duration = HumanDuration(Duration::from_millis(milliseconds));
            prop_assert_eq!(duration.to_string().parse(), Ok(duration));
        }
    }
}
