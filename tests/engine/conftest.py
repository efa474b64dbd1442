"""Engines and the oracle, loaded once and shared: loading costs more than most tests."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

# Before vLLM is imported. One process, so that tests can look at the scheduler.
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"

if os.environ.get("VLLM_USE_V2_MODEL_RUNNER") == "1":
    import tests.support.triton_on_cpu  # noqa: F401

from composer.vllm.options import prepare_environment

prepare_environment()

import pytest
import torch

from bench.streams import without_streams
from bench.workload import random_job
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


@pytest.fixture(autouse=True)
def _leave_threads() -> None:
    torch.set_grad_enabled(False)
