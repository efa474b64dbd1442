"""vLLM's gauges, as gateways read them: requests and aliases."""

from __future__ import annotations

import http.client
import re
import time
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.server.administration import Admin
from tests.server.compose.test_streams import wait_until_idle
from tests.support.live_server import LiveServer

Held = dict[tuple[str, str, str], float]
LORA_INFO = "vllm:lora_requests_info"
FORMULA = "base + 0.5*polite - 0.5*rude"


def running_adapters(server: LiveServer) -> set[frozenset[str]]:
    """The sets of adapters that ran at once, one for each series."""
    lines = server.http.get("/metrics").text.splitlines()
    found = [re.search(r'running_lora_adapters="([^"]*)"', line) for line in lines]
    return {
        frozenset(match[1].split(","))
        for match, line in zip(found, lines, strict=True)
        if match and line.startswith(LORA_INFO)
    }


def held(server: LiveServer) -> Held:
    """Adapter, generation and state -> requests that hold the generation."""
    families = text_string_to_metric_families(server.http.get("/metrics").text)
    found: Held = {}
    for sample in (sample for family in families for sample in family.samples):
        if sample.name == "composer_adapter_leases":
            of = sample.labels
            found[of["adapter"], of["generation"], of["state"]] = sample.value
    return found


def test_generations_with_the_requests_that_hold_them(admin: Admin) -> None:
    """A replaced one stays while a request holds it, and its series ends with it."""
    first = admin.put("gauged", "polite").json()["digest"][:12]
    served = ("gauged", first, "served")
    assert held(admin.server)[served] == 0
    body: dict[str, Any] = {
        **{"model": "chat + gauged", "prompt": "Once upon a", "stream": True},
        **{"max_tokens": 400, "ignore_eos": True},
    }
    with admin.server.http.stream("POST", "/v1/completions", json=body) as response:
        next(response.iter_lines())
        assert held(admin.server)[served] == 1
        second = admin.put("gauged", "rude").json()["digest"][:12]
        now = held(admin.server)
        assert now["gauged", first, "retiring"] == 1
        assert now["gauged", second, "served"] == 0
        assert served not in now
    wait_until_idle(admin.server)
    assert {key for key in held(admin.server) if key[0] == "gauged"} == {
        ("gauged", second, "served")
    }


def test_a_composed_request_is_one_request_with_the_adapters_of_its_rows(
    server: LiveServer,
) -> None:
    wait_until_idle(server)
    body: dict[str, Any] = {
        **{"model": FORMULA, "prompt": "Once upon a", "stream": True},
        **{"max_tokens": 300, "ignore_eos": True, "temperature": 0},
    }
    with server.http.stream("POST", "/v1/completions", json=body) as response:
        chunks = response.iter_lines()
        next(chunks)
        # Three rows run: one request.
        assert server.metric("vllm:num_requests_running") == 1
        assert server.metric("vllm:num_requests_waiting") == 0
        assert running_adapters(server) == {frozenset({"polite", "rude"})}


def test_combinations_of_adapters_leave_no_series_behind(server: LiveServer) -> None:
    for model in ("polite", "rude", "base + polite", "base + chat", FORMULA):
        assert server.complete(model, max_tokens=3).status_code == 200
    assert len(running_adapters(server)) == 1


def test_a_connection_stays_open_longer_than_clients_keep_it(server: LiveServer) -> None:
    """httpx keeps idle connections for 5 s, the OpenAI client too."""
    url = httpx.URL(server.url)
    connection = http.client.HTTPConnection(url.host, url.port)
    try:
        for pause_s in (6, 0):
            connection.request("GET", "/live")
            assert connection.getresponse().read()
            time.sleep(pause_s)
    finally:
        connection.close()
