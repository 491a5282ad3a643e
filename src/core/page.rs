//! What one read of rows may bring, and what it brought.
//!
//! A read is bounded in rows and in bytes, since nobody knows what the next row
//! weighs: rows of 300 bytes may be followed by rows of 20 MiB. Rules:
//! - what a read brings never weighs more than its bound; a row that does not fit
//!   ends it, and is named;
//! - a row that could not fit however empty the read is comes without its payload,
//!   as a [`LargeRow`]: whoever wants it makes room for it, and reads it alone;
//! - rows come in the order that was asked for, and none is left out before the cut.

use super::position::RowId;
use super::row::OutboxRow;

/// The most one read may bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadBound {
    /// Rows.
    pub rows: u32,
    /// Bytes, by [`OutboxRow::memory`].
    pub bytes: usize,
}

/// A bound of rows alone, for whoever knows what they weigh.
impl From<u32> for ReadBound {
    fn from(rows: u32) -> Self {
        let bytes = usize::MAX;
        Self { rows, bytes }
    }
}

/// A row that did not fit in a read that brought nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LargeRow {
    /// The row without its payload. Its headers are empty if they are large too, and
    /// of its key there is no more than a partition key could hold.
    pub row: OutboxRow,
    /// What its payload weighs as text, in bytes.
    pub payload_bytes: usize,
    /// What all of it would weigh, by [`OutboxRow::memory`].
    pub memory: usize,
}

/// Why a read ended before its last row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cut {
    /// This row would have made it too heavy.
    Before(RowId),
    /// This row is too heavy for a read of that bound.
    Large(Box<LargeRow>),
}

impl Cut {
    /// The first row that was not read.
    #[must_use]
    pub const fn next(&self) -> RowId {
        match self {
            Self::Before(id) => *id,
            Self::Large(large) => large.row.id,
        }
    }
}

/// What a read brought.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RowPage {
    /// The rows.
    pub rows: Vec<OutboxRow>,
    /// Why there are no more of those that were asked for, if bytes are the reason.
    pub cut: Option<Cut>,
}

/// All that was asked for.
impl From<Vec<OutboxRow>> for RowPage {
    fn from(rows: Vec<OutboxRow>) -> Self {
        Self { rows, cut: None }
    }
}

/// Fills a page within a bound of bytes.
#[derive(Debug)]
pub struct PageFill<T> {
    most: usize,
    bytes: usize,
    items: Vec<T>,
    cut: Option<Cut>,
}

impl<T> PageFill<T> {
    /// An empty page of at most so many bytes.
    #[must_use]
    pub const fn new(most: usize) -> Self {
        Self {
            most,
            bytes: 0,
            items: Vec::new(),
            cut: None,
        }
    }

    /// Whether nothing more goes in.
    #[must_use]
    pub const fn is_cut(&self) -> bool {
        self.cut.is_some()
    }

    /// Adds what was made of a row that weighs so much, if it fits behind those
    /// before it.
    pub fn push(&mut self, id: RowId, memory: usize, item: T) {
        if self.is_cut() {
            return;
        }
        if self.bytes.saturating_add(memory) > self.most {
            self.cut = Some(Cut::Before(id));
            return;
        }
        self.bytes += memory;
        self.items.push(item);
    }

    /// The next row is too heavy for a page like this.
    pub fn push_large(&mut self, large: LargeRow) {
        if !self.is_cut() {
            self.cut = Some(Cut::Large(Box::new(large)));
        }
    }

    /// What is in it.
    #[must_use]
    pub fn finish(self) -> (Vec<T>, Option<Cut>) {
        (self.items, self.cut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::timestamp::Timestamp;
    use std::time::Duration;

    fn large(id: RowId) -> LargeRow {
        LargeRow {
            row: OutboxRow {
                id,
                dedup_key: None,
                payload: String::new(),
                headers: "{}".to_owned(),
                created_at: Timestamp::default(),
                age: Duration::ZERO,
            },
            payload_bytes: 5_000,
            memory: 5_512,
        }
    }

    #[test]
    fn a_page_is_never_heavier_than_its_bound() {
        let mut page = PageFill::new(100);
        page.push(1, 60, "a");
        page.push(2, 40, "b");
        assert!(!page.is_cut());
        page.push(3, 1, "c");
        assert_eq!(page.finish(), (vec!["a", "b"], Some(Cut::Before(3))));
    }

    #[test]
    fn nothing_comes_after_a_cut() {
        let mut page = PageFill::new(100);
        page.push(1, 60, "a");
        page.push(2, 50, "b");
        page.push(3, 1, "c");
        page.push_large(large(4));
        assert_eq!(page.finish(), (vec!["a"], Some(Cut::Before(2))));
        let mut page = PageFill::new(100);
        page.push_large(large(4));
        page.push(5, 1, "e");
        let (items, cut) = page.finish();
        assert!(items.is_empty());
        assert_eq!(cut.map(|cut| cut.next()), Some(4));
    }
}
