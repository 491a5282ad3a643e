//! Nodes that divide the shards in another database than this one: theirs and this
//! node's shares are of two budgets, and add up to more than there is.
//!
//! Every node says in each database whether it divides the shards there. Of two nodes
//! that meet in a database in which only one of them does, each can tell.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};

/// In a node's notes to databases where it divides no shards: whether it hears the
/// coordination database, or keeps something of what it was granted there. In the
/// coordination database itself the note is empty.
const COORDINATED: &str = "coordinated";

/// What a node says in a database where it divides no shards.
#[must_use]
pub fn note(is_coordinated: bool) -> String {
    json!({COORDINATED: is_coordinated}).to_string()
}

/// What a note says: [`note`]'s argument, or nothing.
#[must_use]
pub fn is_coordinated(note: &str) -> Option<bool> {
    let note: Value = serde_json::from_str(note).ok()?;
    note[COORDINATED].as_bool()
}

/// The nodes of each database that divide the shards in another one than this node.
#[derive(Debug, Default)]
pub struct Elsewhere {
    nodes: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
}

impl Elsewhere {
    /// What the living nodes of a database say there; `divides`: this node divides the
    /// shards in that database. Answers the nodes that were not among
    /// [`Self::nodes`] before.
    pub fn heard<'a>(
        &mut self,
        database: &Arc<str>,
        divides: bool,
        notes: impl IntoIterator<Item = (&'a Arc<str>, &'a str)>,
    ) -> Vec<Arc<str>> {
        let notes = notes.into_iter();
        let differs = notes.filter(|(_, note)| divides == is_coordinated(note).is_some());
        let nodes: BTreeSet<Arc<str>> = differs.map(|(node, _)| Arc::clone(node)).collect();
        let before = self.nodes.insert(Arc::clone(database), nodes.clone());
        let before = before.unwrap_or_default();
        nodes.difference(&before).cloned().collect()
    }

    /// Those of a database, by name.
    pub fn nodes(&self, database: &str) -> impl Iterator<Item = &Arc<str>> {
        self.nodes.get(database).into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new_ones(elsewhere: &mut Elsewhere, divides: bool, notes: &[(&str, String)]) -> Vec<String> {
        let notes: Vec<(Arc<str>, &str)> = notes
            .iter()
            .map(|(node, note)| (Arc::from(*node), note.as_str()))
            .collect();
        let notes = notes.iter().map(|(node, note)| (node, *note));
        let found = elsewhere.heard(&"db".into(), divides, notes);
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_of_two_nodes_that_divide_in_different_databases_can_tell() {
        let (nothing, other) = ("{}".to_owned(), note(false));
        let mut elsewhere = Elsewhere::default();
        let alike = [("a", nothing.clone()), ("b", other)];
        assert_eq!(new_ones(&mut elsewhere, true, &alike), ["b"]);
        assert_eq!(new_ones(&mut elsewhere, false, &alike), ["a"]);
        assert_eq!(elsewhere.nodes("db").count(), 1);
        assert_eq!(elsewhere.nodes("another").count(), 0);
        assert!(new_ones(&mut elsewhere, true, &[("a", nothing)]).is_empty());
        assert_eq!(elsewhere.nodes("db").count(), 0);
    }

    #[test]
    fn a_node_is_new_once_for_as_long_as_it_is_there() {
        let mut elsewhere = Elsewhere::default();
        let notes = [("b", note(true))];
        assert_eq!(new_ones(&mut elsewhere, true, &notes), ["b"]);
        assert!(new_ones(&mut elsewhere, true, &notes).is_empty());
        assert!(new_ones(&mut elsewhere, true, &[]).is_empty());
        assert_eq!(new_ones(&mut elsewhere, true, &notes), ["b"]);
    }

    #[test]
    fn a_note_is_read_as_it_was_written() {
        assert_eq!(is_coordinated(&note(true)), Some(true));
        assert_eq!(is_coordinated(&note(false)), Some(false));
        assert_eq!(is_coordinated("{}"), None);
    }
}
