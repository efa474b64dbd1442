"""Wrong requests: the status, the code, and a message that names the value and the remedy."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from anthropic.types.beta.message_create_params import (
    MessageCreateParamsNonStreaming as Messages,
)
from openai.types.chat.completion_create_params import (
    CompletionCreateParamsNonStreaming as Chat,
)
from openai.types.responses.response_create_params import (
    ResponseCreateParamsNonStreaming as Responses,
)

from composer.engine_plan import RESERVED_ARGS
from server.compose.incoming.request_fields import check_misspelt
from tests.server.shared_server import CONTEXT
from tests.support.live_server import LiveServer

OTHER = {"model": "rude", "weight": -1.0}


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "@" not in error["message"], "the engine's names are not for clients"
    return error


@pytest.mark.parametrize(
    ("composition", "status", "code", "told"),
    [
        ("base + nobody", 404, "model_not_found", ["'nobody'", "'polite'", "'base'"]),
        ("base + polit", 404, "model_not_found", ["did you mean 'polite'"]),
        ("base + ", 400, "formula_syntax", ["position 7", "^"]),
        ("base + 2", 400, "formula_syntax", ["constant"]),
        ("", 400, "formula_syntax", ["empty"]),
        ("1e9*base", 400, "invalid_weight", ["1000000000", "100"]),
        ("1e308*1e308*base", 400, "invalid_weight", ["inf"]),
        ("polite - polite", 400, "empty_composition", ["nothing is left"]),
        ({"recipe": "magic"}, 400, "composition_schema", ["'magic'", "proxy_tuning"]),
        ({"formula": "base", "typo": 1}, 400, "composition_schema", ["typo"]),
        ({"members": []}, 400, "composition_schema", ["members"]),
        ([1], 400, "composition_schema", ["a list of 1"]),
        (7, 400, "composition_schema", ["7"]),
        (
            {"members": [{"model": "base", "weight": n, "prompt": str(n)} for n in range(1, 10)]},
            400,
            "too_many_members",
            ["9", "8"],
        ),
        (
            {"members": [{"model": "base", "weight": 1, "prompt": "x"}]},
            400,
            "no_request_prompt",
            ["request's prompt"],
        ),
        (
            {"members": [{"model": "base", "weight": 1}, OTHER | {"prompt": "long " * CONTEXT}]},
            400,
            "context_length_exceeded",
            ["rude", str(CONTEXT)],
        ),
        (
            {"members": [{"model": "base", "weight": 1}, OTHER | {"prompt_token_ids": [10**6]}]},
            400,
            "composition_schema",
            ["1000000"],
        ),
        ("base + polite + rude + chat", 400, "group_too_large", ["3 adapters", "--max-loras"]),
        (
            {"recipe": "context_aware", "context": "not in it"},
            400,
            "composition_schema",
            ["'not in it'", "does not occur"],
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_wrong_compositions(
    server: LiveServer, composition: Any, status: int, code: str, told: list[str], stream: bool
) -> None:
    error = error_of(server.chat("base", composition=composition, stream=stream), status)
    assert error["code"] == code
    assert error["type"] == "invalid_request_error"
    assert error["param"].startswith("composition")
    for word in told:
        assert word in error["message"]


@pytest.mark.parametrize("weight", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_weights_that_are_no_numbers(server: LiveServer, weight: str) -> None:
    member = f'{{"model": "base", "weight": {weight}}}'
    body = f'{{"model": "base", "prompt": "x", "composition": {{"members": [{member}]}}}}'
    headers = {"content-type": "application/json"}
    response = server.http.post("/v1/completions", content=body, headers=headers)
    assert "composition.members.weight is not a finite number" in error_of(response, 400)["message"]


@pytest.mark.parametrize(
    ("model", "code"),
    [
        ("nobody", "model_not_found"),
        ("gpt-4", "model_not_found"),
        ("meta-llama/Llama-3.1-8B", "model_not_found"),
        ("base + 0.5*nobody", "model_not_found"),
    ],
)
def test_unknown_models(server: LiveServer, model: str, code: str) -> None:
    error = error_of(server.chat(model), 404)
    assert (error["code"], error["param"]) == (code, "model")
    assert "'polite'" in error["message"]


def test_a_model_beside_a_composition(server: LiveServer) -> None:
    error = error_of(server.chat("polite", composition="base + rude"), 400)
    assert error["param"] == "model"
    assert "'polite'" in error["message"]


@pytest.mark.parametrize(
    ("route", "fields", "param"),
    [
        ("chat", {"use_beam_search": True, "n": 2}, "use_beam_search"),
        ("complete", {"use_beam_search": True, "n": 2}, "use_beam_search"),
    ],
)
def test_options_that_do_not_compose(
    server: LiveServer, route: str, fields: dict[str, Any], param: str
) -> None:
    error = error_of(getattr(server, route)("base + polite", **fields), 400)
    assert (error["code"], error["param"]) == ("unsupported", param)


def test_images_do_not_compose(server: LiveServer) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "What?"}, image]}]
    error = error_of(server.chat("base + polite", messages=messages), 400)
    assert (error["code"], error["param"]) == ("unsupported", "messages")


def test_several_prompts_with_a_member_of_its_own_prompt(server: LiveServer) -> None:
    guided = {"recipe": "classifier_free_guidance"}
    error = error_of(server.complete("base", ["a", "b"], composition=guided), 400)
    assert (error["code"], error["param"]) == ("unsupported", "prompt")


def test_a_group_that_can_never_fit(server: LiveServer) -> None:
    members = [{"model": "base", "weight": 1.0}] + [
        {"model": "base", "weight": 0.1, "prompt": f"Prompt {n}"} for n in range(5)
    ]
    response = server.complete("base", composition={"members": members}, max_tokens=CONTEXT - 32)
    error = error_of(response, 400)
    assert error["code"] == "group_too_large"
    assert "--kv-cache-memory-bytes" in error["message"]
    assert f"{CONTEXT - 32} - 1)/32 +" in error["message"]


def test_vllm_answers_its_own_errors(server: LiveServer) -> None:
    """A wrong field gets the same answer with a composition as without."""
    for fields in ({"temperature": "hot"}, {"messages": "no list"}, {"max_tokens": -1}):
        plain, composed = server.chat("base", **fields), server.chat("base + polite", **fields)
        assert plain.status_code == composed.status_code == 400
        assert composed.json()["error"] == plain.json()["error"]
    long = "word " * 2 * CONTEXT
    plain, composed = server.chat("base", long), server.chat("base + polite", long)
    assert composed.json()["error"] == plain.json()["error"]


@pytest.mark.parametrize("body", ["{bad", "", '"text"', "[1]", "[" * 100_000])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_malformed_json(server: LiveServer, path: str, body: str) -> None:
    headers = {"content-type": "application/json"}
    response = server.http.post(path, content=body, headers=headers)
    error = error_of(response, 400)
    assert error["message"]
    if body in ("{bad", ""):
        assert error["code"] == "invalid_json"
        assert "Send one JSON object" in error["message"]


def test_bodies_over_the_limit(server: LiveServer) -> None:
    for post in (server.http.post, server.http.put):
        response = post("/v1/compositions/x", content=b"x" * (2**20 + 1))
        error = error_of(response, 413)
        assert error["code"] == "body_too_large"
        assert "--max-body-mib" in error["message"]


MESSAGES = [{"role": "user", "content": "x"}]
CARRIERS: list[tuple[str, dict[str, Any], list[str]]] = [
    ("/v1/chat/completions", {"messages": MESSAGES}, ["vllm_xargs"]),
    ("/v1/completions", {"prompt": "x"}, ["vllm_xargs"]),
    ("/v1/completions", {"prompt": "x", "model": "polite"}, ["vllm_xargs"]),
    ("/v1/completions", {"prompt": "x", "model": "base + polite"}, ["vllm_xargs"]),
    ("/v1/responses", {"input": "x"}, ["vllm_xargs"]),
    ("/v1/messages", {"messages": MESSAGES, "max_tokens": 3, "model": "base"}, ["vllm_xargs"]),
    ("/v1/chat/completions/batch", {"messages": [MESSAGES]}, ["vllm_xargs"]),
    ("/invocations", {"prompt": "x"}, ["vllm_xargs"]),
    ("/inference/v1/generate", {"token_ids": [1]}, ["sampling_params", "extra_args"]),
]
"""Routes, and where in their bodies the engine's extra arguments are."""


@pytest.mark.parametrize("name", sorted(RESERVED_ARGS))
@pytest.mark.parametrize(("path", "body", "carrier"), CARRIERS)
def test_the_engines_arguments_are_the_servers_to_write(
    server: LiveServer, path: str, body: dict[str, Any], carrier: list[str], name: str
) -> None:
    entries: dict[str, Any] = {name: "x"}
    for key in reversed(carrier):
        entries = {key: entries}
    plain = json.dumps(body | entries).encode()
    inner, outer = f'{{"{name}": "x"}}'.encode(), b'"' + carrier[0].encode() + b'"'
    assert inner in plain
    assert outer in plain
    disguised = [
        plain,
        plain.replace(name.encode(), f"\\u{ord(name[0]):04x}{name[1:]}".encode()),
        plain.replace(outer, b'"\\u%04x' % outer[1] + outer[2:]),
        plain.replace(inner, b'{"y": 1, ' + inner[1:]),
        plain.replace(
            outer + b":", outer + b": {}, " + outer + b":"
        ),  # of two keys the last counts
        plain.decode().encode("utf-16"),
    ]
    headers = {"content-type": "application/json"}
    for content in disguised:
        response = server.http.post(path, content=content, headers=headers)
        assert response.status_code == 400, response.text
        message = response.json()["error"]["message"]
        assert f"{name} is written by the server only" in message


def test_other_routes_do_not_ignore_a_composition(server: LiveServer) -> None:
    body = {"model": "base", "messages": [MESSAGES], "composition": "base + polite"}
    error = error_of(server.http.post("/v1/chat/completions/batch", json=body), 400)
    assert (error["code"], error["param"]) == ("unsupported", "composition")
    assert "/v1/chat/completions" in error["message"]
    for model in ("auto", "base + polite"):
        body = {"model": model, "messages": [MESSAGES]}
        error = error_of(server.http.post("/v1/chat/completions/batch", json=body), 400)
        assert (error["code"], error["param"]) == ("unsupported", "model")
        assert "/v1/responses" in error["message"]


def schema(value: Any) -> dict[str, Any]:
    return {
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": value}}
    }


CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
RESPONSES, ANTHROPIC = "/v1/responses", "/v1/messages"
PROMPTS: dict[str, dict[str, Any]] = {
    CHAT: {"messages": MESSAGES},
    COMPLETION: {"prompt": "x"},
    RESPONSES: {"input": "x"},
    ANTHROPIC: {"messages": MESSAGES, "max_tokens": 4},
}
TOOL = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize("model", ["base", "polite", "base + polite", "1*polite"])
@pytest.mark.parametrize(
    ("path", "fields", "told"),
    [
        (CHAT, schema({"$ref": "#"}), "$ref"),
        (CHAT, schema({"type": "string", "minLength": -1}), "repetition range"),
        (CHAT, {"structured_outputs": {"regex": r"\\p{L}+"}}, "regex"),
        (CHAT, {"structured_outputs": {"grammar": "root ::= root"}}, "grammar"),
        (CHAT, {"structured_outputs": []}, "cannot be read"),
        (CHAT, {"stream_options": {"include_usage": True}}, "stream"),
        (CHAT, {"top_logprobs": 2}, "logprobs"),
        (CHAT, {"logprobs": True, "top_logprobs": "\ud800"}, "half of a character"),
        (CHAT, {"stop": "\ud800"}, "half of a character"),
        (CHAT, {"tools": [{}], "tool_choice": TOOL}, "cannot be read"),
        (CHAT, {"vllm_xargs": {"kv_transfer_params": 5}}, "kv_transfer_params"),
        (COMPLETION, {"structured_outputs": {"json": '{"$ref": "#"}'}}, "json"),
        (COMPLETION, {"logit_bias": {"99999999": 1}}, "logit_bias"),
        (
            RESPONSES,
            {"text": {"format": {"type": "json_schema", "name": "x", "schema": {"$ref": "#"}}}},
            "$ref",
        ),
        (
            RESPONSES,
            {"input": [{"type": "message", "role": "assistant", "content": []}]},
            "cannot be read",
        ),
        (ANTHROPIC, {"temperature": -1}, "temperature"),
        (CHAT, {"stream_options": "x", "stream": True}, "stream_options"),
        (
            ANTHROPIC,
            {"output_config": {"format": {"type": "json_schema", "schema": {"$ref": "#"}}}},
            "$ref",
        ),
    ],
)
def test_what_vllm_stumbles_over_is_the_clients_mistake(
    server: LiveServer, model: str, path: str, fields: dict[str, Any], told: str
) -> None:
    before = server.log.read_text().count("Traceback")
    body = json.dumps({"model": model, "max_tokens": 4} | PROMPTS[path] | fields)
    headers = {"content-type": "application/json"}
    response = server.http.post(path, content=body, headers=headers)
    assert response.status_code == 400, response.text
    assert told in response.json()["error"]["message"]
    if told in ("$ref", "repetition range"):
        response = server.http.post(path, json=json.loads(body) | {"stream": True})
        assert response.status_code == 400, "vLLM would begin the stream first"
    assert server.log.read_text().count("Traceback") == before, "a mistake fills the log"


@pytest.mark.parametrize("name", ["compositon", "Composition", "compositions", "compostion"])
def test_a_misspelt_composition_is_not_answered_by_the_base(server: LiveServer, name: str) -> None:
    error = error_of(server.chat("base", **{name: "base + polite"}), 400)
    assert (error["code"], error["param"]) == ("composition_lost", name)
    assert "did you mean 'composition'" in error["message"]


@pytest.mark.parametrize("name", ["comparee", "comapre", "Compare", "compar"])
def test_a_misspelt_compare_is_not_ignored(server: LiveServer, name: str) -> None:
    error = error_of(server.chat("base + polite", "x", **{name: True}), 400)
    assert (error["code"], error["param"]) == ("composition_schema", name)
    assert "did you mean 'compare'" in error["message"]


def test_no_field_of_the_protocols_is_taken_for_a_misspelt_one_of_ours(
    server: LiveServer,
) -> None:
    document = server.http.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    requests = [name for name in schemas if name.endswith("Request")]
    fields = {field for name in requests for field in schemas[name]["properties"]}
    for params in (Chat, Responses, Messages):
        fields |= params.__annotations__.keys()
    assert {"cache_salt", "chat_template", "conversation"} <= fields
    check_misspelt(dict.fromkeys(fields | {"compress", "compact", "compute", "completion"}))


def test_refused_compositions_have_a_line_in_the_log(server: LiveServer) -> None:
    headers = {"X-Request-Id": "the-refused-one"}
    body = {"model": "base + nobody", "prompt": "x"}
    assert server.http.post("/v1/completions", json=body, headers=headers).status_code == 404
    line = server.log_line("the-refused-one")
    assert "composition=formula" in line
    assert "outcome=client_error" in line
