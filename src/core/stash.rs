//! Rows that were read before their shard had room for them.
//!
//! They are remembered by id alone, 8 bytes each, and read again in order when
//! there is room: so a stuck shard holds up neither its neighbours nor memory.

use std::collections::VecDeque;

use super::position::{RowId, Seq, WindowNumber};

#[derive(Debug, Clone, PartialEq, Eq)]
struct Run {
    window: WindowNumber,
    ids: VecDeque<RowId>,
}

/// Rows in delivery order, by id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stash {
    runs: VecDeque<Run>,
    rows: usize,
}

impl Stash {
    /// How many rows there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.rows
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Adds a row behind all others.
    pub fn push(&mut self, seq: Seq) {
        self.rows += 1;
        if let Some(last) = self.runs.back_mut()
            && last.window == seq.window
        {
            last.ids.push_back(seq.id);
            return;
        }
        self.runs.push_back(Run {
            window: seq.window,
            ids: VecDeque::from([seq.id]),
        });
    }

    /// The first row.
    #[must_use]
    pub fn first(&self) -> Option<Seq> {
        let run = self.runs.front()?;
        let id = *run.ids.front()?;
        Some(Seq {
            window: run.window,
            id,
        })
    }

    /// The first `count` rows of the first `windows` windows, in order; fewer when
    /// there are fewer.
    #[must_use]
    pub fn peek(&self, count: usize, windows: usize) -> Vec<Seq> {
        let in_order = self.runs.iter().take(windows).flat_map(|run| {
            let window = run.window;
            run.ids.iter().map(move |id| Seq { window, id: *id })
        });
        in_order.take(count).collect()
    }

    /// Removes the first row.
    pub fn pop(&mut self) -> Option<Seq> {
        let run = self.runs.front_mut()?;
        let id = run.ids.pop_front()?;
        let seq = Seq {
            window: run.window,
            id,
        };
        if run.ids.is_empty() {
            self.runs.pop_front();
        }
        self.rows -= 1;
        Some(seq)
    }

    /// The windows `from` to `to` have become one, under the number `to`: the
    /// rows of them go by id now.
    pub fn merge_windows(&mut self, from: WindowNumber, to: WindowNumber) {
        let begin = self.runs.partition_point(|run| run.window < from);
        let end = self.runs.partition_point(|run| run.window <= to);
        if begin == end {
            return;
        }
        let mut ids: Vec<RowId> = self
            .runs
            .drain(begin..end)
            .flat_map(|run| run.ids)
            .collect();
        ids.sort_unstable();
        self.runs.insert(
            begin,
            Run {
                window: to,
                ids: ids.into(),
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seq(window: u64, id: RowId) -> Seq {
        Seq {
            window: WindowNumber(window),
            id,
        }
    }

    #[test]
    fn gives_back_what_was_put_in_order() {
        let mut stash = Stash::default();
        let rows = [seq(1, 5), seq(1, 9), seq(2, 3), seq(4, 8)];
        for row in rows {
            stash.push(row);
        }
        assert_eq!(stash.len(), 4);
        assert_eq!(stash.peek(3, 9), rows[..3]);
        assert_eq!(stash.peek(9, 2), rows[..3]);
        assert_eq!(stash.first(), Some(rows[0]));
        let popped: Vec<Seq> = std::iter::from_fn(|| stash.pop()).collect();
        assert_eq!(popped, rows);
        assert!(stash.is_empty() && stash.first().is_none());
    }

    #[test]
    fn merged_windows_go_by_id_under_the_highest_number() {
        let mut stash = Stash::default();
        for row in [seq(1, 50), seq(2, 60), seq(3, 55), seq(3, 70), seq(5, 1)] {
            stash.push(row);
        }
        stash.merge_windows(WindowNumber(2), WindowNumber(4));
        assert_eq!(
            stash.peek(9, 9),
            [seq(1, 50), seq(4, 55), seq(4, 60), seq(4, 70), seq(5, 1)]
        );
        assert_eq!(stash.len(), 5);
    }
}
