//! A model of the relay that takes from the new state only what the plan names:
//! afterwards it must be in the new state.

use super::keys::{changes, put};
use super::*;
use crate::config::byte_size::ByteSize;
use crate::config::pipeline::ShardBudgetSettings;

/// Takes over from `new` what the steps name.
fn apply_to_pipelines(old: &Desired, plan: &Plan, new: &Desired) -> BTreeMap<PipelineKey, Wanted> {
    let mut running = old.pipelines.clone();
    for (key, step) in &plan.pipelines {
        match step {
            Step::Keep => {}
            Step::Stop => {
                running.remove(key);
            }
            Step::Start | Step::Restart { .. } | Step::Invalid { .. } => {
                running.insert(key.clone(), new.pipelines[key].clone());
            }
            Step::Change { keys } => {
                let (Some(Wanted::Run { spec, .. }), Wanted::Run { spec: wanted, .. }) =
                    (running.get_mut(key), &new.pipelines[key])
                else {
                    panic!("{key} is changed in place, but does not run");
                };
                let mut changed = PipelineSpec::clone(spec);
                for name in keys {
                    match *name {
                        "batch_size" => changed.batch_size = wanted.batch_size,
                        "weight" => changed.weight = wanted.weight,
                        "rate_limit" => changed.rate_limit = wanted.rate_limit,
                        "shard_budget" => changed.shard_budget = wanted.shard_budget,
                        "tenants.weight" | "limits.pipeline_rows" | "limits.pipeline_bytes" => {}
                        other => panic!("{other} does not change in place"),
                    }
                }
                *spec = Arc::new(changed);
            }
        }
    }
    running
}

/// Takes over from `new` what the changes name.
fn apply_to_settings(old: &Settings, plan: &Plan, new: &Settings) -> Settings {
    let mut settings = old.clone();
    for change in &plan.settings {
        match change {
            SettingChange::Database { name, step } => {
                settings.databases.retain(|one| one.name != *name);
                if *step != DatabaseStep::Stop {
                    let added = new.database(name).expect("it is new").clone();
                    settings.databases.push(added);
                }
            }
            SettingChange::Value { setting, .. } => apply_value(&mut settings, *setting, new),
        }
    }
    for problem in &plan.refused {
        match problem.key.as_str() {
            "admin.listen" => settings.admin = new.admin,
            "cluster.node_id" => settings.cluster.node_id.clone_from(&new.cluster.node_id),
            "cluster.lease" => settings.cluster.lease = new.cluster.lease,
            "log.format" => settings.log.format = new.log.format,
            other => panic!("{other} is refused"),
        }
    }
    settings
}

fn apply_value(settings: &mut Settings, setting: Setting, new: &Settings) {
    let (kinesis, retention, probe) = (
        &mut settings.kinesis,
        &mut settings.retention,
        &mut settings.probe,
    );
    match setting {
        Setting::Memory => settings.limits.memory = new.limits.memory,
        Setting::DrainGrace => settings.limits.drain_grace = new.limits.drain_grace,
        Setting::LogFilter => settings.log.filter.clone_from(&new.log.filter),
        Setting::ProbeMinInterval => probe.min_interval = new.probe.min_interval,
        Setting::ProbeMaxInterval => probe.max_interval = new.probe.max_interval,
        Setting::RetentionInterval => retention.interval = new.retention.interval,
        Setting::RetentionBatchRows => retention.batch_rows = new.retention.batch_rows,
        Setting::RetentionPause => retention.pause = new.retention.pause,
        Setting::OperationTimeout => kinesis.operation_timeout = new.kinesis.operation_timeout,
        Setting::ConnectTimeout => kinesis.connect_timeout = new.kinesis.connect_timeout,
        Setting::ShardRefresh => kinesis.shard_refresh = new.kinesis.shard_refresh,
    }
}

/// What of the settings belongs to no single pipeline, in a form to compare.
fn of_the_relay(settings: &Settings) -> String {
    let mut settings = settings.clone();
    settings
        .databases
        .sort_by(|one, two| one.name.cmp(&two.name));
    settings.streams.clear();
    settings.tenants.clear();
    settings.pipelines.clear();
    settings.kinesis.endpoint_url = None;
    settings.kinesis.region = None;
    settings.kinesis.shard_budget = ShardBudgetSettings::default();
    settings.limits.pipeline_rows = 0;
    settings.limits.pipeline_bytes = ByteSize::from_mib(1);
    let databases = settings.databases.iter();
    let urls: Vec<&str> = databases.map(|one| one.url.expose()).collect();
    format!("{urls:?} {settings:?}")
}

fn without_versions(pipelines: &BTreeMap<PipelineKey, Wanted>) -> BTreeMap<PipelineKey, Wanted> {
    let mut pipelines = pipelines.clone();
    for wanted in pipelines.values_mut() {
        if let Wanted::Run { version, .. } = wanted {
            *version = None;
        }
    }
    pipelines
}

/// Any subset of all changes, and any of some definitions in the database. Some
/// changes exclude each other: such subsets are left out.
fn some_state() -> impl Strategy<Value = Desired> {
    let changed = prop::collection::vec(prop::bool::weighted(0.2), changes().len());
    let rows = prop::collection::vec(0..5_usize, 3);
    (changed, rows).prop_filter_map("the changes exclude each other", |(changed, rows)| {
        let mut tree = base();
        for ((_, values), _) in changes().iter().zip(changed).filter(|(_, is)| *is) {
            put(&mut tree, values);
        }
        let config = |which| match which {
            0 => None,
            1 => Some(json!({"stream_name": "pg-tide-events"})),
            2 => Some(json!({"stream_name": "pg-tide-events", "batch_size": 7, "weight": 3})),
            3 => Some(json!({"stream_name": "other", "tenant": "acme", "format": "payload"})),
            _ => Some(json!({"stream_name": "other", "batch_size": 0})),
        };
        let names = ["a", "b", "events-to-kinesis"].into_iter();
        let rows: Vec<PipelineRow> = names
            .zip(rows)
            .filter_map(|(name, which)| Some(row(name, config(which)?)))
            .collect();
        let catalogs = BTreeMap::from([(Arc::from("orders"), rows)]);
        settings(&tree).map(|settings| Desired::new(Arc::new(settings), &catalogs))
    })
}

proptest! {
    #[test]
    fn nothing_is_done_for_the_same_state(one in some_state()) {
        let plan = diff(&one, &one.clone());
        prop_assert!(plan.is_empty(), "{plan:?}");
        prop_assert_eq!(plan.pipelines.len(), one.pipelines.len());
    }

    #[test]
    fn what_is_named_leads_to_the_new_state(old in some_state(), new in some_state()) {
        let plan = diff(&old, &new);
        let running = apply_to_pipelines(&old, &plan, &new);
        prop_assert_eq!(without_versions(&running), without_versions(&new.pipelines));
        let settings = apply_to_settings(&old.settings, &plan, &new.settings);
        prop_assert_eq!(of_the_relay(&settings), of_the_relay(&new.settings));
    }

    #[test]
    fn the_way_back_touches_what_the_way_there_touched(old in some_state(), new in some_state()) {
        let (there, back) = (diff(&old, &new), diff(&new, &old));
        for (key, step) in &there.pipelines {
            let (step, back) = (step, &back.pipelines[key]);
            let is_mirrored = match step {
                Step::Keep => *back == Step::Keep,
                Step::Change { .. } | Step::Restart { .. } => back == step,
                Step::Start => matches!(back, Step::Stop | Step::Invalid { .. }),
                Step::Stop => matches!(back, Step::Start | Step::Invalid { .. }),
                Step::Invalid { .. } => {
                    matches!(back, Step::Start | Step::Stop | Step::Invalid { .. })
                }
            };
            prop_assert!(is_mirrored, "{} {:?} {:?}", key, step, back);
        }
    }
}
