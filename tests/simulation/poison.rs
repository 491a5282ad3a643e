//! Rows that can never be sent: which of them publishers write, what pipelines do
//! with them, what persons do then.

use std::time::Duration;

use tidegate::core::dead_letter::OnPoison;

use crate::database::Defect;
use crate::dice::Dice;

/// A key that was released is free, however many rows of it come: nothing of it
/// is parked any more so long after.
const FREE_WITHIN: Duration = Duration::from_secs(2);

/// What persons do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Habit {
    /// Something of everything.
    Mixed,
    /// Again and again they ask for the newest rows once more.
    Replaying,
}

/// What a plan says about poison.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PoisonPlan {
    /// Chance per row.
    pub(crate) rows: f64,
    pub(crate) kinds: Vec<Defect>,
    /// What the pipelines do, one after the other.
    pub(crate) policies: Vec<OnPoison>,
    /// A person does something about so often; 0: never.
    pub(crate) operator_every_millis: f64,
    /// When the service begins to take what it has refused.
    pub(crate) cured_after: Duration,
    /// Whether it does so at the latest when the world is healed.
    pub(crate) is_curable: bool,
    /// The largest record of the streams, in bytes.
    pub(crate) max_record_bytes: usize,
    /// A released key must be free so soon while its rows go on coming.
    pub(crate) free_within: Option<Duration>,
    pub(crate) habit: Habit,
}

impl PoisonPlan {
    pub(crate) fn none() -> Self {
        Self {
            rows: 0.0,
            kinds: Vec::new(),
            policies: vec![OnPoison::Park],
            operator_every_millis: 0.0,
            cured_after: Duration::ZERO,
            is_curable: true,
            max_record_bytes: 1 << 20,
            free_within: None,
            habit: Habit::Mixed,
        }
    }

    /// Half of the seeds have poison: by dice of its own, so that what else a seed
    /// has is the same with and without.
    pub(crate) fn of(seed: u64) -> Self {
        let dice = &mut Dice::new(seed ^ 0x0dea_d1e7);
        if dice.chance(0.5) {
            return Self::none();
        }
        let all = [
            Defect::Rejected,
            Defect::TooLarge,
            Defect::KeyEmpty,
            Defect::KeyTooLong,
        ];
        let first = *dice.pick(&[Defect::Rejected, Defect::Rejected, Defect::TooLarge]);
        let mut kinds = vec![first];
        kinds.extend(all.into_iter().filter(|_| dice.chance(0.4)));
        let policies = match dice.below(8) {
            0..=2 => vec![OnPoison::BlockKey],
            3..=4 => vec![OnPoison::Park],
            5 => vec![OnPoison::Halt],
            6 => vec![OnPoison::BlockKey, OnPoison::Park],
            _ => vec![OnPoison::Park, OnPoison::Halt, OnPoison::BlockKey],
        };
        Self {
            rows: *dice.pick(&[0.01, 0.05, 0.2]),
            kinds,
            policies,
            operator_every_millis: *dice.pick(&[60.0, 200.0, 1_000.0]),
            cured_after: dice.evenly(500.0, 8_000.0),
            is_curable: dice.chance(0.7),
            max_record_bytes: 4096,
            free_within: None,
            habit: Habit::Mixed,
        }
    }

    /// One key's letters are sent while its rows go on coming.
    pub(crate) fn busy_key(dice: &mut Dice) -> Self {
        Self {
            rows: 0.02,
            kinds: vec![Defect::Rejected],
            policies: vec![OnPoison::BlockKey],
            operator_every_millis: *dice.pick(&[60.0, 200.0]),
            cured_after: dice.evenly(300.0, 1_500.0),
            is_curable: true,
            max_record_bytes: 4096,
            free_within: Some(FREE_WITHIN),
            habit: Habit::Mixed,
        }
    }

    /// Replays and letters beside live rows that wait for their shards.
    pub(crate) fn crowded(dice: &mut Dice) -> Self {
        Self {
            rows: 0.1,
            policies: vec![*dice.pick(&[OnPoison::BlockKey, OnPoison::Park])],
            operator_every_millis: 40.0,
            free_within: None,
            ..Self::busy_key(dice)
        }
    }

    /// Letters of many keys come and go all the time.
    pub(crate) fn many_letters(dice: &mut Dice) -> Self {
        Self {
            rows: 0.3,
            policies: vec![OnPoison::Park],
            operator_every_millis: 15.0,
            free_within: None,
            ..Self::busy_key(dice)
        }
    }

    /// Rows are parked while replays of them are under way.
    pub(crate) fn replayed(dice: &mut Dice) -> Self {
        Self {
            rows: 0.1,
            operator_every_millis: 30.0,
            is_curable: false,
            cured_after: Duration::from_secs(60),
            free_within: None,
            habit: Habit::Replaying,
            ..Self::busy_key(dice)
        }
    }

    /// Whether something here sends a pipeline's rows again: a change of its
    /// definition ends a drain that takes too long.
    pub(crate) fn may_repeat(&self) -> bool {
        self.policies.contains(&OnPoison::Halt)
    }
}

/// What a row becomes that is to be poison: its key and its filler.
pub(crate) fn spoil(defect: Defect, key: String, filler: usize, most: usize) -> (String, usize) {
    match defect {
        Defect::KeyEmpty => (String::new(), filler),
        Defect::KeyTooLong => (key.repeat(257 / key.len() + 1), filler),
        Defect::TooLarge => (key, most + 1),
        Defect::Rejected => (key, filler),
    }
}
