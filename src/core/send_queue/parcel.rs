//! A record on its way to a call: one row, or several rows of one flow that share
//! it and its fate.

use std::collections::HashMap;
use std::iter;

use super::key_queue::KeyHash;
use super::{FlowId, SendQueue, Sendable, Sharing};
use crate::core::aggregation::{Measure, Packing};

/// One record of a call: at least one row of one flow, of each key its first ones
/// in order.
#[derive(Debug)]
pub struct Parcel<T> {
    /// Whose it is.
    pub flow: FlowId,
    first: T,
    rest: Vec<T>,
    packing: Option<Packing>,
    weight: usize,
    has_one_key: bool,
}

impl<T: Sendable> Parcel<T> {
    /// A record of one row of a flow without aggregation.
    #[must_use]
    pub fn of_one(flow: FlowId, row: T) -> Self {
        Self {
            flow,
            weight: row.weight(),
            first: row,
            rest: Vec::new(),
            packing: None,
            has_one_key: true,
        }
    }

    /// Its first row.
    #[must_use]
    pub const fn first(&self) -> &T {
        &self.first
    }

    /// How its rows share it; `None`: it is one row of a flow without aggregation.
    #[must_use]
    pub const fn packing(&self) -> Option<Packing> {
        self.packing
    }

    /// The most it weighs when it is sent, data and partition key, in bytes.
    #[must_use]
    pub const fn weight(&self) -> usize {
        self.weight
    }

    /// How many rows it has: at least one.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        1 + self.rest.len()
    }

    /// Whether all its rows have one hash key: then the shard that took it is the
    /// right one for all of them.
    #[must_use]
    pub const fn has_one_key(&self) -> bool {
        self.has_one_key
    }

    /// It was made, and weighs so much.
    pub(in crate::core) const fn weighed(&mut self, weight: usize) {
        self.weight = weight;
    }

    /// Its rows, in order.
    pub fn rows(&self) -> impl Iterator<Item = &T> + '_ {
        iter::once(&self.first).chain(&self.rest)
    }

    /// It may be in the stream.
    pub(in crate::core) fn doubt(&mut self) {
        self.first.doubt();
        self.rest.iter_mut().for_each(Sendable::doubt);
    }

    /// Its rows, in order.
    pub fn into_rows(self) -> impl DoubleEndedIterator<Item = T> {
        iter::once(self.first).chain(self.rest)
    }

    /// The hash keys of its rows, each once, in the order of their first rows.
    pub fn hashes(&self) -> impl Iterator<Item = u128> + use<T> {
        let mut others = Vec::new();
        if !self.has_one_key {
            let mut seen: HashMap<u128, (), KeyHash> = HashMap::default();
            seen.insert(self.first.hash(), ());
            let rest = self.rest.iter().map(Sendable::hash);
            others.extend(rest.filter(|hash| seen.insert(*hash, ()).is_none()));
        }
        iter::once(self.first.hash()).chain(others)
    }
}

/// A parcel that rows are still added to.
#[derive(Debug)]
pub(super) struct OpenParcel<T> {
    packing: Packing,
    rows: Vec<T>,
    /// Of each hash key its place among the keys, and its first row.
    keys: HashMap<u128, (usize, usize), KeyHash>,
    measure: Measure,
}

/// What a row weighs as a record of its own.
pub(super) fn weight_alone<T: Sendable>(packing: Option<Packing>, row: &T) -> usize {
    packing.map_or_else(
        || row.weight(),
        |packing| with(Measure::empty(packing), 0, row).weight(),
    )
}

fn with<T: Sendable>(measure: Measure, place: usize, row: &T) -> Measure {
    let body = row.weight().saturating_sub(row.key_bytes());
    measure.with(place, row.key_bytes(), body)
}

impl<T: Sendable> OpenParcel<T> {
    pub(super) fn begin(packing: Packing, row: T) -> Self {
        let mut keys = HashMap::default();
        keys.insert(row.hash(), (0, 0));
        Self {
            packing,
            measure: with(Measure::empty(packing), 0, &row),
            rows: vec![row],
            keys,
        }
    }

    pub(super) const fn weight(&self) -> usize {
        self.measure.weight()
    }

    /// The record with this row in it; `None` when it has no place for the row.
    pub(super) fn with(&self, row: &T, sharing: Sharing) -> Option<Measure> {
        let known = self.keys.get(&row.hash());
        match sharing {
            Sharing::Nothing => return None,
            Sharing::OneKey if known.is_none() => return None,
            Sharing::OneKey | Sharing::AllKeys => {}
        }
        // Two keys with one hash key would be one in the record.
        if let Some((_, first)) = known
            && !self
                .rows
                .get(*first)
                .is_some_and(|first| first.is_of_key_of(row))
        {
            return None;
        }
        let place = known.map_or(self.keys.len(), |(place, _)| *place);
        let measure = with(self.measure, place, row);
        (measure.weight() <= self.packing.max_bytes).then_some(measure)
    }

    pub(super) fn add(&mut self, row: T, measure: Measure) {
        let next = (self.keys.len(), self.rows.len());
        self.keys.entry(row.hash()).or_insert(next);
        self.rows.push(row);
        self.measure = measure;
    }

    pub(super) fn close(self, flow: FlowId) -> Option<Parcel<T>> {
        let weight = self.weight();
        let has_one_key = self.measure.keys() <= 1;
        let mut rows = self.rows.into_iter();
        Some(Parcel {
            flow,
            first: rows.next()?,
            rest: rows.collect(),
            packing: Some(self.packing),
            weight,
            has_one_key,
        })
    }
}

impl<T: Sendable> SendQueue<T> {
    /// Whether the rows of a flow that aggregates are enough for a full record.
    #[must_use]
    pub fn fills_a_record(&self) -> bool {
        self.flows.values().any(|queue| {
            let packing = queue.flow.packing;
            packing.is_some_and(|packing| queue.ready_bytes >= packing.max_bytes)
        })
    }
}
