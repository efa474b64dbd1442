"""compose.yaml: what Compose makes of it, and whether its parts fit each other."""

from __future__ import annotations

import json
import re
from typing import Any

import compose_spec
import pytest
import yaml

from bench.machine.router import PACKAGES
from scripts.locks import read_pins
from server.auth.access_control import KEYLESS
from tests.deploy.manifests import DEPLOY, ROOT, read_yaml
from tests.deploy.options import image_volumes, parse

TEXT = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
ENVIRONMENT = {"MODELS": "/srv/models"}
VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<sign>[-?])(?P<rest>[^}]*))?\}")
SERVERS = ("server-a", "server-b")


def interpolated(environment: dict[str, str]) -> dict[str, Any]:
    """Read the file as Compose does: `${NAME:-default}` and `${NAME:?error}` replaced."""

    def value(match: re.Match[str]) -> str:
        if given := environment.get(match["name"]):
            return given
        assert match["sign"] == "-", f"{match['name']}: {match['rest']}"
        return str(match["rest"])

    document: dict[str, Any] = yaml.safe_load(VARIABLE.sub(value, TEXT))
    return document


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = interpolated(ENVIRONMENT)["services"]
    return found


def test_it_is_a_compose_file() -> None:
    # By JSON, since the parser of YAML there does not merge `<<`.
    document = interpolated(ENVIRONMENT)
    compose_spec.PyCompose.from_json(json.dumps(document)).validate()
    document["services"]["router"]["prots"] = []
    with pytest.raises(ValueError, match="prots"):
        compose_spec.PyCompose.from_json(json.dumps(document))


def test_it_asks_for_the_models() -> None:
    with pytest.raises(AssertionError, match="MODELS"):
        interpolated({})


def test_the_servers_differ_by_their_gpu_and_port_only(services: dict[str, dict[str, Any]]) -> None:
    one, other = (dict(services[name]) for name in SERVERS)
    assert one.pop("ports") == ["127.0.0.1:8001:8000"]
    gpus = [one.pop("deploy"), other.pop("deploy")]
    assert one == other
    devices = [gpu["resources"]["reservations"]["devices"] for gpu in gpus]
    assert [device[0]["device_ids"] for device in devices] == [["0"], ["1"]]
    assert {mount.split(":")[1] for mount in one["volumes"]} == image_volumes()


def test_the_servers_take_their_command(services: dict[str, dict[str, Any]]) -> None:
    server = services[SERVERS[0]]
    options = parse(server["command"])
    assert options.model == "/models/base"
    assert float(server["stop_grace_period"].removesuffix("s")) >= options.drain_seconds + 20
    kind, program, flag, source = server["healthcheck"]["test"]
    assert (kind, program, flag) == ("CMD", "python3", "-c")
    compile(source, "healthcheck", "exec")
    assert set(re.findall(r"'(/\w+)'", source)) == {"/ready"} <= KEYLESS


def test_the_router_reaches_the_servers(services: dict[str, dict[str, Any]]) -> None:
    router = services["router"]
    workers = [word for word in router["command"] if word.startswith("http://")]
    assert workers == [f"http://{name}:8000" for name in SERVERS]
    assert list(router["depends_on"]) == list(SERVERS)
    assert "--health-check-endpoint=/ready" in router["command"]


def test_the_router_takes_its_command(
    services: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(PACKAGES)
    launcher = pytest.importorskip("vllm_router.launch_router", reason="vllm-router: not installed")
    arguments = launcher.parse_router_args(services["router"]["command"])
    assert arguments.policy == "consistent_hash"
    assert arguments.health_check_endpoint == "/ready"


def test_the_router_is_the_version_that_is_tested(services: dict[str, dict[str, Any]]) -> None:
    pins = read_pins(ROOT / "requirements" / "router.lock", "linux")
    [pin] = [pin for pin in pins if pin.startswith("vllm-router==")]
    assert f" {pin} " in (DEPLOY / "router.Dockerfile").read_text(encoding="utf-8")
    assert services["router"]["image"].rpartition(":")[2] == pin.partition("==")[2]


def test_prometheus_scrapes_services_that_exist(services: dict[str, dict[str, Any]]) -> None:
    jobs = {
        job["job_name"]: [target for entry in job["static_configs"] for target in entry["targets"]]
        for job in read_yaml(DEPLOY / "monitoring" / "prometheus.yaml")["scrape_configs"]
    }
    assert jobs["composer"] == [f"{name}:8000" for name in SERVERS]
    [router] = jobs["router"]
    name, _, port = router.partition(":")
    assert f"--prometheus-port={port}" in services[name]["command"]
    [source] = read_yaml(DEPLOY / "monitoring" / "grafana-datasource.yaml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in services


def test_grafana_finds_the_dashboard(services: dict[str, dict[str, Any]]) -> None:
    [provider] = read_yaml(DEPLOY / "monitoring" / "grafana-dashboards.yaml")["providers"]
    mounts = [mount.split(":") for mount in services["grafana"]["volumes"]]
    [inside] = [target for source, target, _ in mounts if source.endswith("dashboard.json")]
    assert inside.startswith(provider["options"]["path"] + "/")
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == inside


def test_every_file_exists_and_every_image_has_a_version(
    services: dict[str, dict[str, Any]],
) -> None:
    for name, service in services.items():
        sources = [mount.split(":")[0] for mount in service.get("volumes", [])]
        for source in (DEPLOY / source for source in sources if source.startswith("./")):
            assert source.is_file(), source
        assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", service["image"]), name
        if build := service.get("build"):
            context = (DEPLOY / build["context"]).resolve()
            assert context in (ROOT, DEPLOY)
            assert (context / build.get("dockerfile", "Dockerfile")).is_file()


def test_only_this_machine_reaches_the_ports(services: dict[str, dict[str, Any]]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert len(ports) == len(set(ports)) == 4
    assert all(port.startswith("127.0.0.1:") for port in ports)
