//! Plans of their own: what the plan of a seed hardly ever comes to.

use std::time::Duration;

use super::{Event, Plan, PutFaults, StoreFaults};
use crate::dice::Dice;
use crate::kinesis::Takes;
use crate::poison::PoisonPlan;

impl Plan {
    /// A key whose letters are sent while its rows come faster than letters can go.
    pub(crate) fn busy_key(seed: u64) -> Self {
        let plan = Self::of(seed);
        let dice = &mut Dice::new(seed ^ 0x0b05_7ee1);
        Self {
            outboxes: 1,
            keys: 1,
            free_keys: 0,
            step_millis: 50.0,
            put: PutFaults {
                slow: 0.03,
                ..PutFaults::default()
            },
            load: Duration::from_secs(16),
            poison: PoisonPlan {
                // Some of its letters' calls take seconds.
                free_within: Some(Duration::from_secs(6)),
                ..PoisonPlan::busy_key(dice)
            },
            ..plan.calm_and_wide()
        }
    }

    /// Rows are parked while a replay of them waits for its number to be written.
    pub(crate) fn replayed(seed: u64) -> Self {
        let plan = Self::of(seed);
        let dice = &mut Dice::new(seed ^ 0x07e9_1a7e);
        Self {
            outboxes: 1,
            keys: 1 + dice.below(2),
            free_keys: 0,
            step_millis: 5.0,
            store: StoreFaults {
                slow: 0.1,
                ..StoreFaults::default()
            },
            poison: PoisonPlan::replayed(dice),
            ..plan.calm_and_wide()
        }
    }

    /// Letters are asked for again and again, and confirmed while others are read.
    pub(crate) fn many_letters(seed: u64) -> Self {
        let plan = Self::of(seed);
        let dice = &mut Dice::new(seed ^ 0x0001_e77e);
        Self {
            outboxes: 1,
            keys: 12,
            free_keys: 0,
            step_millis: 5.0,
            poison: PoisonPlan::many_letters(dice),
            ..plan.calm_and_wide()
        }
    }

    /// Several nodes that join, leave, die, freeze and are cut off.
    pub(crate) fn clustered(seed: u64) -> Self {
        let plan = Self::of(seed);
        let dice = &mut Dice::new(seed ^ 0x00c1_057e);
        let events = [
            Event::KillNode,
            Event::RestartNode,
            Event::PartitionNode,
            Event::FreezeNode,
        ];
        let mut plan = Self {
            outboxes: 4,
            streams: 2,
            shards: 2,
            keys: 4,
            free_keys: 0,
            load: Duration::from_secs(20),
            step_millis: 20.0,
            lease: *dice.pick(&[Duration::from_secs(1), Duration::from_secs(2)]),
            event_every_millis: *dice.pick(&[1_500.0, 4_000.0]),
            poison: PoisonPlan::none(),
            ..plan.calm_and_wide()
        };
        plan.nodes = 3 + dice.below(3);
        plan.events = events.to_vec();
        plan.store.slow = 0.02;
        plan.put.slow = 0.02;
        plan
    }

    /// The same, and all of them write to one narrow shard.
    pub(crate) fn shared_shard(seed: u64) -> Self {
        let plan = Self::clustered(seed);
        Self {
            streams: 1,
            shards: 1,
            step_millis: 10.0,
            budget_records: 40,
            takes: Takes {
                records: 40.0,
                ..plan.takes
            },
            ..plan
        }
    }

    /// Nodes join and leave while the shard that they share is full, and nothing else
    /// happens: nothing comes twice.
    pub(crate) fn handed_over(seed: u64) -> Self {
        let plan = Self::shared_shard(seed);
        let dice = &mut Dice::new(seed ^ 0x4a4d_ed0e);
        Self {
            // Busy keys have many rows behind others of other keys.
            keys: 2 + dice.below(10),
            event_every_millis: 3_000.0,
            events: vec![Event::RestartNode],
            store: StoreFaults::default(),
            put: PutFaults {
                record_fails: 0.05,
                throttled: 0.05,
                ..PutFaults::default()
            },
            hands_over_whole: true,
            ..plan
        }
    }

    /// As for several nodes, and nodes see each other in another database than the pipelines': who is
    /// cut off from these still has its share of the shards.
    pub(crate) fn coordinated_apart(seed: u64) -> Self {
        Self {
            coordinates_apart: true,
            ..Self::clustered(seed)
        }
    }

    /// One node that dies again and again while its positions are on their way.
    pub(crate) fn dies_while_saving(seed: u64) -> Self {
        let plan = Self::of(seed);
        Self {
            outboxes: 1,
            keys: 1,
            free_keys: 1,
            step_millis: 10.0,
            most_open: 8,
            store: StoreFaults {
                lost_saves: 0.4,
                ..StoreFaults::default()
            },
            events: vec![Event::KillNode],
            event_every_millis: 1_500.0,
            load: Duration::from_secs(20),
            lease: Duration::from_secs(1),
            poison: PoisonPlan::none(),
            ..plan.calm_and_wide()
        }
    }

    /// Calls of many records fail in part, and so do those that send the rest again.
    pub(crate) fn fails_again(seed: u64) -> Self {
        let plan = Self::of(seed);
        Self {
            outboxes: 1,
            streams: 1,
            shards: 1,
            keys: 40,
            step_millis: 5.0,
            put: PutFaults {
                record_fails: 0.3,
                ..PutFaults::default()
            },
            poison: PoisonPlan::none(),
            ..plan.calm_and_wide()
        }
    }
}
