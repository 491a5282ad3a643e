//! What may be offered to one shard.
//!
//! A shard takes 1,000 records and 1 MiB a second (Kinesis Data Streams quotas,
//! `docs.aws.amazon.com/streams/latest/dev/service-sizes-and-limits.html`). How
//! the service measures "a second" is not published, so two rules hold at once:
//!
//! - *rate*: a token bucket for records and one for bytes, filled at `fraction`
//!   of the limits, at most [`DEPTH`] deep, empty at the start: a process that
//!   restarts must not burst;
//! - *window* (P-BUDGET): in any second no more than the limits themselves,
//!   counted over the calls of the last second.
//!
//! The service counts a call when it arrives, which is somewhere between sending
//! and answer. A call that took longer than calls usually do may have arrived
//! late, right before the next one: it counts in the window from that later time.
//!
//! Throttled records keep their tokens: the service counted them too. A throttle
//! lowers the rate by a few percent (by half when call after call is refused
//! whole: the shard takes nothing now); it comes back slowly. Bytes are charged as the service counts a call: data plus
//! keys, rounded up to the next KiB on the sum of the call (the page on
//! troubleshooting producers).
//!
//! Of a shard that other nodes write to as well this node has a share
//! ([`super::shares`]), which scales rate and window: see [`share`].

pub mod share;

use std::collections::VecDeque;
use std::time::Duration;

use super::shares::meter::Counted;
use super::time::Moment;
use share::{Held, HeldShare};

/// How much unused rate a shard's bucket keeps: enough to bridge a slow call.
pub const DEPTH: Duration = Duration::from_millis(250);

/// A shard with work waiting gets a call about this often: shorter cycles waste
/// budget on the rounding to whole KiB, longer ones add latency.
pub const PACE: Duration = Duration::from_millis(30);

/// The pace of a small share is slower, so that its calls are as large; no slower than
/// this.
const SLOWEST_PACE: Duration = Duration::from_millis(125);

const WINDOW: Duration = Duration::from_secs(1);
const LOWEST_FACTOR: f64 = 0.02;
const CUT_SOME: f64 = 0.96;
const CUT_ALL: f64 = 0.5;
/// So many calls refused whole, one after the other, mean that the shard takes
/// nothing now; fewer may just have met the end of the service's second.
const REFUSED_WHOLE: u32 = 3;
/// A burst of throttles is one signal: the rate is cut at most this often.
const CUT_EVERY: Duration = Duration::from_millis(200);
const RECOVERY_PER_SECOND: f64 = 0.02;
/// Far below the limits the rate comes back by this factor a second.
const FAST_RECOVERY_BELOW: f64 = 0.9;
const FAST_RECOVERY_GROWTH: f64 = 1.5;
/// The usual time of a call is the least seen lately; it may grow this much a
/// call.
const USUAL_TIME_GROWTH: f64 = 1.02;
/// Calls that always take longer than this still count from so long before their
/// answer: the rate leaves 2 % of a second free, and no more may be guessed. With
/// a round trip above it, the part of a shard that can be used falls to
/// 1 s / (1 s + round trip - this): 97 % at 50 ms.
const MOST_USUAL_TIME: Duration = Duration::from_millis(20);
const KIB: u64 = 1024;

/// The limits of a shard and the part of them to use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ShardLimits {
    /// Records a second.
    pub records_per_second: f64,
    /// Bytes a second, partition keys included.
    pub bytes_per_second: f64,
    /// The part of both that is used, above 0 and up to 1.
    pub fraction: f64,
}

impl Default for ShardLimits {
    /// 1,000 records/s and 1 MiB/s, used to 98 %.
    fn default() -> Self {
        Self {
            records_per_second: 1000.0,
            bytes_per_second: 1_048_576.0,
            fraction: 0.98,
        }
    }
}

/// What a call offers to a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cost {
    /// Records.
    pub records: u64,
    /// Data plus partition keys, in bytes, before rounding.
    pub bytes: u64,
}

impl Cost {
    fn charged_bytes(self) -> u64 {
        round_up(self.bytes)
    }
}

/// What is ready to go to a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Waiting {
    /// All of it that one call could take.
    pub all: Cost,
    /// The least bytes of the record that goes first.
    pub next_bytes: u64,
    /// The bytes it has when it is given the time to fill: a record of many rows
    /// that is cut to what the budget has at the moment costs more PUT units.
    pub record_bytes: u64,
}

const fn round_up(bytes: u64) -> u64 {
    bytes.div_ceil(KIB) * KIB
}

/// What a budget allows at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// A call of at most this cost may go now. One record may always go, however
    /// large: it is paid for afterwards.
    Now(Cost),
    /// Nothing may go before this moment.
    At(Moment),
}

/// Which call: several writers may share a budget, each with a call in flight.
pub type CallNumber = u64;

#[derive(Debug, Clone, Copy)]
struct Offered {
    call: CallNumber,
    at: Moment,
    records: u64,
    bytes: u64,
}

/// The budget of one shard.
#[derive(Debug, Clone)]
pub struct ShardBudget {
    limits: ShardLimits,
    factor: f64,
    record_tokens: f64,
    byte_tokens: f64,
    filled_at: Moment,
    last_cut: Option<Moment>,
    refused_whole: u32,
    usual_time: Option<Duration>,
    recent: VecDeque<Offered>,
    recent_records: u64,
    recent_bytes: u64,
    calls: CallNumber,
    held: Held,
    counted: Counted,
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts of one second stay far below 2^52, and what is cast back is never negative"
)]
impl ShardBudget {
    /// An empty budget.
    #[must_use]
    pub fn new(limits: ShardLimits, now: Moment) -> Self {
        Self {
            limits,
            factor: 1.0,
            record_tokens: 0.0,
            byte_tokens: 0.0,
            filled_at: now,
            last_cut: None,
            refused_whole: 0,
            usual_time: None,
            recent: VecDeque::new(),
            recent_records: 0,
            recent_bytes: 0,
            calls: 0,
            held: Held::whole(now),
            counted: Counted::default(),
        }
    }

    /// From now on this node goes by this share of the shard. What it got in addition
    /// of a shard that others write to begins [`DEPTH`] from now: whoever gave it up
    /// may have emptied a full bucket.
    pub fn hold(&mut self, share: HeldShare, now: Moment) {
        self.fill(now);
        let before = self.held.at(now);
        self.held.change(share, now);
        let after = self.held.at(now);
        if share.is_shared {
            let fill = DEPTH.as_secs_f64() * self.limits.fraction * self.factor;
            let more = |after: f64, before: f64| (after - before).max(0.0) * fill;
            let (records, bytes) = (self.limits.records_per_second, self.limits.bytes_per_second);
            self.record_tokens -= more(after.records, before.records) * records;
            self.byte_tokens -= more(after.bytes, before.bytes) * bytes;
        }
        self.cap_tokens();
    }

    /// The part of the shard that this node may use at `now`.
    #[must_use]
    pub fn held(&self, now: Moment) -> share::Ratios {
        self.held.at(now)
    }

    /// What has happened since the budget was made, and whether it owes at `now`.
    #[must_use]
    pub fn counted(&self, now: Moment) -> Counted {
        let passed = now.since(self.filled_at).as_secs_f64();
        let is_below = |tokens: f64, rate: f64| tokens + rate * passed < 0.0;
        let owes = is_below(self.record_tokens, self.record_rate())
            || is_below(self.byte_tokens, self.byte_rate());
        Counted {
            owes,
            ..self.counted
        }
    }

    /// What this node may offer within a second that ends at `now`.
    #[must_use]
    pub fn window(&self, now: Moment) -> ShardLimits {
        let part = self.held.window_at(now);
        ShardLimits {
            records_per_second: self.limits.records_per_second * part.records,
            bytes_per_second: self.limits.bytes_per_second * part.bytes,
            fraction: self.limits.fraction,
        }
    }

    /// From now on these limits hold. What was offered lately counts against them,
    /// and what the service has taught about its own limits stays.
    pub fn change(&mut self, limits: ShardLimits, now: Moment) {
        self.fill(now);
        self.limits = limits;
        self.cap_tokens();
    }

    /// The limits that hold.
    #[must_use]
    pub const fn limits(&self) -> ShardLimits {
        self.limits
    }

    /// The part of the configured rate in use: 1 until the service throttles.
    #[must_use]
    pub const fn factor(&self) -> f64 {
        self.factor
    }

    /// What was offered in the second before `now`, as parts of the limits:
    /// records, bytes.
    pub fn utilisation(&mut self, now: Moment) -> (f64, f64) {
        self.forget_before(now);
        (
            self.recent_records as f64 / self.limits.records_per_second,
            self.recent_bytes as f64 / self.limits.bytes_per_second,
        )
    }

    /// Whether nothing was offered in the second before `now`: a new budget would
    /// allow no more than this one.
    pub fn is_at_rest(&mut self, now: Moment) -> bool {
        self.forget_before(now);
        self.recent.is_empty()
    }

    /// What may be offered at `now` when `waiting` is ready to go. With little
    /// waiting a call goes as soon as its tokens are there; with much, the
    /// bucket is left to fill for about [`PACE`].
    pub fn grant(&mut self, waiting: Waiting, now: Moment) -> Grant {
        let grant = self.decide(waiting, now);
        let pace = self.pace();
        let has_much_behind = waiting.all.records as f64 >= self.record_rate() * pace
            || waiting.all.charged_bytes() as f64 >= self.byte_rate() * pace;
        if has_much_behind && matches!(grant, Grant::At(_)) {
            self.counted.pressed += 1;
        }
        grant
    }

    fn decide(&mut self, waiting: Waiting, now: Moment) -> Grant {
        self.fill(now);
        let held = self.held.at(now);
        if held.records <= 0.0 || held.bytes <= 0.0 {
            return Grant::At(now + share::LOOK_AGAIN);
        }
        self.forget_before(now);
        let pace = self.pace();
        let wanted_records = (waiting.all.records as f64)
            .min(self.record_rate() * pace)
            .clamp(1.0, self.deepest_records());
        let wanted_bytes = (waiting.all.charged_bytes() as f64)
            .min(self.byte_rate() * pace)
            .max(round_up(waiting.next_bytes.max(waiting.record_bytes)) as f64)
            .min(self.deepest_bytes());
        let missing_seconds = ((wanted_records - self.record_tokens) / self.record_rate())
            .max((wanted_bytes - self.byte_tokens) / self.byte_rate());
        // Tokens are sums of fractions: what is missing by rounding is there.
        if missing_seconds > 1e-9 {
            let wait = Duration::from_secs_f64(missing_seconds) + Duration::from_micros(1);
            return Grant::At(now + wait);
        }
        let window = self.window(now);
        let records_left = (window.records_per_second as u64).saturating_sub(self.recent_records);
        let bytes_left = (window.bytes_per_second as u64).saturating_sub(self.recent_bytes);
        let window_is_full = records_left == 0 || bytes_left < round_up(waiting.next_bytes);
        if let Some(oldest) = self.recent.front()
            && window_is_full
        {
            let opens_at = oldest.at + WINDOW;
            // What is saved up now would go at once when the second is over, and the
            // one after it would stand still again: a burst and a halt each second,
            // in which whoever sends little waits behind the burst. What comes in
            // during a round trip is needed: there is no call before it is over.
            let kept = pace.max(self.usual_time.unwrap_or_default().as_secs_f64());
            let kept_records = wanted_records.max(self.record_rate() * kept);
            let kept_bytes = wanted_bytes.max(self.byte_rate() * kept);
            self.record_tokens = self.record_tokens.min(kept_records);
            self.byte_tokens = self.byte_tokens.min(kept_bytes);
            return Grant::At(opens_at);
        }
        Grant::Now(Cost {
            records: (self.record_tokens as u64).min(records_left).max(1),
            bytes: (self.byte_tokens as u64).min(bytes_left) / KIB * KIB,
        })
    }

    /// Takes the tokens of a call that is about to be sent; gives its number.
    pub fn charge(&mut self, cost: Cost, now: Moment) -> CallNumber {
        self.fill(now);
        self.record_tokens -= cost.records as f64;
        self.byte_tokens -= cost.charged_bytes() as f64;
        self.recent_records += cost.records;
        self.recent_bytes += cost.charged_bytes();
        self.counted.used.records += cost.records;
        self.counted.used.bytes += cost.charged_bytes();
        self.counted.calls += 1;
        self.calls += 1;
        self.recent.push_back(Offered {
            call: self.calls,
            at: now,
            records: cost.records,
            bytes: cost.charged_bytes(),
        });
        self.calls
    }

    /// A call in flight has only `bytes`, known once its records were compressed.
    pub fn was_lighter(&mut self, call: CallNumber, bytes: u64) {
        let mut calls = self.recent.iter_mut().rev();
        let Some(call) = calls.find(|offered| offered.call == call) else {
            return;
        };
        let saved = call.bytes.saturating_sub(round_up(bytes));
        call.bytes -= saved;
        self.recent_bytes -= saved;
        self.counted.used.bytes -= saved;
        self.byte_tokens += saved as f64;
    }

    /// What [`super::sabotage::Bug::RefundThrottled`] does.
    #[cfg(feature = "demo")]
    pub(super) fn refund(&mut self, cost: Cost) {
        self.record_tokens += cost.records as f64;
        self.byte_tokens += cost.charged_bytes() as f64;
        if let Some(last) = self.recent.back_mut() {
            let (records, bytes) = (
                cost.records.min(last.records),
                cost.charged_bytes().min(last.bytes),
            );
            last.records -= records;
            last.bytes -= bytes;
            self.recent_records -= records;
            self.recent_bytes -= bytes;
        }
    }

    /// What was offered within the last second.
    #[must_use]
    pub const fn offered_lately(&self) -> Cost {
        Cost {
            records: self.recent_records,
            bytes: self.recent_bytes,
        }
    }

    /// The call was answered at `now`: the service may have counted it as late as
    /// that, less the time that calls usually take.
    pub fn answered(&mut self, call: CallNumber, now: Moment) {
        let is_it = |offered: &Offered| offered.call == call;
        let Some(mut offered) =
            (self.recent.iter().rposition(is_it)).and_then(|place| self.recent.remove(place))
        else {
            return;
        };
        let took = now.since(offered.at);
        let usual = self
            .usual_time
            .map_or(took, |usual| usual.mul_f64(USUAL_TIME_GROWTH).min(took));
        self.usual_time = Some(usual);
        offered.at = offered.at + took.saturating_sub(usual.min(MOST_USUAL_TIME));
        // The oldest stays first.
        let place = self.recent.partition_point(|other| other.at <= offered.at);
        self.recent.insert(place, offered);
    }

    /// The service refused `refused` of the `offered` records of a call for
    /// going too fast; 0 says that it refused none.
    pub fn refused(&mut self, refused: usize, offered: usize, now: Moment) {
        self.fill(now);
        let all = refused > 0 && refused >= offered;
        self.refused_whole = if all { self.refused_whole + 1 } else { 0 };
        let is_one_burst = self.last_cut.is_some_and(|cut| now.since(cut) < CUT_EVERY);
        if refused == 0 || is_one_burst {
            return;
        }
        let takes_nothing = self.refused_whole >= REFUSED_WHOLE;
        let cut = if takes_nothing { CUT_ALL } else { CUT_SOME };
        self.factor = (self.factor * cut).max(LOWEST_FACTOR);
        self.last_cut = Some(now);
    }

    /// In seconds.
    fn pace(&self) -> f64 {
        let held = self.held.at(self.filled_at);
        let slowest = SLOWEST_PACE.as_secs_f64();
        (PACE.as_secs_f64() / held.records.min(held.bytes).max(0.01)).min(slowest)
    }

    fn record_rate(&self) -> f64 {
        let share = self.held.at(self.filled_at).records;
        self.limits.records_per_second * self.limits.fraction * self.factor * share
    }

    fn byte_rate(&self) -> f64 {
        let share = self.held.at(self.filled_at).bytes;
        self.limits.bytes_per_second * self.limits.fraction * self.factor * share
    }

    fn cap_tokens(&mut self) {
        self.record_tokens = self.record_tokens.min(self.deepest_records());
        self.byte_tokens = self.byte_tokens.min(self.deepest_bytes());
    }

    /// A slow rate must still be able to save up for one record.
    fn deepest_records(&self) -> f64 {
        (self.record_rate() * DEPTH.as_secs_f64()).max(1.0)
    }

    fn deepest_bytes(&self) -> f64 {
        (self.byte_rate() * DEPTH.as_secs_f64()).max(KIB as f64)
    }

    fn fill(&mut self, now: Moment) {
        let passed = now.since(self.filled_at).as_secs_f64();
        if passed <= 0.0 {
            return;
        }
        self.filled_at = now;
        self.record_tokens =
            (self.record_tokens + self.record_rate() * passed).min(self.deepest_records());
        self.byte_tokens = (self.byte_tokens + self.byte_rate() * passed).min(self.deepest_bytes());
        self.recover(now, passed);
    }

    fn recover(&mut self, now: Moment, passed: f64) {
        let calm = self.last_cut.is_none_or(|cut| now.since(cut) >= CUT_EVERY);
        if !calm || self.factor >= 1.0 {
            return;
        }
        let raised = if self.factor < FAST_RECOVERY_BELOW {
            self.factor * FAST_RECOVERY_GROWTH.powf(passed)
        } else {
            self.factor + RECOVERY_PER_SECOND * passed
        };
        self.factor = raised.min(1.0);
    }

    fn forget_before(&mut self, now: Moment) {
        while let Some(oldest) = self.recent.front() {
            if now.since(oldest.at) < WINDOW {
                return;
            }
            self.recent_records -= oldest.records;
            self.recent_bytes -= oldest.bytes;
            self.recent.pop_front();
        }
    }
}

#[cfg(test)]
mod tests;
