"""One row whose adapter a gate chooses, on prompts with questions for ten adapters."""

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
    """Return right answers of the gate at composite-10 relative to routing that knows the tasks.

    The claim also needs the posterior router to reach `POSTERIOR_AT_LEAST` of that routing, and
    that routing to be right in `ORACLE_AT_LEAST` of all answers: a ratio of two failures says
    nothing.
    """
    results = reproduce(QUESTIONS, [SIZE])
    show(report(results).text)
    oracle = mean(results.scores[ORACLE].means(SIZE))
    holds = oracle >= ORACLE_AT_LEAST and results.ratio(POSTERIOR, SIZE) >= POSTERIOR_AT_LEAST
    return Result(results.ratio(GATE, SIZE), holds=holds)
