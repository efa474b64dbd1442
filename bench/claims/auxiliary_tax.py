"""What composing with a smaller auxiliary model costs beside running both models on their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import zoo
from bench.claim import Result
from bench.inprocess import InProcessEngine, Job
from bench.measure import RATIO, Paired, cpu_seconds, paired, settle, show, table
from bench.workload import VOCABULARY, prompts, seconds_per_token
from composer.engine_plan import Row

CONCURRENT = (1, 4, 16)  # composed requests at once; the value is the worst of them
ROUNDS = {1: 40, 4: 24, 16: 12}
PROMPT_TOKENS = 32
ANSWER_TOKENS = 16


def proxy_tuning(engine: InProcessEngine, prompt: tuple[int, ...]) -> Job:
    """base + 0.8*(small:polite - small): three rows, two of them of the auxiliary model."""
    polite = engine.auxiliary_adapters["small"]["polite"]
    rows = (Row(1.0), Row(0.8, polite, None, "small"), Row(-0.8, None, None, "small"))
    return Job(prompt, rows, params={"max_tokens": ANSWER_TOKENS})


def compare(
    engine: InProcessEngine, small: InProcessEngine, concurrent: int
) -> tuple[Paired, Paired]:
    """Composed requests against their rows as plain requests to an engine of either model: one
    engine after the other, and step by step in turn.

    In turn, as composing must, the models push each other out of the processor's caches.
    """
    texts = prompts(concurrent, PROMPT_TOKENS, VOCABULARY, seed=concurrent)
    composed = [proxy_tuning(engine, text) for text in texts]
    plain = [job for one in composed for job in one.separate_by_model()[None]]
    plain_small = [job for one in composed for job in one.separate_by_model()["small"]]
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
        side()  # warms up
    settle()
    rounds = ROUNDS[concurrent]
    return paired(together, apart, rounds), paired(together, in_turn, rounds // 2)


def alternate(jobs: Mapping[InProcessEngine, Sequence[Job]]) -> None:
    """Run the jobs of several engines, a step of each in turn."""
    for engine, own in jobs.items():
        for job in own:
            engine.add(job)
    while busy := [one for one in jobs if one.engine.has_unfinished_requests()]:
        for engine in busy:
            engine.step()


def measure() -> Result:
    """Value: the ratio of CPU seconds, median over rounds, worst over the batch sizes."""
    auxiliaries = {"small": (zoo.SMALL, zoo.SMALL_ADAPTERS)}
    engine = InProcessEngine(zoo.BASE, zoo.ADAPTERS, auxiliaries=auxiliaries)
    small = InProcessEngine(zoo.SMALL, zoo.SMALL_ADAPTERS, max_loras=2, max_cpu_loras=3)
    found = {concurrent: compare(engine, small, concurrent) for concurrent in CONCURRENT}
    show("base + 0.8*(small:polite - small), three rows; CPU microseconds per token and row:")
    header = ("composed requests", "composed", "plain requests to two engines", *RATIO)
    show(table(header, [(n, *one.microseconds()) for n, (one, _) in found.items()]))
    show("\nThe same, where the two engines take turns step by step:")
    show(table(header, [(n, *one.microseconds()) for n, (_, one) in found.items()]))
    return Result(max(one.ratio.median for one, _ in found.values()))
