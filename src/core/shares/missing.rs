//! Nodes that are gone where nodes have their rows, and keep shares.
//!
//! Such a node may have lost only that database and go on for others. It is over when
//! every other database has been seen without it since: there it has no lease any more,
//! and it takes none while it has no row that runs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::super::time::Moment;

#[derive(Debug)]
struct Case {
    since: Moment,
    not_in: BTreeSet<Arc<str>>,
}

/// The nodes that keep shares and are looked for.
#[derive(Debug, Default)]
pub struct Missing {
    cases: BTreeMap<Arc<str>, Case>,
}

impl Missing {
    /// These nodes keep something and were gone at `now`.
    pub fn look_for<'a>(&mut self, nodes: impl IntoIterator<Item = &'a Arc<str>>, now: Moment) {
        for node in nodes {
            let case = || Case {
                since: now,
                not_in: BTreeSet::new(),
            };
            self.cases.entry(Arc::clone(node)).or_insert_with(case);
        }
    }

    /// Another database was asked at `asked_at` which nodes live there.
    pub fn heard(&mut self, database: &Arc<str>, asked_at: Moment, lives: impl Fn(&str) -> bool) {
        self.cases.retain(|node, case| {
            if asked_at < case.since {
                return true;
            }
            if lives(node) {
                // It goes on there: looked for again when somebody misses its share.
                return false;
            }
            case.not_in.insert(Arc::clone(database));
            true
        });
    }

    /// The nodes that are in none of these databases; they are looked for no longer.
    pub fn gone(&mut self, databases: &[Arc<str>]) -> Vec<Arc<str>> {
        let is_gone = |case: &Case| databases.iter().all(|one| case.not_in.contains(one));
        let gone: Vec<Arc<str>> = self
            .cases
            .iter()
            .filter(|(_, case)| is_gone(case))
            .map(|(node, _)| Arc::clone(node))
            .collect();
        self.cases.retain(|_, case| !is_gone(case));
        gone
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::from_origin(Duration::from_secs(seconds))
    }

    #[test]
    fn a_node_is_gone_when_every_database_was_seen_without_it_since() {
        let [x, two, three]: [Arc<str>; 3] = ["x", "two", "three"].map(Arc::from);
        let databases = [Arc::clone(&two), Arc::clone(&three)];
        let mut missing = Missing::default();
        missing.look_for([&x], at(10));
        missing.heard(&two, at(9), |_| false);
        missing.heard(&three, at(11), |_| false);
        assert!(missing.gone(&databases).is_empty());
        missing.heard(&two, at(12), |_| false);
        assert_eq!(missing.gone(&databases), [x]);
        assert!(missing.gone(&databases).is_empty());
    }

    #[test]
    fn a_node_that_lives_elsewhere_keeps_its_share() {
        let [x, two, three]: [Arc<str>; 3] = ["x", "two", "three"].map(Arc::from);
        let mut missing = Missing::default();
        missing.look_for([&x], at(1));
        missing.heard(&two, at(2), |_| false);
        missing.heard(&three, at(2), |node| node == "x");
        missing.heard(&three, at(3), |_| false);
        assert!(missing.gone(&[two, three]).is_empty());
    }

    #[test]
    fn with_no_other_database_it_is_gone_at_once() {
        let x: Arc<str> = "x".into();
        let mut missing = Missing::default();
        missing.look_for([&x], at(1));
        assert_eq!(missing.gone(&[]), [x]);
    }
}
