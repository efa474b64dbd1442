"""Share of the top-p filter in a step of 24 rows on a real vocabulary."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from bench.claim import Result
from bench.inprocess import InProcessEngine, Job
from bench.measure import Spread, settle, show, table
from bench.real_model import decoding_seconds, real_engine, steered
from composer.filters import Filter, FilterKind
from composer.tensors.compose import Composition

GANGS, PROMPT_TOKENS, TOKENS = 8, 16, 32
ROUNDS = 12


@contextmanager
def composing_seconds() -> Iterator[list[float]]:
    """Collect the CPU seconds of every composed step."""
    compose, seconds = Composition.compose, []

    def timed(*args: object, **kwargs: object) -> None:
        start = time.process_time()
        compose(*args, **kwargs)  # type: ignore[arg-type]
        seconds.append(time.process_time() - start)

    with patch.object(Composition, "compose", timed):
        yield seconds


def step(engine: InProcessEngine, jobs: list[Job]) -> tuple[float, float]:
    """Return CPU seconds of a step, and of composing within it."""
    with composing_seconds() as composing:
        whole = decoding_seconds(engine, jobs)
    last = composing[-(TOKENS - 1) :]  # those of the steps that `decoding_seconds` counts
    return whole, sum(last) / len(last)


def measure() -> Result:
    """Return what composing costs more with the filter, in per cent of the whole step."""
    engine = real_engine("positive", "negative")
    nucleus = (Filter(FilterKind.TOP_P, 0, 0.9),)
    filtered = steered(engine, GANGS, PROMPT_TOKENS, nucleus, max_tokens=TOKENS)
    bare = steered(engine, GANGS, PROMPT_TOKENS, max_tokens=TOKENS)
    for jobs in (filtered, bare):
        step(engine, jobs)  # warm up
    settle()
    rounds = [(*step(engine, filtered), step(engine, bare)[1]) for _ in range(ROUNDS)]
    whole, with_filter, without = (Spread.of(values) for values in zip(*rounds, strict=True))
    share = Spread.of([100 * (a - b) / total for total, a, b in rounds])
    show(f"{GANGS} requests of three rows, top_p 0.9 on the base, bfloat16; CPU microseconds:")
    header = ("step", "composing", "composing without the filter", "filter, per cent of the step")
    cells = [f"{cost.median * 1e6:.0f}" for cost in (whole, with_filter, without)]
    show(table(header, [(*cells, f"{share:.2f}")]))
    return Result(share.median)
