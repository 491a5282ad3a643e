//! Sizes with a unit: `64MiB`. A bare number is refused, since it does not say
//! whether bytes, kilobytes or megabytes are meant.

use std::fmt;
use std::str::FromStr;

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

/// Every unit and its bytes, largest first: the first that divides a size is
/// the one it is shown in.
const UNITS: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("KB", 1_000),
    ("B", 1),
];

/// What a size looks like, for error messages.
pub const EXPECTED_SIZE: &str =
    "a size with a unit (B, KB, KiB, MB, MiB, GB, GiB) such as \"64MiB\"";

/// A text that is no size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected {EXPECTED_SIZE}")]
pub struct NoByteSize;

impl ByteSize {
    /// So many bytes.
    #[must_use]
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// So many MiB.
    #[must_use]
    pub const fn from_mib(mib: u64) -> Self {
        Self(mib << 20)
    }

    /// The number of bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// The number of bytes as a length in memory, capped at what memory can
    /// have.
    #[must_use]
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |(_, bytes): &&(&str, u64)| self.0 >= *bytes && self.0.is_multiple_of(*bytes);
        match UNITS.iter().find(fits) {
            Some((unit, bytes)) => write!(f, "{}{unit}", self.0 / bytes),
            None => write!(f, "{}B", self.0),
        }
    }
}

impl FromStr for ByteSize {
    type Err = NoByteSize;

    fn from_str(text: &str) -> Result<Self, NoByteSize> {
        let digits = text.trim_start_matches(|character: char| character.is_ascii_digit());
        let number: u64 = text[..text.len() - digits.len()]
            .parse()
            .map_err(|_| NoByteSize)?;
        let unit = digits.trim_start();
        let (_, bytes) = UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .ok_or(NoByteSize)?;
        number.checked_mul(*bytes).map(Self).ok_or(NoByteSize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_a_number_and_a_unit() {
        let bytes = |text: &str| text.parse().map(ByteSize::bytes);
        assert_eq!(bytes("64MiB"), Ok(64 << 20));
        assert_eq!(bytes("512KiB"), Ok(512 << 10));
        assert_eq!(bytes("1 GB"), Ok(1_000_000_000));
        assert_eq!(bytes("7B"), Ok(7));
    }

    #[test]
    fn refuses_what_is_no_size() {
        for text in [
            "",
            "64",
            "MiB",
            "64mib",
            "1.5MiB",
            "-1MiB",
            "64 Mi B",
            "99999999999GiB",
        ] {
            assert_eq!(
                text.parse::<ByteSize>(),
                Err(NoByteSize),
                "{text:?} was accepted"
            );
        }
    }

    proptest! {
        #[test]
        fn reads_what_it_shows(bytes in any::<u64>(), shift in 0u32..40) {
            let size = ByteSize::from_bytes(bytes >> shift << shift.min(30));
            prop_assert_eq!(size.to_string().parse(), Ok(size));
        }
    }
}
