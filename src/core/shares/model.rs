//! The rows of shares in memory: what `tide.relay_write_shares` does, for tests and for
//! counting. `tests/cluster_budget/rows.rs` holds the SQL against it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::sabotage::{self, Bug};
use super::{Granted, Parts, ShardName, Share, ShareWrite, WHOLE, Written};

#[derive(Debug, Clone, Copy)]
struct Row {
    number: i64,
    share: Share,
    kept: Share,
}

/// All rows.
#[derive(Debug, Clone, Default)]
pub struct ShareTable {
    rows: BTreeMap<ShardName, BTreeMap<Arc<str>, Row>>,
}

impl ShareTable {
    /// A node's write; `lives` says of a node whether its row in `tide.relay_node`
    /// runs. One whose row does not gets nothing.
    pub fn write(
        &mut self,
        node: &Arc<str>,
        number: i64,
        writes: &[ShareWrite],
        lives: impl Fn(&str) -> bool,
    ) -> Written {
        let mut written = Written::default();
        if !lives(node) {
            return written;
        }
        for write in writes {
            let rows = self.rows.entry(write.shard.clone()).or_default();
            let own = rows.entry(Arc::clone(node)).or_insert(Row {
                number: i64::MIN,
                share: Share::NOTHING,
                kept: Share::NOTHING,
            });
            let is_late = own.number >= number;
            if !is_late {
                *own = Row {
                    number,
                    share: write.uses,
                    kept: write.keeps.min(write.uses),
                };
            }
            if write.wants != write.uses {
                // A late write does this much too.
                rows.retain(|other, row| {
                    lives(other) || other == node || row.kept != Share::NOTHING
                });
            }
            if is_late {
                continue;
            }
            if write.wants != write.uses {
                let mut share = write.wants;
                if !sabotage::is(Bug::RaisedWithoutRegard) {
                    let taken = taken(rows, node, &lives);
                    let left = |taken: Parts, uses: Parts| WHOLE.saturating_sub(taken).max(uses);
                    share = share.min(Share {
                        records: left(taken.records, write.uses.records),
                        bytes: left(taken.bytes, write.uses.bytes),
                    });
                }
                if let Some(own) = rows.get_mut(node) {
                    own.share = share;
                    own.kept = write.keeps.min(share);
                }
            }
            let keeps = |(other, row): &(&Arc<str>, &Row)| {
                *other != node && !lives(other) && row.kept != Share::NOTHING
            };
            let keepers = rows
                .iter()
                .filter(keeps)
                .map(|(other, _)| Arc::clone(other));
            written.keepers.extend(keepers);
            if let Some(own) = rows.get(node) {
                written.granted.push(Granted {
                    shard: write.shard.clone(),
                    share: own.share,
                });
            }
        }
        written.keepers.sort_unstable();
        written.keepers.dedup();
        written
    }

    /// How many nodes have a row of a shard.
    #[must_use]
    pub fn rows_of(&self, shard: &ShardName) -> usize {
        self.rows.get(shard).map_or(0, BTreeMap::len)
    }

    /// A node is over.
    pub fn forget(&mut self, node: &str) {
        for rows in self.rows.values_mut() {
            rows.remove(node);
        }
    }
}

fn taken(rows: &BTreeMap<Arc<str>, Row>, node: &Arc<str>, lives: impl Fn(&str) -> bool) -> Share {
    let mut taken = Share::NOTHING;
    for (other, row) in rows.iter().filter(|(other, _)| *other != node) {
        let share = if lives(other) { row.share } else { row.kept };
        taken.records += share.records;
        taken.bytes += share.bytes;
    }
    taken
}
