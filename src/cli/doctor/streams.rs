//! The credentials and streams of the pipelines that are to run.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use futures::future::join_all;

use crate::cli::run::{kinesis_stream, timeouts};
use crate::config::client_spec::{ClientSpec, CredentialSource};
use crate::config::desired::{Desired, PipelineKey, Wanted};
use crate::config::pipeline::{PipelineSpec, StreamTarget};
use crate::config::settings::Settings;
use crate::core::checkup::capacity::{self, Rate, Shards};
use crate::core::checkup::stream::{self, StreamFacts};
use crate::core::checkup::{Finding, Section, Subject, clock};
use crate::core::classify::Action;
use crate::core::ports::CallFailure;
use crate::core::trouble::TroubleKind;
use crate::kinesis::client::ClientPool;
use crate::kinesis::identity::{self, Identity};
use crate::kinesis::stream::{Checkup, KinesisStream};

/// What outboxes publish, by database and outbox.
pub(super) type Rates = BTreeMap<Arc<str>, BTreeMap<Arc<str>, Result<Option<Rate>, String>>>;

/// The pipelines of one stream.
type Members<'a> = Vec<(&'a PipelineKey, &'a Arc<PipelineSpec>)>;

pub(super) async fn examine(
    settings: &Settings,
    desired: &Desired,
    is_chosen: impl Fn(&str) -> bool,
    rates: &Rates,
) -> Vec<Section> {
    let mut streams: Vec<(&StreamTarget, Members<'_>)> = Vec::new();
    for (key, wanted) in &desired.pipelines {
        let Wanted::Run { spec, .. } = wanted else {
            continue;
        };
        if !is_chosen(&key.database) {
            continue;
        }
        match streams
            .iter_mut()
            .find(|(target, _)| **target == spec.stream)
        {
            Some((_, members)) => members.push((key, spec)),
            None => streams.push((&spec.stream, vec![(key, spec)])),
        }
    }
    let pool = ClientPool::new(timeouts(settings));
    let services: Vec<KinesisStream> = streams
        .iter()
        .map(|(target, _)| kinesis_stream(&pool, target))
        .collect();
    let mut clients: HashMap<&ClientSpec, Vec<&str>> = HashMap::new();
    for ((target, _), service) in streams.iter().zip(&services) {
        let users = clients.entry(service.client_spec()).or_default();
        users.push(target.name());
    }
    let of_clients = clients
        .into_iter()
        .map(|(spec, users)| credentials(&pool, spec, users));
    let of_streams = streams
        .iter()
        .zip(&services)
        .map(|((target, members), service)| async {
            let found = service.check_up().await;
            section(target, members, &found, rates)
        });
    let mut sections = join_all(of_clients).await;
    sections.sort_by(|a, b| a.name.cmp(&b.name));
    sections.extend(join_all(of_streams).await);
    sections
}

// === Credentials ===

async fn credentials(pool: &ClientPool, spec: &ClientSpec, users: Vec<&str>) -> Section {
    let found = Box::pin(identity::of_client(pool, spec)).await;
    let from = match (&spec.credentials, &spec.role_arn) {
        (_, Some(role)) => format!("role {role}"),
        (CredentialSource::DefaultChain, None) => "the default chain".to_owned(),
        (CredentialSource::Static { .. }, None) => "keys of the pipeline".to_owned(),
    };
    Section {
        subject: Subject::Credentials,
        name: format!("from {from}, for {}", users.join(", ")),
        findings: vec![identity_finding(&found)],
    }
}

fn identity_finding(found: &Identity) -> Finding {
    const CHECK: &str = "identity";
    match found {
        Identity::Known { arn, region } => Finding::ok(CHECK, format!("{arn}, region {region}")),
        Identity::Unasked { key, reason } => {
            Finding::skip(CHECK, format!("access key {key}; {reason}"))
        }
        Identity::Refused { reason } => {
            let fix = TroubleKind::CredentialsRefused.what_to_do();
            Finding::fail(CHECK, reason.clone(), fix)
        }
        Identity::Missing { reason } => {
            let fix = TroubleKind::CredentialsMissing.what_to_do();
            Finding::fail(CHECK, reason.clone(), fix)
        }
    }
}

// === Streams ===

fn section(
    target: &StreamTarget,
    members: &Members<'_>,
    found: &Checkup,
    rates: &Rates,
) -> Section {
    let described = found.described.as_ref();
    let mut findings = vec![stream::reading_call(
        Action::DescribeStreamSummary,
        described.err(),
        "AUTO distribution, a stream that was made again and records over 1 MiB go unnoticed",
    )];
    let missing = [described.err(), found.open_shards.as_ref().err()];
    let is_missing =
        |failure: &CallFailure| TroubleKind::of(failure) == Some(TroubleKind::StreamMissing);
    if !missing.into_iter().flatten().any(is_missing) {
        findings.push(stream::reading_call(
            Action::ListShards,
            found.open_shards.as_ref().err(),
            "shards are learnt from the answers to puts, which repeats some records at a reshard",
        ));
        findings.push(stream::put_call(&found.put));
    }
    if let Ok(facts) = described {
        findings.extend(stream::description(facts));
    }
    findings.push(clock::of_service(found.clock_ahead));
    findings.extend(shards(members, found, described.ok(), rates));
    Section {
        subject: Subject::Stream,
        name: target.stream.to_string(),
        findings,
    }
}

/// What the outboxes of a stream's pipelines publish, against what it takes.
fn shards(
    members: &Members<'_>,
    found: &Checkup,
    facts: Option<&StreamFacts>,
    rates: &Rates,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut sum = Rate::default();
    let mut unmeasured = Vec::new();
    for (key, spec) in members {
        match rates
            .get(&key.database)
            .and_then(|here| here.get(&spec.outbox))
        {
            Some(Ok(Some(rate))) => sum = sum + *rate,
            Some(Ok(None)) => findings.push(Finding::fail(
                "outbox",
                format!(
                    "pipeline {key} reads outbox {:?}, which is not there",
                    &*spec.outbox
                ),
                format!(
                    "SELECT tide.outbox_create('{}'), or correct the pipeline",
                    spec.outbox
                ),
            )),
            Some(Err(reason)) => unmeasured.push(format!("{key}: {reason}")),
            None => unmeasured.push(format!("{key}: its database cannot be looked into")),
        }
    }
    let open = found.open_shards.as_ref().ok().copied();
    let open = open.or_else(|| facts.and_then(|facts| facts.open_shards));
    findings.push(match (open, members.first()) {
        _ if !unmeasured.is_empty() => {
            let unmeasured = unmeasured.join(", ");
            Finding::skip(
                capacity::CHECK,
                format!("the rate is not known: {unmeasured}"),
            )
        }
        (Some(open), Some((_, spec))) => {
            let budget = &spec.shard_budget;
            #[expect(
                clippy::cast_precision_loss,
                reason = "a shard takes some MiB a second at most"
            )]
            let bytes = budget.bytes_per_second as f64 * budget.fraction;
            let shards = Shards {
                open,
                records: f64::from(budget.records_per_second) * budget.fraction,
                bytes,
                grows: facts.and_then(|facts| facts.mode.as_deref()) == Some("ON_DEMAND"),
                // Rows that share records are bounded by their bytes.
                aggregated: members
                    .iter()
                    .all(|(_, spec)| spec.aggregation.container().is_some()),
            };
            capacity::judge(sum, shards)
        }
        (None, _) | (_, None) => {
            Finding::skip(capacity::CHECK, "how many shards are open is not known")
        }
    });
    findings
}
