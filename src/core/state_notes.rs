//! When what a pipeline is doing is written down for people who look in SQL.
//!
//! Rules:
//! - a state is written when it changes, at once; nothing is written otherwise;
//! - a reason that changes while the state stays (a request's id in it, a counter)
//!   is written every [`AGAIN_AFTER`] at most;
//! - what another node had to say is offered again after as long: should that node
//!   die, this one speaks;
//! - a pipeline that stands by says nothing, and knows nothing of what is written.

use std::collections::BTreeMap;
use std::time::Duration;

use super::catalog::StateNote;
use super::ports::PipelineName;
use super::time::Moment;

/// The pause between two writes of one pipeline that tell little new.
pub const AGAIN_AFTER: Duration = Duration::from_secs(30);

/// What a pipeline has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Saying {
    /// This.
    Note(StateNote),
    /// Nothing yet: what was said last holds.
    Nothing,
    /// Nothing: another node speaks for it.
    Silence,
}

/// What is to be written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Due {
    /// States.
    pub states: Vec<StateNote>,
    /// Pipelines that are no more.
    pub gone: Vec<PipelineName>,
}

#[derive(Debug)]
struct Written {
    note: StateNote,
    at: Moment,
    taken: bool,
}

/// What one node has written of the pipelines of one database.
#[derive(Debug, Default)]
pub struct StateNotes {
    written: BTreeMap<PipelineName, Written>,
}

impl Due {
    /// Whether there is nothing to write.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.states.is_empty() && self.gone.is_empty()
    }
}

impl StateNotes {
    /// What has to be written, when this is what all pipelines say now.
    #[must_use]
    pub fn due(&mut self, sayings: Vec<(PipelineName, Saying)>, now: Moment) -> Due {
        let mut due = Due::default();
        let mut known = BTreeMap::new();
        for (pipeline, saying) in sayings {
            let written = self.written.remove(&pipeline);
            match saying {
                Saying::Note(note) => {
                    if written.as_ref().is_none_or(|old| old.is_due(&note, now)) {
                        due.states.push(note);
                    }
                }
                Saying::Nothing => {}
                Saying::Silence => continue,
            }
            if let Some(written) = written {
                known.insert(pipeline, written);
            }
        }
        due.gone = self.written.keys().cloned().collect();
        // Those stay until it is written that they are gone.
        self.written.append(&mut known);
        due
    }

    /// It was written; `taken` are the pipelines for which this node may speak.
    pub fn wrote(&mut self, due: Due, taken: &[String], now: Moment) {
        for note in due.states {
            let taken = taken.iter().any(|name| **name == *note.pipeline);
            let written = Written {
                taken,
                at: now,
                note,
            };
            self.written.insert(written.note.pipeline.clone(), written);
        }
        for pipeline in due.gone {
            self.written.remove(&pipeline);
        }
    }
}

impl Written {
    fn is_due(&self, note: &StateNote, now: Moment) -> bool {
        let is_other = self.note.state != note.state || self.note.epoch != note.epoch;
        let is_little_news = self.note.reason != note.reason || !self.taken;
        is_other || is_little_news && now.since(self.at) >= AGAIN_AFTER
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::ports::Epoch;

    fn note(state: &'static str, reason: &str, epoch: Option<i64>) -> StateNote {
        StateNote {
            pipeline: "p".into(),
            epoch: epoch.map(Epoch),
            state,
            reason: Some(reason.to_owned()),
        }
    }

    struct Table(StateNotes, Moment);

    impl Table {
        fn new() -> Self {
            Self(StateNotes::default(), Moment::ORIGIN)
        }

        fn after(&mut self, pause: Duration) -> &mut Self {
            self.1 = self.1 + pause;
            self
        }

        #[track_caller]
        fn says(&mut self, saying: Saying, is_taken: bool, is_due: bool) {
            let due = self.0.due(vec![("p".into(), saying)], self.1);
            assert_eq!(due.is_empty(), !is_due, "{due:?}");
            if is_due {
                let taken = if is_taken {
                    vec!["p".to_owned()]
                } else {
                    vec![]
                };
                self.0.wrote(due, &taken, self.1);
            }
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_state_is_written_once_and_a_reason_seldom() {
        let mut table = Table::new();
        table.says(Saying::Note(note("waiting", "a", None)), true, true);
        for _ in 0..100 {
            let table = table.after(SECOND);
            table.says(Saying::Note(note("waiting", "a", None)), true, false);
        }
        table.says(Saying::Note(note("waiting", "b", None)), true, true);
        for second in 1..=60 {
            let is_due = second % 30 == 0;
            let reason = second.to_string();
            let table = table.after(SECOND);
            table.says(Saying::Note(note("waiting", &reason, None)), true, is_due);
        }
        table.says(Saying::Note(note("running", "", Some(1))), true, true);
        table.says(Saying::Nothing, true, false);
        table.says(Saying::Note(note("running", "", Some(1))), true, false);
        table.says(Saying::Note(note("running", "", Some(2))), true, true);
    }

    #[test]
    fn what_another_node_forbids_is_offered_again() {
        let mut table = Table::new();
        table.says(Saying::Note(note("invalid", "a", None)), false, true);
        let almost = AGAIN_AFTER - SECOND;
        let table = table.after(almost);
        table.says(Saying::Note(note("invalid", "a", None)), false, false);
        let table = table.after(SECOND);
        table.says(Saying::Note(note("invalid", "a", None)), true, true);
        table.after(AGAIN_AFTER);
        table.says(Saying::Note(note("invalid", "a", None)), true, false);
    }

    #[test]
    fn a_standby_forgets_and_the_gone_are_taken_off_once() {
        let mut table = Table::new();
        table.says(Saying::Note(note("paused", "a", None)), true, true);
        table.says(Saying::Silence, true, false);
        table.says(Saying::Note(note("paused", "a", None)), true, true);
        let due = table.0.due(vec![], table.1);
        assert_eq!(due.gone, [PipelineName::from("p")]);
        // The write failed: it is asked for again.
        assert_eq!(table.0.due(vec![], table.1), due);
        table.0.wrote(due, &[], table.1);
        assert!(table.0.due(vec![], table.1).is_empty());
    }
}
