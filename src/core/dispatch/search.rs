//! The search for the row that spoils its calls.

use super::{Answer, Dispatch, MOST_ROWS, Rejected};
use crate::core::send_queue::{Parcel, Sendable, Turn};
use crate::core::time::Moment;

impl<T: Sendable> Dispatch<T> {
    /// Halves the next call until the row that spoils it is alone. Suspects go
    /// first, and no call grows before they are cleared, so each refusal is of half
    /// the rows of the one before: 500 are searched in at most 18 calls, a record of
    /// 500 rows like 500 records.
    pub(super) fn search_bad_record(
        &mut self,
        mut sent: Vec<Parcel<T>>,
        code: String,
        message: String,
    ) -> Answer<T> {
        let mut answer = Answer::nothing();
        let rows: usize = sent.iter().map(Parcel::len).sum();
        if rows == 1
            && let Some(alone) = sent.pop()
        {
            self.suspects = 0;
            self.unwitnessed += 1;
            self.most_rows = MOST_ROWS;
            let flow = alone.flow;
            answer.rejected = alone.into_rows().next().map(|row| Rejected {
                flow,
                row,
                code,
                message,
            });
            return answer;
        }
        answer.refused = sent.len();
        self.suspects = rows;
        self.most_rows = (rows / 2).max(1);
        for parcel in sent.into_iter().rev() {
            self.queue.failed(parcel, Turn::First);
        }
        answer
    }

    /// No row is blamed any more: single ones are tried in turn, slowly, until one is
    /// stored.
    pub(super) fn look_for_a_witness(
        &mut self,
        sent: Vec<Parcel<T>>,
        now: Moment,
        random: f64,
    ) -> Answer<T> {
        let mut answer = Answer::nothing();
        answer.refused = sent.len();
        self.suspects = 0;
        self.most_rows = 1;
        self.not_before = now + self.lasting.after_failure(random);
        for parcel in sent {
            self.queue.failed(parcel, Turn::Last);
        }
        answer
    }
}
