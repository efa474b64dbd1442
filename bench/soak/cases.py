"""The requests of the clients. Every answer is determined: greedy, or sampled with a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import zoo
from adapters import inspect
from composer.mixtures.gate_file import Gate, fingerprint, save_gate
from zoo.tasks import tasks

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
RESPONSES = "/v1/responses"
MESSAGES = "/v1/messages"

ALIAS = "manner"
"""The alias that is replaced during the traffic."""

SOURCES = ("polite", "rude")
"""Adapters that `ALIAS` points at in turn."""

STORED = "courteous"
"""Name of the stored composition."""

STORED_PLAN = "chat + 0.8*(polite - rude)"
GATE = "tasks"
GATE_CLASSES = ("base", "chat", "arithmetic", "reverse", "polite")
MAX_TOKENS = 24

SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", "y"]}},
    "required": ["a", "b"],
    "additionalProperties": False,
}

_FORMULAS = {
    "base": "base",
    "adapter": "chat",
    "sum": "chat + 0.8*(polite - rude)",
    "extrapolation": "1.5*velan - 0.5*base",
    "auxiliary": "base + (small:chat - small)",
    "auxiliary adapter": "small:chat",
    "alias": ALIAS,
    "alias in a sum": f"chat + 0.8*({ALIAS} - base)",
    "stored": STORED,
    "auto": "auto",
}


def _mixture(*experts: str, **router: Any) -> dict[str, Any]:
    return {"recipe": "mixture", "experts": list(experts), "router": router}


_COMPOSITIONS: dict[str, Any] = {
    "fixed": _mixture("chat", "arithmetic", "reverse", kind="fixed"),
    "prompt": {**_mixture("chat", "arithmetic", "reverse", kind="prompt"), "top_k": 2},
    "posterior": _mixture("chat", "arithmetic", kind="posterior", prior="prompt", forgetting=0.9),
    "confidence": {**_mixture("chat", "polite", "velan", kind="confidence"), "explain": True},
    "vote": _mixture(
        "chat",
        "arithmetic",
        kind="vote",
        routers=[{"router": {"kind": kind}} for kind in ("confidence", "prompt")],
    ),
    "gate": _mixture("chat", "arithmetic", "reverse", kind="gate"),
    "sequence": _mixture("chat", "polite", kind="sequence", at=["."]),
    "guidance": {"recipe": "classifier_free_guidance", "model": "polite", "guidance_scale": 1.5},
    "dexperts": {
        "recipe": "dexperts",
        "base": "chat",
        "expert": "polite",
        "anti_expert": "rude",
        "alpha": 0.8,
    },
    "contrastive": {"recipe": "contrastive", "expert": "chat", "amateur": "base"},
    "other prompt": {
        "members": [
            {"model": "chat", "weight": 1.4},
            {"model": "chat", "weight": -0.4, "messages": [{"role": "user", "content": "Who?"}]},
        ]
    },
    "alias in a mixture": _mixture("chat", ALIAS, kind="posterior"),
}


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """A request with a determined answer, which depends on the generation of `ALIAS` if `swaps`."""

    name: str
    path: str
    body: dict[str, Any]
    swaps: bool = False

    @property
    def shows_ties(self) -> bool:
        """Whether the route reports log-probabilities, which reveal near-ties."""
        return self.path in (CHAT, COMPLETIONS) and "n" not in self.body

    def with_logprobs(self) -> dict[str, Any]:
        """Return the body with a request for the two likeliest tokens."""
        fields = {"logprobs": True, "top_logprobs": 2} if self.path == CHAT else {"logprobs": 2}
        return {**self.body, **fields}


def make_cases(count: int, seed: int) -> list[Case]:
    """Return cases of every kind, with `count` questions each."""
    rng = random.Random(seed)
    questions = {
        name: [e.messages[-1]["content"] for e in tasks()[name].evaluation(count, seed=seed)]
        for name in ("chat", "arithmetic", "reverse")
    }
    return [
        case
        for number in range(count)
        for case in _cases(rng.choice(list(questions.values()))[number], number)
    ]


def _cases(question: str, number: int) -> Iterator[Case]:
    """Yield one case of every kind."""
    messages = [{"role": "user", "content": question}]
    chat = {"messages": messages, "max_tokens": MAX_TOKENS, "temperature": 0}
    text = {"prompt": question, "max_tokens": MAX_TOKENS, "temperature": 0}
    for name, model in _FORMULAS.items():
        swaps = ALIAS in model
        yield Case(f"chat: {name}", CHAT, {"model": model, **chat}, swaps)
        yield Case(f"completions: {name}", COMPLETIONS, {"model": model, **text}, swaps)
        answer = {"input": question, "max_output_tokens": MAX_TOKENS, "temperature": 0}
        yield Case(f"responses: {name}", RESPONSES, {"model": model, **answer}, swaps)
        yield Case(f"messages: {name}", MESSAGES, {"model": model, **chat}, swaps)
    for name, composition in _COMPOSITIONS.items():
        fields = {"model": "base", "composition": composition}
        swaps = ALIAS in str(composition)
        yield Case(f"chat: {name}", CHAT, {**chat, **fields}, swaps)
        if name != "other prompt":
            yield Case(f"completions: {name}", COMPLETIONS, {**text, **fields}, swaps)
    sampled = {"n": 2, "temperature": 1, "seed": number}
    for name in ("adapter", "sum", "alias in a sum"):
        body = {"model": _FORMULAS[name], **chat, **sampled}
        yield Case(f"chat: two answers, {name}", CHAT, body, ALIAS in _FORMULAS[name])
    response_format = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
    for name in ("adapter", "sum"):
        body = {"model": _FORMULAS[name], **chat, "response_format": response_format}
        yield Case(f"chat: schema, {name}", CHAT, body)
        body = {"model": _FORMULAS[name], **chat, "stop": ["lives", "."]}
        yield Case(f"chat: stop, {name}", CHAT, body)


def write_gate(file: Path) -> None:
    """Write a gate with random weights, which changes the adapter often."""
    rng = np.random.default_rng(0)
    hidden = 256  # of the zoo's base model
    weight = rng.normal(size=(len(GATE_CLASSES), hidden)).astype(np.float32)
    digests: dict[str, str | None] = {
        name: None if name == "base" else inspect(zoo.ADAPTERS[name], name, None).digest
        for name in GATE_CLASSES
    }
    bias = np.zeros(len(GATE_CLASSES), np.float32)
    save_gate(Gate(GATE_CLASSES, weight, bias, digests, fingerprint(zoo.BASE)), file)


BAD: tuple[tuple[str, dict[str, Any]], ...] = (
    (CHAT, {"model": "nobody", "messages": [{"role": "user", "content": "a"}]}),
    (CHAT, {"model": "chat +", "messages": [{"role": "user", "content": "a"}]}),
    (CHAT, {"model": "chat", "messages": 7}),
    (CHAT, {"model": "chat", "messages": [], "composition": {"recipe": "none"}}),
    (COMPLETIONS, {"model": "base", "prompt": "a", "top_k": -7}),
    (COMPLETIONS, {"model": "base", "prompt": "a", "vllm_xargs": {"composition_row": "x"}}),
    (COMPLETIONS, {"model": "1e9*chat", "prompt": "a"}),
    (COMPLETIONS, {"model": "base + chat", "prompt": "a b " * 5_000}),
    (RESPONSES, {"model": "nobody", "input": "a"}),
    (MESSAGES, {"model": "chat", "messages": []}),
)
"""Path and body of requests that the server must refuse."""
