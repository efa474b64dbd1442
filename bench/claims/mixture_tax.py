"""CPU time of mixtures, against the same rows as plain requests."""

from __future__ import annotations

import zoo
from bench.claim import Result
from bench.inprocess import InProcessEngine
from bench.measure import RATIO, Paired, show, table
from bench.workload import VOCABULARY, mixture, paired_jobs, prompts
from composer.engine_plan import MixtureParameters

ROUNDS = {1: 120, 4: 48, 16: 40}
"""Rounds by number of concurrent requests; many, as the value is the worst of twelve medians."""
PROMPT_TOKENS = 32
ANSWER_TOKENS = 16
ROUTERS = {
    "fixed": MixtureParameters(),
    "posterior": MixtureParameters(fixed=0.0, posterior=1.0, forgetting=0.9),
    "posterior, prompt not read": MixtureParameters(
        fixed=0.0, posterior=1.0, forgetting=0.9, prompt=False
    ),
    "confidence": MixtureParameters(fixed=0.0, confidence=1.0),
}


def compare(engine: InProcessEngine, router: MixtureParameters, concurrent: int) -> Paired:
    """Compare mixtures of three adapters with the same rows as plain multi-LoRA requests."""
    texts = prompts(concurrent, PROMPT_TOKENS, VOCABULARY, seed=concurrent)
    mixed = [mixture(engine, text, ANSWER_TOKENS, router) for text in texts]
    separate = [row for job in mixed for row in job.separate()]
    tokens = len(separate) * ANSWER_TOKENS
    return paired_jobs(engine, mixed, separate, tokens, ROUNDS[concurrent])


def measure() -> Result:
    """Return the ratio of CPU seconds: median over rounds, worst over routers and batch sizes."""
    engine = InProcessEngine(zoo.BASE, zoo.ADAPTERS)
    costs = {
        (name, concurrent): compare(engine, router, concurrent)
        for name, router in ROUTERS.items()
        for concurrent in ROUNDS
    }
    show("mixture(chat, polite, velan), three rows; CPU microseconds per token and row:")
    header = ("router", "requests", "mixed", "same rows, plain requests", *RATIO)
    show(table(header, [(*key, *cost.microseconds()) for key, cost in costs.items()]))
    return Result(max(cost.ratio.median for cost in costs.values()))
