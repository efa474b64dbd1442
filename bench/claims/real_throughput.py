"""Throughput of composed requests on SmolLM2, against a loop over three merged models."""

from __future__ import annotations

from bench.claim import Result
from bench.loop import Loop
from bench.measure import cpu_seconds, paired, settle, show, table
from bench.real_model import real_engine, steered
from bench.workload import seconds_per_token
from experts import ADAPTERS
from experts.base_model import base_model

CONCURRENT = 16
ROUNDS = 4
TOKENS = 32  # of each prompt and each answer


def measure() -> Result:
    """Return tokens per CPU second of the engine over those of the loop, both in float32, which
    gives the same tokens."""
    engine = real_engine("positive", "negative", dtype="float32")
    jobs = steered(engine, CONCURRENT, TOKENS, max_tokens=TOKENS)
    [answer] = engine.answers(jobs[:1])
    seconds_per_token(engine, jobs, CONCURRENT * TOKENS)  # warm up
    members = [(1.0, None), (1.5, ADAPTERS["positive"]), (-1.5, ADAPTERS["negative"])]
    loop = Loop(base_model(), members, merged=True)
    same = loop.greedy(jobs[0].prompt, TOKENS) == answer
    settle()
    cost = paired(
        lambda: cpu_seconds(lambda: loop.greedy(jobs[0].prompt, TOKENS)) / TOKENS,
        lambda: seconds_per_token(engine, jobs, CONCURRENT * TOKENS),
        ROUNDS,
    )
    show(f"base + 1.5*(positive - negative), float32, answers of {TOKENS} tokens; composed tokens")
    show("per CPU second:")
    header = ("loop, one request", f"engine, {CONCURRENT} requests", "ratio (quartiles)")
    rates = (f"{1 / side.median:.1f}" for side in (cost.a, cost.b))
    show(table(header, [(*rates, f"{cost.ratio:.1f}")]))
    if not same:
        show("The loop and the engine do not give the same answer.")
    return Result(cost.ratio.median, holds=same)
