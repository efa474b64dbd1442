"""Timing, comparison and tables."""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

Side = Callable[[], float]
"""Runs one round of work and returns what it cost."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and quartiles of what a number of rounds gave."""

    median: float
    low: float
    high: float

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        """At least two values."""
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return Spread(median, low, high)

    def __format__(self, spec: str) -> str:
        return f"{self.median:{spec}} ({self.low:{spec}} to {self.high:{spec}})"


@dataclass(frozen=True, slots=True)
class Paired:
    """Two sides measured in turn: the cost of each and, per round, their ratio."""

    a: Spread
    b: Spread
    ratio: Spread
    least: float
    """Ratio of the cheapest rounds of either side: those that the machine disturbed least."""

    def microseconds(self) -> tuple[str, ...]:
        """Cells for both costs, given in seconds, and their ratio; see `RATIO`."""
        costs = (f"{side.median * 1e6:.0f}" for side in (self.a, self.b))
        return (*costs, f"{self.ratio:.3f}", f"{self.least:.3f}")


RATIO = ("ratio (quartiles)", "of the best rounds")
"""Heads of the last two cells of `Paired.microseconds`."""


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU seconds of this process, all threads. Waiting for a busy machine is not in it."""
    gc.collect()
    start = time.process_time()
    work()
    return time.process_time() - start


def paired(a: Side, b: Side, rounds: int) -> Paired:
    """Cost of `a` relative to `b`, in rounds of the order A B B A.

    A machine that becomes slower or faster within a round does so for both sides alike.
    """
    costs = []
    for _ in range(rounds):
        first_a, first_b, second_b, second_a = a(), b(), b(), a()
        costs.append(((first_a + second_a) / 2, (first_b + second_b) / 2))
    return Paired(
        Spread.of([cost for cost, _ in costs]),
        Spread.of([cost for _, cost in costs]),
        Spread.of([one / other for one, other in costs]),
        min(cost for cost, _ in costs) / min(cost for _, cost in costs),
    )


def settle() -> None:
    """After loading and warming up: what is alive now is not looked at by the collector again."""
    gc.collect()
    gc.freeze()


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def show(text: str) -> None:
    """Print at once: a claim may take minutes."""
    print(text, flush=True)
    sys.stderr.flush()
