//! What a store remembers of its probes, to ask less while nothing happens.
//!
//! A probe looks into the index of messages once for each outbox. With a thousand idle
//! ones that is most of what an idle relay costs its database. But a row takes its id
//! from one sequence, and while that stands still no outbox has a new one: one look
//! then answers for all of them.
//!
//! Let S be a snapshot at which an outbox had nothing new, let `drawn` be the state of
//! the sequence as it was read before S was taken or while the sequence stood as it does
//! now, and let `next` be the next transaction id to be handed out, read after `drawn`.
//! A row that is visible at a later snapshot T and was not at S
//! - drew its id after `drawn` was read: then the sequence, read once T is taken, stands
//!   elsewhere; or
//! - drew it before: its transaction had its xid by then (a row's xid is assigned before
//!   its id is drawn), so that xid is below `next`. S did not see it ended: it is one of
//!   those in progress, or it lies between S's xmax and `next`. (xmax is one past the
//!   highest xid that has *ended*; what runs above it stands in no list.)
//!
//! So there is nothing new at T if the sequence stands where it stood, no transaction
//! that S saw running has ended, and none has that S did not know of. Of those only the
//! ones count that may have drawn an id before `drawn` was read: where the sequence stands
//! still, a transaction at or above the first `next` that was read has drawn none. (The
//! relay itself has a transaction running at most times: it renews leases.)
//!
//! Rows that were given an id in place of drawing one (by the owner of the schema) are
//! not seen so: every [`LOOK_EVERY`] all outboxes are looked into. Until then nobody goes
//! on from T, or those that came up between S and T would be passed for good: what is
//! remembered, and what readers have seen, are snapshots at which somebody looked.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::core::ports::ProbeTarget;
use crate::core::snapshot::{Snapshot, Xid};

/// How long the sequence alone is believed.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Fewer outboxes are looked into at once: that costs no more than the question whether
/// to.
pub(super) const LEAST_TARGETS: usize = 32;

/// So many snapshots are remembered: outboxes are asked for in a few groups.
const REMEMBERED: usize = 16;

/// The first transaction id that is handed out, see [`Ids::read`].
pub(super) const FIRST_XID: u32 = 3;

/// The state of the sequence: the last id drawn, and whether there was one.
pub(super) type Drawn = (i64, bool);

/// How ids stood, read in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ids {
    /// The sequence.
    pub(super) drawn: Drawn,
    /// No transaction had an xid from here on.
    pub(super) next: Xid,
}

/// A snapshot at which there was nothing new.
#[derive(Debug, Clone)]
struct Quiet {
    snapshot: Snapshot,
    ids: Ids,
    looked_at: Instant,
}

/// Since when the sequence stands still.
#[derive(Debug, Clone, Copy)]
struct Still {
    drawn: Drawn,
    /// Transactions from this one on have drawn no id.
    since: Xid,
}

/// The snapshots at which there was nothing new.
#[derive(Debug, Default)]
pub(super) struct QuietTimes {
    server: Option<u64>,
    still: Option<Still>,
    remembered: VecDeque<Quiet>,
}

// === impl Ids ===

impl Ids {
    /// From what the server says: `age` is the distance of the next xid from
    /// [`FIRST_XID`] in 32 bits, `snapshot` was taken before and is not far behind.
    pub(super) fn read(drawn: Drawn, age: i32, snapshot: &Snapshot) -> Self {
        let next = FIRST_XID.wrapping_add(age.cast_unsigned());
        let passed = next.wrapping_sub(low_half(snapshot.xmax()));
        Self {
            drawn,
            next: snapshot.xmax() + Xid::from(passed),
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the low half is what is asked for"
)]
const fn low_half(xid: Xid) -> u32 {
    xid as u32
}

// === impl Quiet ===

impl Quiet {
    /// Whether every transaction that may have drawn an id by then still runs at `now`;
    /// those from `since` on have drawn none.
    fn nothing_ended(&self, now: &Snapshot, since: Xid) -> bool {
        let knows_all = self.ids.next.min(since) <= self.snapshot.xmax();
        let none_more = now.xmax() <= self.snapshot.xmax();
        let ended = self.snapshot.ended_between(now);
        (knows_all || none_more) && ended.iter().all(|xid| *xid >= since)
    }
}

// === impl QuietTimes ===

impl QuietTimes {
    /// Whether it is worth asking how the sequence stands.
    pub(super) fn may_answer(&self, targets: &[ProbeTarget]) -> bool {
        targets.len() >= LEAST_TARGETS
    }

    /// Whether nothing is new for any target at `now`, with the ids read after it was
    /// taken.
    pub(super) fn nothing_new(
        &self,
        targets: &[ProbeTarget],
        now: &Snapshot,
        ids: Ids,
        at: Instant,
    ) -> bool {
        let Some(still) = self.still.filter(|still| still.drawn == ids.drawn) else {
            return false;
        };
        // Most targets have seen what the one before has.
        let mut last: Option<&Snapshot> = None;
        for target in targets {
            if last == Some(&target.seen) {
                continue;
            }
            let known = self
                .remembered
                .iter()
                .find(|quiet| quiet.snapshot == target.seen);
            let is_quiet = known.is_some_and(|quiet| {
                quiet.ids.drawn == ids.drawn
                    && at.duration_since(quiet.looked_at) < LOOK_EVERY
                    && quiet.nothing_ended(now, still.since)
            });
            if !is_quiet {
                return false;
            }
            last = Some(&target.seen);
        }
        true
    }

    /// All targets of a probe were looked into at `snapshot`, which was taken after the
    /// ids were read, and had nothing new.
    pub(super) fn looked(&mut self, snapshot: &Snapshot, ids: Ids, at: Instant) {
        if self.still.is_none_or(|still| still.drawn != ids.drawn) {
            let (drawn, since) = (ids.drawn, ids.next);
            self.still = Some(Still { drawn, since });
        }
        self.remembered.retain(|quiet| quiet.snapshot != *snapshot);
        self.remembered.push_front(Quiet {
            snapshot: snapshot.clone(),
            ids,
            looked_at: at,
        });
        self.remembered.truncate(REMEMBERED);
    }

    /// This server answers now; what is remembered of another does not hold.
    pub(super) fn of_server(&mut self, server: Option<u64>) {
        if self.server != server {
            self.server = server;
            self.still = None;
            self.remembered.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::ports::OutboxId;

    fn snapshot(text: &str) -> Snapshot {
        text.parse().expect("a snapshot")
    }

    fn targets(seen: &str) -> Vec<ProbeTarget> {
        let target = |id| ProbeTarget {
            outbox: OutboxId(id),
            seen: snapshot(seen),
        };
        (1..=40).map(target).collect()
    }

    const DRAWN: Drawn = (7, true);

    /// The sequence stood at [`DRAWN`], and this xid was the next.
    fn next(next: Xid) -> Ids {
        Ids { drawn: DRAWN, next }
    }

    /// Nothing was new at this snapshot, when the sequence stood at [`DRAWN`] and no
    /// xid had been handed out that the snapshot does not know of.
    fn quiet_at(seen: &str, at: Instant) -> QuietTimes {
        let mut times = QuietTimes::default();
        times.looked(&snapshot(seen), next(snapshot(seen).xmax()), at);
        times
    }

    #[test]
    fn nothing_is_new_while_the_sequence_stands_still() {
        let at = Instant::now();
        let times = quiet_at("10:10:", at);
        assert!(times.nothing_new(&targets("10:10:"), &snapshot("12:12:"), next(12), at));
        assert!(times.nothing_new(&targets("10:10:"), &snapshot("14:14:"), next(14), at));
        // Nobody looked then.
        assert!(!times.nothing_new(&targets("12:12:"), &snapshot("14:14:"), next(14), at));
    }

    #[test]
    fn a_drawn_id_is_news() {
        let at = Instant::now();
        let times = quiet_at("10:10:", at);
        assert!(!times.nothing_new(
            &targets("10:10:"),
            &snapshot("12:12:"),
            Ids {
                drawn: (8, true),
                next: 12
            },
            at
        ));
        let mut times = QuietTimes::default();
        times.looked(
            &snapshot("10:10:"),
            Ids {
                drawn: (1, false),
                next: 10,
            },
            at,
        );
        assert!(!times.nothing_new(
            &targets("10:10:"),
            &snapshot("12:12:"),
            Ids {
                drawn: (1, true),
                next: 12
            },
            at
        ));
    }

    #[test]
    fn a_transaction_that_ended_is_news_and_one_that_runs_is_not() {
        let at = Instant::now();
        let times = quiet_at("9:10:9", at);
        assert!(times.nothing_new(&targets("9:10:9"), &snapshot("9:12:9"), next(12), at));
        assert!(!times.nothing_new(&targets("9:10:9"), &snapshot("12:12:"), next(12), at));
    }

    /// 10 draws an id and commits after both snapshots that could have listed it.
    #[test]
    fn a_transaction_that_no_snapshot_lists_is_news() {
        let at = Instant::now();
        let mut times = QuietTimes::default();
        times.looked(&snapshot("10:10:"), next(11), at);
        assert!(!times.nothing_new(&targets("10:10:"), &snapshot("11:11:"), next(11), at));
        // While nothing at all has ended since, it has not either.
        assert!(times.nothing_new(&targets("10:10:"), &snapshot("10:10:"), next(11), at));
    }

    #[test]
    fn a_transaction_that_began_since_the_sequence_stands_still_is_no_news() {
        let at = Instant::now();
        let times = quiet_at("10:10:", at);
        // 10 began after the first snapshot, and has ended by the third.
        assert!(times.nothing_new(&targets("10:10:"), &snapshot("10:11:10"), next(11), at));
        assert!(times.nothing_new(&targets("10:10:"), &snapshot("12:12:"), next(12), at));
        // Also when no snapshot listed it.
        assert!(times.nothing_new(&targets("10:10:"), &snapshot("12:12:"), next(13), at));
        assert!(times.nothing_new(&targets("10:10:"), &snapshot("13:13:"), next(13), at));
    }

    #[test]
    fn the_next_xid_is_read_over_the_end_of_32_bits() {
        let next = |age, text: &str| Ids::read(DRAWN, age, &snapshot(text)).next;
        assert_eq!(next(7, "10:10:"), 10);
        assert_eq!(next(9, "10:10:"), 12);
        let before_the_end = format!("{0}:{0}:", (5_u64 << 32) - 2);
        assert_eq!(next(1, &before_the_end), (5 << 32) + 4);
        assert_eq!(next(-5, &before_the_end), (5 << 32) - 2);
    }

    #[test]
    fn an_outbox_that_has_seen_something_else_is_looked_into() {
        let at = Instant::now();
        let times = quiet_at("10:10:", at);
        let mut some = targets("10:10:");
        some.extend(targets("11:11:"));
        assert!(!times.nothing_new(&some, &snapshot("12:12:"), next(12), at));
    }

    #[test]
    fn the_sequence_is_not_believed_for_long() {
        let at = Instant::now();
        let times = quiet_at("10:10:", at);
        let nearly = at + LOOK_EVERY - Duration::from_millis(1);
        assert!(times.nothing_new(&targets("10:10:"), &snapshot("12:12:"), next(12), nearly));
        // Believing it does not prolong it.
        let over = at + LOOK_EVERY;
        assert!(!times.nothing_new(&targets("10:10:"), &snapshot("14:14:"), next(14), over));
    }

    #[test]
    fn another_server_says_nothing_of_the_one_before() {
        let at = Instant::now();
        let mut times = quiet_at("10:10:", at);
        times.of_server(Some(2));
        assert!(!times.nothing_new(&targets("10:10:"), &snapshot("10:10:"), next(10), at));
    }

    #[test]
    fn few_outboxes_are_looked_into_at_once() {
        let times = QuietTimes::default();
        assert!(!times.may_answer(&targets("10:10:")[..LEAST_TARGETS - 1]));
        assert!(times.may_answer(&targets("10:10:")));
    }
}
