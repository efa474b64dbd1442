"""lm-evaluation-harness on composed models, each of its numbers against transformers and PEFT.

The error is that of a request's log-likelihood, divided by the number of its tokens: an ending, an
answer, or a page. Metrics may differ by `MOST_METRIC`, perplexities by this share of themselves.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from bench.claim import Result
from bench.lm_eval.harness import Evaluation, Generated, evaluate
from bench.lm_eval.items import write_items
from bench.lm_eval.metrics import METRICS
from bench.lm_eval.transformers_loop import Composition, generate, likelihood, loop_of
from bench.machine.server import running
from bench.measure import show, table
from composer.engine_plan import MixtureParameters
from composer.reference.oracle import Oracle
from experts import ADAPTERS
from experts.base_model import base_model

MOST_METRIC = 1e-4
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # two wait for each other on a busy machine
STORED = "mixed"
MIXTURE = {
    "recipe": "mixture",
    "experts": ["base", "kjv"],
    "router": {"kind": "posterior", "prior": "fixed", "forgetting": 0.9},
}


@dataclass(frozen=True, slots=True)
class Case:
    """A value of `model`, what it computes, and the task groups that lm_eval runs on it."""

    model: str
    composition: Composition
    groups: tuple[str, ...]


CASES = (
    Case(
        "base + 1.5*(positive - negative)",
        Composition(((1.0, None), (1.5, "positive"), (-1.5, "negative"))),
        ("local_hellaswag", "local_wikitext"),
    ),
    Case(
        STORED,
        Composition(
            ((0.5, None), (0.5, "kjv")),
            MixtureParameters(fixed=0.0, posterior=1.0, forgetting=0.9, prompt=False),
        ),
        ("local_truthfulqa",),
    ),
    Case(
        "arithmetic + 0.5*(positive - negative)",
        Composition(((1.0, "arithmetic"), (0.5, "positive"), (-0.5, "negative"))),
        ("local_gsm8k",),
    ),
)


@dataclass(frozen=True, slots=True)
class Compared:
    """A task: its requests, the largest error in nats per token, responses that differ otherwise
    (a flag, a text, or no number), and metrics as (name, lm_eval's, the loop's)."""

    requests: int
    error: float
    different: int
    metrics: list[tuple[str, float, float]]


def measure() -> Result:
    """Return the largest error, in nats per token."""
    torch.set_grad_enabled(False)
    evaluations = evaluations_of_all()
    tokenizer = AutoTokenizer.from_pretrained(base_model())
    oracle = Oracle(base_model(), ADAPTERS)
    worst, holds, rows, values = 0.0, True, [], []
    for case, evaluation in zip(CASES, evaluations, strict=True):
        for task, compared in compare(case, evaluation, oracle, tokenizer):
            worst = max(worst, compared.error)
            holds &= not compared.different
            row = (compared.requests, f"{compared.error:.1e}", compared.different)
            rows.append((case.model, task, *row))
            for name, its, ours in compared.metrics:
                holds &= abs(its - ours) <= MOST_METRIC * max(1.0, abs(ours))
                values.append((case.model, task, name, f"{its:.6f}", f"{ours:.6f}"))
    show(table(("model", "task", "requests", "largest error, nats per token", "different"), rows))
    show(table(("model", "task", "metric", "lm_eval", "loop"), values))
    return Result(worst, holds=holds and bool(rows))


def evaluations_of_all() -> list[Evaluation]:
    """Return lm_eval's results for all cases, from one server."""
    options = ("--dtype", "float32", "--max-model-len", "2048")
    with (
        tempfile.TemporaryDirectory() as name,
        running(ONE_THREAD, options, model=base_model(), adapters=ADAPTERS) as server,
    ):
        folder = Path(name)
        write_items(folder / "items")
        server.client.put(f"/v1/compositions/{STORED}", json=MIXTURE).raise_for_status()
        url = str(server.client.base_url).rstrip("/")
        return [
            evaluate(
                *(url, case.model, case.groups, base_model()),
                items=folder / "items",
                output=folder / str(number),
            )
            for number, case in enumerate(CASES)
        ]


def compare(
    case: Case, evaluation: Evaluation, oracle: Oracle, tokenizer: Any
) -> Iterator[tuple[str, Compared]]:
    """Yield the tasks of a case, computed again request by request."""
    for task, samples in evaluation.samples.items():
        errors, different, answered = [0.0], 0, []
        loop = None
        for sample in samples:
            values: list[float | str] = []
            for request in sample.requests:
                if isinstance(request, Generated):
                    loop = loop or loop_of(case.composition)
                    text = generate(
                        *(loop, tokenizer, request.prompt, request.max_tokens, request.until)
                    )
                    different += text != request.text
                    values.append(text)
                else:
                    ours = likelihood(oracle, tokenizer, case.composition, request)
                    errors.append(abs(ours.logprob - request.logprob) / ours.tokens)
                    different += not math.isfinite(request.logprob)
                    different += request.greedy not in (None, ours.greedy)
                    values.append(ours.logprob)
            answered.append((sample.item, values))
        expected = METRICS[task](answered)
        metrics = [(name, evaluation.metrics[task][name], ours) for name, ours in expected.items()]
        count = sum(len(sample.requests) for sample in samples)
        yield task, Compared(count, max(errors), different, metrics)
