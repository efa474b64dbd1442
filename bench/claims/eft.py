"""Emulated fine-tuning: the facts of the large model, the form of the small tune."""

from __future__ import annotations

from bench.claim import Result
from bench.measure import show
from bench.reproduce.emulated_fine_tuning import measure as reproduce
from bench.reproduce.emulated_fine_tuning import report
from bench.reproduce.exam import Exam


def measure() -> Result:
    """Value: points by which up-scaling manners misses either aim, the worse one.

    Holds only where the weight that trades two manners moves both monotonically.
    """
    with Exam() as exam:
        found = reproduce(exam)
    show(report(found).text)
    return Result(100 * found.shortfall("manners"), holds=found.monotone)
