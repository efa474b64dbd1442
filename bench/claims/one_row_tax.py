"""CPU time of choosing the adapter of every token with a gate."""

from __future__ import annotations

import zoo
from bench.claim import Result
from bench.inprocess import InProcessEngine, Job
from bench.measure import RATIO, Paired, show, table
from bench.workload import VOCABULARY, paired_jobs, prompts, random_gate
from composer.engine_plan import Switch

ROUNDS = {1: 30, 4: 24, 16: 24}
"""Rounds by number of concurrent requests; the worst case is the value. Single rounds differ by 0.1
on a busy machine, hence this many."""
ROUNDS_RARE = 8  # shown, not part of the value
PROMPT_TOKENS = 32
ANSWER_TOKENS = 64
NEVER = 1000.0  # stickiness in logits, beyond any difference between the random gate's logits
CANDIDATES = ("chat", "polite", "velan")


def compare(
    engine: InProcessEngine, concurrent: int, rounds: int, stickiness: float = 0.0
) -> Paired:
    """Compare requests that a gate routes token by token with requests to one adapter each."""
    adapters = [engine.adapters[name] for name in CANDIDATES]
    texts = prompts(concurrent, PROMPT_TOKENS, VOCABULARY, seed=concurrent)
    gate = str(random_gate())
    switch = Switch(tuple(adapters), gate=gate, classes=(0, 1, 2), stickiness=stickiness)
    params = {"max_tokens": ANSWER_TOKENS}
    routed = [Job(text, switch=switch, params=params) for text in texts]
    plain = [
        Job(text, adapter=adapters[index % len(adapters)], params=params)
        for index, text in enumerate(texts)
    ]
    tokens = concurrent * ANSWER_TOKENS
    return paired_jobs(engine, routed, plain, tokens, rounds)


def measure() -> Result:
    """Return the ratio of CPU seconds: median over rounds, worst over batch sizes.

    The gate changes the adapter every second or third token, the most expensive case.
    """
    engine = InProcessEngine(zoo.BASE, zoo.ADAPTERS)
    costs = {n: compare(engine, n, rounds) for n, rounds in ROUNDS.items()}
    unchanged = {n: compare(engine, n, ROUNDS_RARE, NEVER) for n in ROUNDS}
    header = ("requests", "routed token by token", "one adapter each", *RATIO)
    show("A random gate between three adapters, one row; CPU microseconds per token:")
    show(table(header, [(n, *cost.microseconds()) for n, cost in costs.items()]))
    show(f"\nThe same gate with a stickiness of {NEVER:g}, which never changes the adapter:")
    show(table(header, [(n, *cost.microseconds()) for n, cost in unchanged.items()]))
    return Result(max(cost.ratio.median for cost in costs.values()))
