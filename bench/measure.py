"""Timing, comparison and tables."""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

Side = Callable[[], float]
"""Run one round of work and return its cost."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and quartiles over rounds."""

    median: float
    low: float
    high: float

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        """Summarize at least two values."""
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return Spread(median, low, high)

    def __format__(self, spec: str) -> str:
        return f"{self.median:{spec}} ({self.low:{spec}} to {self.high:{spec}})"


@dataclass(frozen=True, slots=True)
class Paired:
    """Costs of two sides measured in turn, and their ratio per round."""

    a: Spread
    b: Spread
    ratio: Spread
    least: float
    """Ratio of the cheapest rounds of each side, which the machine disturbed least."""

    def microseconds(self) -> tuple[str, ...]:
        """Return table cells: both costs, converted from seconds, and the columns of `RATIO`."""
        costs = (f"{side.median * 1e6:.0f}" for side in (self.a, self.b))
        return (*costs, f"{self.ratio:.3f}", f"{self.least:.3f}")


RATIO = ("ratio (quartiles)", "of the best rounds")
"""Headings of the last two cells of `Paired.microseconds`."""


def cpu_seconds(work: Callable[[], object]) -> float:
    """Return CPU seconds of this process, all threads; waiting for the machine does not count."""
    gc.collect()
    start = time.process_time()
    work()
    return time.process_time() - start


def paired(a: Side, b: Side, rounds: int) -> Paired:
    """Return the cost of `a` relative to `b`, in rounds of the order A B B A.

    A machine whose speed drifts within a round affects both sides alike.
    """
    costs = []
    for _ in range(rounds):
        first_a, first_b, second_b, second_a = a(), b(), b(), a()
        costs.append(((first_a + second_a) / 2, (first_b + second_b) / 2))
    return Paired(
        Spread.of([cost for cost, _ in costs]),
        Spread.of([cost for _, cost in costs]),
        Spread.of([cost_a / cost_b for cost_a, cost_b in costs]),
        min(cost for cost, _ in costs) / min(cost for _, cost in costs),
    )


def settle() -> None:
    """Exclude all live objects from garbage collection; call after loading and warming up."""
    gc.collect()
    gc.freeze()


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def show(text: str) -> None:
    """Print and flush, as a claim may take minutes."""
    print(text, flush=True)
    sys.stderr.flush()
