//! Whether a node may ask for a pipeline's lease.

use super::Cluster;
use crate::core::ports::PipelineName;
use crate::core::time::Moment;

/// Whether a node may claim a pipeline now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claimable<'a> {
    /// It has its lease, or it fell to it.
    Yes,
    /// It is somebody else's: of this node, if that is known.
    No(Option<&'a str>),
    /// Nothing has been heard of leases for a while.
    Unknown,
}

impl Cluster {
    /// Whether this node may claim a pipeline.
    #[must_use]
    pub fn claimable(&self, pipeline: &PipelineName, now: Moment) -> Claimable<'_> {
        let is_known = |heard: &super::Heard| heard.at + self.lease > now;
        if !self.heard.as_ref().is_some_and(is_known) {
            return Claimable::Unknown;
        }
        match self.owners.get(pipeline) {
            Some(owner) if owner.node == self.me => Claimable::Yes,
            Some(owner) => Claimable::No(Some(&owner.node)),
            None if self.mine.contains(pipeline) => Claimable::Yes,
            None => Claimable::No(None),
        }
    }
}
