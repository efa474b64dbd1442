"""DARE: what is dropped, what is left, and that the seed says which."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from adapters.weight_space.merge import METHODS
from tests.adapters.weight_space.merge.samples import (
    FULL,
    HEAD,
    SHAPES,
    UP,
    Q,
    dense,
    distance,
    run,
)


def drop_statistics(found: Mapping[str, Tensor], full: Mapping[str, Tensor]) -> tuple[float, float]:
    """The share that is dropped, and the largest error of the values that are not."""
    pairs = [(found[m], full[m]) for m in SHAPES]
    gone = torch.cat([(f.abs() < 1e-4).flatten() for f, _ in pairs]).double().mean()
    errors = [((f - 4 * d) * (f.abs() >= 1e-4)).abs().max() for f, d in pairs]
    return float(gone), float(max(errors))


def test_dare_drops_at_random_and_rescales(tmp_path: Path, apart: list[Path]) -> None:
    found, _ = run(tmp_path / "m", "dare_linear", apart[:1], drop=0.75, rank=FULL)
    share, error = drop_statistics(found, dense(apart[0]))
    assert share == pytest.approx(0.75, abs=0.03)  # of 2256 values: 3 standard deviations
    assert error < 1e-3


def test_dare_without_dropping_is_the_method_itself(tmp_path: Path, apart: list[Path]) -> None:
    weights = (1.0, -0.5, 2.0)
    none: dict[str, Any] = {"drop": 0, "rank": FULL}
    linear, _ = run(tmp_path / "dare_linear", "dare_linear", apart, weights, **none)
    total, _ = run(tmp_path / "sum", "sum", apart, weights)
    assert distance(linear, total) < 1e-5
    both, _ = run(tmp_path / "dare_ties", "dare_ties", apart, weights, density=0.3, **none)
    ties, _ = run(tmp_path / "ties", "ties", apart, weights, density=0.3, rank=FULL)
    assert distance(both, ties) == 0


def test_dare_adds_what_it_drops_apart(tmp_path: Path, apart: list[Path]) -> None:
    """The mask of one adapter does not depend on the others that come after it."""
    rest: dict[str, Any] = {"drop": 0.5, "rank": FULL, "seed": 3}
    one, _ = run(tmp_path / "one", "dare_linear", apart[:1], **rest)
    two, _ = run(tmp_path / "two", "dare_linear", apart[:2], **rest)
    second = {m: two[m] - one[m] for m in SHAPES}
    untouched = [float((second[m].abs() < 1e-4).double().mean()) for m in (Q, HEAD)]
    assert untouched == pytest.approx([0.5, 0.5], abs=0.1)
    assert float(second[UP].abs().max()) < 1e-4


def test_dare_follows_its_seed(tmp_path: Path, apart: list[Path]) -> None:
    def bytes_with(name: str, seed: int) -> bytes:
        run(tmp_path / name, "dare_ties", apart, drop=0.5, rank=4, seed=seed)
        return (tmp_path / name / "adapter_model.safetensors").read_bytes()

    assert bytes_with("a", 7) == bytes_with("b", 7)
    assert bytes_with("c", 8) != bytes_with("d", 7)


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
def test_weight_0_removes(tmp_path: Path, apart: list[Path], method: str) -> None:
    with_zero, _ = run(tmp_path / "zero", method, apart, [1.0, 0.0, 2.0], rank=5)
    without, _ = run(tmp_path / "without", method, [apart[0], apart[2]], [1.0, 2.0], rank=5)
    assert distance(with_zero, without) == 0


@pytest.mark.parametrize("method", [m for m in METHODS if m.passes], ids=lambda m: m.name)
def test_progress_ends_at_its_total(
    apart: list[Path], tmp_path: Path, method: Any, collect: Callable[..., list[Any]]
) -> None:
    for density in (0.5, 1.0):
        calls = collect(tmp_path / str(density), method.name, apart, density=density, rank=3)
        done = [call[0] for call in calls]
        assert done == sorted(set(done))
        assert {call[1] for call in calls} == {done[-1]} == {3 * len(SHAPES)}
        assert {call[2] for call in calls} == SHAPES.keys()
