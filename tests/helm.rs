//! The Helm chart: rendered by Helm, linted, checked against the schemas of several
//! versions of Kubernetes, and looked at for what a relay needs.
//!
//! Helm and the schemas come from PyPI by `scripts/python-tools`. A test says clearly when
//! they cannot be had, and fails: a check that is skipped is none.
#![allow(clippy::expect_used, reason = "a test may fail by panicking")]

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

/// The oldest version the chart takes, and the newest there is a schema for.
const VERSIONS: [&str; 2] = ["1.25", "1.34"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn python() -> String {
    let tools = Command::new(root().join("scripts/python-tools"))
        .arg("helm")
        .output()
        .expect("bash is there");
    assert!(
        tools.status.success(),
        "Helm and kubernetes-validate are needed to check the chart: {}",
        String::from_utf8_lossy(&tools.stderr)
    );
    let path = String::from_utf8_lossy(&tools.stdout);
    root().join(path.trim()).display().to_string()
}

/// The manifests, or why there are none.
fn rendered_for(values: &Value, version: &str) -> Result<Vec<Value>, String> {
    let ran = Command::new(python())
        .arg(root().join("tests/helm/render.py"))
        .arg(root().join("deploy/helm/tidegate"))
        .args([&values.to_string(), version])
        .output()
        .expect("python runs");
    if !ran.status.success() {
        return Err(String::from_utf8_lossy(&ran.stderr).into_owned());
    }
    Ok(serde_json::from_slice(&ran.stdout).expect("a list of manifests"))
}

#[track_caller]
fn rendered(values: &Value) -> Vec<Value> {
    rendered_for(values, VERSIONS[1]).unwrap_or_else(|error| panic!("{values}: {error}"))
}

#[track_caller]
fn one<'a>(manifests: &'a [Value], kind: &str) -> &'a Value {
    let of_kind: Vec<&Value> = manifests.iter().filter(|one| one["kind"] == kind).collect();
    assert_eq!(of_kind.len(), 1, "{kind}");
    of_kind[0]
}

/// Everything the chart can make.
fn everything() -> Value {
    json!({
        "config": "[limits]\nmemory = \"256MiB\"\n",
        "existingSecret": "relay", "aws": {"region": "eu-central-1"},
        "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::123456789012:role/relay"}},
        "migrate": {"enabled": true, "existingSecret": "owner"},
        "serviceMonitor": {"enabled": true, "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": true}, "dashboards": {"enabled": true},
        "extraEnv": [{"name": "RUST_BACKTRACE", "value": "1"}],
        "extraVolumes": [{"name": "ca", "secret": {"secretName": "ca"}}],
        "extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/ca", "readOnly": true}],
        "imagePullSecrets": [{"name": "registry"}], "priorityClassName": "high",
        "nodeSelector": {"a": "b"}, "tolerations": [{"operator": "Exists"}],
    })
}

#[test]
fn it_renders_to_what_every_version_of_kubernetes_takes() {
    let mut signalled = everything();
    signalled["reload"] = json!({"mode": "sighup"});
    for version in VERSIONS {
        for values in [
            json!({}),
            json!({"existingSecret": "s"}),
            everything(),
            signalled.clone(),
        ] {
            let manifests = rendered_for(&values, version);
            assert!(manifests.is_ok(), "{version} {values}: {manifests:?}");
        }
    }
}

#[test]
fn it_makes_what_is_asked_for_and_no_more() {
    let kinds = |values: &Value| -> Vec<String> {
        let manifests = rendered(values);
        let kinds = manifests
            .iter()
            .map(|one| one["kind"].as_str().expect("a kind").to_owned());
        let mut kinds: Vec<String> = kinds.collect();
        kinds.sort_unstable();
        kinds
    };
    let least = [
        "Deployment",
        "PodDisruptionBudget",
        "Service",
        "ServiceAccount",
    ];
    assert_eq!(kinds(&json!({})), least);
    // A configuration and four dashboards.
    let mut all = vec!["ConfigMap"; 5];
    all.extend(["Deployment", "Job", "PodDisruptionBudget", "PrometheusRule"]);
    all.extend(["Service", "ServiceAccount", "ServiceMonitor"]);
    assert_eq!(kinds(&everything()), all);
}

#[test]
fn the_relay_runs_without_rights_and_is_given_its_time() {
    let manifests = rendered(&json!({
        "existingSecret": "relay", "drainGraceSeconds": 40, "migrate": {"enabled": true},
    }));
    let pod = &one(&manifests, "Deployment")["spec"]["template"]["spec"];
    assert_eq!(pod["terminationGracePeriodSeconds"], 55);
    assert_eq!(pod["automountServiceAccountToken"], false);
    let container = &pod["containers"][0];
    let probes = ["livenessProbe", "readinessProbe", "startupProbe"];
    let paths = probes.map(|probe| {
        container[probe]["httpGet"]["path"]
            .as_str()
            .expect("a path")
    });
    assert_eq!(paths, ["/livez", "/readyz", "/livez"]);
    assert_eq!(container["envFrom"][0]["secretRef"]["name"], "relay");
    let grace = json!({"name": "TIDEGATE__LIMITS__DRAIN_GRACE", "value": "40s"});
    assert!(
        container["env"]
            .as_array()
            .expect("variables")
            .contains(&grace)
    );
    let job = &one(&manifests, "Job")["spec"]["template"]["spec"];
    for pod in [pod, job] {
        assert_eq!(pod["securityContext"]["runAsUser"], 65532);
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        for container in pod["containers"].as_array().expect("containers") {
            let context = &container["securityContext"];
            assert_eq!(context["readOnlyRootFilesystem"], true);
            assert_eq!(context["allowPrivilegeEscalation"], false);
            assert_eq!(context["capabilities"]["drop"], json!(["ALL"]));
        }
    }
}

#[test]
fn a_changed_configuration_reaches_the_relay() {
    let annotation = |config: &str| {
        let manifests = rendered(&json!({"config": config}));
        let template = &one(&manifests, "Deployment")["spec"]["template"];
        template["metadata"]["annotations"]["checksum/config"].clone()
    };
    assert!(annotation("[log]\n").is_string());
    assert_ne!(annotation("[log]\n"), annotation("[probe]\n"));
    // Or without new pods, by a signal.
    let manifests = rendered(&json!({"config": "[log]\n", "reload": {"mode": "sighup"}}));
    let template = &one(&manifests, "Deployment")["spec"]["template"];
    assert!(template["metadata"]["annotations"]["checksum/config"].is_null());
    assert_eq!(template["spec"]["shareProcessNamespace"], true);
    let script = template["spec"]["containers"][1]["args"][0]
        .as_str()
        .expect("a script");
    assert!(script.contains("pkill -HUP -x tidegate"), "{script}");
    let syntax = Command::new("sh")
        .args(["-n", "-c", script])
        .status()
        .expect("sh");
    assert!(syntax.success());
}

#[test]
fn labels_find_their_pods() {
    let manifests = rendered(&everything());
    let deployment = &one(&manifests, "Deployment")["spec"];
    let labels = deployment["template"]["metadata"]["labels"]
        .as_object()
        .expect("labels");
    let selectors = [
        &deployment["selector"]["matchLabels"],
        &one(&manifests, "Service")["spec"]["selector"],
        &one(&manifests, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
    ];
    for selector in selectors {
        let wanted = selector.as_object().expect("a selector");
        assert!(!wanted.is_empty());
        assert!(
            wanted
                .iter()
                .all(|(key, value)| labels.get(key) == Some(value)),
            "{selector}"
        );
    }
    let service = one(&manifests, "Service");
    let monitored = one(&manifests, "ServiceMonitor");
    let wanted = monitored["spec"]["selector"]["matchLabels"]
        .as_object()
        .expect("a selector");
    let of_service = service["metadata"]["labels"].as_object().expect("labels");
    assert!(
        wanted
            .iter()
            .all(|(key, value)| of_service.get(key) == Some(value))
    );
    assert_eq!(
        monitored["spec"]["endpoints"][0]["port"],
        service["spec"]["ports"][0]["name"]
    );
    // A pod of the job must be no member of the service or the budget.
    let of_job = &one(&manifests, "Job")["spec"]["template"]["metadata"]["labels"];
    assert_ne!(of_job["app.kubernetes.io/name"], "tidegate");
}

/// Alerts and dashboards are those of `grafana/`.
#[test]
fn it_ships_the_alerts_and_the_dashboards() {
    let manifests = rendered(&everything());
    let rules = one(&manifests, "PrometheusRule")["spec"]["groups"].to_string();
    let source =
        std::fs::read_to_string(root().join("grafana/alerts/tidegate.yaml")).expect("alerts");
    let names: Vec<&str> = source
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .collect();
    assert!(names.len() > 10, "{names:?}");
    for name in names {
        assert!(rules.contains(&format!("\"alert\":\"{name}\"")), "{name}");
    }
    let folder = std::fs::read_dir(root().join("grafana/dashboards")).expect("dashboards");
    for file in folder.map(|entry| entry.expect("an entry")) {
        let name = file.file_name().to_string_lossy().into_owned();
        let shipped = manifests.iter().find_map(|one| one["data"][&name].as_str());
        let shipped: Value = serde_json::from_str(shipped.expect(&name)).expect("JSON");
        let source = std::fs::read_to_string(file.path()).expect("a dashboard");
        assert_eq!(
            shipped,
            serde_json::from_str::<Value>(&source).expect("JSON"),
            "{name}"
        );
    }
}

#[test]
fn values_that_are_wrong_are_refused_by_name() {
    for (values, says) in [
        (json!({"replicas": 3}), "replicas"),
        (json!({"replicaCount": 0}), "replicaCount"),
        (json!({"drainGraceSeconds": "20s"}), "drainGraceSeconds"),
        (json!({"reload": {"mode": "magic"}}), "mode"),
        (
            json!({"image": {"repository": "r", "digest": "latest"}}),
            "digest",
        ),
    ] {
        let error = rendered_for(&values, VERSIONS[1]).expect_err("refused");
        assert!(error.contains(says), "{values}: {error}");
    }
}

/// The checks see a manifest that Kubernetes would refuse.
#[test]
fn a_manifest_that_kubernetes_would_refuse_is_seen() {
    let error = rendered_for(&json!({"resources": {"limitz": {}}}), VERSIONS[1]);
    assert!(error.expect_err("refused").contains("limitz"));
}
