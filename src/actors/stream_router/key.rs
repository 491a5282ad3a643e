//! Which stream a router is for.

use std::fmt;
use std::sync::Arc;

use crate::config::pipeline::StreamTarget;

/// Which stream, through which client.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StreamKey {
    target: Arc<StreamTarget>,
    name: Arc<str>,
    label: Arc<str>,
}

impl StreamKey {
    /// The key of a target.
    #[must_use]
    pub fn new(target: &StreamTarget) -> Self {
        Self {
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
