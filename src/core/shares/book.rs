//! What one node uses of the shards it writes to, and what it is after.
//!
//! Rules:
//! - what is used of a shard is never more than what is written down of it (`SHARES`);
//! - less is gone by at once, more only when it was granted;
//! - one write at a time, numbered: a write whose answer was lost may have been done,
//!   so what it was about is written again;
//! - a share holds until the node's row may expire ([`ShareBook::until`]); from then on
//!   what it *keeps* holds, until the node has been heard of and has written anew;
//! - a grant that was asked for before that moment and comes after it is void;
//! - the same holds when the row is found to have expired although this node's clock
//!   says otherwise ([`ShareBook::row_runs_since`]).

mod part;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::super::budget::ShardLimits;
use super::super::budget::share::{HeldShare, Ratios};
use super::super::sabotage::{self, Bug};
use super::super::time::Moment;
use super::demand::{Demand, Said, Wish};
use super::meter::{Counted, Meter};
use super::{Granted, Parts, ShardName, Share, ShareWrite, WHOLE};
use part::part_of;

/// Who wants more than it was granted asks again after so long: the others give it up
/// with one of their next beats.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// After so many answers that were too little it asks as seldom as it beats.
const EAGER: u32 = 15;
const ASK_SELDOM: Duration = Duration::from_secs(1);

/// After a write that failed nothing is written for so long.
const AFTER_FAILURE: Duration = Duration::from_millis(250);

/// The most shards of one write.
const MOST_WRITES: usize = 500;

#[derive(Debug)]
struct Entry {
    meter: Meter,
    /// A pipeline of this node writes to it: one row must always get through.
    is_written: bool,
    /// Its writer has ended: it is given back.
    is_left: bool,
    /// Among how many nodes it is divided.
    nodes: Parts,
    target: Share,
    uses: Share,
    /// What is written down for certain to be kept: no more than that holds when the
    /// node is not heard of.
    kept: Share,
    /// Used and kept, as written down; `None`: not known.
    written: Option<(Share, Share)>,
    ask_at: Moment,
    asked: u32,
}

struct InFlight {
    number: i64,
    lapses: u64,
    writes: Vec<ShareWrite>,
}

/// What there is of another node.
#[derive(Debug, PartialEq, Eq)]
struct Other {
    text: String,
    demand: Demand,
}

/// The shares of one node.
pub struct ShareBook {
    node: Arc<str>,
    entries: BTreeMap<ShardName, Entry>,
    others: BTreeMap<Arc<str>, Other>,
    said: Demand,
    until: Option<Moment>,
    /// Since when the node's row has run, as the database said last.
    row_since: Option<i64>,
    lapses: u64,
    has_lapsed: bool,
    /// It writes for other databases than the one of the nodes' rows.
    keeps: bool,
    in_flight: Option<InFlight>,
    last_number: i64,
    not_before: Moment,
}

// === impl Entry ===

impl Entry {
    fn new(now: Moment) -> Self {
        Self {
            meter: Meter::default(),
            is_written: false,
            is_left: false,
            nodes: 1,
            target: Share::NOTHING,
            uses: Share::NOTHING,
            kept: Share::NOTHING,
            written: None,
            ask_at: now,
            asked: 0,
        }
    }

    fn wish(&self) -> Wish {
        let least = u8::from(self.is_written);
        self.meter.wish().max(Wish {
            records: least,
            bytes: least,
        })
    }

    fn wants(&self) -> Share {
        self.uses.max(self.target)
    }

    /// What is to be kept of so much.
    fn keeps(&self, of: Share) -> Share {
        let equal = WHOLE / self.nodes.max(1);
        of.min(Share {
            records: equal,
            bytes: equal,
        })
    }
}

// === impl ShareBook ===

impl ShareBook {
    /// A node that has no share of anything. `name` is the one of its row. Numbers of
    /// its writes rise from `now` on, also over a start of it in the same process.
    #[must_use]
    pub fn new(name: Arc<str>, now: Moment) -> Self {
        Self {
            node: name,
            entries: BTreeMap::new(),
            others: BTreeMap::new(),
            said: Demand::default(),
            until: None,
            row_since: None,
            lapses: 0,
            has_lapsed: true,
            keeps: false,
            in_flight: None,
            last_number: i64::try_from(now.since_origin().as_micros()).unwrap_or(0),
            not_before: now,
        }
    }

    /// The name of its row.
    #[must_use]
    pub const fn node(&self) -> &Arc<str> {
        &self.node
    }

    /// Until when what it was granted holds; `None` before its first beat.
    #[must_use]
    pub const fn until(&self) -> Option<Moment> {
        self.until
    }

    /// How many nodes write to a shard that it knows of, itself included, and the
    /// share it goes by.
    #[must_use]
    pub fn share(&self, shard: &ShardName) -> Option<(Parts, Share)> {
        let entry = self.entries.get(shard).filter(|entry| !entry.is_left)?;
        Some((entry.nodes, entry.uses))
    }

    /// What the budget of a shard is to go by.
    #[must_use]
    pub fn held(&self, shard: &ShardName) -> HeldShare {
        let Some(entry) = self.entries.get(shard) else {
            return HeldShare::NONE;
        };
        let until = if sabotage::is(Bug::ShareOutlivesItsNode) {
            None
        } else {
            Some(self.until.unwrap_or(Moment::ORIGIN))
        };
        HeldShare {
            share: entry.uses.ratios(),
            until: if self.has_lapsed { None } else { until },
            afterwards: entry.kept.ratios(),
            is_shared: entry.nodes > 1,
        }
    }

    /// The shards it has something to do with.
    pub fn shards(&self) -> impl Iterator<Item = &ShardName> {
        self.entries.keys()
    }

    /// Whether it gets less of something than it is after.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.entries
            .values()
            .any(|entry| entry.wants() != entry.uses)
    }

    // === What the node writes to ===

    /// A writer of a shard is there.
    pub fn enter(&mut self, shard: &ShardName, now: Moment) {
        let entry = self.entries.entry(shard.clone());
        let entry = entry.or_insert_with(|| Entry::new(now));
        entry.is_left = false;
        entry.ask_at = now;
        self.retarget(Some(shard));
    }

    /// The writer of a shard is gone for good.
    pub fn leave(&mut self, shard: &ShardName) {
        if let Some(entry) = self.entries.get_mut(shard) {
            entry.is_left = true;
            entry.is_written = false;
            entry.target = Share::NOTHING;
            entry.uses = Share::NOTHING;
            entry.meter = Meter::default();
        }
    }

    /// The pipelines of this node write to the shards of these streams, and to no
    /// others; `elsewhere`: some of them are of other databases.
    pub fn writes_to(&mut self, streams: &BTreeSet<Arc<str>>, elsewhere: bool) {
        self.keeps = elsewhere;
        for (name, entry) in &mut self.entries {
            entry.is_written = !entry.is_left && streams.contains(&name.stream);
        }
    }

    /// What the budget of a shard has counted; `limits` are those of all of the shard.
    pub fn counted(
        &mut self,
        shard: &ShardName,
        counted: Counted,
        limits: ShardLimits,
        held: Ratios,
        now: Moment,
    ) {
        if let Some(entry) = self.entries.get_mut(shard) {
            entry.meter.measure(counted, limits, held, now);
        }
    }

    // === Beats ===

    /// What to say with the next beat.
    pub fn say(&mut self) -> String {
        let entries = self.entries.iter().filter(|(_, entry)| !entry.is_left);
        let wishes = entries.map(|(name, entry)| (name.clone(), entry.wish()));
        let said = Demand::of(wishes);
        if said != self.said {
            self.said = said;
            self.retarget(None);
        }
        self.said.text()
    }

    /// A beat was answered: what the node was granted holds until `until`, and these
    /// are the other nodes that may send, with what they said.
    pub fn heard<'a>(
        &mut self,
        until: Moment,
        others: impl IntoIterator<Item = (&'a Arc<str>, &'a str)>,
        now: Moment,
    ) {
        self.tick(now);
        self.until = Some(self.until.map_or(until, |known| known.max(until)));
        self.has_lapsed = false;
        let mut before = std::mem::take(&mut self.others);
        let mut is_changed = false;
        for (node, text) in others {
            let other = match before.remove(node) {
                Some(known) if known.text == text => known,
                Some(_) | None => {
                    is_changed = true;
                    Other {
                        text: text.to_owned(),
                        demand: Demand::read(text),
                    }
                }
            };
            self.others.insert(Arc::clone(node), other);
        }
        if is_changed || !before.is_empty() {
            self.retarget(None);
        }
    }

    /// Time has passed: what has run out is not used any more.
    pub fn tick(&mut self, now: Moment) {
        let has_run_out = self.until.is_some_and(|until| now >= until);
        if self.has_lapsed || !has_run_out || sabotage::is(Bug::ShareOutlivesItsNode) {
            return;
        }
        self.lapse();
    }

    /// Since when the node's row has run without having expired, as a beat says, and
    /// the one before it did. If not since the same moment, then what was granted has
    /// ended in between, whatever this node's clock says: the process may have slept
    /// with its clock, or the database's clock has jumped. To be called before
    /// [`Self::heard`].
    pub fn row_runs_since(&mut self, since: i64) {
        let before = self.row_since.replace(since);
        if before.is_some_and(|before| before != since) && !self.has_lapsed {
            self.lapse();
        }
    }

    fn lapse(&mut self) {
        self.has_lapsed = true;
        self.lapses += 1;
        for entry in self.entries.values_mut() {
            entry.uses = entry.uses.min(entry.kept);
            entry.written = None;
        }
    }

    /// All leases of other databases have run out too: nothing is kept.
    pub fn keep_nothing(&mut self) {
        for entry in self.entries.values_mut() {
            entry.kept = Share::NOTHING;
            entry.written = None;
            if self.has_lapsed {
                entry.uses = Share::NOTHING;
            }
        }
    }

    /// Whether it goes on with something when it is not heard of.
    #[must_use]
    pub fn keeps_something(&self) -> bool {
        let mut entries = self.entries.values();
        entries.any(|entry| entry.kept != Share::NOTHING)
    }

    /// Whether it may send something to a stream now, or will as soon as it is granted.
    #[must_use]
    pub fn may_send_to(&self, stream: &str) -> bool {
        let mut entries = self.entries.iter();
        !self.has_lapsed
            || entries.any(|(name, entry)| *name.stream == *stream && entry.uses != Share::NOTHING)
    }

    /// Whether the node was not heard of for so long that only what it keeps is left.
    #[must_use]
    pub const fn has_lapsed(&self) -> bool {
        self.has_lapsed
    }

    /// Works out what each shard, or this one, is after.
    fn retarget(&mut self, only: Option<&ShardName>) {
        for (name, entry) in &mut self.entries {
            if entry.is_left || only.is_some_and(|only| only != name) {
                continue;
            }
            let own = match self.said.said(name) {
                Said::Nothing if entry.is_written || self.others.is_empty() => {
                    Said::Wish(entry.wish())
                }
                said @ (Said::Nothing | Said::EqualPart | Said::Wish(_)) => said,
            };
            let (nodes, target) = match own {
                // One of many that it could write to: nobody reckons with it.
                Said::Nothing => (1, Share::NOTHING),
                Said::EqualPart | Said::Wish(_) => part_of(&self.node, own, name, &self.others),
            };
            let is_more =
                target.records > entry.target.records || target.bytes > entry.target.bytes;
            if is_more {
                entry.asked = 0;
                entry.ask_at = entry.ask_at.min(self.not_before);
            }
            entry.nodes = nodes;
            entry.target = target;
            entry.uses = entry.uses.min(target);
        }
    }

    // === Writes ===

    /// What to write down now, if there is something, and its number.
    pub fn next_write(&mut self, now: Moment) -> Option<(i64, Vec<ShareWrite>)> {
        if self.in_flight.is_some() || self.has_lapsed || now < self.not_before {
            return None;
        }
        let keeps_some = self.keeps;
        let mut writes = Vec::new();
        for (name, entry) in &mut self.entries {
            let wants = entry.wants();
            let keeps = if keeps_some && !entry.is_left {
                entry.keeps(wants)
            } else {
                Share::NOTHING
            };
            let is_written =
                entry.written == Some((entry.uses, entry.keeps(entry.uses).min(keeps)));
            let asks = wants != entry.uses && now >= entry.ask_at;
            if is_written && !asks || writes.len() >= MOST_WRITES {
                continue;
            }
            // It may be done although its answer is lost.
            entry.kept = entry.kept.min(keeps);
            writes.push(ShareWrite {
                shard: name.clone(),
                uses: entry.uses,
                wants,
                keeps,
            });
        }
        if writes.is_empty() {
            return None;
        }
        let time = i64::try_from(now.since_origin().as_micros()).unwrap_or(i64::MAX);
        self.last_number = time.max(self.last_number + 1);
        self.in_flight = Some(InFlight {
            number: self.last_number,
            lapses: self.lapses,
            writes: writes.clone(),
        });
        Some((self.last_number, writes))
    }

    /// A write was answered (`None`: it failed, or is waited for no longer).
    pub fn written(&mut self, number: i64, granted: Option<&[Granted]>, now: Moment) {
        self.tick(now);
        let Some(asked) = self.in_flight.take_if(|asked| asked.number == number) else {
            return;
        };
        let is_void = asked.lapses != self.lapses;
        let Some(granted) = granted else {
            self.not_before = now + AFTER_FAILURE;
            for write in &asked.writes {
                if let Some(entry) = self.entries.get_mut(&write.shard) {
                    entry.written = None;
                }
            }
            return;
        };
        let granted: BTreeMap<&ShardName, Share> =
            granted.iter().map(|one| (&one.shard, one.share)).collect();
        for write in &asked.writes {
            let Some(entry) = self.entries.get_mut(&write.shard) else {
                continue;
            };
            let Some(share) = granted.get(&write.shard).copied().filter(|_| !is_void) else {
                // Nothing is written down of it, or not of this node as it is now.
                entry.written = None;
                entry.ask_at = now + ASK_AGAIN;
                if !is_void {
                    entry.uses = entry.uses.min(entry.kept);
                    self.not_before = now + AFTER_FAILURE;
                }
                continue;
            };
            entry.uses = share.min(entry.target);
            let keeps = write.keeps.min(share);
            entry.kept = keeps;
            entry.written = Some((share, keeps));
            entry.asked = entry.asked.saturating_add(1);
            let pause = if entry.asked > EAGER {
                ASK_SELDOM
            } else {
                ASK_AGAIN
            };
            entry.ask_at = now + pause;
        }
        self.entries.retain(|_, entry| {
            !entry.is_left || entry.written != Some((Share::NOTHING, Share::NOTHING))
        });
    }
}

#[cfg(test)]
mod tests;
