"""Every route, every model: each answers in its own format, and all of them the same."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import anthropic
import httpx
import openai
import pytest

from server.__main__ import example_request
from tests.support.live_server import LiveServer

ENGINE_NAME = re.compile(r"@[0-9a-f]{12}")
CONVERSATION = [
    {"role": "system", "content": "Be brief, please."},
    {"role": "user", "content": "Who are you? I am Ann."},
]
SYSTEM, QUESTION = (message["content"] for message in CONVERSATION)
FORMULA = "base + 0.5*(polite - rude)"
STORED = "route-test"
MODELS = ["base", "polite", FORMULA, STORED, "auto"]


@dataclass(frozen=True)
class Route:
    """How a route is asked the same conversation, and where its answer has the text."""

    path: str
    prompt: dict[str, Any]
    length: str = "max_tokens"

    def body(self, **fields: Any) -> dict[str, Any]:
        return self.prompt | {"model": "base", self.length: 12, "temperature": 0} | fields

    def text(self, answer: dict[str, Any]) -> str:
        if "output" in answer:
            return "".join(p["text"] for item in answer["output"] for p in item["content"])
        if "content" in answer:
            return "".join(block["text"] for block in answer["content"])
        return str(answer["choices"][0]["message"]["content"])


CHAT = Route("/v1/chat/completions", {"messages": CONVERSATION})
RESPONSES = Route(
    "/v1/responses", {"instructions": SYSTEM, "input": CONVERSATION[1:]}, "max_output_tokens"
)
MESSAGES = Route("/v1/messages", {"system": SYSTEM, "messages": CONVERSATION[1:]})
OTHERS = [RESPONSES, MESSAGES]


@pytest.fixture(scope="module")
def live(server: LiveServer) -> Iterator[LiveServer]:
    """The server with a stored composition; no byte that it sends may hold an engine's name."""

    def scan(response: httpx.Response) -> None:
        response.read()
        assert not ENGINE_NAME.search(response.text), response.text

    stored = f"/v1/compositions/{STORED}"
    assert server.http.put(stored, json="base + 0.7*rude").status_code in (200, 201)
    server.http.event_hooks["response"].append(scan)
    yield server
    server.http.event_hooks["response"].remove(scan)
    assert server.http.delete(stored).status_code == 200


def post(server: LiveServer, route: Route, **fields: Any) -> httpx.Response:
    return server.http.post(route.path, json=route.body(**fields))


def answered(server: LiveServer, route: Route, **fields: Any) -> dict[str, Any]:
    response = post(server, route, **fields)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def events_of(response: httpx.Response) -> list[dict[str, Any]]:
    """The events of a stream; where they have names, these are their types."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    found = []
    for event in response.text.strip().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in event.splitlines())
        data = json.loads(lines["data"])
        assert lines["event"] == data["type"]
        found.append(data)
    return found


# ---- answers


@pytest.mark.parametrize("route", OTHERS, ids=lambda route: route.path)
@pytest.mark.parametrize("model", MODELS)
def test_every_model_answers_as_in_a_chat(live: LiveServer, route: Route, model: str) -> None:
    chat, answer = answered(live, CHAT, model=model), answered(live, route, model=model)
    assert route.text(answer) == CHAT.text(chat) != ""
    assert answer["model"] == chat["model"] == ("zoo" if model == "base" else model)
    for field in ("composition", "adapters"):
        assert answer.get(field) == chat.get(field)


@pytest.mark.parametrize("route", OTHERS, ids=lambda route: route.path)
@pytest.mark.parametrize(
    "composition",
    [
        FORMULA,
        {"recipe": "classifier_free_guidance", "guidance_scale": 1.7},
        {"recipe": "context_aware", "context": "I am Ann."},
        {"recipe": "mixture", "experts": ["polite", "rude"], "router": "posterior"},
        {
            "members": [
                {"model": "base", "weight": 1},
                {"model": "rude", "weight": 0.6, "prompt": "You are"},
                {"model": "rude", "weight": -0.6, "messages": CONVERSATION[1:]},
            ]
        },
    ],
)
def test_every_composition_answers_as_in_a_chat(
    live: LiveServer, route: Route, composition: Any
) -> None:
    chat = answered(live, CHAT, composition=composition)
    answer = answered(live, route, composition=composition)
    assert route.text(answer) == CHAT.text(chat) != ""
    assert answer["composition"] == chat["composition"]
    assert answer["adapters"] == chat["adapters"] if "adapters" in chat else True
    alone = answered(live, route, composition="base")
    assert route.text(alone) != route.text(answer), "the composition changes nothing"


@pytest.mark.parametrize("model", MODELS)
def test_responses_stream(live: LiveServer, model: str) -> None:
    whole = answered(live, RESPONSES, model=model)
    events = events_of(post(live, RESPONSES, model=model, stream=True))
    created, completed = events[0], events[-1]
    assert (created["type"], completed["type"]) == ("response.created", "response.completed")
    deltas = [e["delta"] for e in events if e["type"] == "response.output_text.delta"]
    assert "".join(deltas) == RESPONSES.text(completed["response"]) == RESPONSES.text(whole)
    for event in events:
        if "response" in event:
            assert event["response"]["model"] == whole["model"]
    assert completed["response"].get("composition") == whole.get("composition")
    assert completed["response"].get("adapters") == whole.get("adapters")
    known = created["response"].get("composition", {}).items()
    assert known <= whole.get("composition", {}).items()
    assert ("composition" in created["response"]) == ("composition" in whole)
    assert [e["sequence_number"] for e in events] == list(range(len(events)))


@pytest.mark.parametrize("model", MODELS)
def test_messages_stream(live: LiveServer, model: str) -> None:
    whole = answered(live, MESSAGES, model=model)
    events = events_of(post(live, MESSAGES, model=model, stream=True))
    start, delta, stop = events[0], events[-2], events[-1]
    types = [event["type"] for event in (start, delta, stop)]
    assert types == ["message_start", "message_delta", "message_stop"]
    texts = [e["delta"]["text"] for e in events if e["type"] == "content_block_delta"]
    assert "".join(texts) == MESSAGES.text(whole)
    assert start["message"]["model"] == whole["model"]
    assert delta.get("composition") == whole.get("composition")
    assert delta.get("adapters") == whole.get("adapters")
    assert ("composition" in start["message"]) == ("composition" in whole)


def test_comparisons(live: LiveServer) -> None:
    chat = answered(live, CHAT, model=FORMULA, compare=True)["comparison"]
    for route in OTHERS:
        alone = answered(live, route, model=FORMULA, compare=True)["comparison"]
        assert list(alone) == list(chat) == ["base", "polite", "rude"]
        for model, answer in alone.items():
            assert route.text(answer) == CHAT.text(chat[model])


def test_the_sdk_of_openai(live: LiveServer) -> None:
    client = openai.DefaultHttpxClient(trust_env=False)
    with openai.OpenAI(
        base_url=f"{live.url}/v1", api_key="none", http_client=client, max_retries=0
    ) as sdk:
        whole = sdk.responses.create(model=FORMULA, input="Hi", max_output_tokens=8)
        assert whole.model == FORMULA
        assert whole.model_extra is not None
        assert whole.model_extra["composition"]["rows"] == 3
        with sdk.responses.stream(model="polite", input="Hi", max_output_tokens=8) as stream:
            assert stream.get_final_response().model == "polite"
        assert sdk.models.retrieve(FORMULA).id == FORMULA


def test_the_sdk_of_anthropic(live: LiveServer) -> None:
    question: Any = [{"role": "user", "content": "Hi"}]
    client = anthropic.DefaultHttpxClient(trust_env=False)
    with anthropic.Anthropic(
        base_url=live.url, api_key="none", http_client=client, max_retries=0
    ) as sdk:
        whole = sdk.messages.create(model=FORMULA, messages=question, max_tokens=8)
        assert whole.model == FORMULA
        assert whole.model_extra is not None
        assert whole.model_extra["composition"]["rows"] == 3
        with sdk.messages.stream(model=STORED, messages=question, max_tokens=8) as stream:
            assert stream.get_final_message().model == STORED
        counted = sdk.messages.count_tokens(model=FORMULA, messages=question)
        assert counted.input_tokens == whole.usage.input_tokens
        with pytest.raises(anthropic.NotFoundError, match="'nobody' is not served here"):
            sdk.messages.create(model="nobody", messages=question, max_tokens=8)


# ---- tokens


@pytest.mark.parametrize("model", MODELS)
def test_tokens_are_those_that_every_member_reads(live: LiveServer, model: str) -> None:
    base = live.http.post("/tokenize", json={"model": "base", **CHAT.prompt}).json()
    for body in ({"model": model}, {"composition": model}):
        answer = live.http.post("/tokenize", json=body | CHAT.prompt)
        assert answer.status_code == 200, answer.text
        assert answer.json()["tokens"] == base["tokens"]
        back = live.http.post("/detokenize", json=body | {"tokens": base["tokens"]})
        assert QUESTION in back.json()["prompt"]
        body = {"model": "base"} | body | MESSAGES.prompt
        counted = live.http.post("/v1/messages/count_tokens", json=body)
        assert counted.json()["input_tokens"] == base["count"]
        if model in (STORED, "auto"):
            break  # names, not formulas


# ---- models


def test_every_listed_model_is_there(live: LiveServer) -> None:
    listed = live.http.get("/v1/models").json()["data"]
    assert {"base", "polite", STORED, "auto"} <= {card["id"] for card in listed}
    for card in listed:
        answer = live.http.get(f"/v1/models/{card['id']}")
        assert (answer.status_code, answer.json()) == (200, card)
    for name in (FORMULA, "base%20%2B%20polite", "'polite' + 'rude'"):
        answer = live.http.get(f"/v1/models/{name}")
        assert answer.status_code == 200, answer.text
        assert answer.json()["plan"]["members"]
    unknown = live.http.get("/v1/models/meta-llama/Llama-3.1-8B")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")


# ---- errors

OPENAI_FIELDS = {"message", "type", "param", "code"}


def told(route: Route, response: httpx.Response, status: int) -> str:
    """The message of an error, which has the format of its route."""
    assert response.status_code == status, response.text
    body = response.json()
    if route is MESSAGES:
        assert body["type"] == "error"
        assert set(body["error"]) == {"type", "message"}
        kind = "not_found_error" if status == 404 else "invalid_request_error"
        assert body["error"]["type"] == kind
    else:
        assert set(body["error"]) == OPENAI_FIELDS
    return str(body["error"]["message"])


IMAGES: dict[str, dict[str, Any]] = {
    CHAT.path: {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}},
    RESPONSES.path: {"type": "input_image", "image_url": "data:image/png;base64,AA"},
    MESSAGES.path: {
        "type": "image",
        "source": {"type": "base64", "media_type": "image/png", "data": "AA"},
    },
}


@pytest.mark.parametrize("route", [CHAT, *OTHERS], ids=lambda route: route.path)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_have_the_format_of_the_route(live: LiveServer, route: Route, stream: bool) -> None:
    def error(status: int, **fields: Any) -> str:
        return told(route, post(live, route, stream=stream, **fields), status)

    assert "'nobody'" in error(404, model="nobody")
    assert "'nobody'" in error(404, composition="base + nobody")
    assert "position 6" in error(400, model="base +")
    assert "hot" in error(400, model=FORMULA, temperature="hot")
    assert "hot" in error(400, model="polite", temperature="hot")
    assert "composition_row" in error(400, vllm_xargs={"composition_row": "x"})
    image = {"role": "user", "content": [IMAGES[route.path]]}
    field = "input" if route is RESPONSES else "messages"
    assert "send text only" in error(400, model=FORMULA, **{field: [image]})
    too_long = {field: [{"role": "user", "content": "word " * 600}]}
    assert "512" in error(400, model=FORMULA, **too_long)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"previous_response_id": "resp_1"}, "send the whole conversation"),
        ({"background": True}, "Wait for the answer"),
        ({"tools": [{"type": "web_search_preview"}]}, "web_search_preview"),
    ],
)
def test_what_the_server_would_keep_or_run_does_not_compose(
    live: LiveServer, fields: dict[str, Any], told: str
) -> None:
    response = post(live, RESPONSES, model=FORMULA, **fields)
    assert response.status_code == 400, response.text
    assert told in response.json()["error"]["message"]


@pytest.mark.parametrize("model", MODELS)
def test_a_stream_that_began_ends_with_what_is_wrong(live: LiveServer, model: str) -> None:
    """vLLM looks at some fields of /v1/responses after the first event, and would just hang up."""
    before = live.log.read_text().count("Traceback")
    fields: dict[str, Any] = {"logit_bias": {"99999999": 1}, "stream": True}
    response = post(live, RESPONSES, model=model, **fields)
    if response.status_code == 400:
        message = told(RESPONSES, response, 400)
    else:
        *_, last = events_of(response)
        assert last["type"] == "error"
        message = last["message"]
    assert "99999999" in message
    assert live.log.read_text().count("Traceback") == before


# ---- compositions that get lost on the way


@pytest.mark.parametrize("route", [CHAT, *OTHERS], ids=lambda route: route.path)
@pytest.mark.parametrize("model", ["base", "polite"])
def test_a_lost_composition_is_not_answered(live: LiveServer, route: Route, model: str) -> None:
    expected = {"X-Composer-Expect": "composition"}
    lost = live.http.post(route.path, json=route.body(model=model), headers=expected)
    assert "may have dropped the field 'composition'" in told(route, lost, 400)
    for fields in ({"composition": FORMULA}, {"model": STORED}):
        arrived = live.http.post(route.path, json=route.body(**fields), headers=expected)
        assert arrived.status_code == 200
    other = {"X-Composer-Expect": "miracles"}
    refused = live.http.post(route.path, json=route.body(model=FORMULA), headers=other)
    assert "'miracles'" in told(route, refused, 400)


def test_affinity_is_that_of_the_adapters(live: LiveServer) -> None:
    def affinity(route: Route, **fields: Any) -> str | None:
        value: str | None = post(live, route, **fields).headers.get("x-composer-affinity")
        return value

    both = affinity(CHAT, model="polite + rude")
    assert both
    assert both == affinity(CHAT, model=FORMULA, stream=True) == affinity(MESSAGES, model=FORMULA)
    assert both != affinity(CHAT, model="polite") != affinity(CHAT, model="rude")
    assert affinity(CHAT, model="base") is affinity(CHAT, composition="2*base") is None


def test_the_example_that_the_server_prints_is_a_question_to_the_base(server: LiveServer) -> None:
    log = server.log.read_text()
    printed = re.search(r"^curl .*?'$", log.partition("; try:\n")[2], re.DOTALL | re.MULTILINE)
    assert printed is not None, log[-2000:]
    command = ["bash", "-c", f"no_proxy=127.0.0.1 {printed[0]} -sS"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    expected = server.chat("base", "What is the capital of Japan?", max_tokens=20)
    assert json.loads(done.stdout)["choices"] == expected.json()["choices"]


def test_the_example_for_a_model_without_a_chat_template(server: LiveServer) -> None:
    command = example_request(server.url, chats=False, keys=True)
    assert "-H 'Authorization: Bearer YOUR_KEY'" in command
    done = subprocess.run(
        ["bash", "-c", f"no_proxy=127.0.0.1 {command} -sS"],
        capture_output=True,
        text=True,
        check=True,
    )
    expected = server.complete("base", "The capital of Japan is", max_tokens=20)
    assert json.loads(done.stdout)["choices"] == expected.json()["choices"]
