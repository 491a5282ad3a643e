//! What the process may take of memory, and what it takes.

#[cfg(target_os = "linux")]
use prometheus::process_collector::ProcessCollector;
use prometheus::{IntGauge, Registry};

use super::{Metrics, MetricsError};

/// The metrics of the process's memory.
#[derive(Debug, Clone)]
pub struct MemoryMetrics {
    ceiling: IntGauge,
    budget: IntGauge,
    used: IntGauge,
}

impl MemoryMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, MetricsError> {
        let gauge = |name, help| -> Result<IntGauge, MetricsError> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        Ok(Self {
            ceiling: gauge(
                "tidegate_memory_limit_bytes",
                "What the process's resident memory is to stay under (limits.memory)",
            )?,
            budget: gauge(
                "tidegate_memory_budget_bytes",
                "Bytes of rows that all pipelines together may have in memory",
            )?,
            used: gauge(
                "tidegate_memory_used_bytes",
                "Bytes of rows that are in memory or about to be read, of the budget",
            )?,
        })
    }

    /// What may be taken: the ceiling of the process, and the budget of its rows.
    pub fn may_use(&self, ceiling: usize, budget: usize) {
        self.ceiling.set(gauge_value(ceiling));
        self.budget.set(gauge_value(budget));
    }

    /// What the rows take now.
    pub fn used(&self, bytes: usize) {
        self.used.set(gauge_value(bytes));
    }
}

impl Metrics {
    /// The handle of the process's memory.
    #[must_use]
    pub fn memory(&self) -> MemoryMetrics {
        self.families.memory.clone()
    }
}

/// Registers what the operating system counts of this process, where it says (Linux):
/// resident memory, processor time, file descriptors, as `process_...`.
///
/// # Errors
/// It is in the registry already.
pub fn show_process(registry: &Registry) -> Result<(), MetricsError> {
    #[cfg(target_os = "linux")]
    registry.register(Box::new(ProcessCollector::for_self()))?;
    #[cfg(not(target_os = "linux"))]
    let _ = registry;
    Ok(())
}

fn gauge_value(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
