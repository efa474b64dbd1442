"""The Helm chart: its values, its templates, and what Helm makes of them."""

from __future__ import annotations

import json
import re
import tomllib
from typing import Any

import jsonschema_rs
import kubernetes_validate
import pytest

from server.server_options import option_names
from tests.deploy.manifests import (
    CHART,
    EXAMPLE,
    ROOT,
    needs_helm,
    of_kind,
    read_yaml,
    render,
    rendered_example,
    run,
)
from tests.deploy.options import OF_VLLM, parse
from tests.deploy.test_manifests import CUSTOM, NEWEST, OLDEST

VALUES: dict[str, Any] = read_yaml(CHART / "values.yaml")
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
TEMPLATES = "\n".join(
    path.read_text(encoding="utf-8") for path in sorted((CHART / "templates").iterdir())
)
OPEN = {"adapters", "metrics.labels", "inferencePool.labels", "podLabels", "podAnnotations"}
OPEN |= {"nodeSelector", "affinity", "resources.requests", "resources.limits"}
"""Values whose keys the user chooses."""

REFUSED = {
    "replicas=2,store.accessMode=ReadWriteOnce": "set ReadWriteMany, store.existingClaim, or",
    "metrics.podMonitor=true,metrics.access=off": "set open or key",
    "metrics.podMonitor=true,metrics.access=key,keys.secret=k": "set metrics.keySecret, or",
    "inferencePool.enabled=true,metrics.access=key,keys.secret=k": "the endpoint picker reads",
    "gpu.count=two": "gpu/count",
    "replica=2": "replica",
}
"""Values that Helm refuses -> part of what it says."""


def paths(values: dict[str, Any], schema: dict[str, Any], above: str = "") -> list[str]:
    """The leaves of the values, `a.b`; every folder must list the same keys in the schema."""
    known = schema["properties"].keys() - {"global"}
    assert values.keys() == known, above
    leaves = []
    for name, value in values.items():
        path = f"{above}{name}"
        if isinstance(value, dict) and path not in OPEN:
            leaves += paths(value, schema["properties"][name], f"{path}.")
        else:
            leaves.append(path)
    return leaves


def test_the_chart_has_the_version_of_the_project() -> None:
    chart = read_yaml(CHART / "Chart.yaml")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert chart["version"] == chart["appVersion"] == project["version"]
    assert chart["kubeVersion"].startswith(f">={OLDEST}.")


def test_values_fit_their_schema() -> None:
    validator = jsonschema_rs.validator_for(SCHEMA)
    validator.validate(VALUES)
    validator.validate(read_yaml(EXAMPLE))
    assert not validator.is_valid(VALUES | {"replica": 2})


def test_templates_use_every_value_and_no_other() -> None:
    leaves = paths(VALUES, SCHEMA)
    used = set(re.findall(r"\.Values\.([A-Za-z.]+)", TEMPLATES))
    assert used == set(leaves)


def test_options_in_the_templates_exist() -> None:
    named = set(re.findall(r"^\s*- (--[a-z-]+)", TEMPLATES, re.MULTILINE))
    assert named
    assert named <= option_names() | OF_VLLM


@needs_helm
def test_helm_finds_nothing_to_complain_about() -> None:
    for options in ((), ("--values", str(EXAMPLE))):
        done = run("helm", "lint", "--strict", str(CHART), *options)
        assert done.returncode == 0, done.stdout + done.stderr


@needs_helm
def test_the_rendered_example_is_up_to_date() -> None:
    assert render("--values", str(EXAMPLE)) == rendered_example(), (
        "helm template composer deploy/chart --values deploy/example.yaml > deploy/kubernetes.yaml"
    )


@needs_helm
@pytest.mark.parametrize("values", REFUSED)
def test_values_that_cannot_work_are_refused(values: str) -> None:
    done = run("helm", "template", "composer", str(CHART), "--set", values)
    assert done.returncode != 0
    assert REFUSED[values] in done.stderr


@needs_helm
def test_the_defaults_are_one_server_without_what_a_cluster_may_lack() -> None:
    objects = render()
    kinds = sorted(document["kind"] for document in objects)
    assert kinds == ["Deployment", "PersistentVolumeClaim", "Service"]
    for document in objects:
        kubernetes_validate.validate(document, NEWEST, strict=True)


@needs_helm
def test_other_values_render_too() -> None:
    objects = render(
        *("--set", "gpu.count=0,store.existingClaim=nfs,startupSeconds=61,drainSeconds=300"),
        *("--set", "podLabels.team=a,podAnnotations.note=b,nodeSelector.disk=ssd"),
        *("--set", "metrics.podMonitor=true,metrics.access=key,metrics.keySecret=m"),
        *("--set", "metrics.dashboard=true,imagePullSecrets[0].name=pull"),
        *("--set", "models.existingClaim=m,models.readOnly=false,env[0].name=X,env[0].value=y"),
    )
    for document in objects:
        if document["kind"] not in CUSTOM:
            kubernetes_validate.validate(document, NEWEST, strict=True)
    deployment = of_kind(objects, "Deployment")["spec"]["template"]["spec"]
    [container] = deployment["containers"]
    assert "nvidia.com/gpu" not in container["resources"]["limits"]
    assert "--tensor-parallel-size" not in container["args"]
    assert parse(container["args"]).drain_seconds == 300
    assert deployment["terminationGracePeriodSeconds"] >= 300 + 5 + 20
    assert container["startupProbe"]["failureThreshold"] == 7
    assert {"name": "X", "value": "y"} in container["env"]
    [endpoint] = of_kind(objects, "PodMonitor")["spec"]["podMetricsEndpoints"]
    assert endpoint["authorization"]["credentials"] == {"name": "m", "key": "key"}
    dashboard = of_kind(objects, "ConfigMap")["data"]["composer.json"]
    source = (CHART / "files" / "dashboard.json").read_text(encoding="utf-8")
    assert json.loads(dashboard) == json.loads(source)
