"""CPU time of sampling with `top_p` on a real vocabulary, against greedy decoding."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from bench.claim import Result
from bench.measure import RATIO, paired, settle, show, table
from bench.real_model import decoding_seconds, real_engine, steered

PROMPT_TOKENS, TOKENS = 16, 32
SAMPLING = {"temperature": 1.0, "top_p": 0.9}
ROUNDS = 12
SHOWN = (1, 8)  # requests at once, of three rows each; the value is the larger of both ratios


def measure() -> Result:
    """Return the larger ratio of CPU seconds per step, decoding in bfloat16."""
    engine = real_engine("positive", "negative")
    costs = {}
    for count in SHOWN:
        greedy = steered(engine, count, PROMPT_TOKENS, max_tokens=TOKENS)
        sampled = [replace(job, params={**job.params, **SAMPLING}) for job in greedy]
        for jobs in (sampled, greedy):
            decoding_seconds(engine, jobs)  # warm up
        settle()
        costs[count] = paired(
            partial(decoding_seconds, engine, sampled),
            partial(decoding_seconds, engine, greedy),
            ROUNDS,
        )
    show("base + 1.5*(positive - negative), bfloat16, decoding; CPU microseconds per step:")
    header = ("requests of three rows", "temperature 1, top_p 0.9", "greedy", *RATIO)
    show(table(header, [(count, *cost.microseconds()) for count, cost in costs.items()]))
    return Result(max(cost.ratio.median for cost in costs.values()))
