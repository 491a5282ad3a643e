//! For how long one transaction has been the oldest that runs.
//!
//! A transaction that writes and does not end holds back what every later snapshot
//! calls settled: positions keep naming it, and nothing behind it is vacuumed or
//! swept. PostgreSQL tells the age of other users' transactions to privileged roles
//! alone, but each snapshot names the oldest: how long that name stays the same is
//! a lower bound of its age. Rules: no transaction, no age; another oldest one
//! starts anew.

use std::time::Duration;

use super::snapshot::{Snapshot, Xid};
use super::time::Moment;

/// What the snapshots of one database said so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Horizon {
    oldest: Option<(Xid, Moment)>,
}

impl Horizon {
    /// A snapshot was taken now; answers for how long its oldest running transaction
    /// has been the oldest, zero when none runs.
    pub fn seen(&mut self, snapshot: &Snapshot, now: Moment) -> Duration {
        let Some(&running) = snapshot.in_progress().first() else {
            self.oldest = None;
            return Duration::ZERO;
        };
        match self.oldest {
            Some((xid, since)) if xid == running => now.since(since),
            Some(_) | None => {
                self.oldest = Some((running, now));
                Duration::ZERO
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ages_while_the_same_transaction_is_the_oldest() {
        let mut horizon = Horizon::default();
        let mut held = |snapshot: &str, second| {
            let snapshot = snapshot.parse().expect("a snapshot");
            let now = Moment::from_origin(Duration::from_secs(second));
            horizon.seen(&snapshot, now).as_secs()
        };
        assert_eq!(held("10:10:", 0), 0, "none runs");
        assert_eq!(held("10:12:10", 5), 0, "seen for the first time");
        assert_eq!(held("10:20:10,15", 65), 60);
        assert_eq!(held("15:30:15", 70), 0, "another one is the oldest");
        assert_eq!(held("15:31:15", 71), 1);
        assert_eq!(held("40:40:", 80), 0, "it has ended");
        assert_eq!(held("15:41:15", 90), 0, "and is not remembered");
    }
}
