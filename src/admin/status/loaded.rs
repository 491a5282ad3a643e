//! What the relay runs by.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::config::desired::Catalogs;
use crate::config::settings::Settings;
use crate::config::shown;

/// The settings and the definitions of the databases that a relay runs by.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The file and the environment.
    pub settings: Arc<Settings>,
    /// What each database defines, as it was read last.
    pub catalogs: Arc<Catalogs>,
}

impl Loaded {
    /// It, with marks in the place of secrets.
    #[must_use]
    pub fn shown(&self) -> Value {
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "settings": shown::tree(&self.settings),
            "catalogs": shown::catalogs_tree(&self.catalogs.pipelines),
            "tenants": shown::tenants_tree(&self.catalogs.tenants),
        })
    }
}
