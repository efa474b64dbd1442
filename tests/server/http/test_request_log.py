"""Request ids, figures and the log line of requests."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.live_server import LiveServer

ROUTES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", {"prompt": "Hello"}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hello"}]}),
    ("/v1/responses", {"input": "Hello"}),
    ("/v1/messages", {"messages": [{"role": "user", "content": "Hello"}]}),
]


def figure(server: LiveServer, name: str, **labels: str) -> float:
    """The sum of the samples of `/metrics` that have these labels; 0 where there are none."""
    text = server.http.get("/metrics").text
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def line_of(server: LiveServer, request_id: str) -> dict[str, str]:
    """The fields of the line of a request in the log."""
    return dict(re.findall(r'(\w+)=("(?:[^"\\]|\\.)*"|\S+)', server.log_line(request_id)))


@pytest.mark.parametrize("path", ["/v1/models", "/v1/compositions", "/live", "/nowhere"])
def test_every_answer_has_the_id_of_its_request(server: LiveServer, path: str) -> None:
    given = server.http.get(path, headers={"X-Request-Id": "trace/1:a-B_c.9"})
    assert given.headers["x-request-id"] == "trace/1:a-B_c.9"
    first, second = (server.http.get(path).headers["x-request-id"] for _ in range(2))
    assert re.fullmatch("[0-9a-f]{32}", first)
    assert first != second


@pytest.mark.parametrize("hostile", ["x" * 129, "a b", "a\tb", 'a"b', "a=b;c", "é".encode()])
def test_an_id_that_does_not_belong_in_a_log_is_replaced(
    server: LiveServer, hostile: str | bytes
) -> None:
    answer = server.http.get("/live", headers=[(b"X-Request-Id", _bytes(hostile))])
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


@pytest.mark.parametrize(("path", "body"), ROUTES)
def test_errors_carry_the_id(server: LiveServer, path: str, body: dict[str, Any]) -> None:
    headers = {"X-Request-Id": "failing-1"}
    refused = {"model": "nope", "max_tokens": 4, **body}
    before = figure(server, "composer_requests_total", outcome="client_error")
    answer = server.http.post(path, json=refused, headers=headers)
    assert answer.status_code == 404
    assert answer.headers["x-request-id"] == "failing-1"
    assert answer.json()["request_id"] == "failing-1"
    assert figure(server, "composer_requests_total", outcome="client_error") == before + 1
    assert figure(server, "composer_request_errors_total", code="model_not_found") > 0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "body"), ROUTES)
def test_a_composed_request_is_counted_and_logged(
    server: LiveServer, path: str, body: dict[str, Any], stream: bool
) -> None:
    request_id = f"logged{path}-{stream}"
    limit = "max_output_tokens" if "input" in body else "max_tokens"
    asked = {"model": "base + 0.5*(polite - rude)", "stream": stream, limit: 5, **body}
    labels = {"composition": "formula", "recipe": "sum", "outcome": "ok"}
    before = figure(server, "composer_requests_total", **labels)
    rows = figure(server, "composer_rows_sum")
    answer = server.http.post(path, json=asked, headers={"X-Request-Id": request_id})
    assert answer.status_code == 200, answer.text
    line = line_of(server, request_id)
    assert line["plan"] == '"base + 0.5*polite - 0.5*rude"'
    assert line["key"] == "anonymous"
    assert line["rows"] == "3"
    assert int(line["prompt_tokens"]) > 0
    assert line["answer_tokens"] == "5"
    assert float(line["seconds"]) > 0
    assert (line["status"], line["outcome"]) == ("200", "ok")
    assert figure(server, "composer_requests_total", **labels) == before + 1
    assert figure(server, "composer_rows_sum") == rows + 3


def test_a_client_sees_the_usage_of_a_stream_only_if_it_asks(server: LiveServer) -> None:
    def usages(**fields: Any) -> int:
        answer = server.complete("base + polite", stream=True, max_tokens=4, **fields)
        return answer.text.count('"usage":{')

    assert usages() == 0
    assert usages(stream_options={"include_usage": True}) == 1


def test_prompts_and_unknown_names_are_not_in_the_log_or_the_figures(server: LiveServer) -> None:
    secret = "Kevogu guards it"
    members = [
        {"model": "base", "weight": 1},
        {"model": "base", "weight": -0.5, "prompt": secret},
        {"model": "polite", "weight": 1},
    ]
    headers = {"X-Request-Id": "private-1"}
    body = {"model": "base", "prompt": secret, "max_tokens": 3, "composition": {"members": members}}
    answer = server.http.post("/v1/completions", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    line = line_of(server, "private-1")
    assert (line["composition"], line["recipe"]) == ("composition", "sum")
    assert line["plan"] == '"base + polite - 0.5*base[...]"'
    server.complete("Kevogu-model")
    assert "Kevogu" not in server.http.get("/metrics").text
    assert "Kevogu" not in server.log.read_text()


def test_routers_tell_whom_they_chose(server: LiveServer) -> None:
    before = figure(server, "composer_router_choices_total", expert="arithmetic")
    answer = server.chat("auto", "What is 3 plus 4?")
    assert answer.status_code == 200, answer.text
    after = figure(server, "composer_router_choices_total", expert="arithmetic")
    chosen = {member["model"] for member in answer.json()["composition"]["plan"]["members"]}
    assert after - before == ("arithmetic" in chosen)


def test_leases_end_with_their_requests(server: LiveServer) -> None:
    body = {"model": "base + polite", "prompt": "Hi", "max_tokens": 400, "ignore_eos": True}
    with server.http.stream("POST", "/v1/completions", json=body | {"stream": True}) as response:
        lines = response.iter_lines()
        assert next(lines).startswith("data:")
        assert figure(server, "composer_leases") == 1
        assert figure(server, "composer_requests_in_flight") == 1
    deadline = time.monotonic() + 20
    while figure(server, "composer_leases"):
        assert time.monotonic() < deadline, "the lease of a client that left is still held"
