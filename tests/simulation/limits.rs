//! How a shard may count its second. The service does not say, so a run draws one
//! of the three that are plausible.

use std::collections::VecDeque;
use std::time::Duration;

use tidegate::core::time::Moment;

const SECOND: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Model {
    /// Tokens for one second, filled all the time.
    Bucket,
    /// Counts that start over with each whole second.
    FixedWindow,
    /// The second that ends now.
    SlidingWindow,
}

impl Model {
    pub(crate) const ALL: [Self; 3] = [Self::Bucket, Self::FixedWindow, Self::SlidingWindow];
}

/// What one shard takes.
#[derive(Debug, Clone)]
pub(crate) struct Limiter {
    model: Model,
    records: f64,
    bytes: f64,
    tokens: (f64, f64),
    at: Moment,
    used: (f64, f64),
    taken: VecDeque<(Moment, f64)>,
}

impl Limiter {
    pub(crate) fn new(model: Model, records: f64, bytes: f64, now: Moment) -> Self {
        Self {
            model,
            records,
            bytes,
            tokens: (records, bytes),
            at: now,
            used: (0.0, 0.0),
            taken: VecDeque::new(),
        }
    }

    /// Whether a record of so many bytes is taken now.
    pub(crate) fn admits(&mut self, bytes: usize, now: Moment) -> bool {
        let bytes = bytes as f64;
        self.pass(now);
        let fits = match self.model {
            Model::Bucket => self.tokens.0 >= 1.0 && self.tokens.1 >= bytes,
            Model::FixedWindow | Model::SlidingWindow => {
                self.used.0 + 1.0 <= self.records && self.used.1 + bytes <= self.bytes
            }
        };
        if fits {
            self.tokens.0 -= 1.0;
            self.tokens.1 -= bytes;
            self.used.0 += 1.0;
            self.used.1 += bytes;
            if self.model == Model::SlidingWindow {
                self.taken.push_back((now, bytes));
            }
        }
        fits
    }

    fn pass(&mut self, now: Moment) {
        let passed = now.since(self.at).as_secs_f64();
        self.tokens.0 = (self.tokens.0 + passed * self.records).min(self.records);
        self.tokens.1 = (self.tokens.1 + passed * self.bytes).min(self.bytes);
        let whole = |moment: Moment| moment.since_origin().as_secs();
        if self.model == Model::FixedWindow && whole(now) != whole(self.at) {
            self.used = (0.0, 0.0);
        }
        self.at = now;
        while let Some((at, bytes)) = self.taken.front().copied() {
            if now.since(at) < SECOND {
                break;
            }
            self.taken.pop_front();
            self.used.0 -= 1.0;
            self.used.1 -= bytes;
        }
    }
}
