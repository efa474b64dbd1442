"""CPU time of composing with a smaller auxiliary model, against both models on their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import zoo
from bench.claim import Result
from bench.inprocess import InProcessEngine, Job
from bench.measure import RATIO, Paired, cpu_seconds, paired, settle, show, table
from bench.workload import VOCABULARY, prompts, seconds_per_token
from composer.engine_plan import Row

CONCURRENT = (1, 4, 16)  # composed requests; the worst case is the value
ROUNDS = {1: 40, 4: 24, 16: 12}
PROMPT_TOKENS = 32
ANSWER_TOKENS = 16


def proxy_tuning(engine: InProcessEngine, prompt: tuple[int, ...]) -> Job:
    """Return base + 0.8*(small:polite - small): three rows, two of them of the auxiliary model."""
    polite = engine.auxiliary_adapters["small"]["polite"]
    rows = (Row(1.0), Row(0.8, polite, None, "small"), Row(-0.8, None, None, "small"))
    return Job(prompt, rows, params={"max_tokens": ANSWER_TOKENS})


def compare(
    engine: InProcessEngine, small: InProcessEngine, concurrent: int
) -> tuple[Paired, Paired]:
    """Compare composed requests with their rows as plain requests to one engine per model.

    The first comparison runs the engines one after the other, the second step by step in turn. In
    turn, as composing must, the models evict each other from the processor's caches.
    """
    texts = prompts(concurrent, PROMPT_TOKENS, VOCABULARY, seed=concurrent)
    composed = [proxy_tuning(engine, text) for text in texts]
    plain = [row for job in composed for row in job.separate_by_model()[None]]
    plain_small = [row for job in composed for row in job.separate_by_model()["small"]]
    tokens = (len(plain) + len(plain_small)) * ANSWER_TOKENS

    def together() -> float:
        return seconds_per_token(engine, composed, tokens)

    def apart() -> float:
        return seconds_per_token(engine, plain, tokens) + seconds_per_token(
            small, plain_small, tokens
        )

    def in_turn() -> float:
        engine.forget_prefixes()
        small.forget_prefixes()
        return cpu_seconds(lambda: alternate({small: plain_small, engine: plain})) / tokens

    for side in (together, apart, in_turn):
        side()  # warm up
    settle()
    rounds = ROUNDS[concurrent]
    return paired(together, apart, rounds), paired(together, in_turn, rounds // 2)


def alternate(jobs: Mapping[InProcessEngine, Sequence[Job]]) -> None:
    """Run the jobs of several engines, one step of each engine in turn."""
    for engine, engine_jobs in jobs.items():
        for job in engine_jobs:
            engine.add(job)
    while busy := [engine for engine in jobs if engine.engine.has_unfinished_requests()]:
        for engine in busy:
            engine.step()


def measure() -> Result:
    """Return the ratio of CPU seconds: median over rounds, worst over batch sizes."""
    auxiliaries = {"small": (zoo.SMALL, zoo.SMALL_ADAPTERS)}
    engine = InProcessEngine(zoo.BASE, zoo.ADAPTERS, auxiliaries=auxiliaries)
    small = InProcessEngine(zoo.SMALL, zoo.SMALL_ADAPTERS, max_loras=2, max_cpu_loras=3)
    costs = {concurrent: compare(engine, small, concurrent) for concurrent in CONCURRENT}
    show("base + 0.8*(small:polite - small), three rows; CPU microseconds per token and row:")
    header = ("composed requests", "composed", "plain requests to two engines", *RATIO)
    show(table(header, [(n, *cost.microseconds()) for n, (cost, _) in costs.items()]))
    show("\nThe same, where the two engines take turns step by step:")
    show(table(header, [(n, *cost.microseconds()) for n, (_, cost) in costs.items()]))
    return Result(max(cost.ratio.median for cost, _ in costs.values()))
