//! Which configuration runs, and how the last reload of it went.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::{Gauge, IntGauge, IntGaugeVec, Opts, Registry};

use super::{Metrics, int_gauges};

#[derive(Debug)]
pub(super) struct ConfigFamilies {
    successful: IntGauge,
    success_timestamp: Gauge,
    info: IntGaugeVec,
}

impl ConfigFamilies {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let successful = IntGauge::with_opts(Opts::new(
            "tidegate_config_last_reload_successful",
            "Whether the last reload (or the start) took its configuration: 0 says that the one before still runs",
        ))?;
        registry.register(Box::new(successful.clone()))?;
        let success_timestamp = Gauge::with_opts(Opts::new(
            "tidegate_config_last_reload_success_timestamp_seconds",
            "When a configuration was taken last, in seconds since 1970",
        ))?;
        registry.register(Box::new(success_timestamp.clone()))?;
        let info = int_gauges(
            registry,
            "tidegate_config_info",
            "Always 1; the label is a hash of the configuration that runs, secrets and node_id left out",
            &["hash"],
        )?;
        Ok(Self {
            successful,
            success_timestamp,
            info,
        })
    }
}

impl Metrics {
    /// A configuration was taken at start or by a reload.
    pub fn config_taken(&self, hash: &str, at: SystemTime) {
        let families = &self.families.config;
        families.info.reset();
        families.info.with_label_values(&[hash]).set(1);
        families.successful.set(1);
        let since = at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        families.success_timestamp.set(since.as_secs_f64());
    }

    /// A configuration was refused: the one before stays.
    pub fn config_refused(&self) {
        self.families.config.successful.set(0);
    }

    /// Ends a database's series.
    pub fn remove_database(&self, database: &str) {
        self.families.database.remove(database);
        self.families.cluster.remove(database);
        self.families.retention.remove_database(database);
    }
}
