//! The part of one shard that is a node's, worked out from what all said.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::demand::Said;
use super::super::split::split;
use super::super::{Parts, ShardName, Share, WHOLE};
use super::Other;

/// The part of one shard that falls to `node`, and among how many it is divided.
pub(super) fn part_of(
    node: &Arc<str>,
    own: Said,
    shard: &ShardName,
    others: &BTreeMap<Arc<str>, Other>,
) -> (Parts, Share) {
    let mut said: Vec<Said> = Vec::new();
    let mut place = None;
    for (name, other) in others {
        if place.is_none() && name > node {
            place = Some(said.len());
            said.push(own);
        }
        match other.demand.said(shard) {
            Said::Nothing => {}
            one @ (Said::EqualPart | Said::Wish(_)) => said.push(one),
        }
    }
    let place = place.unwrap_or_else(|| {
        said.push(own);
        said.len() - 1
    });
    let nodes = Parts::try_from(said.len()).unwrap_or(Parts::MAX);
    let equal = Share {
        records: WHOLE / nodes,
        bytes: WHOLE / nodes,
    };
    let wishes: Vec<Share> = said
        .into_iter()
        .map(|said| match said {
            Said::Wish(wish) => wish.share(),
            Said::EqualPart | Said::Nothing => equal,
        })
        .collect();
    let part = |of: fn(&Share) -> Parts| {
        let wishes: Vec<Parts> = wishes.iter().map(of).collect();
        split(&wishes).get(place).copied().unwrap_or(0)
    };
    let share = Share {
        records: part(|share| share.records),
        bytes: part(|share| share.bytes),
    };
    (nodes, share)
}
