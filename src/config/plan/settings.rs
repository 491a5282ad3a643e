//! Compares what belongs to no single pipeline.

use std::sync::Arc;
use std::time::Duration;

use super::{DatabaseStep, Plan, Setting, SettingChange};
use crate::config::human_duration::HumanDuration;
use crate::config::problem::ConfigProblem;
use crate::config::settings::{
    AdminSettings, ClusterSettings, DatabaseSettings, KinesisSettings, LimitSettings, LogFormat,
    LogSettings, ProbeSettings, RetentionSettings, Settings,
};

pub(super) fn compare(old: &Settings, new: &Settings, plan: &mut Plan) {
    let Settings {
        databases,
        admin,
        cluster,
        limits,
        log,
        kinesis,
        probe,
        retention,
        // They have been resolved into the pipelines that use them, or are compared
        // with them.
        streams: _,
        tenants: _,
        pipelines: _,
        // So have references, and nothing else is read from it later.
        environment: _,
    } = old;
    compare_databases(databases, &new.databases, plan);
    refuse_fixed((admin, cluster, log), new, plan);
    let mut found = Values(&mut plan.settings);
    compare_limits(*limits, new.limits, &mut found);
    let shown = |log: &LogSettings| format!("{:?}", log.filter);
    found.compare(Setting::LogFilter, &shown(log), &shown(&new.log));
    compare_probe(*probe, new.probe, &mut found);
    compare_retention(*retention, new.retention, &mut found);
    compare_kinesis(kinesis, &new.kinesis, &mut found);
}

fn compare_databases(old: &[DatabaseSettings], new: &[DatabaseSettings], plan: &mut Plan) {
    let of = |databases: &[DatabaseSettings], name: &str| -> Option<DatabaseSettings> {
        databases.iter().find(|one| *one.name == *name).cloned()
    };
    let mut names: Vec<&Arc<str>> = old.iter().chain(new).map(|one| &one.name).collect();
    names.sort();
    names.dedup();
    for name in names {
        let step = match (of(old, name), of(new, name)) {
            (None, Some(_)) => DatabaseStep::Start,
            (Some(old), Some(new)) => match database_changes(&old, &new) {
                because if because.is_empty() => continue,
                because => DatabaseStep::Restart { because },
            },
            (_, None) => DatabaseStep::Stop,
        };
        plan.settings.push(SettingChange::Database {
            name: Arc::clone(name),
            step,
        });
    }
}

pub(super) fn database_changes(
    old: &DatabaseSettings,
    new: &DatabaseSettings,
) -> Vec<&'static str> {
    let DatabaseSettings {
        name: _,
        url,
        max_connections,
        statement_timeout,
        prepared_statements,
    } = old;
    let changes = [
        ("databases.url", *url != new.url),
        (
            "databases.max_connections",
            *max_connections != new.max_connections,
        ),
        (
            "databases.statement_timeout",
            *statement_timeout != new.statement_timeout,
        ),
        (
            "databases.prepared_statements",
            *prepared_statements != new.prepared_statements,
        ),
    ];
    let changed = changes.into_iter().filter(|(_, has_changed)| *has_changed);
    changed.map(|(key, _)| key).collect()
}

/// Refuses changes that only another process can take.
fn refuse_fixed(
    (admin, cluster, log): (&AdminSettings, &ClusterSettings, &LogSettings),
    new: &Settings,
    plan: &mut Plan,
) {
    let mut refuse = |key: &str, from: String, to: String, reason: &str| {
        if from != to {
            let given = format!("changed from {from} to {to}");
            let expected = format!("no change, or a restart of the process: {reason}");
            plan.refused.push(ConfigProblem::new(key, given, expected));
        }
    };
    let AdminSettings { listen } = admin;
    let ClusterSettings {
        node_id,
        lease,
        database,
    } = cluster;
    let LogSettings { format, filter: _ } = log;
    let shown = |node: &Option<Arc<str>>| match node {
        Some(node) => format!("{node:?}"),
        None => "(made up)".to_owned(),
    };
    refuse(
        "admin.listen",
        listen.to_string(),
        new.admin.listen.to_string(),
        "a running relay does not leave its port",
    );
    refuse(
        "cluster.node_id",
        shown(node_id),
        shown(&new.cluster.node_id),
        "leases are held under this name",
    );
    refuse(
        "cluster.lease",
        HumanDuration(*lease).to_string(),
        HumanDuration(new.cluster.lease).to_string(),
        "leases that are held last as long as they were given",
    );
    let chosen = |database: &Option<Arc<str>>| match database {
        Some(database) => format!("{database:?}"),
        None => "(the first)".to_owned(),
    };
    refuse(
        "cluster.database",
        chosen(database),
        chosen(&new.cluster.database),
        "what nodes use of shards is written down there",
    );
    let form = |format: LogFormat| match format {
        LogFormat::Text => "\"text\"".to_owned(),
        LogFormat::Json => "\"json\"".to_owned(),
    };
    refuse(
        "log.format",
        form(*format),
        form(new.log.format),
        "a log has one form from its first line to its last",
    );
}

/// Values that are changed while everything runs.
struct Values<'a>(&'a mut Vec<SettingChange>);

impl Values<'_> {
    fn compare(&mut self, setting: Setting, from: &impl ToString, to: &impl ToString) {
        let (from, to) = (from.to_string(), to.to_string());
        if from != to {
            self.0.push(SettingChange::Value { setting, from, to });
        }
    }

    fn compare_durations(&mut self, setting: Setting, from: Duration, to: Duration) {
        self.compare(setting, &HumanDuration(from), &HumanDuration(to));
    }
}

fn compare_limits(old: LimitSettings, new: LimitSettings, found: &mut Values<'_>) {
    let LimitSettings {
        memory,
        // Of every pipeline for itself.
        pipeline_rows: _,
        pipeline_bytes: _,
        drain_grace,
    } = old;
    found.compare(Setting::Memory, &memory, &new.memory);
    found.compare_durations(Setting::DrainGrace, drain_grace, new.drain_grace);
}

fn compare_probe(old: ProbeSettings, new: ProbeSettings, found: &mut Values<'_>) {
    let ProbeSettings {
        min_interval,
        max_interval,
    } = old;
    found.compare_durations(Setting::ProbeMinInterval, min_interval, new.min_interval);
    found.compare_durations(Setting::ProbeMaxInterval, max_interval, new.max_interval);
}

fn compare_retention(old: RetentionSettings, new: RetentionSettings, found: &mut Values<'_>) {
    let RetentionSettings {
        interval,
        batch_rows,
        pause,
    } = old;
    found.compare_durations(Setting::RetentionInterval, interval, new.interval);
    found.compare(Setting::RetentionBatchRows, &batch_rows, &new.batch_rows);
    found.compare_durations(Setting::RetentionPause, pause, new.pause);
}

fn compare_kinesis(old: &KinesisSettings, new: &KinesisSettings, found: &mut Values<'_>) {
    let KinesisSettings {
        // Resolved into the pipelines that say nothing else.
        endpoint_url: _,
        region: _,
        shard_budget: _,
        operation_timeout,
        connect_timeout,
        shard_refresh,
    } = *old;
    found.compare_durations(
        Setting::OperationTimeout,
        operation_timeout,
        new.operation_timeout,
    );
    found.compare_durations(
        Setting::ConnectTimeout,
        connect_timeout,
        new.connect_timeout,
    );
    found.compare_durations(Setting::ShardRefresh, shard_refresh, new.shard_refresh);
}
