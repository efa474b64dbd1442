"""Wall-clock time of composed requests against the same rows as plain requests."""

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
    """Seconds per step: side a is composed, side b the plain rows."""

    requests: int
    rows: int
    paired: Paired

    def cells(self) -> tuple[object, ...]:
        """Return the table row under `HEADER`."""
        composed, plain = self.paired.a, self.paired.b
        return (
            self.requests,
            self.rows,
            _milliseconds(composed),
            _milliseconds(plain),
            f"{self.paired.ratio:.3f}",
            f"{self.requests / composed.median:.0f}",
        )


def tax(
    engine: InProcessEngine, adapters: Sequence[str], concurrent: int, length: int, rounds: int
) -> Tax:
    """Measure `base + 0.8*(expert - anti_expert)`, `concurrent` requests of `length` tokens each.

    Each step gives every request one token; reading the prompts takes one more step.
    """
    expert, anti_expert = (engine.adapters[name] for name in adapters)
    rows = (Row(1.0), Row(0.8, expert), Row(-0.8, anti_expert))
    # Without detokenization: the plain side would detokenize three times as many answers.
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
    costs = paired(lambda: seconds(composed), lambda: seconds(separate), rounds)
    return Tax(concurrent, len(separate), costs)


def _milliseconds(spread: Spread) -> str:
    return f"{spread.median * 1e3:.2f}"
