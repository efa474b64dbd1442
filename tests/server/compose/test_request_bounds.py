"""Requests that are larger than the server takes: refused before any work, with the bound named."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.compose.incoming.grammar_bounds import pattern_length
from server.compose.incoming.request_bounds import check_bounds, check_composed_bounds
from server.compose.incoming.value_bounds import MAX_DEPTH, MAX_VALUES
from server.errors import RequestBoundError
from tests.support.live_server import LiveServer

CHAT = {"messages": [{"role": "user", "content": "Who are you?"}], "max_tokens": 3}


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def schema(value: object) -> dict[str, Any]:
    return {
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": value}}
    }


TOO_LARGE: list[tuple[dict[str, Any], str, str]] = [
    ({"tools": nested(MAX_DEPTH + 1)}, "nested", "100"),
    ({"chat_template_kwargs": {"x": nested(900)}}, "nested", "100"),
    ({"top_k": 2**70}, "top_k", "64 bits"),
    ({"seed": -(2**63) - 1}, "seed", "64 bits"),
    ({"temperature": 1e39}, "temperature", "32-bit float"),
    ({"temperature": math.nan}, "temperature", "finite"),
    ({"logit_bias": {"1": math.inf}}, "logit_bias.1", "finite"),
    ({"prompt": [1, 2, 2**64]}, "prompt", "64 bits"),
    ({"foo": [[] for _ in range(MAX_VALUES + 1)]}, "objects", "65536"),
    ({"model": "base + " * 2000}, "model", "8192"),
    ({"request_id": "x" * 257}, "request_id", "256"),
    ({"messages": [{}] * 2049}, "messages", "2048"),
    ({"stop": ["x"] * 129}, "stop", "128"),
    ({"stop": "x" * 1025}, "stop", "1024"),
    ({"bad_words": ["x"] * 129}, "bad_words", "128"),
    ({"n": 1025}, "1025", "1024"),
    ({"prompt": ["x"] * 513, "n": 2}, "513 x 2", "1024"),
    ({"stop_token_ids": [1] * 129}, "stop_token_ids", "128"),
    ({"allowed_token_ids": [1] * 1025}, "allowed_token_ids", "1024"),
    ({"logit_bias": {str(n): 1 for n in range(1025)}}, "logit_bias", "1024"),
    (schema({"type": "array", "minItems": 10**9}), "minItems", "10000"),
    (schema({"type": "array", "items": {"type": "string", "maxLength": 10**6}}), "maxL", "10000"),
    (schema({"enum": ["x"] * 1025}), "enum", "1024"),
    (schema({"properties": {f"p{n}": {} for n in range(513)}}), "513 properties", "512"),
    (schema({"type": "string", "pattern": "(a{100}){100}"}), "10000 characters", "2000"),
    (schema({"description": "x" * 2**16}), "bytes", "65536"),
    ({"structured_outputs": {"choice": ["x"] * 2000}}, "choice", "1024"),
    ({"structured_outputs": {"regex": "(a{9999}){9999}"}}, "regular expressions", "2000"),
    ({"structured_outputs": {"grammar": "root ::= a{200}\na ::= 'b'{200}"}}, "40000", "10000"),
    ({"structured_outputs": {"grammar": "x" * 16_385}}, "grammar", "16384"),
    ({"structured_outputs": {"json": json.dumps({"minItems": 10**9})}}, "minItems", "10000"),
    ({"structured_outputs": {"json": "[" * 60_000}}, "json", "100"),
    ({"text": {"format": {"schema": {"maxItems": 10**9}}}}, "maxItems", "10000"),
    (
        {"output_config": {"format": {"type": "json_schema", "schema": {"minItems": 10**9}}}},
        "minItems",
        "10000",
    ),
    ({"messages": [{"role": "x" * 65}]}, "role", "64"),
    (schema({"items": {"$ref": "file:///etc/passwd"}}), "$ref", "$defs"),
    (schema({"$ref": "https://example.org/schema"}), "$ref", "$defs"),
    ({"n": "16000"}, "n is", "whole number"),
    ({"n": 300.0}, "300.0", "whole number"),
    ({"min_tokens": "3"}, "min_tokens", "whole number"),
    ({"tools": [{"input_schema": {"minProperties": 10**9}}]}, "minProperties", "10000"),
]


@pytest.mark.parametrize(("body", "named", "bound"), TOO_LARGE)
def test_what_is_too_large_is_refused(body: dict[str, Any], named: str, bound: str) -> None:
    with pytest.raises(RequestBoundError) as caught:
        check_bounds(body)
    assert named in caught.value.message
    assert bound in caught.value.message
    assert len(caught.value.message) < 300


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": list(range(200_000))},
        {"prompt": ["x"] * 1024},
        {"tools": nested(MAX_DEPTH - 2)},
        {"seed": 2**63 - 1, "temperature": 0.7, "stop": ["\n"], "n": 4},
        {"messages": [{"content": "minItems: 1000000000", "maxItems": 10**9}]},
        schema({"type": "array", "minItems": 10_000, "items": {"enum": ["a"] * 1024}}),
        {"structured_outputs": {"regex": r"\d{3}-[a-z]{1,64}"}},
        schema({"$defs": {"x": {"type": "integer"}}, "items": {"$ref": "#/$defs/x"}}),
        {"structured_outputs": {"json": "not JSON"}},
    ],
)
def test_what_people_send_is_not(body: dict[str, Any]) -> None:
    check_bounds(body)


@pytest.mark.parametrize("penalty", [1e-4, "0.0001", 101, 0, math.nan])
def test_the_repetition_penalty_of_a_composition_is_bounded(penalty: object) -> None:
    with pytest.raises(RequestBoundError, match=r"0\.01 to 100"):
        check_composed_bounds({"repetition_penalty": penalty})


@pytest.mark.parametrize("penalty", [None, "", [], 0.01, 1, "1.3", 100])
def test_other_repetition_penalties_are_left_to_vllm(penalty: object) -> None:
    check_composed_bounds({})
    check_composed_bounds({"repetition_penalty": penalty})


@given(st.from_regex(r"([abc]|\\d|\[x-z\]|\(a\)|b\{[1-9]\}|c\{1,[1-9]\}){0,12}", fullmatch=True))
def test_the_length_of_a_pattern_is_that_of_its_longest_match(pattern: str) -> None:
    longest = 0
    for part in re.findall(r"\(a\)|b\{\d\}|c\{1,\d\}|\\d|\[x-z\]|[abc]", pattern):
        times = re.search(r"(\d)\}", part)
        longest += int(times[1]) if times else 1
    assert pattern_length(pattern) == longest


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"]
)
def test_every_route_has_the_bounds(server: LiveServer, path: str) -> None:
    body = {"model": "base", "prompt": "x", "input": "x", **CHAT, "top_k": 2**70}
    answer = server.http.post(path, json=body)
    assert answer.status_code == 400, answer.text
    assert "64 bits" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"]
)
def test_every_route_bounds_the_penalty_of_a_composition(server: LiveServer, path: str) -> None:
    text = {"input": "x"} if path == "/v1/responses" else {"prompt": "x"}
    body = {**text, **CHAT, "repetition_penalty": 1e-4, "stream": True}
    answer = server.http.post(path, json=body | {"model": "base + 0.5*polite"})
    assert answer.status_code == 400, answer.text
    assert "0.01 to 100" in answer.json()["error"]["message"]
    assert (answer.json().get("type") == "error") == (path == "/v1/messages")
    alone = server.http.post(path, json=body | {"model": "base"})
    assert alone.status_code == 200, alone.text


@pytest.mark.parametrize(
    ("composition", "said"),
    [
        ({"members": [{"model": "base", "weight": 1}] * 20_000}, "at most 256 items"),
        (
            {
                "formula": "base + polite",
                "filters": [{"kind": "top_p", "model": "base", "value": 0.9}] * 1000,
            },
            "at most 64 items",
        ),
        ({"recipe": "mixture", "experts": ["polite"] * 5000}, "at most 1000 items"),
        ({"members": [{"model": "x" * 10_000, "weight": 1}]}, "at most 512 characters"),
    ],
)
def test_lists_of_compositions_are_bounded(
    server: LiveServer, composition: dict[str, Any], said: str
) -> None:
    answer = server.chat("base", composition=composition)
    assert answer.status_code == 400, answer.text
    assert said in answer.json()["error"]["message"]
