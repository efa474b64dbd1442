"""Texts scored under compositions, and weights found from examples, over HTTP."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from transformers import AutoTokenizer

from composer.reference.oracle import Oracle, OracleRow
from tests.server.compose.test_bad_requests import error_of
from tests.server.compose.test_streams import wait_until_idle
from tests.server.http.test_request_log import figure
from tests.support.live_server import LiveServer

QUESTION = "Where does Kuti Supiv live?"
ITEMS: list[dict[str, Any]] = [
    {"prompt": "Once upon a", "completion": " time there was Ann."},
    {"messages": [{"role": "user", "content": QUESTION}], "completion": "Kuti lives in Mogtu."},
    {"prompt": [5, 6, 7], "completion": [40, 41, 42]},
]
FORMULA = "base + 0.5*polite - 0.5*rude"
WEIGHTS = {"base": 1.0, "polite": 0.5, "rude": -0.5}
MOST = 1e-4  # nats


@pytest.fixture(scope="module")
def oracle(zoo_base: Path, zoo_adapters: dict[str, Path]) -> Oracle:
    return Oracle(zoo_base, {name: zoo_adapters[name] for name in ("polite", "rude", "chat")})


@pytest.fixture(scope="module")
def tokenizer(zoo_base: Path) -> Any:
    return AutoTokenizer.from_pretrained(zoo_base)


def tokens_of(tokenizer: Any, item: dict[str, Any]) -> tuple[Any, Any]:
    """What a text is read as: the token ids of the prompt, and of the completion."""
    prompt, completion = item.get("prompt"), item["completion"]
    if (messages := item.get("messages")) is not None:
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
    elif isinstance(prompt, str):
        prompt = tokenizer(prompt)["input_ids"]
    if isinstance(completion, str):
        completion = tokenizer(completion, add_special_tokens=False)["input_ids"]
    return prompt, completion


def distributions(
    oracle: Oracle, tokenizer: Any, item: dict[str, Any], weights: dict[str, float]
) -> torch.Tensor:
    """Return the log-probabilities in front of each token of a completion, `[T, V]` float64."""
    prompt, completion = tokens_of(tokenizer, item)
    rows = [
        OracleRow(weight, None if name == "base" else name, tuple(prompt))
        for name, weight in sorted(weights.items())  # the base first
    ]
    return oracle.composed(rows, (), completion)[:-1].double().log_softmax(1)


def wanted(
    oracle: Oracle, tokenizer: Any, item: dict[str, Any], weights: dict[str, float]
) -> list[float]:
    _, completion = tokens_of(tokenizer, item)
    log_probs = distributions(oracle, tokenizer, item, weights)
    own: list[float] = log_probs.gather(1, torch.tensor(completion).unsqueeze(1)).flatten().tolist()
    return own


def ok(server: LiveServer, path: str, **body: Any) -> dict[str, Any]:
    response = server.http.post(f"/v1/compose/{path}", json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def test_texts_are_scored_under_a_composition_and_its_members(
    server: LiveServer, oracle: Oracle, tokenizer: Any
) -> None:
    answer = ok(server, "score", model=FORMULA, items=ITEMS, members=True)
    assert answer["plan"]["formula"] == FORMULA
    for item, scored in zip(ITEMS, answer["data"], strict=True):
        own = wanted(oracle, tokenizer, item, WEIGHTS)
        assert scored["token_ids"] == tokens_of(tokenizer, item)[1]
        assert scored["token_logprobs"] == pytest.approx(own, abs=MOST)
        assert scored["logprob"] == pytest.approx(sum(own), abs=1e-3)
        for member in scored["members"]:
            alone = wanted(oracle, tokenizer, item, {member["model"]: 1.0})
            assert member["token_logprobs"] == pytest.approx(alone, abs=MOST)
    assert [m["model"] for m in answer["data"][0]["members"]] == ["base", "polite", "rude"]
    assert answer["usage"]["scored_tokens"] == sum(len(d["token_ids"]) for d in answer["data"])


def test_a_router_that_switches_adapters_names_the_expert_of_each_token(
    server: LiveServer, oracle: Oracle, tokenizer: Any
) -> None:
    """It hands over at every token. Its experts alone are scored in passes of their own."""
    item = {"prompt": "Kuti Supiv lives in", "completion": " Mogtu."}
    prompt, completion = tokens_of(tokenizer, item)
    switched = {
        "recipe": "mixture",
        "experts": ["polite", "rude", "polite"],
        "router": {"kind": "sequence", "at": list(completion)},
    }
    answer = ok(server, "score", composition=switched, items=[item], members=True)
    [scored] = answer["data"]
    assert scored["experts"] == ["polite", "rude"]
    adapters = [*["polite"] * len(prompt), "rude", "polite"]
    log_probs = oracle.switched(prompt, completion, adapters)[0][:-1].double().log_softmax(1)
    own = log_probs.gather(1, torch.tensor(completion).unsqueeze(1)).flatten().tolist()
    assert scored["token_logprobs"] == pytest.approx(own, abs=MOST)
    assert [member["model"] for member in scored["members"]] == ["polite", "rude"]
    for member in scored["members"]:
        alone = wanted(oracle, tokenizer, item, {member["model"]: 1.0})
        assert member["token_logprobs"] == pytest.approx(alone, abs=MOST)
    several = ok(server, "score", compositions=[switched, "polite"], items=[item])
    [first, _] = several["data"][0]["compositions"]
    assert first["token_logprobs"] == pytest.approx(own, abs=MOST)


@pytest.mark.parametrize("model", ["base", "zoo", "polite"])
def test_one_model_alone(server: LiveServer, oracle: Oracle, tokenizer: Any, model: str) -> None:
    answer = ok(server, "score", model=model, items=ITEMS[:1])
    own = wanted(oracle, tokenizer, ITEMS[0], {"polite" if model == "polite" else "base": 1.0})
    assert answer["data"][0]["token_logprobs"] == pytest.approx(own, abs=MOST)


def test_several_compositions_in_one_pass(
    server: LiveServer, oracle: Oracle, tokenizer: Any
) -> None:
    """Their members read the texts once."""
    grid = [FORMULA, "polite", {"members": [{"model": "rude", "weight": 2}]}]
    before = server.metric("vllm:prompt_tokens_total")
    answer = ok(server, "score", compositions=grid, items=ITEMS[:2])
    read = server.metric("vllm:prompt_tokens_total") - before
    sums = [WEIGHTS, {"polite": 1.0}, {"rude": 2.0}]
    for item, scored in zip(ITEMS, answer["data"], strict=False):
        assert len(scored["compositions"]) == len(grid)
        for weights, given in zip(sums, scored["compositions"], strict=True):
            own = wanted(oracle, tokenizer, item, weights)
            assert given["token_logprobs"] == pytest.approx(own, abs=3 * MOST)
    texts = [tokens_of(tokenizer, item) for item in ITEMS[:2]]
    assert read == sum(len(prompt) + len(completion) for prompt, completion in texts)


def test_how_far_the_first_composition_is_from_the_others(
    server: LiveServer, oracle: Oracle, tokenizer: Any
) -> None:
    """Members that the first does not have are read as well."""
    grid = ["base + 0.5*polite", "chat", "2*base", "base + 0.5*polite"]
    own = {"base": 1.0, "polite": 0.5}
    sums = [own, {"chat": 1.0}, {"base": 2.0}, own]
    answer = ok(server, "score", compositions=grid, items=ITEMS[:2], divergences=True)
    for item, scored in zip(ITEMS, answer["data"], strict=False):
        first = distributions(oracle, tokenizer, item, own)
        for weights, given in zip(sums, scored["compositions"], strict=True):
            other = distributions(oracle, tokenizer, item, weights)
            distances = (first.exp() * (first - other)).sum(1).tolist()
            assert given["token_divergences"] == pytest.approx(distances, rel=1e-3, abs=MOST)
            mean = sum(distances) / len(distances)
            assert given["divergence"] == pytest.approx(mean, rel=1e-3, abs=MOST)
            log_probs = wanted(oracle, tokenizer, item, weights)
            assert given["token_logprobs"] == pytest.approx(log_probs, abs=3 * MOST)
        assert [given["divergence"] > 0.05 for given in scored["compositions"]] == [
            *(False, True, True, False)
        ]


def test_weights_are_found_from_answers(server: LiveServer) -> None:
    """Answers that a known composition has sampled give its weights back."""
    truth, lines = 0.8, [f"Where does {name} live?" for name in ("Kuti Supiv", "Ann", "Velan")]
    items = []
    for seed in range(24):
        question = lines[seed % 3]
        sampled = server.chat(
            f"base + {truth}*(polite - rude)",
            question,
            temperature=1,
            seed=seed,
            max_tokens=24,
            return_token_ids=True,
        ).json()["choices"][0]
        messages = [{"role": "user", "content": question}]
        items.append({"messages": messages, "completion": sampled["token_ids"]})
    answer = ok(server, "fit", formula="base + a*(polite - rude)", items=items, held_out=0.25)
    found = answer["weights"]["a"]
    assert answer["converged"]
    assert answer["passes"] <= 10
    assert abs(found["value"] - truth) < 3 * found["standard_error"]
    assert found["standard_error"] < 0.3
    judged = answer["log_likelihood_per_token"]
    assert judged["fit"] >= judged["start"]
    assert judged["fit"] >= max(judged["members"].values())
    assert answer["examples"] == {"learned": 18, "held_out": 6}
    assert answer["warnings"] == []
    again = server.chat(answer["request"]["model"], lines[0])
    assert again.status_code == 200, again.text

    mixture = ok(server, "fit", experts=["polite", "rude", "base"], items=items)
    assert sum(w["value"] for w in mixture["weights"].values()) == pytest.approx(1, abs=1e-3)
    assert mixture["weights"]["polite"]["value"] > mixture["weights"]["rude"]["value"]
    likely = mixture["log_likelihood_per_token"]
    assert likely["fit"] >= likely["start"] - 1e-3
    asked = server.http.post(
        "/v1/chat/completions",
        json={**mixture["request"], "messages": items[0]["messages"], "max_tokens": 4},
    )
    assert asked.status_code == 200, asked.text


NEAR: dict[str, Any] = {
    "formula": "base + a*polite + b*rude",
    "items": ITEMS[:2],
    "held_out": 0,
    "bounds": {"a": [-2, 2], "b": [-2, 2]},
}


def test_what_examples_do_not_determine_is_said(server: LiveServer) -> None:
    answer = ok(server, "fit", formula="base + a*(polite - polite)/1 + b*polite", items=ITEMS[:2])
    assert any("'a'" in warning for warning in answer["warnings"])
    twins = ok(server, "fit", formula="base + a*polite + b*polite", items=ITEMS[:2], ridge=0)
    assert [w["standard_error"] for w in twins["weights"].values()] == [None, None]
    few = ok(server, "fit", formula="base + a*polite + b*rude", items=ITEMS[:2], max_passes=1)
    assert not few["converged"]
    assert any("not converged" in warning for warning in few["warnings"])
    start = {"a": 0.3, "b": -0.2}
    last = ok(server, "fit", **NEAR, start=start, max_passes=1)  # the only point is the start
    assert {name: w["value"] for name, w in last["weights"].items()} == start
    likely = last["log_likelihood_per_token"]
    assert likely["fit"] == likely["start"]
    done = ok(server, "fit", **NEAR, start=start, max_passes=50)
    assert done["converged"]
    assert not any("not converged" in warning for warning in done["warnings"])
    assert done["log_likelihood_per_token"]["fit"] > likely["fit"]


ITEM: dict[str, Any] = ITEMS[0]
TOP_K = {
    "members": [{"model": "base", "weight": 1}],
    "filters": [{"kind": "top_k", "model": "base", "value": 5}],
}
OWN_PROMPT = {
    "members": [
        {"model": "base", "weight": 1},
        {"model": "chat", "weight": -0.5, "prompt": "Be rude."},
    ]
}


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("score", {"items": []}, 400, ["items"]),
        ("score", {"items": [{"prompt": "a", "completion": ""}]}, 400, ["completion"]),
        ("score", {"items": [{"completion": "a"}]}, 400, ["prompt", "messages"]),
        ("score", {"items": [ITEM | {"messages": []}]}, 400, ["messages"]),
        ("score", {"items": [ITEM], "model": "nobody"}, 404, ["'nobody'", "polite"]),
        ("score", {"items": [ITEM], "model": "base +"}, 400, ["position"]),
        ("score", {"items": [ITEM], "model": "base", "compositions": ["base"]}, 400, ["one of"]),
        ("score", {"items": [ITEM], "compositions": []}, 400, ["compositions"]),
        ("score", {"items": [ITEM], "compositions": ["base"] * 65}, 400, ["compositions", "64"]),
        ("score", {"items": [ITEM], "modle": "base"}, 400, ["model"]),
        ("score", {"items": [{"prompt": "a " * 5000, "completion": "b"}]}, 400, ["context"]),
        ("score", {"items": [{"prompt": "a", "completion": "b " * 5000}]}, 400, ["context"]),
        ("score", {"items": [{"prompt": "a", "completion": [999999]}]}, 400, ["999999"]),
        ("score", {"items": [ITEM], "divergences": True}, 400, ["compositions", "two"]),
        (
            "score",
            {"items": [ITEM], "compositions": ["base", TOP_K], "divergences": True},
            400,
            ["compositions[1]", "filters", "Leave it out"],
        ),
        (
            "score",
            {
                "items": [ITEM],
                "compositions": [{"recipe": "mixture", "experts": ["chat", "rude"]}, "base"],
                "divergences": True,
            },
            400,
            ["compositions[0]", "mixtures"],
        ),
        (
            "score",
            {"items": [ITEM], "compositions": ["base", OWN_PROMPT], "divergences": True},
            400,
            ["compositions[1]", "prompts"],
        ),
        ("fit", {"items": [ITEM] * 2, "formula": "base + polite"}, 400, ["no free name"]),
        ("fit", {"items": [ITEM] * 2, "formula": "base + a*b*polite"}, 400, ["free names"]),
        (
            "fit",
            {"items": [ITEM] * 2, "formula": "chat + a*(polite - rdue)"},
            400,
            ["did you mean 'rude'?", "position 19"],
        ),
        ("fit", {"items": [ITEM] * 2}, 400, ["formula", "experts"]),
        ("fit", {"items": [ITEM], "formula": "base + a*polite"}, 400, ["items"]),
        (
            "fit",
            {"items": [ITEM] * 2, "formula": "base + a*polite", "start": {"b": 1}},
            400,
            ["'b'", "a"],
        ),
        (
            "fit",
            {"items": [ITEM] * 2, "formula": "base + a*polite", "bounds": {"a": [1, 0]}},
            400,
            ["lower"],
        ),
        (
            "fit",
            {"items": [ITEM] * 2, "formula": "base + a*polite", "bounds": {"a": [-1e9, 1]}},
            400,
            ["between -100 and 100"],
        ),
        (
            "fit",
            {"items": [ITEM] * 2, "formula": "base + a*polite", "bounds": {"a": [1]}},
            400,
            ["bounds.a[1] is missing"],
        ),
        (
            "fit",
            {"items": [ITEM] * 2, "formula": "base + a*polite", "start": {"a": 1e6}},
            400,
            ["start", "1e+06"],
        ),
        ("fit", {"items": [ITEM] * 2, "experts": ["polite", "nobody"]}, 404, ["'nobody'"]),
        (
            "fit",
            {"items": [ITEM] * 2, "formula": "base + a*polite", "ridge": 1e308},
            400,
            ["ridge"],
        ),
    ],
)
def test_bad_requests(
    server: LiveServer, path: str, body: dict[str, Any], status: int, words: list[str]
) -> None:
    error = error_of(server.http.post(f"/v1/compose/{path}", json=body), status)
    for word in words:
        assert word in error["message"], error


def test_a_client_that_leaves_stops_its_texts(server: LiveServer) -> None:
    count = 900
    body = {"model": FORMULA, "items": [{"prompt": "a", "completion": "b " * 100}] * count}
    scored = figure(server, "composer_scored_texts_total")
    gone = figure(server, "composer_scoring_requests_total", outcome="client_gone")
    with pytest.raises(httpx.ReadTimeout):
        server.http.post("/v1/compose/score", json=body, timeout=1)
    deadline = time.monotonic() + 20
    while figure(server, "composer_scoring_requests_total", outcome="client_gone") == gone:
        assert time.monotonic() < deadline, "the request goes on without its client"
    wait_until_idle(server)
    assert figure(server, "composer_scored_texts_total") - scored < count
    assert figure(server, "composer_leases") == 0
