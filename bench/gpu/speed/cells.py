"""The speed table: what is measured in a cell, and a row of it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Cell:
    """Requests at a time, and their lengths in tokens."""

    requests: int
    prompt: int
    answer: int

    @property
    def context(self) -> float:
        """Tokens before the new one, in the mean over the answer."""
        return self.prompt + self.answer / 2

    def __str__(self) -> str:
        return f"{self.requests} x {self.prompt}/{self.answer}"


@dataclass(frozen=True, slots=True)
class Run:
    """Wall-clock seconds of one run of a cell."""

    total: float
    first: float
    """From the beginning to the first token of any answer."""
    gaps: list[float]
    """Between consecutive steps from there on: what a client sees between two tokens."""


def row(
    name: str, cell: Cell, runs: Sequence[Run], bound: float, plain: Sequence[Run] | None = None
) -> dict[str, Any]:
    """Return a row of the table.

    Args:
        name: of the kind.
        cell: what was measured.
        runs: of this kind.
        bound: seconds of a step by memory alone.
        plain: runs of the same rows as plain requests, in the same order.
    """
    gaps = [gap for run in runs for gap in run.gaps] or [run.total for run in runs]
    total, token = statistics.median(run.total for run in runs), statistics.median(gaps)
    pairs = zip(runs, plain or (), strict=plain is not None)
    ratios = [mine.total / its.total for mine, its in pairs]
    return {
        "kind": name,
        "requests": cell.requests,
        "prompt": cell.prompt,
        "answer": cell.answer,
        "rounds": len(runs),
        "token_ms": token * 1e3,
        "token_p99_ms": percentile(gaps, 0.99) * 1e3,
        "bound_ms": bound * 1e3,
        "of_bound": token / bound,
        "first_ms": statistics.median(run.first for run in runs) * 1e3,
        "tokens_per_s": cell.requests * cell.answer / total,
        "to_plain_rows": statistics.median(ratios) if ratios else None,
    }


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest of the values that at least this share of them does not exceed."""
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)), 1) - 1]
