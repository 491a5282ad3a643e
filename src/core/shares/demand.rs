//! What a node would send to each shard if it could, as every other node sees it.
//!
//! A wish is a *step* of a scale whose neighbours differ by a tenth, so that small
//! changes of a load change nothing. Step 0 is a node that could write to the shard and
//! has no pipeline that does; step 1, the least a node with a pipeline says, is one
//! record a second.
//!
//! The text is a JSON object of at most [`MOST_BYTES`]:
//! `{"s":{"<stream>":{"<shard>":[<records>,<bytes>]}},"m":["<stream>"]}`, where
//! `shardId-000000000012` is `12`. What does not fit is left out, idle shards and small
//! wishes first; `m` has the streams of which wishes were left out (`true`: some
//! streams' names did not fit either). Of such shards the node is taken to wish for an
//! equal part.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::super::shard_map::ShardId;
use super::{LEAST, Parts, ShardName, Share, WHOLE};

/// The most shards that one node says something of.
pub const MOST_SHARDS: usize = 256;

/// The most shards among them that the node could write to and does not.
pub const MOST_IDLE: usize = 32;

/// The most bytes of the text.
pub const MOST_BYTES: usize = 8 << 10;

/// The highest step: all of a shard.
pub const TOP: u8 = 74;

const PREFIX: &str = "shardId-";

/// A wish for a shard, by each of its limits, in steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, PartialOrd, Ord, Hash)]
pub struct Wish {
    /// Of its records.
    pub records: u8,
    /// Of its bytes.
    pub bytes: u8,
}

/// Of which shards wishes were left out.
#[derive(Debug, Clone, PartialEq, Eq)]
enum LeftOut {
    Of(BTreeSet<Arc<str>>),
    Anywhere,
}

/// The wishes of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Demand {
    shards: BTreeMap<ShardName, Wish>,
    left_out: LeftOut,
}

/// What a node says of one shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// Nothing: it does not write to it.
    Nothing,
    /// It writes to it, and is to get an equal part.
    EqualPart,
    /// It wishes for so much.
    Wish(Wish),
}

/// The parts of a step: at least [`LEAST`] from step 1 on.
#[must_use]
pub fn parts_of(step: u8) -> Parts {
    let mut parts = if step == 0 { 0 } else { LEAST * 100 };
    for _ in 1..step.min(TOP) {
        parts += parts / 10;
    }
    if step >= TOP {
        return WHOLE;
    }
    (parts / 100).min(WHOLE)
}

/// The lowest step of at least so many parts.
#[must_use]
pub fn step_for(parts: Parts) -> u8 {
    (0..TOP)
        .find(|step| parts_of(*step) >= parts)
        .unwrap_or(TOP)
}

// === impl Wish ===

impl Wish {
    /// For everything.
    pub const ALL: Self = Self {
        records: TOP,
        bytes: TOP,
    };

    /// In parts.
    #[must_use]
    pub fn share(self) -> Share {
        Share {
            records: parts_of(self.records),
            bytes: parts_of(self.bytes),
        }
    }

    /// The greater of each.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            records: self.records.max(other.records),
            bytes: self.bytes.max(other.bytes),
        }
    }
}

// === impl Demand ===

impl Default for Demand {
    fn default() -> Self {
        Self {
            shards: BTreeMap::new(),
            left_out: LeftOut::Of(BTreeSet::new()),
        }
    }
}

impl Demand {
    /// Of these wishes as much as fits.
    #[must_use]
    pub fn of(wishes: impl IntoIterator<Item = (ShardName, Wish)>) -> Self {
        let mut wishes: Vec<(ShardName, Wish)> = wishes.into_iter().collect();
        // The greatest first; among equals an order that lasts.
        wishes.sort_by(|(a, wish_a), (b, wish_b)| {
            let size = |wish: &Wish| (wish.records.max(wish.bytes), *wish);
            size(wish_b).cmp(&size(wish_a)).then_with(|| a.cmp(b))
        });
        let mut demand = Self::default();
        let mut bytes = EMPTY_TEXT;
        let mut streams = BTreeSet::new();
        let mut idle = 0;
        for (name, wish) in wishes {
            let of_stream = if streams.contains(&name.stream) {
                0
            } else {
                2 * name.stream.len() + 16
            };
            idle += usize::from(wish == Wish::default());
            if idle > MOST_IDLE {
                break;
            }
            let more = of_stream + short(&name.shard).len() + 12;
            if demand.shards.len() < MOST_SHARDS && bytes + more <= MOST_BYTES {
                bytes += more;
                streams.insert(Arc::clone(&name.stream));
                demand.shards.insert(name, wish);
            } else if wish != Wish::default() {
                demand.leave_out(&streams, name.stream);
            }
        }
        demand
    }

    /// The name of a stream whose wishes are in is there anyway, and paid for twice.
    fn leave_out(&mut self, named: &BTreeSet<Arc<str>>, stream: Arc<str>) {
        match &mut self.left_out {
            LeftOut::Of(streams) if named.contains(&stream) => {
                streams.insert(stream);
            }
            LeftOut::Of(_) => self.left_out = LeftOut::Anywhere,
            LeftOut::Anywhere => {}
        }
    }

    /// What it says of a shard.
    #[must_use]
    pub fn said(&self, shard: &ShardName) -> Said {
        if let Some(wish) = self.shards.get(shard) {
            return Said::Wish(*wish);
        }
        let is_left_out = match &self.left_out {
            LeftOut::Of(streams) => streams.contains(&shard.stream),
            LeftOut::Anywhere => true,
        };
        if is_left_out {
            Said::EqualPart
        } else {
            Said::Nothing
        }
    }

    /// Of how many shards it says something.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards.len()
    }

    /// Whether it says nothing of any shard.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.shards.is_empty() && self.left_out == LeftOut::Of(BTreeSet::new())
    }

    /// The text of it.
    #[must_use]
    pub fn text(&self) -> String {
        let mut streams: Map<String, Value> = Map::new();
        for (name, wish) in &self.shards {
            let of_stream = streams
                .entry(name.stream.to_string())
                .or_insert_with(|| json!({}));
            if let Value::Object(shards) = of_stream {
                let wish = json!([wish.records, wish.bytes]);
                shards.insert(short(&name.shard), wish);
            }
        }
        let mut text = Map::new();
        if !streams.is_empty() {
            text.insert("s".to_owned(), Value::Object(streams));
        }
        match &self.left_out {
            LeftOut::Of(streams) if streams.is_empty() => {}
            LeftOut::Of(streams) => {
                let names: Vec<&str> = streams.iter().map(|name| &**name).collect();
                text.insert("m".to_owned(), json!(names));
            }
            LeftOut::Anywhere => {
                text.insert("m".to_owned(), json!(true));
            }
        }
        Value::Object(text).to_string()
    }

    /// Reads a text. Of a node whose text is not understood nothing is known: it is
    /// taken to write everywhere.
    #[must_use]
    pub fn read(text: &str) -> Self {
        Self::understand(text).unwrap_or(Self {
            shards: BTreeMap::new(),
            left_out: LeftOut::Anywhere,
        })
    }

    fn understand(text: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(text).ok()?;
        let mut demand = Self::default();
        if let Some(streams) = value.as_object()?.get("s") {
            for (stream, shards) in streams.as_object()? {
                let stream: Arc<str> = stream.as_str().into();
                for (shard, wish) in shards.as_object()? {
                    let [records, bytes] = wish.as_array()?.as_slice() else {
                        return None;
                    };
                    let step = |value: &Value| u8::try_from(value.as_u64()?).ok();
                    let wish = Wish {
                        records: step(records)?,
                        bytes: step(bytes)?,
                    };
                    let name = ShardName {
                        stream: Arc::clone(&stream),
                        shard: long(shard),
                    };
                    demand.shards.insert(name, wish);
                }
            }
        }
        match value.get("m") {
            None => {}
            Some(Value::Array(names)) => {
                let names = names.iter().map(|name| name.as_str().map(Arc::from));
                demand.left_out = LeftOut::Of(names.collect::<Option<_>>()?);
            }
            Some(_) => demand.left_out = LeftOut::Anywhere,
        }
        Some(demand)
    }
}

const EMPTY_TEXT: usize = r#"{"s":{},"m":true}"#.len();

/// `shardId-000000000012` as `12`, any other name as it is.
fn short(shard: &ShardId) -> String {
    let number = shard
        .0
        .strip_prefix(PREFIX)
        .filter(|digits| digits.len() == 12 && digits.bytes().all(|digit| digit.is_ascii_digit()));
    match number {
        Some(digits) => match digits.trim_start_matches('0') {
            "" => "0".to_owned(),
            number => number.to_owned(),
        },
        None => shard.to_string(),
    }
}

fn long(name: &str) -> ShardId {
    let is_number = !name.is_empty() && name.bytes().all(|digit| digit.is_ascii_digit());
    if is_number {
        ShardId::from(&*format!("{PREFIX}{name:0>12}"))
    } else {
        ShardId::from(name)
    }
}

#[cfg(test)]
mod tests;
