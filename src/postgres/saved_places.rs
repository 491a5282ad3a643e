//! Where a table has the version of each position that was saved last.
//!
//! No version of a row can be cleared away while a transaction runs that began before
//! it, and a search by key looks at every one of them: the more the longer that
//! transaction stays open. A row that is found by its place is one look, whatever lies
//! beside it.
//!
//! A place is a hint. It is found wrong after somebody else has written the row, or moved
//! it (`VACUUM FULL`); no other row passes for it, because a save names pipeline, epoch
//! and number of the row it means as well.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The places by pipeline, as `ctid` says them.
#[derive(Debug, Default)]
pub(super) struct SavedPlaces(Mutex<HashMap<String, String>>);

impl SavedPlaces {
    /// Where the pipeline's position was left.
    pub(super) fn of(&self, pipeline: &str) -> Option<String> {
        self.places().get(pipeline).cloned()
    }

    /// There it is now.
    pub(super) fn saved(&self, pipeline: &str, place: String) {
        let mut places = self.places();
        if let Some(known) = places.get_mut(pipeline) {
            *known = place;
        } else {
            places.insert(pipeline.to_owned(), place);
        }
    }

    /// It is another's to write.
    pub(super) fn forget(&self, pipeline: &str) {
        self.places().remove(pipeline);
    }

    fn places(&self) -> MutexGuard<'_, HashMap<String, String>> {
        // Whoever panicked while holding it had written all or nothing.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_place_counts_until_it_is_forgotten() {
        let places = SavedPlaces::default();
        places.saved("p", "(0,1)".to_owned());
        places.saved("p", "(7,2)".to_owned());
        assert_eq!(places.of("p").as_deref(), Some("(7,2)"));
        assert_eq!(places.of("q"), None);
        places.forget("p");
        assert_eq!(places.of("p"), None);
    }
}
