"""Composed answers of SmolLM2 in English, compared with the oracle token by token."""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers import AutoTokenizer

from bench.agreement import count_mismatches
from bench.claim import Result
from bench.inprocess import Job
from bench.measure import show, table
from bench.real_model import real_engine
from composer.engine_plan import LoadedAdapter, MixtureParameters, Row
from composer.filters import Filter, FilterKind
from composer.reference.oracle import Oracle
from experts import ADAPTERS, EXAMPLES, NAMES
from experts.base_model import base_model

TOKENS = 20
EACH = 6  # answers per method, one to a prompt of each adapter
Method = Callable[[tuple[int, ...], tuple[int, ...], dict[str, LoadedAdapter]], Job]
"""A prompt, another one, and the adapters by name."""

PRIOR = MixtureParameters()
POSTERIOR = MixtureParameters(fixed=0.0, posterior=1.0, forgetting=0.9)

METHODS: dict[str, Method] = {
    "steering": lambda p, _, a: Job(
        p, (Row(1.0), Row(1.5, a["positive"]), Row(-1.5, a["negative"]))
    ),
    "DExperts": lambda p, _, a: Job(
        p,
        (Row(1.0), Row(2.0, a["negative"]), Row(-2.0, a["positive"])),
        (Filter(FilterKind.TOP_P, 0, 0.9),),
    ),
    "contrastive": lambda p, _, a: Job(
        p, (Row(1.5, a["devil"]), Row(-0.5)), (Filter(FilterKind.PLAUSIBILITY, 0, 0.1),)
    ),
    "extrapolation": lambda p, _, a: Job(p, (Row(1.7, a["kjv"]), Row(-0.7))),
    "interpolation": lambda p, _, a: Job(p, (Row(0.4, a["kjv"]), Row(0.6, a["devil"]))),
    "guidance": lambda p, other, a: Job(p, (Row(1.5, a["json"]), Row(-0.5, a["json"], other))),
    "last token": lambda p, _, a: Job(p, (Row(1.5), Row(-0.5, None, p[-1:]))),
    "candidates": lambda p, _, a: Job(
        p, (Row(1.0), Row(1.0, a["arithmetic"])), (Filter(FilterKind.TOP_K, 0, 20.0),)
    ),
    "mixture": lambda p, _, a: Job(
        p, tuple(Row(1 / 3, a[name]) for name in ("kjv", "devil", "json")), mixture=PRIOR
    ),
    "posterior": lambda p, _, a: Job(
        p, (Row(0.5, a["json"]), Row(0.5, a["arithmetic"])), mixture=POSTERIOR
    ),
}


def prompts_of(name: str) -> list[tuple[int, ...]]:
    """Return the token ids of an adapter's examples as user messages."""
    tokenizer = AutoTokenizer.from_pretrained(base_model())
    return [
        tuple(
            tokenizer.apply_chat_template(
                [{"role": "user", "content": line}], add_generation_prompt=True, return_dict=False
            )
        )
        for line in EXAMPLES[name].read_text(encoding="utf-8").splitlines()
        if line
    ]


def measure() -> Result:
    """Return the number of answers that differ from the oracle's, by more than a near-tie."""
    torch.set_grad_enabled(False)
    engine = real_engine(*NAMES, dtype="float32", max_loras=6)
    examples = [prompts_of(name) for name in NAMES]
    jobs, rows, wrong = [], [], 0
    for number, (name, method) in enumerate(METHODS.items()):
        for prompts, others in zip(examples, [*examples[1:], examples[0]], strict=True):
            job = method(prompts[number], others[number], engine.adapters)
            job.params = {"max_tokens": TOKENS}
            jobs.append((name, job))
    answers = engine.answers([job for _, job in jobs])
    oracle = Oracle(base_model(), ADAPTERS)
    for name in METHODS:
        mine = [(j, answer) for (n, j), answer in zip(jobs, answers, strict=True) if n == name]
        bad, ties = count_mismatches(oracle, [j for j, _ in mine], [answer for _, answer in mine])
        wrong += bad
        rows.append((name, len(mine), sum(len(answer) for _, answer in mine), bad, ties))
    show(table(("method", "answers", "tokens", "different", "near-ties"), rows))
    left = engine.leftovers()
    return Result(wrong, holds=len(jobs) == EACH * len(METHODS) and not left)
