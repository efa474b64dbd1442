"""The zoo, for tests that run a real engine."""

from __future__ import annotations

from pathlib import Path

import pytest

import zoo


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
def zoo_adapters() -> dict[str, Path]:
    """The adapters of the base model, by name."""
    return {name: _trained(path) for name, path in zoo.ADAPTERS.items()}
