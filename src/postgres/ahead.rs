//! Rows that are settled ahead of a position, as a text: of each window its number, the
//! first id, and how far each next one lies behind the one before, `3:7,5;4:2` for rows
//! 7 and 12 of window 3 and row 2 of window 4. Rows lie close together, so that most
//! take two or three characters.

use std::fmt::Write;
use std::num::ParseIntError;

use crate::core::position::{RowId, Seq, WindowNumber};

/// Writes rows, which are in order.
pub(super) fn write(rows: &[Seq]) -> String {
    let mut text = String::new();
    let mut last: Option<Seq> = None;
    for row in rows {
        let written = match last {
            Some(last) if last.window == row.window => {
                write!(text, ",{}", row.id.wrapping_sub(last.id))
            }
            Some(_) => write!(text, ";{}:{}", row.window.0, row.id),
            None => write!(text, "{}:{}", row.window.0, row.id),
        };
        debug_assert!(written.is_ok(), "a text takes everything");
        last = Some(*row);
    }
    text
}

/// Reads what was written.
pub(super) fn read(text: &str) -> Result<Vec<Seq>, ParseIntError> {
    let mut rows = Vec::new();
    for of_window in text.split(';').filter(|part| !part.is_empty()) {
        let (window, ids) = of_window.split_once(':').unwrap_or((of_window, ""));
        let window = WindowNumber(window.parse()?);
        let mut id: RowId = 0;
        for step in ids.split(',') {
            id = id.wrapping_add(step.parse::<RowId>()?);
            rows.push(Seq { window, id });
        }
    }
    // What is looked up by halves must be in order, whoever wrote it.
    rows.sort_unstable();
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(
            rows in prop::collection::btree_set((0u64..5, any::<i64>()), 0..40),
        ) {
            let seq = |(window, id)| Seq { window: WindowNumber(window), id };
            let rows: Vec<Seq> = rows.into_iter().map(seq).collect();
            prop_assert_eq!(read(&write(&rows)), Ok(rows));
        }
    }

    #[test]
    fn what_is_not_a_number_is_refused() {
        for text in ["x:1", "1:x", "1", "1:"] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
