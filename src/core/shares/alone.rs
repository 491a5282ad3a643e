//! Whether a node without a share may go on as if it were the only one.
//!
//! While the coordination database is away nobody can be granted anything. A process
//! that starts then (the only one, or the first of several) would send nothing to
//! healthy databases. It goes on with the whole of every shard if *every* other database
//! has told it just now that each other node there has nothing either and came later.
//!
//! Who came first must be one order for all: it goes by [`Age`], which the database
//! gives once and shows to all alike. (The numbers of beats do not do: one's own is of
//! this moment and another's of its last beat, so each of two nodes may think that it
//! has had more.)

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::super::time::Moment;

/// Since when a node's row has run in a database, and its name.
pub type Age<'a> = (i64, &'a str);

/// Another node that lives in a database.
#[derive(Debug, Clone, Copy)]
pub struct Neighbour<'a> {
    /// Its age there.
    pub age: Age<'a>,
    /// It says that it has no share of anything, and keeps none.
    pub has_nothing: bool,
}

/// What the databases other than the coordination database say.
#[derive(Debug, Default)]
pub struct Alone {
    /// Those there are.
    databases: BTreeSet<Arc<str>>,
    /// Until when what each said is to go by, and whether the node is the eldest of
    /// all there, none of which has anything.
    said: BTreeMap<Arc<str>, (Moment, bool)>,
}

impl Alone {
    /// These are the other databases from now on.
    pub fn databases<'a>(&mut self, names: impl Iterator<Item = &'a Arc<str>>) {
        self.databases = names.cloned().collect();
        let databases = &self.databases;
        self.said.retain(|name, _| databases.contains(name));
    }

    /// What a beat in one of them has said of a node of this age, to go by until then.
    pub fn heard<'a>(
        &mut self,
        database: &Arc<str>,
        until: Moment,
        age: Age<'_>,
        others: impl IntoIterator<Item = Neighbour<'a>>,
    ) {
        let mut others = others.into_iter();
        let is_eldest = others.all(|other| other.has_nothing && age < other.age);
        self.said.insert(Arc::clone(database), (until, is_eldest));
    }

    /// One of them has said something that is not to go by, or not yet.
    pub fn heard_nothing(&mut self, database: &Arc<str>) {
        self.said.remove(database);
    }

    /// Until when the node may go on as the only one; `None`: it may not.
    #[must_use]
    pub fn until(&self, now: Moment) -> Option<Moment> {
        let of = |name: &Arc<str>| {
            let (until, is_eldest) = self.said.get(name).copied()?;
            (is_eldest && now < until).then_some(until)
        };
        let untils: Option<Vec<Moment>> = self.databases.iter().map(of).collect();
        untils?.into_iter().min()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(milliseconds: u64) -> Moment {
        Moment::from_origin(Duration::from_millis(milliseconds))
    }

    fn names() -> [Arc<str>; 2] {
        ["db2".into(), "db3".into()]
    }

    const fn young(age: Age<'_>) -> Neighbour<'_> {
        Neighbour {
            age,
            has_nothing: true,
        }
    }

    #[test]
    fn of_nodes_that_start_together_one_goes_on_alone() {
        let [db, _] = names();
        for (b_since, c_since) in [(5, 6), (6, 5), (5, 5)] {
            let (b, c) = ((b_since, "b"), (c_since, "c"));
            let mut of_b = Alone::default();
            let mut of_c = Alone::default();
            for alone in [&mut of_b, &mut of_c] {
                alone.databases([&db].into_iter());
            }
            // Each sees the other as of its last beat, whoever beats first.
            for beat in 1..5 {
                of_b.heard(&db, at(beat * 1_000 + 3_000), b, [young(c)]);
                of_c.heard(&db, at(beat * 1_000 + 3_500), c, [young(b)]);
                let now = at(beat * 1_000 + 600);
                let alone = [of_b.until(now), of_c.until(now)];
                assert_eq!(alone.iter().flatten().count(), 1, "{alone:?}");
            }
        }
    }

    #[test]
    fn who_has_something_is_not_outdone_by_age() {
        let [db, _] = names();
        let mut alone = Alone::default();
        alone.databases([&db].into_iter());
        let keeper = Neighbour {
            age: (9, "k"),
            has_nothing: false,
        };
        alone.heard(&db, at(3_000), (5, "b"), [keeper]);
        assert_eq!(alone.until(at(0)), None);
        alone.heard(&db, at(3_000), (5, "b"), []);
        assert_eq!(alone.until(at(0)), Some(at(3_000)));
        assert_eq!(alone.until(at(3_000)), None);
    }

    #[test]
    fn every_other_database_must_have_said_so() {
        let [two, three] = names();
        let mut alone = Alone::default();
        assert_eq!(alone.until(at(0)), None, "there is no other database");
        alone.databases([&two, &three].into_iter());
        alone.heard(&two, at(3_000), (5, "b"), []);
        assert_eq!(alone.until(at(0)), None, "the third one is silent");
        alone.heard(&three, at(2_000), (7, "b"), []);
        assert_eq!(alone.until(at(0)), Some(at(2_000)));
        assert_eq!(alone.until(at(2_500)), None, "the third one is silent");
        alone.databases([&two].into_iter());
        assert_eq!(alone.until(at(2_500)), Some(at(3_000)));
        alone.heard_nothing(&two);
        assert_eq!(alone.until(at(2_500)), None);
    }
}
