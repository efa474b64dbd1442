"""Composed requests in a batch against what one writes without a server.

Three models, each with its KV cache, one request at a time: a loop over transformers and PEFT.
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
    """Value: tokens per CPU second of the engine over those of the loop with PEFT's adapters."""
    engine = InProcessEngine(zoo.BASE, zoo.ADAPTERS)
    members = [(1.0, None), (0.8, zoo.ADAPTERS["polite"]), (-0.8, zoo.ADAPTERS["rude"])]
    texts = prompts(CONCURRENT, TOKENS, VOCABULARY, seed=0)
    jobs = [proxy_tuning(engine, text, TOKENS) for text in texts]
    [answer] = engine.answers(jobs[:1])
    seconds_per_token(engine, jobs, CONCURRENT * TOKENS)  # warms up
    loops = {
        "PEFT adapters": Loop(zoo.BASE, members),
        "merged adapters": Loop(zoo.BASE, members, merged=True),
    }
    same = all(loop.greedy(texts[0], TOKENS) == answer for loop in loops.values())
    settle()
    found = {
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
        (name, f"{1 / one.a.median:.0f}", f"{1 / one.b.median:.0f}", f"{one.ratio:.1f}")
        for name, one in found.items()
    ]
    show(table(header, rows))
    if not same:
        show("The loops and the engine do not give the same answer.")
    return Result(found["PEFT adapters"].ratio.median, holds=same)
