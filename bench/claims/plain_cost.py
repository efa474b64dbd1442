"""CPU time of plain requests with our options, against stock vLLM."""

from __future__ import annotations

import zoo
from bench.claim import Result
from bench.inprocess import InProcessEngine, Job
from bench.measure import RATIO, Paired, paired, settle, show, table
from bench.workload import VOCABULARY, prompts, seconds_per_token

CONCURRENT = (1, 16)  # requests; the worst case is the value
ROUNDS = {1: 500, 16: 480}  # the standard error of a median is then about 0.3 %
TOKENS = 16  # of each prompt and each answer


def measure() -> Result:
    """Return the ratio of CPU seconds: median over rounds, worst over batch sizes.

    Both engines run without LoRA: with LoRA, ours runs corrected CPU kernels.
    """
    ours, stock = InProcessEngine(zoo.BASE, {}), InProcessEngine(zoo.BASE, {}, composing=False)
    costs = {concurrent: compare(ours, stock, concurrent) for concurrent in CONCURRENT}
    show("Plain requests on the base model; CPU microseconds per token:")
    header = ("requests at once", "our options", "stock vLLM", *RATIO)
    show(table(header, [(n, *cost.microseconds()) for n, cost in costs.items()]))
    return Result(max(cost.ratio.median for cost in costs.values()))


def compare(ours: InProcessEngine, stock: InProcessEngine, concurrent: int) -> Paired:
    """Compare the same plain requests in both engines."""
    tokens = concurrent * TOKENS
    jobs = [
        Job(text, params={"max_tokens": TOKENS})
        for text in prompts(concurrent, TOKENS, VOCABULARY, seed=concurrent)
    ]
    for engine in (ours, stock, ours, stock):
        seconds_per_token(engine, jobs, tokens)  # warm up
    settle()
    return paired(
        lambda: seconds_per_token(ours, jobs, tokens),
        lambda: seconds_per_token(stock, jobs, tokens),
        ROUNDS[concurrent],
    )
