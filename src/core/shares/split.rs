//! The division of one shard among the nodes that write to it.
//!
//! Max-min fair: nobody gets more than it wishes while somebody else wishes for more
//! than it gets and gets less. What nobody wishes for is spread evenly, so that a
//! burst need not wait for the next beat: all parts are given out. Nobody gets
//! nothing: those that wish for less share [`FOR_IDLE`] of the shard among them.

use super::{Parts, WHOLE};

/// What all nodes together get at least of a shard, wish for it or not: 2 %.
pub const FOR_IDLE: Parts = WHOLE / 50;

/// Divides a shard by what each node wishes for. Answers the part of each, in the same
/// order. The order decides only who gets the few parts that cannot be divided.
#[must_use]
pub fn split(wishes: &[Parts]) -> Vec<Parts> {
    let Ok(nodes) = Parts::try_from(wishes.len()) else {
        return vec![0; wishes.len()];
    };
    if nodes == 0 {
        return Vec::new();
    }
    let least = FOR_IDLE / nodes;
    let mut by_wish: Vec<(Parts, usize)> = wishes
        .iter()
        .enumerate()
        .map(|(place, wish)| (*wish.max(&least), place))
        .collect();
    by_wish.sort_unstable();
    let mut parts = vec![0; wishes.len()];
    let (mut left, mut waiting) = (WHOLE, nodes);
    for (wish, place) in by_wish {
        let part = wish.min(left / waiting);
        parts[place] = part;
        left -= part;
        waiting -= 1;
    }
    let (each, mut rest) = (left / nodes, left % nodes);
    for part in &mut parts {
        *part += each + rest.min(1);
        rest = rest.saturating_sub(1);
    }
    parts
}

#[cfg(test)]
mod tests;
