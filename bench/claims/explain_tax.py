"""CPU time of explaining answers, and what being able to costs those that are not explained."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from unittest.mock import patch

from bench.claim import Result
from bench.inprocess import InProcessEngine, Job
from bench.measure import RATIO, paired, settle, show, table
from bench.real_model import decoding_seconds, real_engine, steered
from composer.engine_plan import Explaining
from composer.vllm.execute.sampler import ComposingForward
from composer.vllm.execute.scoring.explanations import Explanations

PROMPT_TOKENS, TOKENS = 16, 32
ROUNDS = 12
SHOWN = (1, 8)  # requests at once, of three rows each; the value is the larger of both ratios


def without_explanations(engine: InProcessEngine, jobs: list[Job]) -> float:
    """Return the CPU seconds of a step that does not even look whether anything is explained."""
    with (
        patch.object(ComposingForward, "_ask", lambda self, *logits: []),
        patch.multiple(Explanations, note_composed=_nothing, explain=_nothing),
    ):
        return decoding_seconds(engine, jobs)


def measure() -> Result:
    """Return the larger ratio of CPU seconds per step, decoding in bfloat16."""
    engine = real_engine("positive", "negative")
    costs = {}
    for count in SHOWN:
        plain = steered(engine, count, PROMPT_TOKENS, max_tokens=TOKENS)
        explained = [replace(j, explanation=Explaining(f"{n}", 0)) for n, j in enumerate(plain)]
        normal = partial(decoding_seconds, engine, plain)
        explaining = partial(_explained, engine, explained)
        for warm_up in (explaining, normal):
            warm_up()
        settle()
        costs[count, "on"] = paired(explaining, normal, ROUNDS)
        costs[count, "off"] = paired(normal, partial(without_explanations, engine, plain), ROUNDS)
    show("base + 1.5*(positive - negative), bfloat16, decoding; CPU microseconds per step:")
    header = ("requests of three rows", "explain", "with", "without", *RATIO)
    show(table(header, [(*case, *cost.microseconds()) for case, cost in costs.items()]))
    return Result(max(cost.ratio.median for (_, how), cost in costs.items() if how == "on"))


def _explained(engine: InProcessEngine, jobs: list[Job]) -> float:
    seconds = decoding_seconds(engine, jobs)
    for job in jobs:
        assert job.explanation is not None
        [report] = engine.explained(job.explanation.report_id)
        assert len(report["tokens"]) >= TOKENS
    return seconds


def _nothing(*_: object) -> None:
    pass
