//! One budget for all nodes that write to a shard.
//!
//! Every node says with its beat ([`super::nodes`]) what it would send to each shard
//! ([`demand`]). From what all of them said each node works out the same max-min fair
//! division ([`split`]) and goes for its part of it ([`book`]):
//!
//! - *less* than it holds: it goes by less at once, and writes that down;
//! - *more*: it asks, and gets what the rows of the other nodes leave ([`ShareStore`]).
//!
//! So what nodes may use never adds up to more than the shard, whoever saw what when:
//! a node uses at most what its row says, and a row is raised only when the sum stays
//! within [`WHOLE`]. A node that is silent counts in that sum until its row in
//! `tide.relay_node` has expired by the database's clock; before that, by its own
//! monotonic clock, it has gone over to what it *keeps*. That is nothing where all its
//! pipelines are of the database it lost: their leases end with its row. A node that
//! writes for other databases keeps an equal part, which the others leave to it until
//! they see in every other database that it is gone there too.

pub mod alone;
pub mod book;
pub mod demand;
pub mod elsewhere;
pub mod meter;
pub mod missing;
#[cfg(any(test, feature = "demo"))]
pub mod model;
pub mod split;

use std::sync::Arc;

use futures::future::BoxFuture;

use super::budget::share::Ratios;
use super::ports::StoreError;
use super::shard_map::ShardId;

/// Parts of a shard's budget.
pub type Parts = u32;

/// All of a shard: parts are ten-thousandths, a tenth of a record and about 105 bytes
/// a second.
pub const WHOLE: Parts = 10_000;

/// The parts of one record and of one KiB a second: no node with rows to send gets
/// less.
pub const LEAST: Parts = WHOLE / 1000;

/// Which shard of which stream.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardName {
    /// Which stream it is, by what names it everywhere alike.
    pub stream: Arc<str>,
    /// The shard.
    pub shard: ShardId,
}

/// A part of a shard, by each of its limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Share {
    /// Of its records.
    pub records: Parts,
    /// Of its bytes.
    pub bytes: Parts,
}

/// What a node writes down about one shard, and asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareWrite {
    /// The shard.
    pub shard: ShardName,
    /// What it uses, at most: no more than it was granted.
    pub uses: Share,
    /// What it wants: that, or more.
    pub wants: Share,
    /// The most that it keeps when it is not heard of.
    pub keeps: Share,
}

/// What was written down of one shard: the share that the node may use from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    /// The shard.
    pub shard: ShardName,
    /// The share.
    pub share: Share,
}

/// The answer to a write.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Written {
    /// The shards of the write, unless a later one came before it.
    pub granted: Vec<Granted>,
    /// Nodes that are gone and keep something of these shards.
    pub keepers: Vec<Arc<str>>,
}

/// Where shares are written down. Implementations bound every call in time.
pub trait ShareStore: Send + Sync {
    /// Writes down what a node uses of some shards and raises it to what it wants as
    /// far as the shares of others leave room, in one transaction. A call that comes
    /// after one with a higher `number` of the same node does nothing.
    fn write_shares<'a>(
        &'a self,
        node: &'a str,
        number: i64,
        writes: &'a [ShareWrite],
    ) -> BoxFuture<'a, Result<Written, StoreError>>;

    /// These nodes hold no lease anywhere any more: what they kept is free, unless
    /// they have been heard of again.
    fn forget_shares<'a>(&'a self, nodes: &'a [Arc<str>]) -> BoxFuture<'a, Result<(), StoreError>>;
}

// === impl Share ===

impl Share {
    /// All of it.
    pub const ALL: Self = Self {
        records: WHOLE,
        bytes: WHOLE,
    };

    /// Nothing of it.
    pub const NOTHING: Self = Self {
        records: 0,
        bytes: 0,
    };

    /// The lesser of each.
    #[must_use]
    pub fn min(self, other: Self) -> Self {
        Self {
            records: self.records.min(other.records),
            bytes: self.bytes.min(other.bytes),
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

    /// As parts of one.
    #[must_use]
    pub fn ratios(self) -> Ratios {
        Ratios {
            records: f64::from(self.records) / f64::from(WHOLE),
            bytes: f64::from(self.bytes) / f64::from(WHOLE),
        }
    }
}
