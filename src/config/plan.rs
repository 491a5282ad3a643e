//! What leads from one desired state to another: the plan of a reload.
//!
//! [`diff`] compares two [`Desired`] states and says for every pipeline, every
//! database and every other setting what has to be done. It is pure: `tidegate
//! validate --diff` prints what it returns, the supervisor carries it out.
//!
//! # What a change of a key does
//!
//! | class | keys | what is done |
//! |---|---|---|
//! | names | `name` of `databases`, `streams`, `tenants`, `pipelines`; `database` of a pipeline | the old one is stopped ([`Step::Stop`], [`DatabaseStep::Stop`]), the new one started |
//! | in place | of a pipeline: `batch_size`, `weight`, `rate_limit.*`, what its tenant may have, `limits.pipeline_*`, the `shard_budget.*` of its stream | [`Step::Change`] |
//! | in place | `limits.memory`, `limits.drain_grace`, `log.filter`, `probe.*`, `retention.*`, `kinesis.operation_timeout`, `kinesis.connect_timeout`, `kinesis.shard_refresh` | [`SettingChange::Value`] |
//! | restarts the pipeline | `outbox`, `stream_*`, `region`, `endpoint_url`, keys and roles, `partition_key`, `format`, `tenant`, `on_poison`, `on_missing`, wherever they come from | [`Step::Restart`] |
//! | restarts the database | `url`, `max_connections`, `statement_timeout`, `prepared_statements` | [`DatabaseStep::Restart`], and a [`Step::Restart`] of each of its pipelines |
//! | needs a new process | `admin.listen`, `cluster.*`, `log.format` | [`Plan::refused`]: the reload as a whole is refused |
//! | no effect | `consumer_group`, and the keys with one possible value | nothing |
//!
//! The table of every single key, with the reasons, is [`CLASSES`].
//!
//! # Rules
//!
//! - Values are compared, not texts: a key left out and the same key with its
//!   default are equal, and so are `"1s"` and `"1000ms"`, and a definition moved as
//!   it is from a database to the file.
//! - A pipeline is touched only if a value that it uses has changed.
//! - A restart takes the values that can change in place along, so only what made
//!   it necessary is named.
//! - A plan with something [`Plan::refused`] must not be carried out at all.

mod classes;
mod settings;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use self::classes::{CLASSES, Class, class_of};
use super::client_spec::ClientSpec;
use super::desired::{Desired, PipelineKey, Wanted};
use super::pipeline::{PipelineSpec, StreamTarget};
use super::problem::ConfigProblem;
use super::settings::LimitSettings;
use super::tenant::TenantSettings;

/// What is to be done for another desired state.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// For every pipeline of the old state and of the new one.
    pub pipelines: BTreeMap<PipelineKey, Step>,
    /// What belongs to no single pipeline.
    pub settings: Vec<SettingChange>,
    /// What a running relay cannot change. If there is any, nothing of the plan
    /// may be carried out.
    pub refused: Vec<ConfigProblem>,
}

/// What is to be done about a pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// It is new, or was invalid: it starts.
    Start,
    /// It is not wanted any more: it finishes what it has sent, and ends.
    Stop,
    /// It finishes what it has sent, and starts again by its new definition.
    Restart {
        /// The keys that made this necessary.
        because: Vec<&'static str>,
    },
    /// It goes on, with other values.
    Change {
        /// Their keys.
        keys: Vec<&'static str>,
    },
    /// Nothing, whatever state it is in.
    Keep,
    /// Its new definition is not acceptable: it finishes what it has sent, and
    /// ends.
    Invalid {
        /// What is wrong, and what is expected.
        reason: String,
    },
}

/// A change that belongs to no single pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SettingChange {
    /// Of a database.
    Database {
        /// The database.
        name: Arc<str>,
        /// What is to be done about it.
        step: DatabaseStep,
    },
    /// Of one value, while everything runs.
    Value {
        /// Which one; the new value is in the new settings.
        setting: Setting,
        /// The old value, as it would be written.
        from: String,
        /// The new one.
        to: String,
    },
}

/// What is to be done about a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DatabaseStep {
    /// It is new: connect, and start what belongs to it.
    Start,
    /// It is gone: its pipelines end ([`Step::Stop`]), then its connections.
    Stop,
    /// Its pipelines end, then its connections; then all of it starts again.
    Restart {
        /// The keys that made this necessary.
        because: Vec<&'static str>,
    },
}

/// A setting that is changed in place and belongs to no single pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Setting {
    /// `limits.memory`. If less than is in use: nothing is read until enough of it
    /// is settled.
    Memory,
    /// `limits.drain_grace`: from the next drain on.
    DrainGrace,
    /// `log.filter`.
    LogFilter,
    /// `probe.min_interval`.
    ProbeMinInterval,
    /// `probe.max_interval`.
    ProbeMaxInterval,
    /// `retention.interval`.
    RetentionInterval,
    /// `retention.batch_rows`.
    RetentionBatchRows,
    /// `retention.pause`.
    RetentionPause,
    /// `kinesis.operation_timeout`: from the next call on.
    OperationTimeout,
    /// `kinesis.connect_timeout`: from the next connection on.
    ConnectTimeout,
    /// `kinesis.shard_refresh`.
    ShardRefresh,
}

// === impl Plan ===

impl Plan {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let is_kept = |step: &Step| matches!(step, Step::Keep);
        self.pipelines.values().all(is_kept) && self.settings.is_empty() && self.refused.is_empty()
    }
}

// === impl Setting ===

impl Setting {
    /// Its key.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::Memory => "limits.memory",
            Self::DrainGrace => "limits.drain_grace",
            Self::LogFilter => "log.filter",
            Self::ProbeMinInterval => "probe.min_interval",
            Self::ProbeMaxInterval => "probe.max_interval",
            Self::RetentionInterval => "retention.interval",
            Self::RetentionBatchRows => "retention.batch_rows",
            Self::RetentionPause => "retention.pause",
            Self::OperationTimeout => "kinesis.operation_timeout",
            Self::ConnectTimeout => "kinesis.connect_timeout",
            Self::ShardRefresh => "kinesis.shard_refresh",
        }
    }
}

/// What leads from the old state to the new one.
#[must_use]
pub fn diff(old: &Desired, new: &Desired) -> Plan {
    let mut plan = Plan::default();
    settings::compare(&old.settings, &new.settings, &mut plan);
    for key in old.pipelines.keys().chain(new.pipelines.keys()) {
        let step = match (old.pipelines.get(key), new.pipelines.get(key)) {
            (_, None) => Step::Stop,
            (None, Some(new)) => begin(new),
            (Some(before), Some(after)) => go_on(key, before, after, (old, new)),
        };
        plan.pipelines.insert(key.clone(), step);
    }
    plan
}

fn begin(new: &Wanted) -> Step {
    match new {
        Wanted::Run { .. } => Step::Start,
        Wanted::Invalid { reason, .. } => Step::Invalid {
            reason: reason.clone(),
        },
    }
}

fn go_on(
    key: &PipelineKey,
    before: &Wanted,
    after: &Wanted,
    (old, new): (&Desired, &Desired),
) -> Step {
    match (before, after) {
        (Wanted::Invalid { .. }, Wanted::Invalid { .. }) if before == after => Step::Keep,
        (_, Wanted::Invalid { .. }) | (Wanted::Invalid { .. }, Wanted::Run { .. }) => begin(after),
        (Wanted::Run { spec: before, .. }, Wanted::Run { spec: after, .. }) => {
            let mut found = Differences::default();
            if let (Some(old), Some(new)) = (
                old.settings.database(&key.database),
                new.settings.database(&key.database),
            ) {
                found
                    .restarting
                    .extend(settings::database_changes(old, new));
            }
            compare_specs(before, after, &mut found);
            compare_limits(&old.settings.limits, &new.settings.limits, &mut found);
            compare_tenants(
                &old.tenants.of(&before.tenant),
                &new.tenants.of(&after.tenant),
                &mut found,
            );
            found.into_step()
        }
    }
}

/// The keys in which two definitions of a pipeline differ.
#[derive(Debug, Default)]
struct Differences {
    restarting: Vec<&'static str>,
    in_place: Vec<&'static str>,
}

impl Differences {
    fn restarts(&mut self, key: &'static str, has_changed: bool) {
        self.restarting.extend(has_changed.then_some(key));
    }

    fn in_place(&mut self, key: &'static str, has_changed: bool) {
        self.in_place.extend(has_changed.then_some(key));
    }

    fn into_step(self) -> Step {
        if !self.restarting.is_empty() {
            return Step::Restart {
                because: self.restarting,
            };
        }
        if self.in_place.is_empty() {
            return Step::Keep;
        }
        Step::Change {
            keys: self.in_place,
        }
    }
}

// Every field is named, here and in `settings`: a new one does not compile until somebody
// has decided what its change does.
fn compare_specs(old: &PipelineSpec, new: &PipelineSpec, found: &mut Differences) {
    let PipelineSpec {
        // They are the key under which the two were found.
        name: _,
        database: _,
        outbox,
        stream: StreamTarget { client, stream },
        partition_key,
        format,
        batch_size,
        aggregation,
        aggregation_max_bytes,
        compression,
        on_poison,
        on_missing,
        rate_limit,
        tenant,
        weight,
        shard_budget,
    } = old;
    let ClientSpec {
        region,
        endpoint_url,
        credentials,
        role_arn,
        external_id,
    } = client;
    let new_client = &new.stream.client;
    found.restarts("outbox", *outbox != new.outbox);
    found.restarts("stream", *stream != new.stream.stream);
    found.restarts("region", *region != new_client.region);
    found.restarts("endpoint_url", *endpoint_url != new_client.endpoint_url);
    found.restarts("credentials", *credentials != new_client.credentials);
    found.restarts("role_arn", *role_arn != new_client.role_arn);
    found.restarts("external_id", *external_id != new_client.external_id);
    found.restarts("partition_key", *partition_key != new.partition_key);
    found.restarts("format", *format != new.format);
    found.restarts("aggregation", *aggregation != new.aggregation);
    found.restarts(
        "aggregation_max_bytes",
        *aggregation_max_bytes != new.aggregation_max_bytes,
    );
    found.restarts("compression", *compression != new.compression);
    found.restarts("tenant", *tenant != new.tenant);
    found.restarts("on_poison", *on_poison != new.on_poison);
    found.restarts("on_missing", *on_missing != new.on_missing);
    found.in_place("batch_size", *batch_size != new.batch_size);
    found.in_place("weight", *weight != new.weight);
    found.in_place("rate_limit", *rate_limit != new.rate_limit);
    found.in_place("shard_budget", *shard_budget != new.shard_budget);
}

/// What a pipeline's tenant may have.
fn compare_tenants(old: &TenantSettings, new: &TenantSettings, found: &mut Differences) {
    let TenantSettings {
        // The pipeline names another tenant: that restarts it.
        name: _,
        weight,
        max_messages_per_second,
        max_bytes_per_second,
        burst,
        max_in_flight_bytes,
    } = old;
    found.in_place("tenants.weight", *weight != new.weight);
    found.in_place(
        "tenants.max_messages_per_second",
        *max_messages_per_second != new.max_messages_per_second,
    );
    found.in_place(
        "tenants.max_bytes_per_second",
        *max_bytes_per_second != new.max_bytes_per_second,
    );
    found.in_place("tenants.burst", *burst != new.burst);
    found.in_place(
        "tenants.max_in_flight_bytes",
        *max_in_flight_bytes != new.max_in_flight_bytes,
    );
}

/// The limits that every pipeline has for itself.
fn compare_limits(old: &LimitSettings, new: &LimitSettings, found: &mut Differences) {
    let LimitSettings {
        // Of all pipelines together.
        memory: _,
        drain_grace: _,
        pipeline_rows,
        pipeline_bytes,
    } = *old;
    found.in_place("limits.pipeline_rows", pipeline_rows != new.pipeline_rows);
    found.in_place(
        "limits.pipeline_bytes",
        pipeline_bytes != new.pipeline_bytes,
    );
}
