"""Statistics over values measured once per seed."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def mean(values: Sequence[float]) -> float:
    return statistics.fmean(values)


def figure(values: Sequence[float], digits: int) -> str:
    """Return mean ± standard deviation over the seeds."""
    text = f"{mean(values):.{digits}f}"
    return f"{text} ±{statistics.stdev(values):.{digits}f}" if len(values) > 1 else text


def cell(shares: Sequence[float]) -> str:
    """Return mean ± standard deviation of shares, in whole per cent."""
    return figure([100 * share for share in shares], 0)
