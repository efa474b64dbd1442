"""vLLM's gauges, as gateways read them: requests and aliases."""

from __future__ import annotations

import http.client
import re
import time
from typing import Any

import httpx

from tests.server.compose.test_streams import wait_until_idle
from tests.support.live_server import LiveServer

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
