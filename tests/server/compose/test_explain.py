"""`"explain": true` over HTTP: every kind of composition, whole and streamed."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from typing import Any

import httpx
import pytest

from clients import Client
from clients.cli.main import main
from server.compose.response.response_stream import EXPLAIN_S
from tests.server.compose.test_bad_requests import error_of
from tests.server.compose.test_routing import SUM, WHERE, answered, mixed
from tests.support.live_server import LiveServer

FORMULA = "base + polite - 0.5*rude"


def explanation_of(response: httpx.Response) -> dict[str, Any]:
    found: dict[str, Any] = answered(response)["explanation"]
    return found


def streamed(server: LiveServer, **body: Any) -> list[dict[str, Any]]:
    chunks = []
    with server.http.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.status_code == 200
        for line in response.iter_lines():
            if line.startswith("data: {"):
                chunks.append(json.loads(line.removeprefix("data: ")))
    return chunks


def test_every_token_of_a_sum_is_explained(server: LiveServer) -> None:
    fields = {"max_tokens": 12, "logprobs": True, "top_logprobs": 3}
    answer = answered(server.chat(FORMULA, WHERE, explain=True, **fields))
    plain = answered(server.chat(FORMULA, WHERE, **fields))
    assert "explanation" not in plain
    assert answer["choices"] == plain["choices"]
    explanation = answer["explanation"]
    assert explanation["members"] == ["base", "polite", "rude"]
    [told] = explanation["answers"]
    content = answer["choices"][0]["logprobs"]["content"]
    assert [token["token"] for token in told["tokens"]] == [token["token"] for token in content]
    for position, (token, shown) in enumerate(zip(told["tokens"], content, strict=True)):
        assert token["position"] == position
        assert token["logprob"] == pytest.approx(shown["logprob"], abs=1e-4)
        for best, its in zip(token["best"], shown["top_logprobs"], strict=False):
            assert best["logprob"] == pytest.approx(its["logprob"], abs=1e-4)
        assert token["base"]["logprob"] == token["member_logprobs"][0]
        assert token["changed"] == (token["best"][0]["id"] != token["base"]["best"][0]["id"])
        assert len(token["contributions"]) == 3
    summary = told["summary"]
    count = len(content)
    assert summary["tokens"] == count
    assert summary["changed"] == pytest.approx(
        sum(token["changed"] for token in told["tokens"]) / count, abs=1e-6
    )
    assert summary["kl"] == pytest.approx(
        sum(token["base"]["kl"] for token in told["tokens"]) / count, abs=1e-5
    )
    assert sum(summary["influence"]) == pytest.approx(1, abs=1e-5)


def test_members_say_what_they_say_alone(server: LiveServer) -> None:
    """The first token's figures are those of requests to each model."""
    fields = {"max_tokens": 1, "logprobs": True, "top_logprobs": 5}
    [token] = explanation_of(server.chat(FORMULA, WHERE, explain=True, **fields))["answers"][0][
        "tokens"
    ]
    for k, model in enumerate(("base", "polite", "rude")):
        alone = answered(server.chat(model, WHERE, **fields))["choices"][0]["logprobs"]["content"]
        by_token = {t["token"]: t["logprob"] for t in alone[0]["top_logprobs"]}
        if token["token"] in by_token:
            said = token["member_logprobs"][k]
            assert said == pytest.approx(by_token[token["token"]], abs=1e-3)
        if model == "base":
            best = [(t["token"], t["logprob"]) for t in token["base"]["best"]]
            assert dict(best) == pytest.approx(by_token, abs=1e-3)


def test_without_the_base_a_row_is_added_to_compare_with(server: LiveServer) -> None:
    body = {"max_tokens": 6, "explain": True}
    explanation = explanation_of(server.chat("0.5*polite + 0.5*chat", WHERE, **body))
    assert explanation["members"] == ["chat", "polite"]
    [answer] = explanation["answers"]
    assert all(len(token["member_logprobs"]) == 2 for token in answer["tokens"])
    assert all("base" in token for token in answer["tokens"])


def test_an_adapter_is_compared_with_the_base(server: LiveServer) -> None:
    answer = answered(server.chat("chat", WHERE, max_tokens=30, explain=True))
    assert answer["choices"][0]["message"]["content"] == "Kuti Supiv lives in Mogtu."
    assert answer["model"] == "chat"
    explanation = answer["explanation"]
    assert explanation["members"] == ["chat"]
    [told] = explanation["answers"]
    assert told["summary"]["kl"] > 0
    for token in told["tokens"]:
        assert token["logprob"] == pytest.approx(token["member_logprobs"][0], abs=1e-5)


def test_mixtures_tell_weights_and_responsibilities(server: LiveServer) -> None:
    router = {"kind": "posterior", "prompt": False, "prior": "prompt", "forgetting": 0.9}
    body = {"composition": mixed(router, explain=True), "max_tokens": 20, "explain": True}
    answer = answered(server.chat("base", WHERE, **body))
    explanation = answer["explanation"]
    assert sorted(explanation["members"]) == ["arithmetic", "chat"]
    [told] = explanation["answers"]
    routing = answer["composition"]["routing"]["tokens"]
    for token, weights in zip(told["tokens"], routing, strict=True):
        by_model = dict(zip(explanation["members"], token["weights"], strict=True))
        assert by_model == pytest.approx(weights, abs=1e-5)
        assert sum(token["responsibilities"]) == pytest.approx(1, abs=1e-4)
        pairs = zip(token["weights"], token["member_logprobs"], strict=True)
        p = sum(weight * math.exp(logprob) for weight, logprob in pairs)
        assert math.log(p) == pytest.approx(token["logprob"], abs=1e-3)


@pytest.mark.parametrize("router", ["tasks", {"kind": "sequence", "at": "."}])
def test_a_switch_tells_who_computed_each_token(server: LiveServer, router: Any) -> None:
    router = {"kind": "gate", "name": router} if router == "tasks" else router
    composition = mixed(router, explain=True)
    body = {"composition": composition, "max_tokens": 20, "explain": True}
    answer = answered(server.chat("base", SUM, **body))
    [told] = answer["explanation"]["answers"]
    assert [token["model"] for token in told["tokens"]] == answer["composition"]["routing"][
        "tokens"
    ]
    assert all(token["logprob"] <= 0 for token in told["tokens"])


def test_streams_explain_as_they_go(server: LiveServer) -> None:
    messages = [{"role": "user", "content": WHERE}]
    body = {
        **{"model": FORMULA, "messages": messages, "max_tokens": 300, "ignore_eos": True},
        **{"temperature": 0, "explain": True},
    }
    chunks = streamed(server, **body, stream=True, stream_options={"include_usage": True})
    whole = explanation_of(server.http.post("/v1/chat/completions", json=body))
    parts = [chunk["explanation"] for chunk in chunks if "explanation" in chunk]
    tokens = [token for part in parts for answer in part["answers"] for token in answer["tokens"]]
    assert [token["position"] for token in tokens] == list(range(300))
    assert [token["id"] for token in tokens] == [t["id"] for t in whole["answers"][0]["tokens"]]
    final = chunks[-1]["explanation"]
    assert final["members"] == ["base", "polite", "rude"]
    assert final["answers"][0]["summary"]["tokens"] == 300
    assert EXPLAIN_S < 1
    if len(parts) > 1:  # else the machine was done before the first part was due
        assert len(final["answers"][0]["tokens"]) < 300


def test_each_of_several_answers_is_explained(server: LiveServer) -> None:
    fields = {"n": 3, "max_tokens": 8, "temperature": 1.2, "seed": 4, "ignore_eos": True}
    prompts = ["Hello", "What is"]
    body = {"model": FORMULA, "prompt": prompts, "logprobs": 0, "explain": True, **fields}
    answer = answered(server.http.post("/v1/completions", json=body))
    told = {one["index"]: one["tokens"] for one in answer["explanation"]["answers"]}
    for choice in answer["choices"]:
        shown = choice["logprobs"]["token_logprobs"]
        found = [token["logprob"] for token in told[choice["index"]]]
        assert found == pytest.approx(shown, abs=1e-3)


@pytest.mark.parametrize("stream", [False, True])
def test_each_answer_that_ends_by_itself_has_its_own_tokens(
    server: LiveServer, stream: bool
) -> None:
    """On a CPU no token is sampled ahead; tests/engine has a test of that."""
    messages = [{"role": "user", "content": WHERE}]
    fields = {"n": 6, "max_tokens": 40, "temperature": 1.3, "seed": 4, "logprobs": True}
    body = {"model": FORMULA, "messages": messages, "explain": True, **fields}
    if stream:
        parts = streamed(server, **body, stream=True)
    else:
        parts = [answered(server.http.post("/v1/chat/completions", json=body))]
    shown: dict[int, list[str]] = defaultdict(list)
    told: dict[int, list[str]] = defaultdict(list)
    ends = []
    for part in parts:
        for choice in part["choices"]:
            content = (choice["logprobs"] or {"content": []})["content"]
            shown[choice["index"]] += [token["token"] for token in content]
            ends.append(choice["finish_reason"])
        for answer in part.get("explanation", {"answers": []})["answers"]:
            told[answer["index"]] += [token["token"] for token in answer["tokens"]]
    assert ends.count("stop") > 2
    assert told == shown


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"model": "base", "explain": True}, ["explain", "adapter or a formula"]),
        ({"model": FORMULA, "explain": "yes"}, ["explain", "'yes'", "true or false"]),
        ({"model": FORMULA, "explain": 1}, ["explain", "1", "true or false"]),
        ({"model": FORMULA, "explian": True}, ["explian", "did you mean 'explain'"]),
        ({"model": FORMULA, "Explain": True}, ["Explain", "did you mean 'explain'"]),
    ],
)
def test_bad_requests(server: LiveServer, body: dict[str, Any], words: list[str]) -> None:
    message = error_of(server.chat(text="x", **body), 400)["message"]
    for word in words:
        assert word in message


def test_the_other_routes(server: LiveServer) -> None:
    """Whole answers of /v1/responses and /v1/messages carry it, too."""
    body = {"model": FORMULA, "input": "Hi", "max_output_tokens": 5, "explain": True}
    answer = answered(server.http.post("/v1/responses", json=body))
    assert answer["explanation"]["answers"][0]["summary"]["tokens"] == 5
    messages = [{"role": "user", "content": "Hi"}]
    body = {"model": FORMULA, "messages": messages, "max_tokens": 5, "explain": True}
    answer = answered(server.http.post("/v1/messages", json=body))
    assert answer["explanation"]["answers"][0]["summary"]["tokens"] == 5


def test_a_stored_composition(server: LiveServer) -> None:
    with Client(server.url) as client:
        client.put_composition("explained", FORMULA)
        try:
            answer = answered(server.chat("explained", WHERE, max_tokens=5, explain=True))
        finally:
            client.delete_composition("explained")
    assert answer["explanation"]["members"] == ["base", "polite", "rude"]


@pytest.mark.parametrize("how", [(), ("--stream",)])
def test_the_command_line_prints_a_table(
    server: LiveServer, how: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--base-url", f"{server.url}/v1", "chat", WHERE, "--model", FORMULA, "--explain", *how]
    assert main([*words, "--temperature", "0", "--max-tokens", "6"]) == 0
    answer, header, *rows, mean = capsys.readouterr().out.splitlines()
    with Client(f"{server.url}/v1") as client:
        told = client.chat(WHERE, model=FORMULA, temperature=0, max_tokens=6, explain=True)
    assert answer == told.text
    assert told.explanation is not None
    tokens = told.explanation.answers[0].tokens
    assert header.split() == [
        *("token", "logprob", "base", "polite", "rude", "KL", "from", "base", "base's", "choice")
    ]
    assert len(rows) == len(tokens) == 6
    for row, token in zip(rows, tokens, strict=True):
        assert row.startswith(repr(token.token))
        assert f"{token.contributions[1]:+.3f}" in row
    assert mean.startswith("mean")
    assert mean.endswith("% changed")
