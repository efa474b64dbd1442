"""One row whose adapter a gate chooses answers prompts that are meant for ten adapters."""

from __future__ import annotations

from bench.claim import Result
from bench.measure import show
from bench.reproduce.composite import GATE, ORACLE, POSTERIOR, QUESTIONS, report
from bench.reproduce.composite import measure as reproduce
from bench.reproduce.seeds import mean

SIZE = 10
POSTERIOR_AT_LEAST = 0.9
ORACLE_AT_LEAST = 0.8


def measure() -> Result:
    """Value: right answers of the gate at composite-10 relative to routing that knows the tasks.

    Holds only where the posterior router gets nine tenths of the latter as well, which itself must
    be right for the most part: a share of nothing is none.
    """
    found = reproduce(QUESTIONS, [SIZE])
    show(report(found).text)
    known = mean(found.scores[ORACLE].means(SIZE))
    holds = known >= ORACLE_AT_LEAST and found.ratio(POSTERIOR, SIZE) >= POSTERIOR_AT_LEAST
    return Result(found.ratio(GATE, SIZE), holds=holds)
