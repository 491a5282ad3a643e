//! What one transaction of the load does: drawn from chance, before it begins.

use std::time::Duration;

use super::{KeyOrder, Mix, OutboxLoad, TransactionSize};

/// Longer pauses than the longest usual one: rare, and this much longer.
const RARE_PAUSE_FACTOR: u32 = 6;

/// How many of a hundred pauses are rare ones.
const RARE_PAUSE_SHARE: f64 = 0.03;

/// Every so many-th key has a character of more than one byte.
const MULTI_BYTE_EVERY: usize = 8;

/// How a transaction ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Commit,
    Rollback,
}

/// An event to publish: for one of the transaction's keys, or for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// The place of the key among the plan's keys.
    Keyed(usize),
    Keyless,
}

/// One thing to do, after the locks are taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Pause(Duration),
    Publish(Event),
    PublishMany(Vec<Event>),
    SetSavepoint,
    ReleaseSavepoint,
    /// Undoes everything since the savepoint was set.
    RollBackToSavepoint,
}

/// A transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    /// Whether it writes something else first, so that its transaction id is
    /// older than the lock it then waits for.
    pub(super) writes_first: bool,
    /// What it waits between that and the locks.
    pub(super) pause_before_locks: Duration,
    /// The keys it publishes for, by number, each once.
    pub(super) keys: Vec<usize>,
    pub(super) steps: Vec<Step>,
    pub(super) ending: Ending,
}

/// The key of a number: the same in every outbox.
pub(super) fn key_name(number: usize) -> String {
    if number % MULTI_BYTE_EVERY == MULTI_BYTE_EVERY - 1 {
        format!("entität-{number}")
    } else {
        format!("entity-{number}")
    }
}

impl Plan {
    /// Draws a transaction.
    pub(super) fn draw(random: &mut fastrand::Rng, load: &OutboxLoad, mix: &Mix) -> Self {
        let mut draw = Draw { random, mix };
        let writes_first = draw.chance(mix.writes_first);
        let pause_before_locks = draw.pause();
        let (keys, steps) = match load.size {
            TransactionSize::Small => draw.small(load),
            TransactionSize::Bulk { keys, rows_per_key } => draw.bulk(load, keys, rows_per_key),
        };
        let ending = if draw.chance(mix.rollbacks) {
            Ending::Rollback
        } else {
            Ending::Commit
        };
        Self {
            writes_first,
            pause_before_locks,
            keys,
            steps,
            ending,
        }
    }

    /// How many events it publishes, those it undoes included.
    pub(super) fn events(&self) -> usize {
        let events = |step: &Step| match step {
            Step::Publish(_) => 1,
            Step::PublishMany(events) => events.len(),
            Step::Pause(_)
            | Step::SetSavepoint
            | Step::ReleaseSavepoint
            | Step::RollBackToSavepoint => 0,
        };
        self.steps.iter().map(events).sum()
    }
}

struct Draw<'a> {
    random: &'a mut fastrand::Rng,
    mix: &'a Mix,
}

impl Draw<'_> {
    fn chance(&mut self, share: f64) -> bool {
        self.random.f64() < share
    }

    /// No pause, a short one, or rarely a longer one.
    fn pause(&mut self) -> Duration {
        if self.chance(0.5) {
            return Duration::ZERO;
        }
        let pause = self.mix.longest_pause.mul_f64(self.random.f64());
        if self.chance(RARE_PAUSE_SHARE) {
            return pause * RARE_PAUSE_FACTOR;
        }
        pause
    }

    /// So many keys, each once.
    fn keys(&mut self, load: &OutboxLoad, wanted: usize) -> Vec<usize> {
        let wanted = wanted.clamp(1, load.keys.max(1));
        let mut keys = Vec::with_capacity(wanted);
        while keys.len() < wanted {
            let key = self.random.usize(0..load.keys.max(1));
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        keys
    }

    /// One to three events of one key, seldom of two.
    fn small(&mut self, load: &OutboxLoad) -> (Vec<usize>, Vec<Step>) {
        let two_keys = self.chance(self.mix.two_keys);
        let keys = self.keys(load, if two_keys { 2 } else { 1 });
        let count = self.random.usize(1..=3);
        let events: Vec<Event> = (0..count)
            .map(|_| {
                if self.chance(self.mix.keyless) {
                    return Event::Keyless;
                }
                Event::Keyed(self.random.usize(0..keys.len()))
            })
            .collect();
        let mut steps = Vec::new();
        if self.chance(self.mix.publish_many) {
            steps.push(Step::PublishMany(events));
        } else {
            for event in events {
                self.publish(event, &mut steps);
            }
        }
        // Between the last insert and the commit others insert and commit: ids and
        // commits come in different orders.
        let pause = self.pause();
        let is_inverted = load.key_order == KeyOrder::Unlocked;
        steps.push(Step::Pause(if is_inverted { pause * 2 } else { pause }));
        (keys, steps)
    }

    fn publish(&mut self, event: Event, steps: &mut Vec<Step>) {
        if !self.chance(self.mix.savepoints) {
            steps.push(Step::Publish(event));
            return;
        }
        steps.push(Step::SetSavepoint);
        steps.push(Step::Publish(event));
        steps.push(Step::Pause(self.pause()));
        if self.chance(0.5) {
            steps.push(Step::ReleaseSavepoint);
        } else {
            steps.push(Step::RollBackToSavepoint);
            steps.push(Step::Publish(event));
        }
    }

    /// Many events of many keys in one statement.
    fn bulk(
        &mut self,
        load: &OutboxLoad,
        keys: usize,
        rows_per_key: usize,
    ) -> (Vec<usize>, Vec<Step>) {
        let keys = self.keys(load, keys);
        let mut events = Vec::with_capacity(keys.len() * rows_per_key);
        for _ in 0..rows_per_key.max(1) {
            events.extend((0..keys.len()).map(Event::Keyed));
        }
        let steps = vec![Step::PublishMany(events), Step::Pause(self.pause())];
        (keys, steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(size: TransactionSize) -> OutboxLoad {
        OutboxLoad {
            keys: 20,
            size,
            ..OutboxLoad::new("events")
        }
    }

    fn draw_many(load: &OutboxLoad) -> Vec<Plan> {
        let mut random = fastrand::Rng::with_seed(7);
        let mix = Mix::default();
        (0..4000)
            .map(|_| Plan::draw(&mut random, load, &mix))
            .collect()
    }

    #[test]
    fn draws_everything_that_trips_readers() {
        let plans = draw_many(&load(TransactionSize::Small));
        let share = |holds: &dyn Fn(&Plan) -> bool| {
            let count = plans.iter().filter(|plan| holds(plan)).count();
            count as f64 / plans.len() as f64
        };
        let has = |wanted: Step| move |plan: &Plan| plan.steps.contains(&wanted);
        assert!((0.06..0.10).contains(&share(&|plan| plan.ending == Ending::Rollback)));
        assert!((0.45..0.55).contains(&share(&|plan| plan.writes_first)));
        assert!((0.05..0.15).contains(&share(&|plan| plan.keys.len() == 2)));
        assert!((0.05..0.30).contains(&share(&has(Step::RollBackToSavepoint))));
        assert!((0.05..0.30).contains(&share(&has(Step::ReleaseSavepoint))));
        let many = |plan: &Plan| matches!(plan.steps.first(), Some(Step::PublishMany(_)));
        assert!((0.05..0.15).contains(&share(&many)));
        for plan in &plans {
            assert!((1..=6).contains(&plan.events()), "{plan:?}");
        }
    }

    #[test]
    fn a_bulk_transaction_takes_each_key_once() {
        let size = TransactionSize::Bulk {
            keys: 16,
            rows_per_key: 3,
        };
        for plan in draw_many(&load(size)) {
            assert_eq!((plan.keys.len(), plan.events()), (16, 48));
            let mut keys = plan.keys.clone();
            keys.sort_unstable();
            keys.dedup();
            assert_eq!(keys.len(), 16, "{plan:?}");
        }
    }
}
