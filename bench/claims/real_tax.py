"""CPU time of composed requests on SmolLM2, against the same rows as plain requests."""

from __future__ import annotations

from bench.claim import Result
from bench.measure import RATIO, show, table
from bench.real_model import real_engine, steered
from bench.workload import paired_jobs

PROMPT_TOKENS, TOKENS = 16, 32
ROUNDS = {1: 12, 8: 6}  # by requests at once; the worst case is the value


def measure() -> Result:
    """Return the ratio of CPU seconds: median over rounds, worst over batch sizes."""
    engine = real_engine("positive", "negative")
    costs = {}
    for count, rounds in ROUNDS.items():
        composed = steered(engine, count, PROMPT_TOKENS, max_tokens=TOKENS)
        separate = [row for job in composed for row in job.separate()]
        costs[count] = paired_jobs(engine, composed, separate, len(separate) * TOKENS, rounds)
    show("base + 1.5*(positive - negative), bfloat16; CPU microseconds per token and row:")
    header = ("composed requests", "composed", "same rows, plain requests", *RATIO)
    show(table(header, [(count, *cost.microseconds()) for count, cost in costs.items()]))
    return Result(max(cost.ratio.median for cost in costs.values()))
