//! What is made of the relay processes on a database.

use super::Finding;

/// What the check is called.
pub const CHECK: &str = "nodes";

/// A relay process.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeFacts {
    /// Its name in leases.
    pub node: String,
    /// It gives back what it has.
    pub is_draining: bool,
    /// How long ago its last beat was, in seconds.
    pub silent: f64,
    /// How many pipelines it has.
    pub pipelines: u64,
}

/// A node that was silent for so many seconds has missed beats: it beats every second.
const SILENT: f64 = 2.5;

/// Who runs pipelines. None is nothing wrong: the doctor is called before the first
/// start as well.
#[must_use]
pub fn nodes(nodes: &[NodeFacts]) -> Finding {
    let shown = nodes.iter().map(|node| {
        let drains = if node.is_draining { ", draining" } else { "" };
        format!("{} ({} pipelines{drains})", node.node, node.pipelines)
    });
    let shown: Vec<String> = shown.collect();
    let message = match shown.len() {
        0 => "no relay uses it now".to_owned(),
        1 => format!("one relay: {}", shown[0]),
        count => format!("{count} relays: {}", shown.join(", ")),
    };
    let silent = nodes.iter().filter(|node| node.silent > SILENT);
    let silent: Vec<String> = silent
        .map(|node| format!("{} for {:.1} s", node.node, node.silent))
        .collect();
    if silent.is_empty() {
        return Finding::ok(CHECK, message);
    }
    let message = format!("{message}; silent: {}", silent.join(", "));
    let fix = "look whether it still runs and reaches the database: when its lease is over others take its \
               pipelines";
    Finding::warn(CHECK, message, fix)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::checkup::Level;

    fn node(name: &str, silent: f64) -> NodeFacts {
        NodeFacts {
            node: name.to_owned(),
            is_draining: false,
            silent,
            pipelines: 3,
        }
    }

    #[test]
    fn nodes_are_named_with_what_they_hold() {
        let found = nodes(&[node("a", 0.3), node("b", 1.1)]);
        assert_eq!(found.level, Level::Ok);
        assert_eq!(found.message, "2 relays: a (3 pipelines), b (3 pipelines)");
        assert_eq!(nodes(&[]).level, Level::Ok);
    }

    #[test]
    fn a_silent_one_is_told_of() {
        let found = nodes(&[node("a", 0.3), node("b", 3.0)]);
        assert_eq!(found.level, Level::Warn);
        assert!(
            found.message.ends_with("silent: b for 3.0 s"),
            "{}",
            found.message
        );
    }
}
