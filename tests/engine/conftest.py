"""Engines and the oracle, loaded once and shared: loading costs more than most tests."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

# Before vLLM is imported. One process, so that tests can look at the scheduler.
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"

from composer.vllm.options import prepare_environment

prepare_environment()

import pytest
import torch

from bench.streams import without_streams
from bench.workload import auxiliary_job
from composer.compiled import Row
from composer.plan import Filter, FilterKind
from composer.reference.oracle import Oracle
from tests.engine.harness import Job, WatchedEngine


@pytest.fixture(scope="session")
def oracle(zoo_base: Path, zoo_adapters: dict[str, Path]) -> Oracle:
    return Oracle(zoo_base, zoo_adapters)


@pytest.fixture(scope="session")
def roomy(zoo_base: Path, zoo_adapters: dict[str, Path]) -> WatchedEngine:
    """Everything fits."""
    return WatchedEngine(zoo_base, zoo_adapters)


@pytest.fixture(scope="session")
def tight(zoo_base: Path, zoo_adapters: dict[str, Path]) -> WatchedEngine:
    """Nothing fits: 64 tokens a step, a KV cache of 512 tokens, 8 rows, 3 adapters."""
    return WatchedEngine(
        zoo_base,
        zoo_adapters,
        kv_blocks=17,
        max_num_seqs=8,
        max_num_batched_tokens=64,
        max_loras=3,
        max_model_len=256,
    )


@pytest.fixture(scope="session")
def asynchronous(zoo_base: Path, zoo_adapters: dict[str, Path]) -> Iterator[WatchedEngine]:
    """Async scheduling under the same pressure as `tight`."""
    with without_streams():
        yield WatchedEngine(
            zoo_base,
            zoo_adapters,
            asynchronous=True,
            kv_blocks=17,
            max_num_seqs=8,
            max_num_batched_tokens=64,
            max_loras=3,
            max_model_len=256,
        )


@pytest.fixture(scope="session")
def make_job() -> Callable[[random.Random, WatchedEngine], Job]:
    return random_job


def random_job(rng: random.Random, engine: WatchedEngine) -> Job:
    """A request of any kind: plain, single adapter, or any shape of composition."""
    if engine.auxiliary_adapters and rng.random() < 0.5:
        return auxiliary_job(rng, engine)

    def tokens(*lengths: int) -> tuple[int, ...]:
        return tuple(rng.randrange(10, 500) for _ in range(rng.choice(lengths)))

    prompt = tokens(1, 2, 31, 32, 33, 64, 65, 100)
    one, two = rng.sample(sorted(engine.adapters.values(), key=lambda a: a.id), 2)
    params = {"max_tokens": rng.choice([1, 5, 16, 40])}
    kind = rng.choice(
        ["plain", "adapter", "scaled", "two", "three", "negative", "last token", "filter"]
    )
    if kind == "plain":
        return Job(prompt, params=params)
    if kind == "adapter":
        return Job(prompt, adapter=one, params=params)
    filters: tuple[Filter, ...] = ()
    rows: tuple[Row, ...]
    if kind == "scaled":
        rows = (Row(2.0, one),)
    elif kind == "two":
        rows = (Row(1.0), Row(0.7, one))
    elif kind == "three":
        rows = (Row(1.0), Row(1.3, one), Row(-1.0, two))
    elif kind == "negative":
        rows = (Row(1.5, one), Row(-0.5, one, tokens(1, 2, 40, 90)))
    elif kind == "last token":
        rows = (Row(1.5), Row(-0.5, None, prompt[-1:]))
    else:
        rows = (Row(1.0), Row(2.0, one), Row(-2.0, two))
        top_p, plausible = Filter(FilterKind.TOP_P, 0, 0.9), Filter(FilterKind.PLAUSIBILITY, 1, 0.1)
        filters = (rng.choice([top_p, plausible]),)
    return Job(prompt, rows, filters, params=params)


@pytest.fixture(autouse=True)
def _leave_threads() -> None:
    torch.set_grad_enabled(False)
