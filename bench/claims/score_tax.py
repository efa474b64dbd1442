"""CPU time of scoring texts with a composition, against the same rows as plain requests."""

from __future__ import annotations

import zoo
from bench.claim import Result
from bench.inprocess import InProcessEngine, Job
from bench.measure import RATIO, show, table
from bench.workload import VOCABULARY, paired_jobs, prompts
from composer.engine_plan import Row

TEXTS, TOKENS = 16, 128
ROUNDS = 12
PARAMS = {"max_tokens": 1, "prompt_logprobs": 0}


def measure() -> Result:
    """Return the ratio of CPU seconds, median over rounds."""
    engine = InProcessEngine(zoo.BASE, zoo.ADAPTERS)
    one, two = engine.adapters["polite"], engine.adapters["rude"]
    rows = (Row(1.0), Row(0.8, one), Row(-0.8, two))
    texts = prompts(TEXTS, TOKENS, VOCABULARY, seed=1)
    composed = [Job(text, rows, params=PARAMS) for text in texts]
    separate = [row for job in composed for row in job.separate()]
    cost = paired_jobs(engine, composed, separate, len(separate) * TOKENS, ROUNDS)
    show(f"{TEXTS} texts of {TOKENS} tokens, three rows; CPU microseconds per token and row:")
    header = ("composed", "the same rows with prompt_logprobs", *RATIO)
    show(table(header, [cost.microseconds()]))
    return Result(cost.ratio.median)
