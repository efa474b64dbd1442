"""vLLM's gauges, as gateways read them: requests and aliases."""

from __future__ import annotations

import re
from typing import Any

from tests.server.compose.test_streams import wait_until_idle
from tests.support.live_server import LiveServer

LORA_INFO = "vllm:lora_requests_info"
FORMULA = "base + 0.5*polite - 0.5*rude"


def running_adapters(server: LiveServer) -> set[frozenset[str]]:
    """Every set of adapters that ran at once, since the start."""
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
    seen = running_adapters(server)
    assert frozenset({"polite", "rude"}) in seen
    assert not any("@" in name for names in seen for name in names)
