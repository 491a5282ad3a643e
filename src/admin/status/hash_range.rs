//! Which hash keys a shard on the board takes.

use serde::Serialize;

use crate::core::shard_map::HashRange;

/// The hash keys of a shard, as decimal numbers, both ends included: they have up to 39
/// digits, more than a number in JSON holds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HashRangeStatus {
    /// The lowest.
    pub first: String,
    /// The highest.
    pub last: String,
    /// Their part of all hash keys, 0 to 1.
    pub part: f64,
}

impl From<HashRange> for HashRangeStatus {
    fn from(range: HashRange) -> Self {
        let size = range.last.saturating_sub(range.first);
        #[expect(
            clippy::cast_precision_loss,
            reason = "a part is shown with few digits"
        )]
        let part = size as f64 / u128::MAX as f64;
        Self {
            first: range.first.to_string(),
            last: range.last.to_string(),
            part,
        }
    }
}
