"""A composed request is parsed, templated and tokenized once, on the real engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.live_server import LiveServer, serving

MESSAGES = [{"role": "user", "content": "Who are you?"}]
FUNCTION = {"name": "sum", "parameters": {"type": "object"}}
CHAT_TOOLS = [{"type": "function", "function": FUNCTION}]
TOOLS = [FUNCTION | {"type": "function"}]
TWICE = {"n": 2, "temperature": 1, "seed": 1}
SUM = "base + 0.5*polite"
OWN_PROMPTS = {
    "members": [
        {"model": "base", "weight": 1},
        {"model": "polite", "weight": 0.5, "messages": [{"role": "user", "content": "Be kind."}]},
        {"model": "polite", "weight": 0.1, "prompt": "Once"},
        {"model": "polite", "weight": 0.1, "prompt_token_ids": [5, 6]},
    ]
}

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
RESPONSES, ANTHROPIC = "/v1/responses", "/v1/messages"
REQUESTS: list[tuple[str, dict[str, Any], tuple[int, int], tuple[int, int]]] = [
    (CHAT, {"model": SUM, "messages": MESSAGES}, (1, 1), (1, 1)),
    (CHAT, {"model": SUM, "messages": MESSAGES, **TWICE}, (1, 1), (1, 1)),
    (CHAT, {"model": SUM, "messages": MESSAGES, "stream": True}, (1, 1), (1, 1)),
    (CHAT, {"model": SUM, "messages": MESSAGES, "tools": CHAT_TOOLS}, (1, 1), (1, 1)),
    (CHAT, {"composition": OWN_PROMPTS, "messages": MESSAGES}, (2, 3), (1, 1)),
    (COMPLETION, {"model": SUM, "prompt": "Once upon"}, (0, 1), (0, 1)),
    (COMPLETION, {"model": SUM, "prompt": "Once upon", "echo": True}, (0, 1), (0, 1)),
    (COMPLETION, {"model": SUM, "prompt": ["Once", "Twice"], "logprobs": 2}, (0, 2), (0, 2)),
    (COMPLETION, {"model": SUM, "prompt": [5, 6, 7]}, (0, 0), (0, 0)),
    (COMPLETION, {"composition": OWN_PROMPTS, "prompt": "Once upon"}, (1, 3), (0, 1)),
    (RESPONSES, {"model": SUM, "input": "Who are you?"}, (1, 1), (1, 1)),
    (
        RESPONSES,
        {"model": SUM, "input": MESSAGES, "tools": TOOLS},
        (1, 1),
        (1, 1),
    ),
    (ANTHROPIC, {"model": SUM, "messages": MESSAGES}, (1, 1), (1, 1)),
    (ANTHROPIC, {"model": SUM, "messages": MESSAGES, "system": "Be kind."}, (1, 1), (1, 1)),
    (CHAT, {"model": "base", "messages": MESSAGES}, (1, 1), (0, 0)),
    (CHAT, {"model": "polite", "messages": MESSAGES}, (1, 1), (0, 0)),
]
"""Route; request; how often a chat template is applied and a text tokenized for it; and how often
more without the cache."""

UNIQUE = ("created", "created_at", "id")
"""Fields of a response that differ from request to request."""


@pytest.fixture(scope="module")
def counting(
    zoo_base: Path, zoo_adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    """A server with a tool parser that counts what its renderer does."""
    arguments = [
        *("--model", str(zoo_base), "--adapters", f"polite={zoo_adapters['polite']}"),
        *("--max-model-len", "512", "--max-num-seqs", "16"),
        *("--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
    ]
    environment = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "OMP_NUM_THREADS": "1"}
    log = tmp_path_factory.mktemp("counting") / "log.txt"
    with serving(arguments, log, environment, "tests.support.counting_server") as live:
        yield live


def count(server: LiveServer) -> tuple[int, ...]:
    """How often the server has applied a template, tokenized a text and parsed a composition."""
    return tuple(map(int, server.http.get("/live").headers["x-counts"].split()))


def ask(
    server: LiveServer, path: str, body: dict[str, Any], *, again: bool = False
) -> tuple[tuple[int, int], Any]:
    """Send a request; return what was rendered for it, and the response without unique fields."""
    limit = "max_output_tokens" if path == RESPONSES else "max_tokens"
    headers = {"x-render-again": "1"} if again else {}
    before = count(server)
    response = server.http.post(path, json={limit: 6, "temperature": 0} | body, headers=headers)
    assert response.status_code == 200, response.text
    templates, texts, plans = (b - a for a, b in zip(before, count(server), strict=True))
    assert plans == (body.get("model") not in ("base", "polite"))
    counts = templates, texts
    if body.get("stream"):
        return counts, None
    fields = {name: value for name, value in response.json().items() if name not in UNIQUE}
    for item in fields.get("output", []):
        item.pop("id")
    return counts, rounded(fields)


def rounded(value: Any) -> Any:
    """Return JSON with rounded numbers: logprobs depend a little on what else is in the batch."""
    if isinstance(value, float):
        return round(value, 2)
    if isinstance(value, list):
        return [rounded(item) for item in value]
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    return value


@pytest.mark.parametrize(("path", "body", "once", "more"), REQUESTS)
def test_a_prompt_is_rendered_once(
    counting: LiveServer,
    path: str,
    body: dict[str, Any],
    once: tuple[int, int],
    more: tuple[int, int],
) -> None:
    counts, response = ask(counting, path, body)
    assert counts == once
    counts, same = ask(counting, path, body, again=True)
    assert counts == (once[0] + more[0], once[1] + more[1])
    assert response == same


def test_a_stream_under_a_grammar_is_rendered_once(counting: LiveServer) -> None:
    for model in ("base", "polite", SUM):
        grammar = {"response_format": {"type": "json_object"}, "stream": True}
        body = {"model": model, "messages": MESSAGES, **grammar}
        assert ask(counting, CHAT, body)[0] == (1, 1), model


def test_requests_share_nothing(counting: LiveServer) -> None:
    for _ in range(2):
        assert ask(counting, CHAT, {"model": SUM, "messages": MESSAGES})[0] == (1, 1)
