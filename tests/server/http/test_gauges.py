"""vLLM's gauges, as gateways read them: requests and aliases."""

from __future__ import annotations

import http.client
import re
import time
from pathlib import Path
from typing import Any

import httpx

from adapters import Policy, Registry
from server.routes.prometheus import AdapterFigures
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


def held(registry: Registry) -> Held:
    """Adapter, generation and state -> requests that hold the generation."""
    [family] = AdapterFigures(registry).collect()
    found: Held = {}
    for sample in family.samples:
        labels = sample.labels
        found[labels["adapter"], labels["generation"], labels["state"]] = sample.value
    return found


def test_generations_with_the_requests_that_hold_them() -> None:
    """A replaced one stays while a request holds it, and its series ends with it."""
    registry = Registry(retire=lambda _: None)

    def publish(digest: str, version: int) -> None:
        with registry.prepare("polite", digest, Path("/x"), rank=8) as lease:
            registry.point(lease.generations["polite"], Policy(), version)

    old, new = "a" * 64, "b" * 64
    publish(old, 1)
    assert held(registry) == {("polite", old[:12], "served"): 0}
    with registry.lease(["polite"]), registry.lease(["polite"]):
        assert held(registry) == {("polite", old[:12], "served"): 2}
        publish(new, 2)
        assert held(registry) == {
            ("polite", old[:12], "retiring"): 2,
            ("polite", new[:12], "served"): 0,
        }
    assert held(registry) == {("polite", new[:12], "served"): 0}


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
