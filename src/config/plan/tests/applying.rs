//! A model of the relay that takes from the new state only what the plan names:
//! afterwards it must be in the new state.

use super::keys::{changes, put};
use super::*;
use crate::config::byte_size::ByteSize;
use crate::config::client_spec::CredentialSource;
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
                        "limits.pipeline_rows" | "limits.pipeline_bytes" => {}
                        key if key.starts_with("tenants.") => {}
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
            "cluster.database" => settings.cluster.database = new.cluster.database.clone(),
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

/// Which changes are made to the base, and what three rows of the database say.
type Choice = (Vec<bool>, Vec<usize>);

/// Any subset of all changes, and any of some definitions in the database.
fn choice() -> impl Strategy<Value = Choice> {
    let changed = prop::collection::vec(prop::bool::weighted(0.2), changes().len());
    (changed, prop::collection::vec(0..5_usize, 3))
}

/// The state that a choice means. Some changes exclude each other: `None`.
fn state_of((changed, rows): &Choice) -> Option<Desired> {
    let mut tree = base();
    for ((_, values), _) in changes().iter().zip(changed).filter(|(_, is)| **is) {
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
        .filter_map(|(name, which)| Some(row(name, config(*which)?)))
        .collect();
    let catalogs = BTreeMap::from([(Arc::from("orders"), rows)]);
    settings(&tree).map(|settings| Desired::new(Arc::new(settings), &catalogs.into()))
}

fn some_state() -> impl Strategy<Value = Desired> {
    choice().prop_filter_map("the changes exclude each other", |one| state_of(&one))
}

/// Two states that differ in a few changes and a row: with many, every pipeline is
/// restarted, and what changes in place is never seen.
fn two_states() -> impl Strategy<Value = (Desired, Desired)> {
    let toggles = prop::collection::vec(0..changes().len(), 0..4);
    let rows = (0..3_usize, 0..5_usize);
    let pairs = (choice(), toggles, rows).prop_map(|(old, toggles, (which, row))| {
        let mut new = old.clone();
        for toggle in toggles {
            new.0[toggle] = !new.0[toggle];
        }
        new.1[which] = row;
        (old, new)
    });
    pairs.prop_filter_map("the changes exclude each other", |(old, new)| {
        Some((state_of(&old)?, state_of(&new)?))
    })
}

/// Everything that decides how a pipeline runs, in a form to compare.
fn used_by(state: &Desired, key: &PipelineKey) -> String {
    let settings = &state.settings;
    match state.pipelines.get(key) {
        None => "nothing".to_owned(),
        Some(Wanted::Invalid { reason, named }) => format!("{reason} {named:?}"),
        Some(Wanted::Run { spec, .. }) => {
            let database = settings.database(&key.database).expect("it is there");
            let limits = (
                settings.limits.pipeline_rows,
                settings.limits.pipeline_bytes,
            );
            let tenant = state.tenants.of(&spec.tenant);
            let url = database.url.expose();
            let credentials = match &spec.stream.client.credentials {
                CredentialSource::DefaultChain => String::new(),
                CredentialSource::Static {
                    access_key_id,
                    secret_access_key,
                    session_token,
                } => {
                    let token = session_token.as_ref().map(|token| token.expose());
                    format!("{access_key_id} {} {token:?}", secret_access_key.expose())
                }
            };
            format!("{spec:?} {credentials} {database:?} {url} {limits:?} {tenant:?}")
        }
    }
}

proptest! {
    #[test]
    fn nothing_is_done_for_the_same_state(one in some_state()) {
        let plan = diff(&one, &one.clone());
        prop_assert!(plan.is_empty(), "{plan:?}");
        prop_assert_eq!(plan.pipelines.len(), one.pipelines.len());
    }

    #[test]
    fn what_is_named_leads_to_the_new_state((old, new) in two_states()) {
        let plan = diff(&old, &new);
        let running = apply_to_pipelines(&old, &plan, &new);
        prop_assert_eq!(without_versions(&running), without_versions(&new.pipelines));
        let settings = apply_to_settings(&old.settings, &plan, &new.settings);
        prop_assert_eq!(of_the_relay(&settings), of_the_relay(&new.settings));
    }

    #[test]
    fn a_pipeline_is_touched_only_if_what_it_uses_has_changed((old, new) in two_states()) {
        let plan = diff(&old, &new);
        for (key, step) in &plan.pipelines {
            let is_same = used_by(&old, key) == used_by(&new, key);
            prop_assert_eq!(*step == Step::Keep, is_same, "{} {:?}", key, step);
        }
    }

    #[test]
    fn the_way_back_touches_what_the_way_there_touched((old, new) in two_states()) {
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
