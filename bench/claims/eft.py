"""Emulated fine-tuning has the facts of the large model and the form of the small tune."""

from __future__ import annotations

from bench.claim import Result
from bench.measure import show
from bench.reproduce.emulated_fine_tuning import measure as reproduce
from bench.reproduce.emulated_fine_tuning import report
from bench.reproduce.exam import Exam


def measure() -> Result:
    """Return by how many points up-scaling manners misses the worse of the two aims.

    The claim also needs the weight that trades two manners to move both monotonically.
    """
    with Exam() as exam:
        results = reproduce(exam)
    show(report(results).text)
    return Result(100 * results.shortfall("manners"), holds=results.monotone)
