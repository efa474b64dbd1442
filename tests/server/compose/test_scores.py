"""Logprobs of prompts, as lm-eval and others ask for them, are those of the composition."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from composer.engine_plan import MixtureParameters
from composer.reference.mixture_oracle import mixed
from composer.reference.oracle import Oracle, OracleRow
from tests.server.compose.test_bad_requests import error_of
from tests.support.live_server import LiveServer

TEXTS = ("Kuti Supiv lives in Mogtu.", "37+58: 7+8=15, 3+5+1=9, so 95.", "a b")
FORMULA = "base + 0.5*(polite - rude)"
MEMBERS = ((1.0, None), (0.5, "polite"), (-0.5, "rude"))
MIXTURE = {"recipe": "mixture", "experts": ["polite", "rude"], "router": "posterior"}
MOST = 1e-4  # nats


@pytest.fixture(scope="module")
def oracle(zoo_base: Path, zoo_adapters: dict[str, Path]) -> Oracle:
    return Oracle(zoo_base, {name: zoo_adapters[name] for name in ("polite", "rude")})


@pytest.fixture(scope="module")
def tokenizer(zoo_base: Path) -> Any:
    return AutoTokenizer.from_pretrained(zoo_base)


def wanted(oracle: Oracle, members: Any, ids: list[int], router: MixtureParameters | None) -> Any:
    """The log-probabilities of all tokens but the first, and those of the likeliest ones."""
    rows = [OracleRow(weight, adapter, (ids[0],)) for weight, adapter in members]
    if router is not None:
        z, _ = mixed(oracle, rows, router, ids[1:])
    else:
        z = oracle.composed(rows, (), ids[1:])
    log_probs = z[:-1].double().log_softmax(1)
    own = log_probs.gather(1, torch.tensor(ids[1:]).unsqueeze(1)).squeeze(1)
    return own.tolist(), log_probs.max(1).values.tolist()


CASES: dict[str, tuple[dict[str, Any], Any, MixtureParameters | None]] = {
    "formula": ({"model": FORMULA}, MEMBERS, None),
    "field": ({"model": "base", "composition": FORMULA}, MEMBERS, None),
    "mixture": (
        {"model": "base", "composition": MIXTURE},
        ((0.5, "polite"), (0.5, "rude")),
        MixtureParameters(fixed=0.0, posterior=1.0, prompt=False),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_echo_gives_the_logprobs_of_a_text(
    server: LiveServer, oracle: Oracle, tokenizer: Any, case: str
) -> None:
    """The request of lm-eval: several prompts, no answer."""
    fields, members, router = CASES[case]
    options: dict[str, Any] = {"max_tokens": 0, "echo": True, "logprobs": 1, "temperature": 0}
    answer = server.complete(prompt=list(TEXTS), **fields, **options)
    assert answer.status_code == 200, answer.text
    for text, choice in zip(TEXTS, answer.json()["choices"], strict=True):
        assert choice["text"] == text
        logprobs = choice["logprobs"]
        own, likeliest = wanted(oracle, members, tokenizer(text)["input_ids"], router)
        assert logprobs["token_logprobs"][0] is None
        assert logprobs["token_logprobs"][1:] == pytest.approx(own, abs=MOST)
        tops = [max(top.values()) for top in logprobs["top_logprobs"][1:]]
        assert tops == pytest.approx(likeliest, abs=MOST)
        assert "".join(logprobs["tokens"]) == text


@pytest.mark.parametrize("case", CASES)
def test_lm_evals_request_for_a_log_likelihood(
    server: LiveServer, oracle: Oracle, tokenizer: Any, case: str
) -> None:
    """A batch of token ids and one token of answer, as `local-completions` sends and reads it."""
    fields, members, router = CASES[case]
    prompts = [tokenizer(text)["input_ids"] for text in TEXTS]
    options: dict[str, Any] = {"max_tokens": 1, "echo": True, "logprobs": 1, "seed": 1234}
    answer = server.complete(prompt=prompts, **fields, **options)
    assert answer.status_code == 200, answer.text
    choices = sorted(answer.json()["choices"], key=lambda choice: choice["index"])
    for ids, choice in zip(prompts, choices, strict=True):
        own, likeliest = wanted(oracle, members, ids, router)
        logprobs = choice["logprobs"]
        assert logprobs["token_logprobs"][1:-1] == pytest.approx(own, abs=MOST)
        for logprob, top in zip(
            logprobs["token_logprobs"][1:-1], logprobs["top_logprobs"][1:-1], strict=True
        ):
            assert logprob in top.values(), "lm-eval compares it with the maximum for equality"
        tops = [max(top.values()) for top in logprobs["top_logprobs"][1:-1]]
        assert tops == pytest.approx(likeliest, abs=MOST)


@pytest.mark.parametrize("case", CASES)
def test_lm_evals_request_for_a_text(server: LiveServer, case: str) -> None:
    """Greedy, with stop sequences; every prompt of a batch gets the answer it gets alone."""
    fields, _, _ = CASES[case]
    prompts = [server.tokens(text) for text in ("Where does Kuti Supiv live?", "Once upon a")]
    options: dict[str, Any] = {
        "max_tokens": 12,
        "seed": 1234,
        "stop": ["Question:", ".", "<|end|>"],
    }
    answer = server.complete(prompt=prompts, **fields, **options)
    assert answer.status_code == 200, answer.text
    texts = {choice["index"]: choice["text"] for choice in answer.json()["choices"]}
    assert not any("." in text for text in texts.values())
    for number, ids in enumerate(prompts):
        alone = server.complete(prompt=ids, **fields, **options).json()
        assert texts[number] == alone["choices"][0]["text"]


def test_prompt_logprobs_of_a_conversation(
    server: LiveServer, oracle: Oracle, tokenizer: Any
) -> None:
    question = "Where does Kuti Supiv live?"
    answer = server.chat(FORMULA, question, prompt_logprobs=0, max_tokens=4, temperature=0)
    assert answer.status_code == 200, answer.text
    messages = [{"role": "user", "content": question}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    own, _ = wanted(oracle, MEMBERS, ids, None)
    first, *given = answer.json()["prompt_logprobs"]
    assert first is None
    values = [place[str(id)]["logprob"] for place, id in zip(given, ids[1:], strict=True)]
    assert values == pytest.approx(own, abs=MOST)
    plain = server.chat(FORMULA, question, max_tokens=4, temperature=0).json()
    assert answer.json()["choices"][0]["message"] == plain["choices"][0]["message"]


SWITCHES: dict[str, dict[str, Any]] = {
    "sequence": {"kind": "sequence", "at": ["."]},
    "gate": {"kind": "gate", "name": "tasks", "start": "chat"},
}


@pytest.mark.parametrize("kind", SWITCHES)
def test_a_router_that_switches_adapters_reads_a_text_as_its_answer(
    server: LiveServer, zoo_base: Path, zoo_adapters: dict[str, Path], tokenizer: Any, kind: str
) -> None:
    """The gate wants `arithmetic` always, but the first token is the prompt, which `chat` reads."""
    experts = ["chat", "arithmetic"]
    oracle = Oracle(zoo_base, {name: zoo_adapters[name] for name in experts})
    composition = {"recipe": "mixture", "experts": experts, "router": SWITCHES[kind]}
    text = "Kuti Supiv lives in Mogtu. 37+58: 7+8=15"
    ids = tokenizer(text)["input_ids"]
    stop = ids.index(tokenizer(".", add_special_tokens=False)["input_ids"][0])
    first = 1 if kind == "gate" else stop
    adapters = ["chat" if place < first else "arithmetic" for place in range(len(ids))]
    log_probs = oracle.switched(ids[:1], ids[1:], adapters)[0][:-1].double().log_softmax(1)
    own = log_probs.gather(1, torch.tensor(ids[1:]).unsqueeze(1)).flatten().tolist()
    fields: dict[str, Any] = {"max_tokens": 0, "echo": True, "logprobs": 1, "prompt_logprobs": 0}
    answer = server.complete("base", text, composition=composition, **fields)
    assert answer.status_code == 200, answer.text
    [choice] = answer.json()["choices"]
    assert choice["logprobs"]["token_logprobs"][1:] == pytest.approx(own, abs=MOST)
    given = choice["prompt_logprobs"][1:]
    values = [place[str(id)]["logprob"] for place, id in zip(given, ids[1:], strict=True)]
    assert values == pytest.approx(own, abs=MOST)


@pytest.mark.parametrize("field", ["prompt_logprobs", "echo"])
def test_what_cannot_be_scored_is_refused(server: LiveServer, field: str) -> None:
    composition = {"recipe": "classifier_free_guidance", "negative_prompt": "Be rude."}
    asked = {"prompt_logprobs": 1} if field == "prompt_logprobs" else {"echo": True, "logprobs": 1}
    answer = server.complete("base", composition=composition, **asked)
    error = error_of(answer, 400)
    assert (error["code"], error["param"]) == ("unsupported", field)


def test_too_many_logprobs_are_refused(server: LiveServer) -> None:
    error = error_of(server.complete(FORMULA, prompt_logprobs=10**6), 400)
    assert "logprobs" in error["message"]
