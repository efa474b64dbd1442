"""Mixtures, gates and `auto` over HTTP: what is answered, and what is told about it."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import pytest

from clients import Client
from clients.cli.main import main
from tests.server.compose.test_bad_requests import error_of
from tests.support.live_server import LiveServer

WHERE = "Where does Kuti Supiv live?"
LIVES = "Kuti Supiv lives in Mogtu."
SUM = "What is 12 + 30?"
WORKED = "12+30: 2+0=2, 1+3=4, so 42."
EXPERTS = ["chat", "arithmetic"]


def mixed(router: Any = None, experts: list[str] = EXPERTS, **fields: Any) -> dict[str, Any]:
    routed = {} if router is None else {"router": router}
    return {"recipe": "mixture", "experts": experts, **routed, **fields}


def answered(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def ask(
    server: LiveServer, question: str, composition: Any = None, **fields: Any
) -> tuple[str, dict[str, Any]]:
    """The text of an answer, and its `routing`."""
    fields = {"model": "base", "max_tokens": 30, "composition": composition, **fields}
    answer = answered(server.chat(text=question, **fields))
    text: str = answer["choices"][0]["message"]["content"]
    return text, answer["composition"]["routing"]


# ---- mixtures


def test_fixed_weights_never_change(server: LiveServer) -> None:
    weights = {"chat": 3.0, "arithmetic": 1.0}
    text, routing = ask(server, WHERE, mixed({"kind": "fixed", "weights": weights}))
    assert text == LIVES
    assert routing == {"weights": {"chat": 0.75, "arithmetic": 0.25}}


@pytest.mark.parametrize(("question", "expert"), [(WHERE, "chat"), (SUM, "arithmetic")])
def test_the_prompt_routes_and_top_k_runs_fewer_rows(
    server: LiveServer, question: str, expert: str
) -> None:
    text, routing = ask(server, question, mixed("prompt"))
    assert text == (LIVES if expert == "chat" else WORKED)
    assert routing["weights"][expert] > 0.99
    answer = answered(server.chat("base", question, composition=mixed("prompt", top_k=1)))
    assert answer["composition"]["rows"] == 1
    assert answer["composition"]["routing"] == {"weights": {expert: 1.0}}
    assert list(answer["adapters"]) == [expert]
    alone = answered(server.chat(expert, question))
    assert answer["choices"] == alone["choices"]


def test_a_conversation_is_routed_by_its_last_question(server: LiveServer) -> None:
    messages = [
        {"role": "user", "content": SUM},
        {"role": "assistant", "content": WORKED},
        {"role": "user", "content": [{"type": "text", "text": WHERE}]},
    ]
    _, routing = ask(server, "", mixed("prompt", top_k=1), messages=messages)
    assert routing["weights"] == {"chat": 1.0}


@pytest.mark.parametrize("as_tokens", [False, True])
def test_completions_are_routed_by_their_prompt(server: LiveServer, as_tokens: bool) -> None:
    prompt = server.tokens(SUM) if as_tokens else [SUM]
    answer = answered(server.complete("auto", prompt))
    assert answer["composition"]["routing"]["weights"] == {"arithmetic": 1.0}


def test_the_posterior_is_told_token_by_token(server: LiveServer) -> None:
    router = {"kind": "posterior", "prompt": False, "prior": "prompt", "forgetting": 0.9}
    text, routing = ask(server, WHERE, mixed(router, explain=True))
    assert text == LIVES
    assert len(routing["tokens"]) == len(server.tokens(LIVES)) + 1
    for weights in routing["tokens"]:
        assert set(weights) == set(EXPERTS)
        assert sum(weights.values()) == pytest.approx(1, abs=1e-5)
    for name in EXPERTS:
        mean = sum(weights[name] for weights in routing["tokens"]) / len(routing["tokens"])
        assert routing["weights"][name] == pytest.approx(mean, abs=1e-5)
    assert "tokens" not in ask(server, WHERE, mixed(router))[1]


def test_every_answer_has_its_own_weights(server: LiveServer) -> None:
    fields = {"n": 3, "temperature": 1.5, "seed": 1}
    _, routing = ask(server, WHERE, mixed({"kind": "confidence"}), **fields)
    assert len(routing["answers"]) == 3
    means = [one["weights"]["chat"] for one in routing["answers"]]
    assert len(set(means)) > 1
    assert routing["weights"]["chat"] == pytest.approx(sum(means) / 3, abs=1e-5)


@pytest.mark.parametrize("usage", [True, False])
def test_the_end_of_a_stream_tells_the_weights(server: LiveServer, usage: bool) -> None:
    composition = mixed({"kind": "confidence"}, explain=True)
    text, routing = ask(server, WHERE, composition)
    body = {
        "model": "base",
        "messages": [{"role": "user", "content": WHERE}],
        "composition": composition,
        "max_tokens": 30,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": usage},
    }
    with server.http.stream("POST", "/v1/chat/completions", json=body) as stream:
        lines = [line.removeprefix("data: ") for line in stream.iter_lines() if line]
    assert lines.pop() == "[DONE]"
    chunks = [json.loads(line) for line in lines]
    told = [n for n, chunk in enumerate(chunks) if "routing" in chunk.get("composition", {})]
    assert told == [len(chunks) - 1]
    assert chunks[-1]["composition"]["routing"] == routing
    assert "plan" in chunks[0]["composition"]
    contents = [c["delta"].get("content") for chunk in chunks for c in chunk["choices"]]
    assert "".join(filter(None, contents)) == text


def test_a_stored_composition_may_hold_a_router(server: LiveServer) -> None:
    put = server.http.put("/v1/compositions/both", json=mixed("prompt", top_k=1))
    assert put.status_code == 201, put.text
    try:
        answer = answered(server.chat("both", SUM, max_tokens=30))
        assert answer["choices"][0]["message"]["content"] == WORKED
        assert answer["model"] == "both"
    finally:
        server.http.delete("/v1/compositions/both")


# ---- one row that changes its adapter


def test_a_sequence_changes_the_adapter_at_a_token(server: LiveServer) -> None:
    router = {"kind": "sequence", "at": ["."]}
    composition = mixed(router, ["chat", "arithmetic", "chat"], explain=True)
    fields = {"max_tokens": len(server.tokens(LIVES)) + 3, "ignore_eos": True}
    text, routing = ask(server, WHERE, composition, **fields)
    assert text.startswith(LIVES)
    expected = ["chat"] * len(server.tokens(LIVES)) + ["arithmetic"]
    assert routing["tokens"][: len(expected)] == expected
    assert set(routing["weights"]) == {"chat", "arithmetic"}
    assert sum(routing["weights"].values()) == pytest.approx(1, abs=1e-5)


def test_a_gate_chooses_every_token(server: LiveServer) -> None:
    gate = {"kind": "gate", "name": "tasks"}
    text, routing = ask(server, SUM, mixed(gate, explain=True))
    assert text == WORKED
    assert routing["weights"] == {"chat": 0.0, "arithmetic": 1.0}
    assert set(routing["tokens"]) == {"arithmetic"}
    # By the examples `chat` would read the first question, and by its own words the second.
    text, routing = ask(server, WHERE, mixed(gate | {"stickiness": 2.0}))
    assert (text, routing["weights"]["chat"]) == (LIVES, 1.0)
    text, routing = ask(server, WHERE, mixed(gate | {"stickiness": 2.0, "start": "arithmetic"}))
    assert routing["weights"]["arithmetic"] == 1.0
    # `base` has no examples, so the first of the request reads the prompt.
    one_of = mixed({"kind": "gate", "stickiness": 2.0}, ["chat", "base"])
    assert ask(server, SUM, one_of)[1]["weights"]["chat"] == 1.0


def test_a_gate_does_with_the_experts_that_remain(server: LiveServer) -> None:
    gate = {"kind": "gate", "name": "tasks", "missing": "remaining"}
    experts = ["chat", "arithmetic", "rude", "gone"]
    text, routing = ask(server, SUM, mixed(gate, experts))
    assert text == WORKED
    assert routing["missing"] == ["rude", "gone"]
    assert set(routing["weights"]) == {"chat", "arithmetic"}
    only = answered(server.chat("base", WHERE, composition=mixed(gate, ["gone", "chat"])))
    assert only["composition"]["routing"] == {"weights": {"chat": 1.0}, "missing": ["gone"]}
    assert only["composition"]["rows"] == 1


# ---- auto and compare


@pytest.mark.parametrize(("question", "expert"), [(WHERE, "chat"), (SUM, "arithmetic")])
def test_auto_is_one_adapter(server: LiveServer, question: str, expert: str) -> None:
    answer = answered(server.chat("auto", question, max_tokens=30))
    assert answer["model"] == "auto"
    routing = answer["composition"]["routing"]
    assert routing["weights"] == {expert: 1.0}
    assert list(routing["familiarity"]) == [expert]
    assert routing["familiarity"][expert] > 0.5
    assert answer["composition"]["rows"] == 1
    assert list(answer["adapters"]) == [expert]


FOREIGN = "velan zebras yawn"


def test_auto_is_the_base_if_no_adapter_is_for_the_prompt(server: LiveServer) -> None:
    answer = answered(server.chat("auto", FOREIGN, max_tokens=30))
    assert answer["choices"] == answered(server.chat("base", FOREIGN, max_tokens=30))["choices"]
    assert answer["composition"]["routing"]["weights"] == {"base": 1.0}
    assert answer["composition"]["plan"]["formula"] == "mixture(base)"
    assert max(answer["composition"]["routing"]["familiarity"].values()) < 0.5
    assert answer["composition"]["routing"]["none_below"] == 0.5
    assert "adapters" not in answer
    body = {"model": "auto", "prompt": FOREIGN, "max_tokens": 3, "stream": True}
    with server.http.stream("POST", "/v1/completions", json=body) as stream:
        chunks = [
            json.loads(line.removeprefix("data: "))
            for line in stream.iter_lines()
            if line.startswith("data: {")
        ]
    assert chunks[-1]["composition"]["routing"] == answer["composition"]["routing"]


def test_a_mixture_has_none_if_it_asks_for_it(server: LiveServer) -> None:
    cases: list[tuple[dict[str, Any], list[str]]] = [
        ({}, EXPERTS),
        ({"none": False}, EXPERTS),
        ({"none": True}, ["base"]),
    ]
    for fields, chosen in cases:
        _, routing = ask(server, FOREIGN, mixed("prompt", **fields))
        assert sorted(routing["weights"]) == sorted(chosen)
    _, routing = ask(server, SUM, mixed("prompt", none=0.9))
    assert routing["weights"]["arithmetic"] > 0.99
    assert routing["none_below"] == 0.9
    compared = answered(
        server.chat(
            "base", FOREIGN, composition=mixed("prompt", none=True), compare=True, max_tokens=3
        )
    )
    assert sorted(compared["comparison"]) == sorted(EXPERTS)


def test_compare_asks_each_expert_alone(server: LiveServer) -> None:
    headers = {"X-Request-Id": "mine"}
    body = {
        "model": "auto",
        "messages": [{"role": "user", "content": WHERE}],
        "compare": True,
        "max_tokens": 30,
        "temperature": 1,
        "seed": 7,
        "n": 2,
    }
    answer = answered(server.http.post("/v1/chat/completions", json=body, headers=headers))
    assert set(answer["comparison"]) == set(EXPERTS)
    assert answer["choices"] == answer["comparison"]["chat"]["choices"], "auto is chat here"
    for name in EXPERTS:
        alone = answered(
            server.http.post("/v1/chat/completions", json={**body, "model": name, "compare": False})
        )
        assert answer["comparison"][name]["choices"] == alone["choices"]
        assert answer["comparison"][name]["usage"] == alone["usage"]


def test_compare_works_for_sums_and_completions(server: LiveServer) -> None:
    answer = answered(server.complete("base + 0.5*(polite - rude)", compare=True))
    assert list(answer["comparison"]) == ["base", "polite", "rude"]
    for name in answer["comparison"]:
        text = answered(server.complete(name))["choices"][0]["text"]
        assert answer["comparison"][name]["choices"][0]["text"] == text
    assert "comparison" not in answered(server.complete("base + polite", compare=False))


def test_what_an_expert_refuses_is_its_own_answer(server: LiveServer) -> None:
    fields = {"max_tokens": 4, "logprobs": True, "top_logprobs": 1, "compare": True}
    answer = answered(server.chat("base + 0.5*polite", WHERE, **fields))
    assert answer["comparison"]["polite"]["choices"][0]["logprobs"]["content"]


def test_the_clients(server: LiveServer, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"{server.url}/v1"
    with Client(url) as client:
        answer = client.chat(SUM, model="auto", compare=True, temperature=0.0, max_tokens=30)
        assert answer.text == WORKED
        assert answer.composition is not None
        assert answer.composition.routing is not None
        assert answer.composition.routing.weights == {"arithmetic": 1.0}
        assert answer.comparison is not None
        assert answer.comparison["arithmetic"].text == WORKED
    words = ["--base-url", url, "chat", SUM, "--model", "auto", "--temperature", "0"]
    assert main([*words, "--routing"]) == 0
    assert capsys.readouterr() == (f"{WORKED}\n", "composer: weights: arithmetic 1.000\n")
    assert main([*words, "--routing", "--stream"]) == 0
    assert capsys.readouterr() == (f"{WORKED}\n", "composer: weights: arithmetic 1.000\n")
    assert main(["--base-url", url, "chat", FOREIGN, "--model", "auto", "--routing"]) == 0
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "composer: weights: base 1.000"
    assert re.fullmatch(
        r"composer: nearest adapter: (chat|arithmetic), familiarity 0\.[0-4]\d; "
        r"below 0\.5 the base answers",
        told[1],
    )
    assert len(told) == 2


# ---- bad input

GATE = {"kind": "gate", "name": "tasks"}


@pytest.mark.parametrize(
    ("composition", "code", "told"),
    [
        (mixed(top_k=3), "composition_schema", ["top_k is 3", "2 experts"]),
        (mixed(top_k=0), "composition_schema", ["top_k", "0"]),
        (mixed("magic"), "composition_schema", ["'magic'", "posterior"]),
        (
            mixed({"kind": "fixed", "weights": {"chat": 0, "arithmetic": 0}}),
            "composition_schema",
            ["sum to 0"],
        ),
        (
            mixed({"kind": "fixed", "weights": {"chat": -1, "arithmetic": 2}}),
            "composition_schema",
            ["-1"],
        ),
        (mixed("prompt", ["chat", "polite"]), "unsupported", ["'polite'", "examples"]),
        (mixed({"kind": "gate", "name": "other"}), "invalid_gate", ["'other'", "'tasks'"]),
        (mixed(GATE, ["chat", "polite"]), "invalid_gate", ["'polite'", "train"]),
        (mixed(GATE, ["chat", "gone"]), "invalid_gate", ["'gone'", '"missing": "remaining"']),
        (mixed(GATE, ["chat", "rude"]), "invalid_gate", ["'rude'", "replaced"]),
        (
            mixed(GATE | {"missing": "remaining"}, ["rude", "gone"]),
            "invalid_gate",
            ["nothing left", "'rude', 'gone'"],
        ),
        (
            mixed({"kind": "sequence", "at": "."}, ["chat", "polite", "rude"]),
            "group_too_large",
            ["3 adapters", "--max-loras"],
        ),
        (mixed({"kind": "sequence", "at": "Hello there"}), "composition_schema", ["tokens: "]),
        (mixed({"kind": "sequence", "at": 10**6}), "composition_schema", ["1000000"]),
        (mixed(None, ["chat", "polite", "rude"]), "group_too_large", ["3 adapters"]),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_wrong_routers(
    server: LiveServer, composition: Any, code: str, told: list[str], stream: bool
) -> None:
    error = error_of(server.chat("base", WHERE, composition=composition, stream=stream), 400)
    assert error["code"] == code
    for words in told:
        assert words in error["message"]
    assert error["param"].startswith("composition")
    assert server.running() == 0


def test_an_expert_that_is_gone_is_unknown_without_a_gate(server: LiveServer) -> None:
    error = error_of(server.chat("base", composition=mixed("posterior", ["chat", "gone"])), 404)
    assert error["code"] == "model_not_found"


def test_compare_needs_a_composition_and_no_stream(server: LiveServer) -> None:
    for model in ("base", "polite"):
        error = error_of(server.chat(model, compare=True), 400)
        assert (error["code"], error["param"]) == ("unsupported", "compare")
        assert server.chat(model, compare=False).status_code == 200
    error = error_of(server.chat("auto", compare=True, stream=True), 400)
    assert (error["code"], error["param"]) == ("unsupported", "compare")
    error = error_of(server.chat("auto", compare=1), 400)
    assert (error["code"], error["param"]) == ("composition_schema", "compare")


def test_several_prompts_are_not_routed_by_one(server: LiveServer) -> None:
    error = error_of(server.complete("auto", [WHERE, SUM]), 400)
    assert (error["code"], error["param"]) == ("unsupported", "prompt")
    texts = [c["text"] for c in answered(server.complete("auto", [WHERE]))["choices"]]
    fixed = answered(server.complete("base", [WHERE, SUM], composition=mixed()))
    assert len(fixed["choices"]) == 2
    assert len(texts) == 1


@pytest.mark.parametrize("messages", [None, [], "Hi", [7]])
def test_what_vllm_refuses_is_refused_by_vllm(server: LiveServer, messages: Any) -> None:
    response = server.chat("auto", messages=messages)
    assert response.status_code == 400
    assert "error" in response.json()


@pytest.mark.parametrize("router", ["confidence", {"kind": "sequence", "at": "."}])
def test_weights_stand_in_the_order_of_the_answers(server: LiveServer, router: Any) -> None:
    fields = {"temperature": 1.8, "seed": 3, "max_tokens": 40, "logprobs": 1}
    composition = mixed(router, explain=True)
    for prompt, n in ((WHERE, 12), ([WHERE, SUM], 2)):
        answer = answered(server.complete("base", prompt, composition=composition, n=n, **fields))
        lengths = [len(choice["logprobs"]["tokens"]) for choice in answer["choices"]]
        told = [len(one["tokens"]) for one in answer["composition"]["routing"]["answers"]]
        assert told == lengths
        assert len(set(lengths)) > 2
