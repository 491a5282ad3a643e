//! Dead letters and replays: the rules of `postgres::letters`, `postgres::replay`
//! and of the functions that a person calls (`migrations/0005_dead_letters.sql`,
//! `0006_replay.sql`).

use std::collections::{BTreeMap, BTreeSet};

use tidegate::core::dead_letter::{DeadLetter, LetterReason, LetterState};
use tidegate::core::page::Cut;
use tidegate::core::ports::{Epoch, Fenced, LETTERS_COUNTED, Letters, MOST_BLOCKED_KEYS};
use tidegate::core::position::RowId;
use tidegate::core::resend::{LetterAgain, LetterOutcome, LetterPage, LettersRead};
use tidegate::core::time::Moment;

use super::{Database, read};

/// The most letters of a key in one answer, as `READ_LETTERS` has it.
const MOST_OF_A_KEY: usize = 50;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Parked,
    Waiting,
    Retry,
    Delivered,
    Discarded,
}

#[derive(Debug, Clone)]
pub(crate) struct Letter {
    window: u64,
    pub(crate) key: Option<String>,
    pub(crate) reason: LetterReason,
    pub(crate) state: State,
    pub(crate) blocks_key: bool,
    /// Somebody wanted it sent.
    pub(crate) was_wanted: bool,
}

impl Letter {
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.state, State::Parked | State::Waiting | State::Retry)
    }

    fn set(&mut self, state: State) {
        self.was_wanted |= state == State::Retry;
        self.state = state;
    }
}

/// What a letter was before a write that may be taken back.
pub(super) type Before = (RowId, Option<Letter>);

#[derive(Debug, Default)]
struct OfPipeline {
    rows: BTreeMap<RowId, Letter>,
    /// In the order in which they are sent.
    of_key: BTreeMap<Option<String>, BTreeSet<(u64, RowId)>>,
}

/// The letters of all pipelines.
#[derive(Debug, Default)]
pub(crate) struct AllLetters(BTreeMap<String, OfPipeline>);

impl OfPipeline {
    fn put(&mut self, row: RowId, letter: Letter) {
        let of_key = self.of_key.entry(letter.key.clone()).or_default();
        of_key.insert((letter.window, row));
        self.rows.insert(row, letter);
    }

    fn remove(&mut self, row: RowId) {
        if let Some(letter) = self.rows.remove(&row)
            && let Some(of_key) = self.of_key.get_mut(&letter.key)
        {
            of_key.remove(&(letter.window, row));
        }
    }

    /// Letters that block this key, in order.
    fn blocking<'a>(&'a self, key: &str) -> impl Iterator<Item = (RowId, &'a Letter)> {
        let of_key = self.of_key.get(&Some(key.to_owned()));
        let all = of_key
            .into_iter()
            .flatten()
            .map(|(_, row)| (*row, &self.rows[row]));
        all.filter(|(_, letter)| letter.blocks_key && letter.is_open())
    }

    fn has_parked(&self, key: &str) -> bool {
        self.blocking(key)
            .any(|(_, letter)| letter.state == State::Parked)
    }

    /// `release_key`.
    fn release(&mut self, key: Option<&String>) {
        let Some(key) = key.filter(|key| !self.has_parked(key)) else {
            return;
        };
        self.turn(key, State::Waiting, State::Retry);
    }

    fn turn(&mut self, key: &str, from: State, to: State) {
        let rows: Vec<RowId> = self.blocking(key).map(|(row, _)| row).collect();
        for row in rows {
            let letter = self.rows.get_mut(&row).expect("a letter");
            if letter.state == from {
                letter.set(to);
            }
        }
    }
}

impl AllLetters {
    pub(crate) fn of(&self, pipeline: &str) -> impl Iterator<Item = (RowId, &Letter)> {
        let of_pipeline = self.0.get(pipeline).into_iter();
        of_pipeline.flat_map(|all| all.rows.iter().map(|(row, letter)| (*row, letter)))
    }

    pub(crate) fn get(&self, pipeline: &str, row: RowId) -> Option<&Letter> {
        self.0.get(pipeline)?.rows.get(&row)
    }

    /// Open letters that block a key.
    pub(crate) fn blocking<'a>(
        &'a self,
        pipeline: &str,
        key: &str,
    ) -> impl Iterator<Item = (RowId, &'a Letter)> {
        let of_pipeline = self.0.get(pipeline).into_iter();
        let all: Vec<_> = of_pipeline.flat_map(|all| all.blocking(key)).collect();
        all.into_iter()
    }

    /// Letters that are to be sent.
    pub(crate) fn wanted(&self) -> usize {
        let wanted = |all: &OfPipeline| {
            let letters = all.rows.values();
            letters.filter(|one| one.state == State::Retry).count()
        };
        self.0.values().map(wanted).sum()
    }

    pub(super) fn wanted_of(&self) -> impl Iterator<Item = &String> {
        let wants = |all: &OfPipeline| all.rows.values().any(|one| one.state == State::Retry);
        let all = self.0.iter().filter(move |(_, all)| wants(all));
        all.map(|(pipeline, _)| pipeline)
    }

    pub(super) fn take_back(&mut self, pipeline: &str, before: Vec<Before>) {
        let all = self.0.entry(pipeline.to_owned()).or_default();
        for (row, letter) in before {
            match letter {
                Some(letter) => all.put(row, letter),
                None => all.remove(row),
            }
        }
    }

    // === What a person does ===

    /// `relay_dlq_retry`; answers whether it was allowed.
    pub(crate) fn retry(&mut self, pipeline: &str, row: RowId) -> bool {
        let Some(all) = self.0.get_mut(pipeline) else {
            return false;
        };
        let Some(letter) = all.rows.get_mut(&row) else {
            return false;
        };
        if letter.state != State::Parked {
            return false;
        }
        letter.set(State::Retry);
        if letter.blocks_key {
            let key = letter.key.clone();
            all.release(key.as_ref());
        }
        true
    }

    /// `relay_dlq_retry_all`.
    pub(crate) fn retry_all(&mut self, pipeline: &str) {
        let all = self.0.get_mut(pipeline).into_iter();
        for letter in all.flat_map(|all| all.rows.values_mut()) {
            if matches!(letter.state, State::Parked | State::Waiting) {
                letter.set(State::Retry);
            }
        }
    }

    /// `relay_dlq_discard`, of one that nobody can be sending.
    pub(crate) fn discard(&mut self, pipeline: &str, row: RowId) -> bool {
        let Some(all) = self.0.get_mut(pipeline) else {
            return false;
        };
        let Some(letter) = all.rows.get_mut(&row) else {
            return false;
        };
        let was = letter.state;
        if !matches!(was, State::Parked | State::Waiting) {
            return false;
        }
        letter.set(State::Discarded);
        if letter.blocks_key && was == State::Parked {
            let key = letter.key.clone();
            all.release(key.as_ref());
        }
        true
    }
}

impl Database {
    /// `PARK`, in the transaction that has just saved the position.
    pub(super) fn park(&mut self, pipeline: &str, letters: &[DeadLetter]) -> Vec<Before> {
        let all = self.letters.0.entry(pipeline.to_owned()).or_default();
        // The statement sees the table as it was before it.
        let is_parked = |one: &&DeadLetter| one.state == LetterState::Parked;
        let parked: BTreeSet<&str> = letters
            .iter()
            .filter(is_parked)
            .filter_map(|one| one.key.as_deref())
            .collect();
        let state_of = |one: &DeadLetter| match (one.state, one.key.as_deref()) {
            (LetterState::Parked, _) => State::Parked,
            (LetterState::Waiting, Some(key)) if !parked.contains(key) && !all.has_parked(key) => {
                State::Retry
            }
            (LetterState::Waiting, _) => State::Waiting,
        };
        let states: Vec<State> = letters.iter().map(state_of).collect();
        let mut before = Vec::with_capacity(letters.len());
        for (one, state) in letters.iter().zip(states) {
            let row = one.seq.id;
            let known = all.rows.get(&row).cloned();
            before.push((row, known.clone()));
            match known {
                Some(known) if matches!(known.state, State::Parked | State::Waiting) => {
                    let reason = one.reason;
                    all.put(row, Letter { reason, ..known });
                }
                Some(_) => {}
                None => all.put(
                    row,
                    Letter {
                        window: one.seq.window.0,
                        key: one.key.as_deref().map(str::to_owned),
                        reason: one.reason,
                        state,
                        blocks_key: one.blocks_key,
                        was_wanted: state == State::Retry,
                    },
                ),
            }
        }
        before
    }

    /// `KNOWN`.
    pub(crate) fn known_letters(&self, pipeline: &str) -> Letters {
        let Some(all) = self.letters.0.get(pipeline) else {
            return Letters::default();
        };
        let blocks = |one: &Letter| one.blocks_key && one.is_open();
        let keys: BTreeSet<&String> = all
            .rows
            .values()
            .filter(|one| blocks(one))
            .filter_map(|one| one.key.as_ref())
            .collect();
        let counted = |one: &&Letter| matches!(one.state, State::Parked | State::Waiting);
        let open = all.rows.values().filter(counted).count() as u64;
        Letters {
            highest_row: all.rows.keys().next_back().copied().unwrap_or(0),
            blocked_keys: keys
                .into_iter()
                .take(MOST_BLOCKED_KEYS + 1)
                .cloned()
                .collect(),
            open: open.min(LETTERS_COUNTED),
        }
    }

    pub(crate) fn rows_with_letters(&self, pipeline: &str, rows: &[RowId]) -> Vec<RowId> {
        let has = |row: &&RowId| self.letters.get(pipeline, **row).is_some();
        rows.iter().filter(has).copied().collect()
    }

    /// `READ_LETTERS`.
    pub(crate) fn letters_to_send(
        &self,
        pipeline: &str,
        page: &LetterPage<'_>,
        now: Moment,
    ) -> LettersRead {
        let Some(all) = self.letters.0.get(pipeline) else {
            return Vec::new().into();
        };
        let mut found = Vec::new();
        let mut bytes = 0;
        for (key, of_key) in &all.of_key {
            let is_behind = match (key, page.after) {
                (None, after) => after.is_none(),
                (Some(key), after) => key.as_str() > after.unwrap_or(""),
            };
            if !is_behind {
                continue;
            }
            let most = if key.is_some() {
                MOST_OF_A_KEY
            } else {
                page.letters as usize
            };
            let wanted = of_key
                .iter()
                .filter(|(_, row)| all.rows[row].state == State::Retry);
            for place in wanted.take(most) {
                let row = read(&self.rows[&(self.outbox_of(pipeline), place.1)], now);
                bytes += row.memory();
                let is_too_heavy = bytes > page.bytes && !found.is_empty();
                if found.len() >= page.letters as usize || is_too_heavy {
                    let cut = is_too_heavy.then_some(Cut::Before(row.id));
                    return LettersRead {
                        letters: found,
                        cut,
                    };
                }
                found.push(LetterAgain {
                    row,
                    key: key.clone(),
                    frees_key: all.frees(key.as_ref(), *place),
                });
            }
        }
        found.into()
    }

    /// `OWNED`, `CLOSE` and `WAIT_BEHIND`.
    pub(crate) fn save_letters(
        &mut self,
        pipeline: &str,
        epoch: Epoch,
        outcomes: &[LetterOutcome],
    ) -> Fenced {
        let owned = self.positions.get(pipeline);
        if owned.is_none_or(|stored| stored.epoch != epoch) {
            return Fenced::Stale;
        }
        let all = self.letters.0.entry(pipeline.to_owned()).or_default();
        for one in outcomes {
            let letter = all.rows.get_mut(&one.row);
            if let Some(letter) = letter.filter(|letter| letter.state == State::Retry) {
                match &one.refused {
                    None => letter.set(State::Delivered),
                    Some((reason, _)) => {
                        letter.reason = *reason;
                        letter.set(State::Parked);
                    }
                }
            }
        }
        for one in outcomes {
            let letter = all.rows.get(&one.row);
            let parked = letter.filter(|one| one.blocks_key && one.state == State::Parked);
            let Some((key, window)) = parked.and_then(|one| Some((one.key.clone()?, one.window)))
            else {
                continue;
            };
            let is_behind =
                |letter: &(RowId, &Letter)| (letter.1.window, letter.0) > (window, one.row);
            let behind = all.blocking(&key).filter(is_behind);
            let rows: Vec<RowId> = behind.map(|(row, _)| row).collect();
            for row in rows {
                let letter = all.rows.get_mut(&row).expect("a letter");
                if letter.state == State::Retry {
                    letter.set(State::Waiting);
                }
            }
        }
        self.commits();
        Fenced::Written
    }
}

impl OfPipeline {
    fn frees(&self, key: Option<&String>, place: (u64, RowId)) -> bool {
        let Some(key) = key.filter(|_| self.rows[&place.1].blocks_key) else {
            return false;
        };
        let mut others = self.blocking(key);
        !others.any(|(row, one)| one.state != State::Retry || (one.window, row) > place)
    }
}
