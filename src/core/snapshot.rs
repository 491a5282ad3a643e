//! PostgreSQL transaction snapshots, as `pg_current_snapshot()` prints them.
//!
//! A snapshot says which transactions had ended when it was taken. A position
//! in an outbox is a snapshot, not an id: ids are handed out at insert, rows
//! become visible at commit, and the two orders differ.

use std::fmt;
use std::str::FromStr;

/// A full (64-bit, never wrapping) transaction id: PostgreSQL's `xid8`.
pub type Xid = u64;

/// A `pg_snapshot`: every transaction below `xmin` has ended, none at or above
/// `xmax` has (it may run: `xmax` is one past the highest that has ended), and of
/// those between, the ones in `xip` were still running.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Snapshot {
    xmin: Xid,
    xmax: Xid,
    xip: Vec<Xid>,
}

/// A text that is not a `pg_snapshot`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a transaction snapshot: {text:?} (expected xmin:xmax:xid,xid,...)")]
pub struct SnapshotParseError {
    /// The text that was refused.
    pub text: String,
}

impl Snapshot {
    /// The snapshot that sees nothing: where a new pipeline begins.
    #[must_use]
    pub const fn nothing() -> Self {
        Self {
            xmin: 1,
            xmax: 1,
            xip: Vec::new(),
        }
    }

    /// Builds a snapshot; `None` unless `0 < xmin <= xmax` and the ids in
    /// progress rise strictly and lie in `xmin..xmax`.
    #[must_use]
    pub fn new(xmin: Xid, xmax: Xid, xip: Vec<Xid>) -> Option<Self> {
        let rises = xip.windows(2).all(|pair| pair[0] < pair[1]);
        let inside = xip.iter().all(|xid| (xmin..xmax).contains(xid));
        (xmin > 0 && xmin <= xmax && rises && inside).then_some(Self { xmin, xmax, xip })
    }

    /// The lowest id that was still running (or `xmax` when none was).
    #[must_use]
    pub const fn xmin(&self) -> Xid {
        self.xmin
    }

    /// One past the highest id that had ended; higher ones may have been running.
    #[must_use]
    pub const fn xmax(&self) -> Xid {
        self.xmax
    }

    /// The ids that were running, rising.
    #[must_use]
    pub fn in_progress(&self) -> &[Xid] {
        &self.xip
    }

    /// Whether the transaction had ended when the snapshot was taken: the same
    /// answer as `pg_visible_in_snapshot`.
    #[must_use]
    pub fn sees(&self, xid: Xid) -> bool {
        xid < self.xmin || (xid < self.xmax && self.xip.binary_search(&xid).is_err())
    }

    /// The transactions that ended after `self` was taken and before `later`
    /// was, although they had begun before `self`: the late committers of the
    /// window from `self` to `later`.
    #[must_use]
    pub fn ended_between(&self, later: &Self) -> Vec<Xid> {
        let ended = |xid: &&Xid| later.sees(**xid);
        self.xip.iter().filter(ended).copied().collect()
    }

    /// Whether everything `earlier` sees is seen here too: what time running
    /// forward on one database guarantees.
    #[must_use]
    pub fn covers(&self, earlier: &Self) -> bool {
        self.xmax >= earlier.xmax
            && self
                .xip
                .iter()
                .all(|xid| *xid >= earlier.xmax || earlier.xip.binary_search(xid).is_ok())
    }
}

impl Snapshot {
    /// The snapshot that sees what both see.
    #[must_use]
    pub fn meet(&self, other: &Self) -> Self {
        let xmax = self.xmax.min(other.xmax);
        let mut xip: Vec<Xid> = self.xip.iter().chain(&other.xip).copied().collect();
        xip.retain(|xid| *xid < xmax);
        xip.sort_unstable();
        xip.dedup();
        Self::of(xmax, xip)
    }

    /// The snapshot that sees what either sees.
    #[must_use]
    pub fn join(&self, other: &Self) -> Self {
        let (later, earlier) = if self.xmax >= other.xmax {
            (self, other)
        } else {
            (other, self)
        };
        let unseen = later.xip.iter().filter(|xid| !earlier.sees(**xid));
        Self::of(later.xmax, unseen.copied().collect())
    }

    /// Of ids that rise and lie below `xmax`.
    fn of(xmax: Xid, xip: Vec<Xid>) -> Self {
        let xmin = xip.first().copied().unwrap_or(xmax);
        Self { xmin, xmax, xip }
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.xmin, self.xmax)?;
        for (index, xid) in self.xip.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{xid}")?;
        }
        Ok(())
    }
}

impl FromStr for Snapshot {
    type Err = SnapshotParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let mut parts = text.split(':');
            let xmin = parts.next()?.parse().ok()?;
            let xmax = parts.next()?.parse().ok()?;
            let list = parts.next()?;
            let xip = if list.is_empty() {
                Vec::new()
            } else {
                list.split(',')
                    .map(|xid| xid.parse().ok())
                    .collect::<Option<Vec<Xid>>>()?
            };
            if parts.next().is_some() {
                return None;
            }
            Self::new(xmin, xmax, xip)
        };
        parse().ok_or_else(|| SnapshotParseError {
            text: text.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn snapshot(text: &str) -> Snapshot {
        text.parse().expect("a snapshot")
    }

    #[test]
    fn prints_what_it_parses() {
        for text in [
            "1:1:",
            "10:20:10,14,15",
            "795:799:795,797",
            "5000000000:5000000001:",
        ] {
            assert_eq!(snapshot(text).to_string(), text);
        }
    }

    #[test]
    fn refuses_what_is_no_snapshot() {
        for text in [
            "", "1:1", "0:5:", "9:5:", "1:9:4,3", "1:9:9", "1:9:0", "1:9:2:", "a:b:",
        ] {
            assert!(text.parse::<Snapshot>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn sees_what_had_ended() {
        let taken = snapshot("10:20:10,14");
        let seen: Vec<Xid> = (8..22).filter(|xid| taken.sees(*xid)).collect();
        assert_eq!(seen, [8, 9, 11, 12, 13, 15, 16, 17, 18, 19]);
    }

    #[test]
    fn names_the_late_committers() {
        let earlier = snapshot("10:20:10,14,17");
        let later = snapshot("14:30:14,25");
        assert_eq!(earlier.ended_between(&later), [10, 17]);
        assert!(later.covers(&earlier));
        assert!(!earlier.covers(&later));
    }

    proptest! {
        #[test]
        fn covering_means_being_later_and_seeing_at_least_as_much(
            first in prop::collection::btree_set(1u64..40, 0..12),
            second in prop::collection::btree_set(1u64..40, 0..12),
            first_xmax in 1u64..45,
            second_xmax in 1u64..45,
        ) {
            let build = |running: std::collections::BTreeSet<Xid>, xmax: Xid| {
                let xip: Vec<Xid> = running.into_iter().filter(|xid| *xid < xmax).collect();
                let xmin = xip.first().copied().unwrap_or(xmax);
                Snapshot::new(xmin, xmax, xip).expect("well formed")
            };
            let (a, b) = (build(first, first_xmax), build(second, second_xmax));
            let sees_all = (0..50).all(|xid| !a.sees(xid) || b.sees(xid));
            let (meet, join) = (a.meet(&b), a.join(&b));
            for xid in 0..50 {
                prop_assert_eq!(meet.sees(xid), a.sees(xid) && b.sees(xid), "{} of {}", meet, xid);
                prop_assert_eq!(join.sees(xid), a.sees(xid) || b.sees(xid), "{} of {}", join, xid);
            }
            for made in [meet, join] {
                prop_assert_eq!(made.to_string().parse(), Ok(made));
            }
            if b.xmax() >= a.xmax() {
                prop_assert_eq!(b.covers(&a), sees_all);
            } else {
                // It may see as much by chance; time ran backwards all the same.
                prop_assert!(!b.covers(&a));
            }
        }
    }
}
