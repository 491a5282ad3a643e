//! Which stream a router is for.

use std::fmt;
use std::sync::Arc;

use crate::config::pipeline::StreamTarget;

/// Which stream, through which client.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StreamKey {
    target: Arc<StreamTarget>,
    label: Arc<str>,
}

impl StreamKey {
    /// The key of a target.
    #[must_use]
    pub fn new(target: &StreamTarget) -> Self {
        Self {
            target: Arc::new(target.clone()),
            label: target.name().into(),
        }
    }

    /// The target.
    #[must_use]
    pub fn target(&self) -> &StreamTarget {
        &self.target
    }

    /// The stream's name, as metrics and statuses show it.
    #[must_use]
    pub const fn label(&self) -> &Arc<str> {
        &self.label
    }
}

impl fmt::Display for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.label.fmt(f)
    }
}
