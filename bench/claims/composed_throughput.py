"""Throughput of composed requests in a batch, against a loop over transformers and PEFT.

The loop is what one would write without a server: three models, each with its KV cache, one request
at a time.
"""

from __future__ import annotations

import zoo
from bench.claim import Result
from bench.inprocess import InProcessEngine
from bench.loop import Loop
from bench.measure import cpu_seconds, paired, settle, show, table
from bench.workload import VOCABULARY, prompts, proxy_tuning, seconds_per_token

CONCURRENT = 16
ROUNDS = 5
TOKENS = 32  # of each prompt and each answer


def measure() -> Result:
    """Return tokens per CPU second of the engine over those of the loop with PEFT's adapters."""
    engine = InProcessEngine(zoo.BASE, zoo.ADAPTERS)
    members = [(1.0, None), (0.8, zoo.ADAPTERS["polite"]), (-0.8, zoo.ADAPTERS["rude"])]
    texts = prompts(CONCURRENT, TOKENS, VOCABULARY, seed=0)
    jobs = [proxy_tuning(engine, text, TOKENS) for text in texts]
    [answer] = engine.answers(jobs[:1])
    seconds_per_token(engine, jobs, CONCURRENT * TOKENS)  # warm up
    loops = {
        "PEFT adapters": Loop(zoo.BASE, members),
        "merged adapters": Loop(zoo.BASE, members, merged=True),
    }
    same = all(loop.greedy(texts[0], TOKENS) == answer for loop in loops.values())
    settle()
    costs = {
        name: paired(
            lambda loop=loop: cpu_seconds(lambda: loop.greedy(texts[0], TOKENS)) / TOKENS,  # type: ignore[misc]
            lambda: seconds_per_token(engine, jobs, CONCURRENT * TOKENS),
            ROUNDS,
        )
        for name, loop in loops.items()
    }
    show(f"base + 0.8*(polite - rude), answers of {TOKENS} tokens; composed tokens per CPU second:")
    header = ("loop of", "loop, one request", f"engine, {CONCURRENT} requests", "ratio (quartiles)")
    rows = [
        (name, f"{1 / cost.a.median:.0f}", f"{1 / cost.b.median:.0f}", f"{cost.ratio:.1f}")
        for name, cost in costs.items()
    ]
    show(table(header, rows))
    if not same:
        show("The loops and the engine do not give the same answer.")
    return Result(costs["PEFT adapters"].ratio.median, holds=same)
