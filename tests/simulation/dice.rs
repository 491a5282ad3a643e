//! Chance, from a seed.

use std::time::Duration;

/// A source of chance of its own: what one part of the model draws does not shift
/// what another one draws.
pub(crate) struct Dice(fastrand::Rng);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(fastrand::Rng::with_seed(seed))
    }

    pub(crate) fn fork(&mut self) -> Self {
        Self(self.0.fork())
    }

    pub(crate) fn chance(&mut self, probability: f64) -> bool {
        self.0.f64() < probability
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0.usize(..bound.max(1))
    }

    pub(crate) fn range(&mut self, low: u64, high: u64) -> u64 {
        self.0.u64(low..=high.max(low))
    }

    pub(crate) fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    pub(crate) fn shuffle<T>(&mut self, of: &mut [T]) {
        self.0.shuffle(of);
    }

    /// Micros between two milliseconds, not evenly: mostly near the lower one.
    pub(crate) fn pause(&mut self, low_millis: f64, high_millis: f64) -> Duration {
        let part = self.0.f64().powi(3);
        Duration::from_secs_f64((low_millis + (high_millis - low_millis) * part) / 1000.0)
    }

    pub(crate) fn evenly(&mut self, low_millis: f64, high_millis: f64) -> Duration {
        let part = self.0.f64();
        Duration::from_secs_f64((low_millis + (high_millis - low_millis) * part) / 1000.0)
    }
}
