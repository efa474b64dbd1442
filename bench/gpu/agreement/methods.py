"""One request of every method, to be compared with its members computed as plain requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeAlias

from bench.inprocess import InProcessEngine, Job
from bench.workload import random_gate
from composer.engine_plan import MixtureParameters, Row, Scoring, Switch
from composer.filters import Filter, FilterKind

SMALL = "small"  # name of the auxiliary model, which has the adapter `polite`

Prompt: TypeAlias = tuple[int, ...]
Method: TypeAlias = Callable[[InProcessEngine, Prompt], Job]

ROUTERS: Mapping[str, MixtureParameters] = {
    "fixed": MixtureParameters(),
    "posterior": MixtureParameters(fixed=0.0, posterior=1.0, forgetting=0.9),
    "posterior of the answer": MixtureParameters(fixed=0.0, posterior=1.0, prompt=False),
    "confidence": MixtureParameters(fixed=0.0, confidence=1.0),
    "vote": MixtureParameters(fixed=0.25, posterior=0.25, confidence=0.5, forgetting=0.8),
}


def _summed(*terms: tuple[float, str | None], log_softmax: bool = False) -> Method:
    def job(engine: InProcessEngine, prompt: Prompt) -> Job:
        rows = tuple(
            Row(weight, engine.adapters[name] if name is not None else None)
            for weight, name in terms
        )
        return Job(prompt, rows, log_softmax=log_softmax)

    return job


PROXY = _summed((1.0, None), (0.8, "polite"), (-0.8, "rude"))
POLITE = _summed((1.0, "chat"), (0.8, "polite"), (-0.8, "rude"))
CONTRASTIVE = _summed((1.5, "chat"), (-0.5, None))


def _filtered(method: Method, *filters: tuple[FilterKind, int, float]) -> Method:
    chosen = tuple(Filter(*f) for f in filters)
    return lambda engine, prompt: replace(method(engine, prompt), filters=chosen)


def _mixed(router: MixtureParameters) -> Method:
    def job(engine: InProcessEngine, prompt: Prompt) -> Job:
        rows = tuple(Row(1 / 3, engine.adapters[name]) for name in ("chat", "polite", "velan"))
        return Job(prompt, rows, mixture=router)

    return job


def _negative_prompt(engine: InProcessEngine, prompt: Prompt) -> Job:
    return Job(prompt, (Row(1.5, engine.adapters["chat"]), Row(-0.5, None, prompt[-1:])))


def _auxiliary(engine: InProcessEngine, prompt: Prompt) -> Job:
    polite = engine.auxiliary_adapters[SMALL]["polite"]
    return Job(prompt, (Row(1.0), Row(0.8, polite, None, SMALL), Row(-0.8, None, None, SMALL)))


def _small_amateur(engine: InProcessEngine, prompt: Prompt) -> Job:
    return Job(prompt, (Row(1.5), Row(-0.5, None, None, SMALL)))


def _scored(method: Method) -> Method:
    def job(engine: InProcessEngine, prompt: Prompt) -> Job:
        scoring = Scoring(len(prompt) // 2, f"scores of {prompt}")
        return replace(method(engine, prompt), scoring=scoring)

    return job


SUMS: Mapping[str, Method] = {
    "plain": lambda _, prompt: Job(prompt),
    "plain, adapter": lambda engine, prompt: Job(prompt, adapter=engine.adapters["polite"]),
    "base + 0.8*(polite - rude)": PROXY,
    "product of log-probabilities": _summed((0.5, "chat"), (0.5, "polite"), log_softmax=True),
    "top_p 0.9": _filtered(PROXY, (FilterKind.TOP_P, 0, 0.9)),
    "top_k 20": _filtered(PROXY, (FilterKind.TOP_K, 0, 20)),
    "soft_top_k 20": _filtered(PROXY, (FilterKind.SOFT_TOP_K, 0, 20)),
    "contrastive, plausibility 0.1": _filtered(CONTRASTIVE, (FilterKind.PLAUSIBILITY, 0, 0.1)),
    "negative prompt": _negative_prompt,
    "auxiliary model": _auxiliary,
    "contrastive, auxiliary amateur": _filtered(_small_amateur, (FilterKind.PLAUSIBILITY, 0, 0.1)),
    **{f"mixture, {name}": _mixed(router) for name, router in ROUTERS.items()},
}
"""Methods whose distribution before every token of the answer can be composed of plain rows."""

SCORED: Mapping[str, Method] = {
    "scores of the sum": _scored(PROXY),
    "scores of the mixture": _scored(_mixed(ROUTERS["posterior"])),
}
"""Methods that score the second half of the prompt."""


def _gate(engine: InProcessEngine, prompt: Prompt) -> Job:
    candidates = tuple(engine.adapters[name] for name in ("chat", "polite", "velan"))
    return Job(prompt, switch=Switch(candidates, gate=str(random_gate()), classes=(0, 1, 2)))


def _sequence(engine: InProcessEngine, prompt: Prompt) -> Job:
    candidates = (engine.adapters["chat"], None, engine.adapters["velan"])
    return Job(prompt, switch=Switch(candidates, triggers=tuple(range(0, 1024, 6))))


SWITCHED: Mapping[str, Method] = {"gate": _gate, "sequence": _sequence}
"""Methods with one row, whose adapter changes on one KV cache: no plain request computes this."""
