//! Which stream a router is for.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use crate::config::pipeline::StreamTarget;

/// Which stream, through which client.
///
/// It is looked up for every pipeline several times a second: what it hashes to is
/// worked out once.
#[derive(Debug, Clone)]
pub struct StreamKey {
    target: Arc<StreamTarget>,
    name: Arc<str>,
    label: Arc<str>,
    hash: u64,
}

impl PartialEq for StreamKey {
    fn eq(&self, other: &Self) -> bool {
        // Name and label follow from the target.
        self.hash == other.hash
            && (Arc::ptr_eq(&self.target, &other.target) || self.target == other.target)
    }
}

impl Eq for StreamKey {}

impl Hash for StreamKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl StreamKey {
    /// The key of a target.
    #[must_use]
    pub fn new(target: &StreamTarget) -> Self {
        let mut hasher = DefaultHasher::new();
        target.hash(&mut hasher);
        Self {
            hash: hasher.finish(),
            target: Arc::new(target.clone()),
            name: target.name().into(),
            label: target.key().into(),
        }
    }

    /// The target.
    #[must_use]
    pub fn target(&self) -> &StreamTarget {
        &self.target
    }

    /// The stream's name, as metrics and the log show it.
    #[must_use]
    pub const fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// What tells it from streams of the same name on the board: see
    /// [`StreamTarget::key`].
    #[must_use]
    pub const fn label(&self) -> &Arc<str> {
        &self.label
    }
}

impl fmt::Display for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name.fmt(f)
    }
}
