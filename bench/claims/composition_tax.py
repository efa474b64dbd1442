"""CPU time of composed requests, against the same rows as plain requests."""

from __future__ import annotations

import zoo
from bench.claim import Result
from bench.inprocess import InProcessEngine, Job
from bench.measure import RATIO, Paired, paired, settle, show, table
from bench.workload import VOCABULARY, paired_jobs, prompts, proxy_tuning, seconds_per_token

CONCURRENT = (1, 4, 16)  # composed requests; the worst case is the value
ROUNDS = {1: 60, 4: 30, 16: 16}
PROMPT_TOKENS = 32
ANSWER_TOKENS = 16


def compare(engine: InProcessEngine, concurrent: int) -> Paired:
    """Compare composed requests with the same rows as plain multi-LoRA requests."""
    texts = prompts(concurrent, PROMPT_TOKENS, VOCABULARY, seed=concurrent)
    composed = [proxy_tuning(engine, text, ANSWER_TOKENS) for text in texts]
    separate = [row for job in composed for row in job.separate()]
    tokens = len(separate) * ANSWER_TOKENS
    return paired_jobs(engine, composed, separate, tokens, ROUNDS[concurrent])


def measure() -> Result:
    """Return the ratio of CPU seconds: median over rounds, worst over batch sizes."""
    engine = InProcessEngine(zoo.BASE, zoo.ADAPTERS)
    costs = {concurrent: compare(engine, concurrent) for concurrent in CONCURRENT}
    show("base + 0.8*(polite - rude), three rows; CPU microseconds per token and row:")
    header = ("composed requests", "composed", "same rows, plain requests", *RATIO)
    show(table(header, [(n, *cost.microseconds()) for n, cost in costs.items()]))
    show("\nThe base alone, 48 plain requests at once, with room for adapters and without:")
    bare = InProcessEngine(zoo.BASE, {})
    base = [
        Job(text, params={"max_tokens": ANSWER_TOKENS})
        for text in prompts(48, PROMPT_TOKENS, VOCABULARY, seed=48)
    ]
    tokens = len(base) * ANSWER_TOKENS
    for warm_up in (engine, bare):
        seconds_per_token(warm_up, base, tokens)
    settle()
    unused = paired(
        lambda: seconds_per_token(engine, base, tokens),
        lambda: seconds_per_token(bare, base, tokens),
        6,
    )
    show(table(("LoRA on, not used", "LoRA off", *RATIO), [unused.microseconds()]))
    return Result(max(cost.ratio.median for cost in costs.values()))
