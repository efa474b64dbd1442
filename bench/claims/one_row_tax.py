"""What it costs to choose the adapter of every token anew."""

from __future__ import annotations

import zoo
from bench.claim import Result
from bench.inprocess import InProcessEngine, Job
from bench.measure import RATIO, Paired, show, table
from bench.workload import VOCABULARY, paired_jobs, prompts, random_gate
from composer.engine_plan import Switch

ROUNDS = {1: 30, 4: 24, 16: 24}
"""For each number of routed requests at once, the worst of which is the value. As many as this,
because single rounds differ by 0.1 where others use the machine too."""
ROUNDS_RARE = 8  # no part of the value
PROMPT_TOKENS = 32
ANSWER_TOKENS = 64
RARELY = 1000.0  # logits, more than those of the random gate differ by
CANDIDATES = ("chat", "polite", "velan")


def compare(
    engine: InProcessEngine, concurrent: int, rounds: int, stickiness: float = 0.0
) -> Paired:
    """Requests that a gate routes token by token against requests to one adapter each."""
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
    """Value: the ratio of CPU seconds, median over rounds, worst over the batch sizes, for a gate
    that changes the adapter every second or third token, which is the dearest case."""
    engine = InProcessEngine(zoo.BASE, zoo.ADAPTERS)
    found = {n: compare(engine, n, rounds) for n, rounds in ROUNDS.items()}
    rare = {n: compare(engine, n, ROUNDS_RARE, RARELY) for n in ROUNDS}
    header = ("requests", "routed token by token", "one adapter each", *RATIO)
    show("A random gate between three adapters, one row; CPU microseconds per token:")
    show(table(header, [(n, *one.microseconds()) for n, one in found.items()]))
    show(f"\nThe same gate with a stickiness of {RARELY:g}, which never changes the adapter:")
    show(table(header, [(n, *one.microseconds()) for n, one in rare.items()]))
    return Result(max(one.ratio.median for one in found.values()))
