"""Requests for measurements and tests."""

from __future__ import annotations

import atexit
import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import save_file
from transformers import AutoConfig

import zoo
from bench.inprocess import InProcessEngine, Job
from bench.measure import Paired, cpu_seconds, paired, settle
from composer.engine_plan import EnginePlan, LoadedAdapter, MixtureParameters, Row, Switch
from composer.filters import Filter, FilterKind

VOCABULARY = 1024  # of the zoo
GATE_CLASSES = 4  # of the random gate

KINDS = (
    "plain",
    "adapter",
    "scaled",
    "two",
    "three",
    "five",
    "same adapter twice",
    "adapter leads",
    "negative prompt",
    "last token",
    "unshared prompts",
    "nucleus",
    "plausibility",
    "two filters",
    "mixture",
    "gate",
    "sequence",
)
"""Kinds that `random_job` draws; all are greedy, to be compared with the oracle."""


def proxy_tuning(engine: InProcessEngine, prompt: tuple[int, ...], max_tokens: int) -> Job:
    """Return base + 0.8*(polite - rude): three rows."""
    polite, rude = engine.adapters["polite"], engine.adapters["rude"]
    rows = (Row(1.0), Row(0.8, polite), Row(-0.8, rude))
    return Job(prompt, rows, params={"max_tokens": max_tokens})


def mixture(
    engine: InProcessEngine, prompt: tuple[int, ...], max_tokens: int, router: MixtureParameters
) -> Job:
    """Return a mixture of three adapters with equal prior weights."""
    rows = tuple(Row(1 / 3, engine.adapters[name]) for name in ("chat", "polite", "velan"))
    return Job(prompt, rows, mixture=router, params={"max_tokens": max_tokens})


def auxiliary_job(rng: random.Random, engine: InProcessEngine) -> Job:
    """Return a request with at most two rows of an auxiliary model that has at least two adapters.

    The largest one takes 10 blocks of 32 tokens of the auxiliary model's KV cache.
    """

    def tokens(*lengths: int) -> tuple[int, ...]:
        return tuple(rng.randrange(10, 500) for _ in range(rng.choice(lengths)))

    prompt = tokens(1, 2, 31, 32, 33, 64, 65, 100)
    params = {"max_tokens": rng.choice([1, 5, 16, 40])}
    base = rng.choice([None, *sorted(engine.adapters.values(), key=lambda a: a.id)])
    [model, *_] = engine.auxiliary_adapters
    adapters = engine.auxiliary_adapters[model].values()
    one, two = rng.sample(sorted(adapters, key=lambda a: a.id), 2)
    expert, anti_expert = Row(0.8, one, None, model), Row(-0.8, two, None, model)
    untuned = Row(-0.8, None, None, model)
    rows, filters = rng.choice(
        [
            ((Row(1.0, base), expert, untuned), ()),
            ((Row(1.0, base), expert, anti_expert), ()),
            ((Row(1.0), Row(0.5, base), expert), ()),
            ((Row(1.5, base), Row(-0.5, None, tokens(1, 2, 40, 90), model)), ()),
            ((Row(1.2, base, None, None), Row(-0.2, one, prompt[-1:], model)), ()),
            ((expert, untuned), ()),
            ((expert, Row(0.3, base, tokens(1, 40))), (Filter(FilterKind.PLAUSIBILITY, 0, 0.1),)),
            ((Row(1.0, base), expert), (Filter(FilterKind.TOP_P, 1, 0.9),)),
        ]
    )
    plan = EnginePlan.led(rows, filters)
    return Job(prompt, plan.rows, plan.filters, params=params)


def random_experts(
    rng: random.Random, one: LoadedAdapter | None, two: LoadedAdapter | None
) -> tuple[Row, ...]:
    """Return two or three rows with prior weights."""
    return rng.choice(
        [
            (Row(0.5, one), Row(0.5, two)),
            (Row(0.9), Row(0.1, two)),
            (Row(0.2), Row(0.3, one), Row(0.5, two)),
        ]
    )


def random_router(rng: random.Random) -> MixtureParameters:
    """Return a router: any rule, alone or with others."""
    return rng.choice(
        [
            MixtureParameters(),
            MixtureParameters(fixed=0.0, posterior=1.0),
            MixtureParameters(fixed=0.0, posterior=1.0, forgetting=0.5, floor=0.1),
            MixtureParameters(fixed=0.0, posterior=1.0, forgetting=0.9, prompt=False),
            MixtureParameters(fixed=0.0, confidence=1.0, temperature=0.5),
            MixtureParameters(fixed=0.25, posterior=0.25, confidence=0.5, forgetting=0.8),
        ]
    )


def random_switch(
    rng: random.Random, kind: str, candidates: Sequence[LoadedAdapter | None]
) -> Switch:
    """Return a gate, or a sequence that hands over at a sixth of all tokens."""
    candidates = tuple(rng.sample(list(candidates), len(candidates)))
    if kind == "sequence":
        triggers = range(rng.randrange(6), VOCABULARY, 6)
        return Switch(candidates, triggers=tuple(triggers))
    return Switch(
        candidates,
        start=rng.randrange(len(candidates)),
        gate=str(random_gate()),
        classes=tuple(rng.sample(range(GATE_CLASSES), len(candidates))),
        stickiness=rng.choice([0.0, 5.0]),
    )


@cache
def random_gate() -> Path:
    """Write a gate with random weights for the zoo's base model; it changes the adapter often."""
    folder = TemporaryDirectory()
    atexit.register(folder.cleanup)
    width = AutoConfig.from_pretrained(zoo.BASE).hidden_size
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(GATE_CLASSES, width, generator=generator)
    path = Path(folder.name) / "gate.safetensors"
    save_file({"weight": weight, "bias": torch.zeros(GATE_CLASSES)}, path)
    return path


def prompts(count: int, tokens: int, vocabulary: int, seed: int) -> list[tuple[int, ...]]:
    """Return random prompts of equal length without special tokens."""
    rng = random.Random(seed)
    return [tuple(rng.randrange(10, vocabulary) for _ in range(tokens)) for _ in range(count)]


def seconds_per_token(engine: InProcessEngine, jobs: Sequence[Job], tokens: int) -> float:
    """Return CPU seconds from a cold prefix cache to the last answer, divided by `tokens`."""
    engine.forget_prefixes()
    return cpu_seconds(lambda: engine.run(jobs)) / tokens


def paired_jobs(
    engine: InProcessEngine, a: Sequence[Job], b: Sequence[Job], tokens: int, rounds: int
) -> Paired:
    """Measure `seconds_per_token` of two lists of jobs in turn."""
    for jobs in (a, b):
        seconds_per_token(engine, jobs, tokens)  # warm up
    settle()
    return paired(
        lambda: seconds_per_token(engine, a, tokens),
        lambda: seconds_per_token(engine, b, tokens),
        rounds,
    )


def random_job(rng: random.Random, engine: InProcessEngine) -> Job:
    """Return a request of any of `KINDS`, with prompt lengths around multiples of a KV block.

    The largest gang fits a KV cache of 15 blocks of 32 tokens. If the engine has no adapters, the
    members are base models. If it has an auxiliary model, every second request uses it.
    """
    if engine.auxiliary_adapters and rng.random() < 0.5:
        return auxiliary_job(rng, engine)

    def tokens(*lengths: int) -> tuple[int, ...]:
        return tuple(rng.randrange(10, 500) for _ in range(rng.choice(lengths)))

    kind = rng.choice(KINDS)
    prompt = tokens(1, 2, 31, 32, 33, 64, 65, 100)
    params = {"max_tokens": rng.choice([1, 5, 16, 40])}
    adapters = sorted(engine.adapters.values(), key=lambda a: a.id)
    one, two = rng.sample(adapters, 2) if adapters else (None, None)
    if kind == "plain":
        return Job(prompt, params=params)
    if kind == "adapter":
        return Job(prompt, adapter=one, params=params)
    if kind == "mixture":
        return Job(prompt, random_experts(rng, one, two), mixture=random_router(rng), params=params)
    if kind in ("gate", "sequence") and adapters:
        return Job(prompt, switch=random_switch(rng, kind, [None, one, two]), params=params)
    three = (Row(1.0), Row(1.3, one), Row(-1.0, two))
    nucleus = Filter(FilterKind.TOP_P, 0, rng.choice([0.5, 0.9]))
    plausible = Filter(FilterKind.PLAUSIBILITY, 1, rng.choice([0.01, 0.1]))
    other = tokens(1, 2, 40, 90)
    rows = {
        "scaled": (Row(2.0, one),),
        "two": (Row(1.0), Row(0.7, one)),
        "five": (*three, Row(0.5, None, other[:33]), Row(-0.25, one, other[:33])),
        "same adapter twice": (Row(1.5, one), Row(-0.5, one, other)),
        "adapter leads": (Row(1.0, two), Row(0.5), Row(-0.5, one)),
        "negative prompt": (Row(1.5, one), Row(-0.5, None, other)),
        "last token": (Row(1.5), Row(-0.5, None, prompt[-1:])),
        "unshared prompts": (Row(0.6), Row(0.6, one, other), Row(-0.2, two, tokens(3, 33, 64))),
    }.get(kind, three)
    filters = {
        "nucleus": (nucleus,),
        "plausibility": (plausible,),
        "two filters": (nucleus, plausible),
    }.get(kind, ())
    return Job(prompt[:33] if kind == "five" else prompt, rows, filters, params=params)
