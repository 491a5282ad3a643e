//! The metrics of tenants.
//!
//! Their number is not ours to choose: the first [`MOST_TENANTS`] of a process have
//! series of their own, all others share those of [`OTHERS`].

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus::{
    Counter, CounterVec, Gauge, GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

use super::{Metrics, counter_value, counters, gauge_value, gauges, int_gauges, remove_series};
use crate::core::tenant::Limit;

/// So many tenants have series of their own.
pub const MOST_TENANTS: usize = 200;

/// The label of all tenants beyond that.
const OTHERS: &str = "other";

/// The handle of one tenant.
#[derive(Debug, Clone)]
pub struct TenantMetrics {
    rows_delivered: IntCounter,
    bytes_delivered: IntCounter,
    limited: [Counter; Limit::ALL.len()],
    in_flight: IntGauge,
    fraction: Gauge,
    is_alone: bool,
}

#[derive(Debug)]
pub(super) struct TenantFamilies {
    rows_delivered: IntCounterVec,
    bytes_delivered: IntCounterVec,
    limited: CounterVec,
    in_flight: IntGaugeVec,
    fraction: GaugeVec,
    /// Those with series of their own.
    named: Mutex<BTreeSet<String>>,
}

// === impl TenantMetrics ===

impl TenantMetrics {
    /// Rows of it were confirmed by a stream; `bytes` counts data and keys.
    pub fn delivered(&self, rows: usize, bytes: usize) {
        self.rows_delivered.inc_by(counter_value(rows));
        self.bytes_delivered.inc_by(counter_value(bytes));
    }

    /// For so long has something kept rows of it waiting.
    pub fn limited(&self, by: Limit, time: Duration) {
        self.limited[by.place()].inc_by(time.as_secs_f64());
    }

    /// What its rows take in memory, and the part of its quota that this node may use.
    pub fn shows(&self, in_flight_bytes: usize, fraction: f64) {
        if self.is_alone {
            self.in_flight.set(gauge_value(in_flight_bytes));
            self.fraction.set(fraction);
        }
    }
}

// === impl TenantFamilies ===

impl TenantFamilies {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let limited = CounterVec::new(
            Opts::new(
                "tidegate_tenant_limited_seconds_total",
                "Time for which something kept rows of a tenant waiting, of each pipeline or shard",
            ),
            &["tenant", "by"],
        )?;
        registry.register(Box::new(limited.clone()))?;
        Ok(Self {
            rows_delivered: counters(
                registry,
                "tidegate_tenant_rows_delivered_total",
                "Rows of a tenant confirmed by streams",
                &["tenant"],
            )?,
            bytes_delivered: counters(
                registry,
                "tidegate_tenant_bytes_delivered_total",
                "Bytes of data and keys of a tenant confirmed by streams",
                &["tenant"],
            )?,
            limited,
            in_flight: int_gauges(
                registry,
                "tidegate_tenant_in_flight_bytes",
                "Bytes of a tenant's rows that are in memory or about to be read",
                &["tenant"],
            )?,
            fraction: gauges(
                registry,
                "tidegate_tenant_quota_fraction_ratio",
                "Part of a tenant's rate that this node may use",
                &["tenant"],
            )?,
            named: Mutex::new(BTreeSet::new()),
        })
    }

    pub(super) fn handle(&self, tenant: &str) -> TenantMetrics {
        let label = self.label_of(tenant);
        TenantMetrics {
            rows_delivered: self.rows_delivered.with_label_values(&[label]),
            bytes_delivered: self.bytes_delivered.with_label_values(&[label]),
            limited: Limit::ALL.map(|by| self.limited.with_label_values(&[label, by.name()])),
            in_flight: self.in_flight.with_label_values(&[label]),
            fraction: self.fraction.with_label_values(&[label]),
            is_alone: label == tenant && label != OTHERS,
        }
    }

    fn label_of<'a>(&self, tenant: &'a str) -> &'a str {
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        if named.contains(tenant) {
            return tenant;
        }
        if named.len() >= MOST_TENANTS {
            return OTHERS;
        }
        named.insert(tenant.to_owned());
        tenant
    }

    fn remove(&self, tenant: &str) {
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        if !named.remove(tenant) {
            return;
        }
        remove_series!(
            &[tenant],
            self.rows_delivered,
            self.bytes_delivered,
            self.in_flight,
            self.fraction,
        );
        for by in Limit::ALL {
            remove_series!(&[tenant, by.name()], self.limited);
        }
    }
}

impl Metrics {
    /// The handle of a tenant. Asking again gives the same series.
    #[must_use]
    pub fn tenant(&self, tenant: &str) -> TenantMetrics {
        self.families.tenant.handle(tenant)
    }

    /// Ends a tenant's series. What its handles still add is seen by nobody.
    pub fn remove_tenant(&self, tenant: &str) {
        self.families.tenant.remove(tenant);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_labels_are_bounded() {
        let metrics = Metrics::new(Registry::new()).expect("new names");
        for tenant in 0..MOST_TENANTS + 50 {
            metrics.tenant(&format!("t{tenant}")).delivered(2, 10);
        }
        metrics
            .tenant("t0")
            .limited(Limit::Quota, Duration::from_millis(1500));
        let text = metrics.render().expect("text");
        let series = |family: &str| text.lines().filter(|line| line.starts_with(family)).count();
        assert_eq!(
            series("tidegate_tenant_rows_delivered_total{"),
            MOST_TENANTS + 1
        );
        assert!(text.contains("tidegate_tenant_rows_delivered_total{tenant=\"other\"} 100\n"));
        assert!(text.contains("limited_seconds_total{by=\"quota\",tenant=\"t0\"} 1.5\n"));
        metrics.remove_tenant("t0");
        metrics.tenant("new").delivered(1, 1);
        let text = metrics.render().expect("text");
        assert!(text.contains("tidegate_tenant_rows_delivered_total{tenant=\"new\"} 1\n"));
        assert!(!text.contains("tenant=\"t0\""));
    }
}
