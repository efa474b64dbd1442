"""Many at once: clients that leave, and wrong requests among good ones."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from socket import create_connection
from typing import Any

import pytest

from tests.server.compose.test_answers import chunks_of, streamed_text
from tests.support.live_server import LiveServer

FORMULAS = [
    *("base + polite", "base + rude", "base + 0.5*polite - 0.5*rude", "2*base - chat"),
    *("polite", "1.5*polite - 0.5*base", "0.5*rude + 0.5*chat", "3*base"),
]

# More than the KV cache holds at once, so that it takes seconds.
LONG = {"n": 8, "max_tokens": 480, "ignore_eos": True}
LONG_TOKENS = 8 * 480


def wait_until_idle(server: LiveServer) -> None:
    """Returns when the engine has no request; vLLM tells in its metrics."""
    deadline = time.monotonic() + 20
    while server.running():
        assert time.monotonic() < deadline, "requests are still running"


@pytest.mark.parametrize("route", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("model", ["base + polite", "polite", "base"])
def test_a_client_that_leaves_frees_its_rows(server: LiveServer, route: str, model: str) -> None:
    prompt = (
        {"messages": [{"role": "user", "content": "Hi"}]} if "chat" in route else {"prompt": "Hi"}
    )
    body = {"model": model, "stream": True, **LONG, **prompt}
    before = server.metric("vllm:generation_tokens_total")
    with server.http.stream("POST", route, json=body) as response:
        assert response.status_code == 200
        assert next(response.iter_lines()).startswith("data: ")
    wait_until_idle(server)
    assert server.metric("vllm:generation_tokens_total") - before < LONG_TOKENS


@pytest.mark.parametrize("more", [{}, {"compare": True}])
def test_a_client_that_leaves_before_a_whole_answer(
    server: LiveServer, more: dict[str, Any]
) -> None:
    host, port = server.http.base_url.host, server.http.base_url.port
    assert port is not None
    before = server.metric("vllm:generation_tokens_total")
    body = json.dumps({"model": "base + polite", "prompt": "Hi", **LONG, **more}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    with create_connection((host, port)) as connection:
        connection.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
        deadline = time.monotonic() + 20
        while not server.running():
            assert time.monotonic() < deadline, "the request never started"
    wait_until_idle(server)
    assert server.metric("vllm:generation_tokens_total") - before < LONG_TOKENS


def test_wrong_requests_disturb_nobody(server: LiveServer) -> None:
    options: dict[str, Any] = {"stream": True, "max_tokens": 24, "ignore_eos": True}

    def answer(formula: str) -> str:
        return streamed_text(chunks_of(server.chat("base", composition=formula, **options)))

    quiet = [answer(formula) for formula in FORMULAS]
    bad: list[dict[str, Any]] = [
        {"composition": "base + nobody"},
        {"composition": "base +"},
        {"composition": {"members": [{"model": "base", "weight": 1e9}]}},
        {"composition": "base + polite", "prompt_logprobs": 10**6},
        {"composition": "base + polite", "temperature": -1},
        {"composition": "base + polite", "max_tokens": 10**6},
        {"composition": "base + polite", "logit_bias": {"999999999": 1}},
        {"model": "nobody"},
        {"vllm_xargs": {"composition": "{}"}},
        {"composition": "base + polite + rude + chat"},
    ]
    started = threading.Barrier(len(FORMULAS) + 1)

    def good(formula: str) -> str:
        started.wait()
        return answer(formula)

    with ThreadPoolExecutor(len(FORMULAS)) as pool:
        answers = pool.map(good, FORMULAS)
        started.wait()
        statuses = [server.chat(**{"model": "base"} | fields).status_code for fields in bad * 2]
        assert list(answers) == quiet
    assert all(400 <= status < 500 for status in statuses), statuses
    wait_until_idle(server)
