"""deploy/kubernetes.yaml, the chart rendered with every part of it: needs no Helm."""

from __future__ import annotations

import re
from typing import Any

import kubernetes_validate
import pytest

from server.auth.access_control import KEYLESS
from tests.deploy.manifests import ALERTS, EXAMPLE, of_kind, read_yaml, rendered_example
from tests.deploy.options import DOCKERFILE, image_volumes, parse

CUSTOM = {"InferencePool", "PodMonitor", "PrometheusRule"}
"""Kinds that Kubernetes does not have itself."""

OLDEST, NEWEST = "1.28", "1.37"
"""The first is Chart.yaml's `kubeVersion`."""


@pytest.fixture(scope="module")
def objects() -> list[dict[str, Any]]:
    return rendered_example()


@pytest.fixture(scope="module")
def pod(objects: list[dict[str, Any]]) -> dict[str, Any]:
    template: dict[str, Any] = of_kind(objects, "Deployment")["spec"]["template"]
    return template


@pytest.fixture(scope="module")
def container(pod: dict[str, Any]) -> dict[str, Any]:
    [container] = pod["spec"]["containers"]
    return dict(container)


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_kubernetes_knows_every_field(objects: list[dict[str, Any]], version: str) -> None:
    kinds = {document["kind"] for document in objects}
    assert kinds > CUSTOM
    for document in objects:
        if document["kind"] not in CUSTOM:
            kubernetes_validate.validate(document, version, strict=True)


def test_an_unknown_field_is_found(objects: list[dict[str, Any]]) -> None:
    document = of_kind(objects, "Service")
    wrong = document | {"spec": document["spec"] | {"prots": []}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, NEWEST, strict=True)


def test_the_server_takes_its_arguments(container: dict[str, Any]) -> None:
    options = parse(container["args"])
    values = read_yaml(EXAMPLE)
    assert options.model == values["model"]
    assert options.adapters == ["polite=/adapters/polite"]
    assert str(options.keys) == "/keys/keys.toml"
    assert options.metrics == values["metrics"]["access"]


def test_a_pod_drains_before_it_is_killed(pod: dict[str, Any], container: dict[str, Any]) -> None:
    program, pause_s = container["lifecycle"]["preStop"]["exec"]["command"]
    assert program == "sleep"
    drain_s = parse(container["args"]).drain_seconds
    assert pod["spec"]["terminationGracePeriodSeconds"] >= float(pause_s) + drain_s + 20


def test_probes_ask_routes_that_need_no_key(container: dict[str, Any]) -> None:
    [port] = container["ports"]
    paths = {}
    for name in ("startupProbe", "livenessProbe", "readinessProbe"):
        get = container[name]["httpGet"]
        assert get["port"] == port["name"]
        paths[name] = get["path"]
    assert set(paths.values()) <= KEYLESS
    assert paths["readinessProbe"] == "/ready"
    assert paths["livenessProbe"] == paths["startupProbe"] == "/live"


def test_every_gpu_has_a_worker(container: dict[str, Any]) -> None:
    gpus = container["resources"]["limits"]["nvidia.com/gpu"]
    arguments = container["args"]
    assert arguments[arguments.index("--tensor-parallel-size") + 1] == str(gpus)


def test_volumes_are_the_image_s(pod: dict[str, Any], container: dict[str, Any]) -> None:
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert image_volumes() <= mounts.keys()
    assert "readOnly" not in mounts["/state"]
    volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
    assert {mount["name"] for mount in mounts.values()} == volumes


def test_all_replicas_share_the_store(objects: list[dict[str, Any]], pod: dict[str, Any]) -> None:
    claim = of_kind(objects, "PersistentVolumeClaim")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    [store] = [volume for volume in pod["spec"]["volumes"] if volume["name"] == "store"]
    assert store["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]


def test_it_runs_as_the_user_of_the_image(pod: dict[str, Any], container: dict[str, Any]) -> None:
    context = pod["spec"]["securityContext"]
    users = re.findall(r"^USER (\d+):(\d+)$", DOCKERFILE, re.MULTILINE)
    assert (str(context["runAsUser"]), str(context["runAsGroup"])) == users[-1]
    assert context["runAsNonRoot"] is True
    assert container["securityContext"]["allowPrivilegeEscalation"] is False


def test_selectors_find_the_pods(objects: list[dict[str, Any]], pod: dict[str, Any]) -> None:
    labels = pod["metadata"]["labels"].items()
    for kind in ("Deployment", "PodDisruptionBudget", "PodMonitor", "InferencePool"):
        selector = of_kind(objects, kind)["spec"]["selector"]
        assert selector.keys() == {"matchLabels"}
        assert selector["matchLabels"].items() <= labels, kind
    assert of_kind(objects, "Service")["spec"]["selector"].items() <= labels
    assert "llm-d.ai/inference-serving" in dict(labels)


def test_prometheus_reads_the_pods_and_the_alerts(
    objects: list[dict[str, Any]], pod: dict[str, Any], container: dict[str, Any]
) -> None:
    spec = of_kind(objects, "PodMonitor")["spec"]
    [endpoint] = spec["podMetricsEndpoints"]
    assert endpoint["port"] == container["ports"][0]["name"]
    assert endpoint["path"] == "/metrics"
    # Alerts and dashboard find the servers by this job.
    assert pod["metadata"]["labels"][spec["jobLabel"]] == "composer"
    assert of_kind(objects, "PrometheusRule")["spec"] == read_yaml(ALERTS)


def test_the_pool_has_the_port_of_the_server(
    objects: list[dict[str, Any]], container: dict[str, Any]
) -> None:
    pool = of_kind(objects, "InferencePool")
    assert pool["apiVersion"] == "inference.networking.k8s.io/v1"
    assert pool["spec"].keys() == {"selector", "targetPorts", "endpointPickerRef"}
    [port] = pool["spec"]["targetPorts"]
    assert port["number"] == container["ports"][0]["containerPort"]
