"""What composing with a smaller auxiliary model costs beside running both models on their own."""

from __future__ import annotations

import zoo
from bench.claim import Result
from bench.measure import RATIO, Paired, paired, settle, show, table
from bench.workload import VOCABULARY, prompts, seconds_per_token
from composer.compiled import Row
from composer.vllm.inprocess import Engine, Job

CONCURRENT = (1, 4, 16)  # composed requests at once; the value is the worst of them
ROUNDS = {1: 40, 4: 24, 16: 12}
PROMPT_TOKENS = 32
ANSWER_TOKENS = 16


def proxy_tuning(engine: Engine, prompt: tuple[int, ...]) -> Job:
    """base + 0.8*(small:polite - small): three rows, two of them of the auxiliary model."""
    polite = engine.auxiliary_adapters["small"]["polite"]
    rows = (Row(1.0), Row(0.8, polite, None, "small"), Row(-0.8, None, None, "small"))
    return Job(prompt, rows, params={"max_tokens": ANSWER_TOKENS})


def compare(engine: Engine, small: Engine, concurrent: int) -> Paired:
    """Composed requests against their rows as plain requests to an engine of either model."""
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

    for side in (together, apart):
        side()  # warms up
    settle()
    return paired(together, apart, ROUNDS[concurrent])


def measure() -> Result:
    """Value: the ratio of CPU seconds, median over rounds, worst over the batch sizes."""
    auxiliaries = {"small": (zoo.SMALL, zoo.SMALL_ADAPTERS)}
    engine = Engine(zoo.BASE, zoo.ADAPTERS, auxiliaries=auxiliaries)
    small = Engine(zoo.SMALL, zoo.SMALL_ADAPTERS, max_loras=2, max_cpu_loras=3)
    found = {concurrent: compare(engine, small, concurrent) for concurrent in CONCURRENT}
    show("base + 0.8*(small:polite - small), three rows; CPU microseconds per token and row:")
    header = ("composed requests", "composed", "plain requests to two engines", *RATIO)
    show(table(header, [(n, *one.microseconds()) for n, one in found.items()]))
    return Result(max(one.ratio.median for one in found.values()))
