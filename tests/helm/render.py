"""Renders a chart with values (JSON) and prints its manifests as a JSON list.

usage: render.py CHART VALUES KUBERNETES_VERSION

Fails with the reason if Helm's lint finds anything, if a template does not render, or
if a manifest does not fit the strict schema of its kind in that version of Kubernetes.
Kinds of the Prometheus operator have no schema there; the caller looks at them.
"""

import json
import sys

import kubernetes_validate
import yaml
from helm_python import chart

FOREIGN = {"ServiceMonitor", "PrometheusRule"}

path, values, version = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]

report = chart.lint(path, values, strict=True, kube_version=f"v{version}.0")
# An icon is recommended (severity 1); everything above that is a fault.
found = [message for message in report["messages"] if message["severity"] > 1]
if found:
    sys.exit(f"lint: {json.dumps(found)}")

manifests = []
with chart.Chart.load(path) as loaded:
    for name, text in loaded.render(values, name="test", namespace="relays").items():
        if name.endswith(".txt"):
            continue
        for manifest in yaml.safe_load_all(text):
            if manifest is None:
                continue
            if manifest["kind"] not in FOREIGN:
                try:
                    kubernetes_validate.validate(manifest, version, strict=True)
                except kubernetes_validate.ValidationError as error:
                    sys.exit(f"{name}: {error}")
            manifests.append(manifest)
print(json.dumps(manifests))
