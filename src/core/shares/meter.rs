//! What a node would send to one shard, measured.
//!
//! A writer that had to wait for its budget in the time that was looked at, with more
//! behind it than goes in one call, is *pressed*: how much it would send is not known,
//! so it wishes for all of the shard, in the mix of records and bytes that it sends.
//! Any other wishes for what it used and `HEADROOM` more. Wishes rise at once and
//! fall slowly: the highest of the last `REMEMBERED` times holds. While a budget owes
//! for what has gone already (a record larger than a second's share) nothing is
//! measured: its writer sleeps, which says nothing of what it has behind.

use std::collections::VecDeque;
use std::time::Duration;

use super::super::budget::share::Ratios;
use super::super::budget::{Cost, ShardLimits};
use super::super::time::Moment;
use super::demand::{Wish, step_for};
use super::{Parts, WHOLE};

/// What is measured is measured over no less than this.
pub const AT_LEAST: Duration = Duration::from_millis(400);

/// So many measurements hold a wish up.
const REMEMBERED: usize = 4;

/// A steady load needs a little more than its mean.
const HEADROOM: f64 = 1.1;

/// A pressed writer uses most of what it has; one that does not was held up by
/// something else for most of the time.
const USED_BY_PRESSED: f64 = 0.6;

/// What a shard's budget has counted since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counted {
    /// What was offered.
    pub used: Cost,
    /// How often a call with much behind it had to wait.
    pub pressed: u64,
    /// How many calls went.
    pub calls: u64,
    /// It has sent more than its budget had, and nothing goes until that is made up.
    pub owes: bool,
}

/// The measurements of one shard.
#[derive(Debug, Clone, Default)]
pub struct Meter {
    last: Option<(Counted, Moment)>,
    recent: VecDeque<Wish>,
}

impl Meter {
    /// One that has measured just this.
    #[cfg(test)]
    pub(super) fn wishing(wish: Wish) -> Self {
        Self {
            last: None,
            recent: VecDeque::from([wish]),
        }
    }

    /// Takes a measurement, unless the last one was just now. `limits` are those of
    /// the whole shard, `held` is the part of it that the node may use now.
    pub fn measure(&mut self, counted: Counted, limits: ShardLimits, held: Ratios, now: Moment) {
        let Some((before, at)) = self.last else {
            self.last = Some((counted, now));
            return;
        };
        let passed = now.since(at);
        if passed < AT_LEAST {
            return;
        }
        self.last = Some((counted, now));
        // A budget that was made anew counts from 0.
        let used = Cost {
            records: counted.used.records.saturating_sub(before.used.records),
            bytes: counted.used.bytes.saturating_sub(before.used.bytes),
        };
        if counted.owes && used == Cost::default() {
            return;
        }
        let pressed = counted.pressed.saturating_sub(before.pressed);
        let calls = counted.calls.saturating_sub(before.calls);
        let wish = wish_for(&Measured {
            used: parts_used(used, limits, passed),
            held,
            is_pressed: pressed > 0 && pressed * 3 >= calls,
        });
        self.recent.push_back(wish);
        if self.recent.len() > REMEMBERED {
            self.recent.pop_front();
        }
    }

    /// The wish that holds.
    #[must_use]
    pub fn wish(&self) -> Wish {
        self.recent.iter().copied().fold(Wish::default(), Wish::max)
    }
}

struct Measured {
    used: Ratios,
    held: Ratios,
    is_pressed: bool,
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts of seconds, far below 2^52"
)]
fn parts_used(used: Cost, limits: ShardLimits, passed: Duration) -> Ratios {
    let second = passed.as_secs_f64() * limits.fraction;
    Ratios {
        records: used.records as f64 / (limits.records_per_second * second),
        bytes: used.bytes as f64 / (limits.bytes_per_second * second),
    }
}

fn wish_for(measured: &Measured) -> Wish {
    let Measured {
        used,
        held,
        is_pressed,
    } = measured;
    let uses_most = used.records >= USED_BY_PRESSED * held.records
        || used.bytes >= USED_BY_PRESSED * held.bytes;
    let scale = if *is_pressed && uses_most {
        let most = used.records.max(used.bytes);
        if most <= 0.0 {
            return Wish::ALL;
        }
        1.0 / most
    } else {
        1.0
    };
    let step = |used: f64| step_for(parts(used * scale * HEADROOM));
    Wish {
        records: step(used.records),
        bytes: step(used.bytes),
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "between 0 and WHOLE"
)]
fn parts(ratio: f64) -> Parts {
    (ratio * f64::from(WHOLE))
        .clamp(0.0, f64::from(WHOLE))
        .ceil() as Parts
}

#[cfg(test)]
mod tests {
    use super::super::demand::parts_of;
    use super::*;

    const LIMITS: ShardLimits = ShardLimits {
        records_per_second: 1000.0,
        bytes_per_second: 1_000_000.0,
        fraction: 1.0,
    };

    fn half() -> Ratios {
        Ratios {
            records: 0.5,
            bytes: 0.5,
        }
    }

    /// A second in which so much was used.
    fn second(records: u64, bytes: u64, pressed: u64, held: Ratios) -> Wish {
        let mut meter = Meter::default();
        meter.measure(Counted::default(), LIMITS, held, Moment::ORIGIN);
        let counted = Counted {
            used: Cost { records, bytes },
            pressed,
            calls: 30,
            owes: false,
        };
        let later = Moment::from_origin(Duration::from_secs(1));
        meter.measure(counted, LIMITS, held, later);
        meter.wish()
    }

    #[test]
    fn a_steady_load_wishes_for_a_little_more_than_it_uses() {
        let share = second(100, 10_000, 0, half()).share();
        assert!((1_100..1_250).contains(&share.records), "{share:?}");
        assert!((110..125).contains(&share.bytes), "{share:?}");
    }

    #[test]
    fn a_pressed_writer_wishes_for_all_in_its_mix() {
        let share = second(490, 49_000, 30, half()).share();
        assert_eq!(share.records, WHOLE);
        assert!((1_100..1_250).contains(&share.bytes), "{share:?}");
    }

    #[test]
    fn what_was_held_up_by_something_else_is_not_pressed() {
        let share = second(100, 10_000, 30, half()).share();
        assert!(share.records < 1_300, "{share:?}");
    }

    #[test]
    fn whoever_has_nothing_and_must_wait_wishes_for_all() {
        assert_eq!(second(0, 0, 30, Ratios::NONE), Wish::ALL);
        assert_eq!(second(0, 0, 0, Ratios::NONE), Wish::default());
    }

    #[test]
    fn a_wish_rises_at_once_and_falls_slowly() {
        let mut meter = Meter::default();
        let mut counted = Counted::default();
        let mut wishes = Vec::new();
        for (second, records) in [0, 100, 500, 10, 10, 10, 10, 10].into_iter().enumerate() {
            counted.used.records += records;
            let now = Moment::from_origin(Duration::from_secs(second as u64));
            meter.measure(counted, LIMITS, Ratios::WHOLE, now);
            wishes.push(parts_of(meter.wish().records));
        }
        assert!(wishes[1] < wishes[2]);
        assert_eq!(wishes[2..6], [wishes[2]; 4]);
        assert!(wishes[6] < wishes[1]);
    }

    #[test]
    fn a_wish_does_not_fade_while_a_large_record_is_paid_for() {
        let mut meter = Meter::default();
        let at = |second| Moment::from_origin(Duration::from_secs(second));
        let mut counted = Counted::default();
        meter.measure(counted, LIMITS, half(), at(0));
        counted.used = Cost {
            records: 1,
            bytes: 5_000_000,
        };
        (counted.calls, counted.owes) = (1, true);
        meter.measure(counted, LIMITS, half(), at(1));
        let wish = meter.wish();
        assert_eq!(wish.share().bytes, WHOLE);
        for second in 2..11 {
            meter.measure(counted, LIMITS, half(), at(second));
            assert_eq!(meter.wish(), wish, "after {second} s");
        }
        // It has paid, and has nothing more to send.
        counted.owes = false;
        for second in 11..15 {
            meter.measure(counted, LIMITS, half(), at(second));
        }
        assert_eq!(meter.wish(), Wish::default());
    }

    #[test]
    fn too_little_time_is_not_measured() {
        let mut meter = Meter::default();
        meter.measure(Counted::default(), LIMITS, half(), Moment::ORIGIN);
        let counted = Counted {
            used: Cost {
                records: 1,
                bytes: 1,
            },
            ..Counted::default()
        };
        meter.measure(counted, LIMITS, half(), Moment::from_origin(AT_LEAST / 2));
        assert_eq!(meter.wish(), Wish::default());
    }
}
