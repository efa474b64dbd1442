"""The zoo, for tests that run a real engine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import zoo

# Read when torch and vLLM are imported, by any test. One thread without pinning is fastest for
# models this small; several, pinned to busy cores, wait for each other most of the time.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")


def _trained(path: Path) -> Path:
    if not path.is_dir():
        pytest.fail(f"{path} is missing; `python -m zoo` trains it")
    return path


@pytest.fixture(scope="session")
def zoo_base() -> Path:
    """The base model."""
    return _trained(zoo.BASE)


@pytest.fixture(scope="session")
def zoo_small() -> Path:
    """The smaller model with the same vocabulary."""
    return _trained(zoo.SMALL)


@pytest.fixture(scope="session")
def zoo_small_adapters() -> dict[str, Path]:
    """The adapters of the smaller model, by name."""
    return {name: _trained(path) for name, path in zoo.SMALL_ADAPTERS.items()}


@pytest.fixture(scope="session")
def zoo_adapters() -> dict[str, Path]:
    """The adapters of the base model, by name."""
    return {name: _trained(path) for name, path in zoo.ADAPTERS.items()}
