"""CPU time of three composed rows of a real model, against one row of it.

While one request decodes, a step reads the weights of the model once, for however many rows.
"""

from __future__ import annotations

from functools import partial

from bench.claim import Result
from bench.inprocess import InProcessEngine, Job
from bench.measure import RATIO, cpu_seconds, paired, settle, show, table
from bench.workload import prompts
from composer.engine_plan import Row
from experts import ADAPTERS
from experts.base_model import base_model

PROMPT_TOKENS, TOKENS = 16, 32
VOCABULARY = 40_000  # of the random prompts
ROUNDS = {1: 12, 8: 4}  # by requests at once; the value is that of one


def measure() -> Result:
    """Return the ratio of CPU seconds per token of one request, decoding in bfloat16."""
    folders = {name: ADAPTERS[name] for name in ("positive", "negative")}
    engine = InProcessEngine(
        base_model(), folders, dtype="bfloat16", kv_blocks=None, kv_cache_memory_bytes=512 << 20
    )
    positive, negative = engine.adapters["positive"], engine.adapters["negative"]
    rows = (Row(1.0), Row(1.5, positive), Row(-1.5, negative))
    params = {"max_tokens": TOKENS}
    costs = {}
    for count, rounds in ROUNDS.items():
        texts = prompts(count, PROMPT_TOKENS, VOCABULARY, seed=count)
        composed = [Job(text, rows, params=params) for text in texts]
        base = [Job(text, params=params) for text in texts]
        for jobs in (composed, base):
            decoding(engine, jobs)  # warm up
        settle()
        costs[count] = paired(
            partial(decoding, engine, composed), partial(decoding, engine, base), rounds
        )
    show("base + 1.5*(positive - negative) against the base, bfloat16; CPU microseconds per token:")
    header = ("requests", "three rows each", "one row each", *RATIO)
    show(table(header, [(count, *cost.microseconds()) for count, cost in costs.items()]))
    return Result(costs[1].ratio.median)


def decoding(engine: InProcessEngine, jobs: list[Job]) -> float:
    """Return CPU seconds per token once all prompts have been read."""
    engine.forget_prefixes()
    names = {engine.add(job) for job in jobs}
    while any(len(r.output_token_ids) == 0 for r in engine.scheduler.requests.values()):
        engine.step()
    seconds = cpu_seconds(engine.drain)
    return seconds / (len(names) * (TOKENS - 1))
