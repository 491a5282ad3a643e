//! The rows of one key that wait.

use std::collections::VecDeque;
use std::hash::{BuildHasherDefault, Hasher};

use super::Sendable;

/// The hash keys are MD5 already: hashing them again would be waste.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct KeyHasher(u64);

pub(super) type KeyHash = BuildHasherDefault<KeyHasher>;

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 ^= u64::from_le_bytes(word);
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "its halves")]
    fn write_u128(&mut self, hash: u128) {
        self.0 ^= hash as u64 ^ (hash >> 64) as u64;
    }
}

/// Rows in order. Of many keys most have one row, which needs no queue.
#[derive(Debug)]
pub(super) struct KeyRows<T> {
    first: Option<T>,
    /// Empty while there is no first one.
    rest: VecDeque<T>,
}

impl<T> KeyRows<T> {
    const fn new() -> Self {
        Self {
            first: None,
            rest: VecDeque::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.len()
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    pub(super) const fn front(&self) -> Option<&T> {
        self.first.as_ref()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.first.iter().chain(&self.rest)
    }

    pub(super) fn push_back(&mut self, row: T) {
        if self.first.is_none() {
            self.first = Some(row);
        } else {
            self.rest.push_back(row);
        }
    }

    pub(super) fn push_front(&mut self, row: T) {
        if let Some(second) = self.first.replace(row) {
            self.rest.push_front(second);
        }
    }

    pub(super) fn pop_front(&mut self) -> Option<T> {
        let second = self.rest.pop_front();
        std::mem::replace(&mut self.first, second)
    }

    /// Takes out all but the first so many.
    pub(super) fn split_off(&mut self, at: usize) -> Vec<T> {
        let Some(behind_first) = at.checked_sub(1) else {
            let all = std::mem::replace(self, Self::new());
            return all.into_iter().collect();
        };
        if behind_first >= self.rest.len() {
            return Vec::new();
        }
        self.rest.split_off(behind_first).into()
    }
}

impl<T> IntoIterator for KeyRows<T> {
    type Item = T;
    type IntoIter =
        std::iter::Chain<std::option::IntoIter<T>, std::collections::vec_deque::IntoIter<T>>;

    fn into_iter(self) -> Self::IntoIter {
        self.first.into_iter().chain(self.rest)
    }
}

#[derive(Debug)]
pub(super) struct KeyQueue<T> {
    pub(super) rows: KeyRows<T>,
    pub(super) bytes: usize,
    pub(super) in_flight: bool,
    /// How many of the first rows were sent before.
    pub(super) again: usize,
}

impl<T: Sendable> KeyQueue<T> {
    pub(super) const fn new() -> Self {
        Self {
            rows: KeyRows::new(),
            bytes: 0,
            in_flight: false,
            again: 0,
        }
    }

    pub(super) fn pop(&mut self) -> Option<T> {
        let row = self.rows.pop_front()?;
        self.bytes -= row.weight();
        self.again = self.again.saturating_sub(1);
        Some(row)
    }

    pub(super) fn first_weight(&self) -> usize {
        self.rows.front().map_or(0, Sendable::weight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Step {
        Back(u8),
        Front(u8),
        Pop,
        SplitOff(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => any::<u8>().prop_map(Step::Back),
            2 => any::<u8>().prop_map(Step::Front),
            3 => Just(Step::Pop),
            1 => (0_usize..8).prop_map(Step::SplitOff),
        ];
        proptest::collection::vec(step, 0..40)
    }

    proptest! {
        #[test]
        fn rows_of_a_key_are_a_queue(steps in steps()) {
            let mut rows = KeyRows::new();
            let mut model: VecDeque<u8> = VecDeque::new();
            for step in steps {
                match step {
                    Step::Back(row) => {
                        rows.push_back(row);
                        model.push_back(row);
                    }
                    Step::Front(row) => {
                        rows.push_front(row);
                        model.push_front(row);
                    }
                    Step::Pop => prop_assert_eq!(rows.pop_front(), model.pop_front()),
                    Step::SplitOff(at) => {
                        let at = at.min(model.len());
                        prop_assert_eq!(rows.split_off(at), Vec::from(model.split_off(at)));
                    }
                }
                prop_assert_eq!(rows.len(), model.len());
                prop_assert_eq!(rows.is_empty(), model.is_empty());
                prop_assert_eq!(rows.front(), model.front());
                prop_assert!(rows.iter().eq(&model));
            }
            prop_assert!(rows.into_iter().eq(model));
        }
    }
}
