//! What a seed stands for: the size of the world, and which faults it has how
//! often. Most seeds have some kinds of fault and not others: what everything
//! together hides, a few of them alone show.

#[path = "plan/own.rs"]
mod own;

use std::time::Duration;

use crate::database::Defect;
use crate::dice::Dice;
use crate::kinesis::Takes;
use crate::limits::Model;
use crate::packed::Packed;
use crate::poison::PoisonPlan;

/// Chances per call, 0 to 1.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct StoreFaults {
    /// An error, and nothing was done.
    pub(crate) refused: f64,
    /// It was done, and the answer was lost.
    pub(crate) answer_lost: f64,
    /// No answer; it is done later, or never.
    pub(crate) hangs: f64,
    /// It takes up to seconds.
    pub(crate) slow: f64,
    /// A position's write never comes to anything, whatever the others do.
    pub(crate) lost_saves: f64,
}

/// Chances per call, 0 to 1.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct PutFaults {
    /// Each record, by itself.
    pub(crate) record_fails: f64,
    /// The whole call, nothing stored.
    pub(crate) throttled: f64,
    /// A 5xx or time-out, not applied.
    pub(crate) lost: f64,
    /// Applied, and the answer was lost.
    pub(crate) answer_lost: f64,
    /// Answered as unknown; applied after later calls.
    pub(crate) late: f64,
    /// Credentials or permission.
    pub(crate) denied: f64,
    /// Takes up to seconds.
    pub(crate) slow: f64,
    /// A call of the control plane fails.
    pub(crate) control: f64,
}

/// Something larger that happens to the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    KillNode,
    RestartNode,
    CrashDatabase,
    DatabaseAway,
    PartitionNode,
    Split,
    Merge,
    ReshardAtOnce,
    IgnoreKeys,
    StickShard,
    ControlAway,
    ServiceAway,
    Redefine,
    /// A process does not run for a while, as after SIGSTOP. Of plans of clusters alone.
    FreezeNode,
}

impl Event {
    /// Those after which a row may be sent again.
    pub(crate) fn causes_repeats(self) -> bool {
        match self {
            Self::KillNode
            | Self::CrashDatabase
            | Self::DatabaseAway
            | Self::PartitionNode
            | Self::FreezeNode
            | Self::Split
            | Self::Merge
            | Self::ReshardAtOnce
            | Self::IgnoreKeys
            | Self::ServiceAway
            // A drain that takes longer than its grace is cut off.
            | Self::RestartNode
            | Self::Redefine => true,
            Self::StickShard | Self::ControlAway => false,
        }
    }
}

const EVENTS: [Event; 13] = [
    Event::KillNode,
    Event::RestartNode,
    Event::CrashDatabase,
    Event::DatabaseAway,
    Event::PartitionNode,
    Event::Split,
    Event::Merge,
    Event::ReshardAtOnce,
    Event::IgnoreKeys,
    Event::StickShard,
    Event::ControlAway,
    Event::ServiceAway,
    Event::Redefine,
];

/// A seed, spelt out.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) nodes: usize,
    pub(crate) outboxes: usize,
    pub(crate) streams: usize,
    pub(crate) shards: usize,
    pub(crate) keys: usize,
    /// Keys whose transactions nobody serialises.
    pub(crate) free_keys: usize,
    pub(crate) load: Duration,
    /// The publishers' mean pause between two steps.
    pub(crate) step_millis: f64,
    pub(crate) most_open: usize,
    pub(crate) filler: usize,
    /// What the relay believes a shard takes.
    pub(crate) budget_records: u32,
    pub(crate) budget_bytes: u64,
    pub(crate) takes: Takes,
    pub(crate) packed: Packed,
    pub(crate) batch_size: u32,
    /// Of the tenants, to which the pipelines belong in turn.
    pub(crate) weights: Vec<u32>,
    /// The rate of each tenant, in rows a second.
    pub(crate) rate: Option<f64>,
    pub(crate) pipeline_rows: u32,
    pub(crate) store: StoreFaults,
    pub(crate) put: PutFaults,
    pub(crate) panics: f64,
    pub(crate) forgets: f64,
    pub(crate) events: Vec<Event>,
    pub(crate) event_every_millis: f64,
    pub(crate) lease: Duration,
    pub(crate) poison: PoisonPlan,
    /// The nodes see each other in a database of its own, which nothing happens to.
    pub(crate) coordinates_apart: bool,
    /// Nodes that come and go are no reason to send anything twice.
    pub(crate) hands_over_whole: bool,
}

impl Plan {
    pub(crate) fn of(seed: u64) -> Self {
        let dice = &mut Dice::new(seed);
        let budget_records = *dice.pick(&[20, 40, 80, 1000]);
        let budget_bytes = *dice.pick(&[8 << 10, 64 << 10, 1 << 20]);
        // Sometimes the service takes less than it says.
        let honest = if dice.chance(0.7) { 1.0 } else { 0.6 };
        let takes = Takes {
            model: *dice.pick(&Model::ALL),
            records: f64::from(budget_records) * honest,
            bytes: (budget_bytes as f64 * honest).max(6000.0),
        };
        let calm = dice.chance(0.15);
        let some = |dice: &mut Dice, one_in: f64, most: f64| {
            if dice.chance(one_in) {
                most * dice.range(1, 10) as f64 / 10.0
            } else {
                0.0
            }
        };
        let store = StoreFaults {
            refused: some(dice, 0.4, 0.05),
            answer_lost: some(dice, 0.4, 0.05),
            hangs: some(dice, 0.2, 0.01),
            slow: some(dice, 0.4, 0.05),
            lost_saves: 0.0,
        };
        let put = PutFaults {
            record_fails: some(dice, 0.6, 0.3),
            throttled: some(dice, 0.3, 0.1),
            lost: some(dice, 0.4, 0.2),
            answer_lost: some(dice, 0.4, 0.2),
            late: some(dice, 0.3, 0.1),
            denied: some(dice, 0.1, 0.02),
            slow: some(dice, 0.4, 0.1),
            control: some(dice, 0.4, 0.5),
        };
        let panics = some(dice, 0.35, 0.002);
        let forgets = some(dice, 0.05, 0.002);
        let mut events: Vec<Event> = EVENTS.into_iter().filter(|_| dice.chance(0.25)).collect();
        let mut plan = Self {
            seed,
            nodes: if dice.chance(0.3) { 2 } else { 1 },
            outboxes: 1 + dice.below(2),
            streams: 1 + dice.below(2),
            shards: 1 + dice.below(4),
            keys: 1 + dice.below(12),
            free_keys: dice.below(4),
            load: dice.evenly(1_500.0, 6_000.0),
            step_millis: *dice.pick(&[5.0, 20.0, 60.0]),
            most_open: 1 + dice.below(8),
            filler: *dice.pick(&[1, 1, 200, 1500]),
            budget_records,
            budget_bytes,
            takes,
            packed: Packed::of(seed),
            batch_size: *dice.pick(&[1, 7, 100, 500]),
            weights: vec![1, 1],
            rate: None,
            pipeline_rows: *dice.pick(&[4, 30, 5_000]),
            store,
            put,
            panics,
            forgets,
            event_every_millis: *dice.pick(&[400.0, 1_500.0, 4_000.0]),
            lease: *dice.pick(&[Duration::from_secs(2), Duration::from_secs(10)]),
            events: Vec::new(),
            poison: PoisonPlan::of(seed),
            coordinates_apart: false,
            hands_over_whole: false,
        };
        if calm {
            // Only what must not cause a repeat.
            plan.store = StoreFaults::default();
            plan.panics = 0.0;
            plan.forgets = 0.0;
            plan.nodes = 1;
            plan.put = PutFaults {
                lost: 0.0,
                answer_lost: 0.0,
                late: 0.0,
                ..put
            };
            events.retain(|event| !event.causes_repeats());
        }
        plan.events = events;
        plan.focus(dice);
        if plan.poison.kinds.contains(&Defect::TooLarge) {
            plan.packed = plan.packed.plain();
        }
        plan
    }

    /// One node that nothing happens to, and shards that take everything.
    fn calm_and_wide(self) -> Self {
        Self {
            nodes: 1,
            load: Duration::from_secs(8),
            batch_size: 500,
            pipeline_rows: 5_000,
            budget_records: 1000,
            budget_bytes: 1 << 20,
            takes: Takes {
                records: 1000.0,
                bytes: f64::from(1 << 20),
                ..self.takes
            },
            store: StoreFaults::default(),
            put: PutFaults::default(),
            panics: 0.0,
            forgets: 0.0,
            events: Vec::new(),
            ..self
        }
    }

    /// Five of eight seeds look at what chance alone seldom makes.
    fn focus(&mut self, dice: &mut Dice) {
        let wide_open = Takes {
            records: 1000.0,
            bytes: f64::from(1 << 20),
            ..self.takes
        };
        let focused = match self.seed % 8 {
            // Letters and replays in a calm world.
            3 => {
                let is_busy = dice.chance(0.5);
                let poison = if is_busy {
                    PoisonPlan::busy_key(dice)
                } else {
                    PoisonPlan::crowded(dice)
                };
                *self = Self {
                    nodes: 1,
                    keys: 2 + dice.below(3),
                    load: Duration::from_secs(8),
                    step_millis: if is_busy { 8.0 } else { 5.0 },
                    batch_size: *dice.pick(&[7, 100, 500]),
                    store: StoreFaults::default(),
                    put: PutFaults::default(),
                    panics: 0.0,
                    forgets: 0.0,
                    events: Vec::new(),
                    poison,
                    ..self.clone()
                };
                if is_busy {
                    self.takes = wide_open;
                    (self.budget_records, self.budget_bytes) = (1000, 1 << 20);
                    self.pipeline_rows = 5_000;
                }
                return;
            }
            // Writers that die while their shard is full.
            4 => {
                *self = Self {
                    panics: 0.01,
                    budget_records: 20,
                    takes: Takes {
                        records: 1000.0,
                        ..wide_open
                    },
                    budget_bytes: 1 << 20,
                    shards: 1,
                    keys: 40,
                    step_millis: 5.0,
                    batch_size: 500,
                    pipeline_rows: 5_000,
                    ..self.clone()
                };
                return;
            }
            // Crashes of a server whose log is behind, with many pipelines.
            5 => Self {
                outboxes: 2,
                streams: 2,
                most_open: 6,
                events: vec![Event::CrashDatabase],
                event_every_millis: *dice.pick(&[300.0, 800.0]),
                store: StoreFaults::default(),
                put: PutFaults {
                    slow: self.put.slow,
                    ..PutFaults::default()
                },
                panics: 0.0,
                forgets: 0.0,
                ..self.clone()
            },
            // Owners that are cut off and do not know it.
            6 => Self {
                nodes: 2,
                lease: Duration::from_secs(1),
                events: vec![Event::PartitionNode, Event::PartitionNode, Event::KillNode],
                event_every_millis: *dice.pick(&[500.0, 1_000.0]),
                store: StoreFaults {
                    slow: 0.1,
                    hangs: 0.03,
                    ..self.store
                },
                ..self.clone()
            },
            // Readers that die while their position is on its way.
            7 => Self {
                panics: 0.01,
                store: StoreFaults {
                    slow: 0.2,
                    hangs: 0.05,
                    ..self.store
                },
                put: PutFaults {
                    slow: self.put.slow,
                    ..PutFaults::default()
                },
                events: vec![Event::KillNode],
                event_every_millis: 500.0,
                ..self.clone()
            },
            _ => return,
        };
        *self = Self {
            free_keys: 1 + dice.below(2),
            takes: wide_open,
            budget_records: 1000,
            budget_bytes: 1 << 20,
            pipeline_rows: 5_000,
            ..focused
        };
    }

    /// Whether anything in this run may cause a record to be sent twice.
    pub(crate) fn may_repeat(&self) -> bool {
        let PutFaults {
            lost,
            answer_lost,
            late,
            ..
        } = self.put;
        let StoreFaults {
            refused,
            answer_lost: unsaved,
            hangs,
            slow,
            lost_saves,
        } = self.store;
        let chances = [
            lost,
            answer_lost,
            late,
            refused,
            unsaved,
            hangs,
            slow,
            lost_saves,
            self.panics,
            self.forgets,
        ];
        let has_hard_events = self.nodes > 1 || self.events.iter().any(|one| one.causes_repeats());
        chances.iter().any(|chance| *chance > 0.0)
            || self.poison.may_repeat()
            || (has_hard_events && !self.hands_over_whole)
    }
}
