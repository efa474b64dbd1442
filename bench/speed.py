"""Composed requests against the same rows as plain requests, by the clock on the wall."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.inprocess import InProcessEngine, Job
from bench.measure import Paired, Spread, paired
from bench.workload import VOCABULARY, prompts
from composer.engine_plan import Row

PROMPT_TOKENS = 32
HEADER = (
    "requests",
    "rows",
    "composed, ms per step",
    "plain rows, ms per step",
    "ratio (quartiles)",
    "composed tokens per second",
)


@dataclass(frozen=True, slots=True)
class Tax:
    """Seconds per step of both sides."""

    requests: int
    rows: int
    found: Paired

    def cells(self) -> tuple[object, ...]:
        """A row of the table under `HEADER`."""
        composed, plain = self.found.a, self.found.b
        return (
            self.requests,
            self.rows,
            _milliseconds(composed),
            _milliseconds(plain),
            f"{self.found.ratio:.3f}",
            f"{self.requests / composed.median:.0f}",
        )


def tax(
    engine: InProcessEngine, adapters: Sequence[str], concurrent: int, length: int, rounds: int
) -> Tax:
    """base + 0.8*(one - other) for `concurrent` requests of `length` tokens each.

    A step gives every request a token, the prompts take one more.
    """
    one, other = (engine.adapters[name] for name in adapters)
    rows = (Row(1.0), Row(0.8, one), Row(-0.8, other))
    # The output is token ids: text would be made for three times as many answers on one side.
    params = {"max_tokens": length, "detokenize": False}
    texts = prompts(concurrent, PROMPT_TOKENS, VOCABULARY, seed=concurrent)
    composed = [Job(text, rows, params=params) for text in texts]
    separate = [row for job in composed for row in job.separate()]

    def seconds(jobs: list[Job]) -> float:
        engine.forget_prefixes()
        gc.collect()
        start = time.perf_counter()
        engine.run(jobs)
        return (time.perf_counter() - start) / length

    for jobs in (composed, separate):
        seconds(jobs)
    found = paired(lambda: seconds(composed), lambda: seconds(separate), rounds)
    return Tax(concurrent, len(separate), found)


def _milliseconds(spread: Spread) -> str:
    return f"{spread.median * 1e3:.2f}"
