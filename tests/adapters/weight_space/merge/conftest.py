"""What the tests of merging share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from adapters.weight_space.factors import AdapterReader
from adapters.weight_space.merge import MergeSpec, merge
from tests.adapters.weight_space.merge.samples import HEAD, SHAPES, Q, write

Call = tuple[int, int, str]


@pytest.fixture(scope="session")
def apart(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three scales apart; the second lacks a module."""
    root = tmp_path_factory.mktemp("adapters")
    return [
        write(root / "one", 1),
        write(root / "two", 2, rank=3, alpha=16, shapes={Q: SHAPES[Q], HEAD: SHAPES[HEAD]}),
        write(root / "three", 3, rank=5, alpha=2),
    ]


@pytest.fixture
def collect() -> Callable[..., list[Call]]:
    """Merges, and gives the calls of the progress callback."""

    def run(destination: Path, method: str, folders: Sequence[Path], **rest: Any) -> list[Call]:
        members = [{"adapter": folder.name} for folder in folders]
        spec = MergeSpec.from_json({"method": method, "adapters": members, **rest})
        calls: list[Call] = []
        readers = [AdapterReader(folder) for folder in folders]
        merge(spec, readers, destination, lambda *call: calls.append(call))
        return calls

    return run
