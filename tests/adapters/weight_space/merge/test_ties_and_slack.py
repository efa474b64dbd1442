"""TIES and slack: compared with their formulas on whole dense matrices in float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from adapters.weight_space.factors import AdapterReader
from adapters.weight_space.merge.inputs import Input, Inputs
from adapters.weight_space.merge.methods.deltas import weighted
from adapters.weight_space.merge.methods.trimming import thresholds
from tests.adapters.weight_space.merge.samples import (
    FULL,
    SHAPES,
    UP,
    Q,
    dense,
    distance,
    run,
    write,
)

Deltas = list[dict[str, Tensor]]


def largest(vector: Tensor, density: float) -> float:
    """The smallest magnitude among the `density` largest of a vector."""
    order = vector.abs().sort(descending=True).values
    return float(order[max(1, round(density * len(order))) - 1])


def limits(deltas: Deltas, density: float) -> list[float]:
    return [largest(torch.cat([d.flatten() for d in delta.values()]), density) for delta in deltas]


def elected_mean(rows: Sequence[Tensor], votes: Sequence[Tensor]) -> Tensor:
    """Number by number, as one would by hand."""
    result = torch.zeros_like(rows[0])
    for place in torch.cartesian_prod(*map(torch.arange, result.shape)):
        i, j = place.tolist()
        sign = float(sum(vote[i, j] for vote in votes))
        agreeing = [float(row[i, j]) for row in rows if float(row[i, j]) * sign > 0]
        result[i, j] = sum(agreeing) / len(agreeing) if agreeing else 0.0
    return result


def stacked(deltas: Deltas, module: str) -> list[Tensor]:
    zeros = torch.zeros(SHAPES[module], dtype=torch.float64)
    return [delta.get(module, zeros) for delta in deltas]


def dense_ties(deltas: Deltas, density: float, scale: float) -> dict[str, Tensor]:
    cuts = limits(deltas, density)
    merged = {}
    for module in SHAPES:
        kept = [
            torch.where(d.abs() >= cut, d, 0.0)
            for d, cut in zip(stacked(deltas, module), cuts, strict=True)
        ]
        merged[module] = scale * elected_mean(kept, kept)
    return merged


def dense_slack(
    deltas: Deltas, unweighted: Deltas, density: float, scale: float, slack: float
) -> dict[str, Tensor]:
    cuts = limits(deltas, density)
    sizes = [
        float(torch.cat([d.flatten() for d in delta.values()]).square().mean().sqrt())
        for delta in unweighted
    ]
    merged = {}
    for module in SHAPES:
        kept = []
        everywhere = stacked(deltas, module)
        survives = [d.abs() >= cut for d, cut in zip(everywhere, cuts, strict=True)]
        hole = ~torch.stack(survives).any(0)
        for d, cut, survivor in zip(everywhere, cuts, survives, strict=True):
            rescued = hole & (d.abs() >= (1 - slack) * cut)
            kept.append(torch.where(survivor | rescued, d, 0.0))
        votes = [value / size**slack for value, size in zip(kept, sizes, strict=True)]
        merged[module] = scale * elected_mean(kept, votes)
    return merged


def scaled(deltas: Deltas, weights: Sequence[float]) -> Deltas:
    return [{m: w * v for m, v in d.items()} for w, d in zip(weights, deltas, strict=True)]


def inputs(folders: Sequence[Path], weights: Sequence[float] = ()) -> Inputs:
    weights = weights or [1.0] * len(folders)
    pairs = zip(folders, weights, strict=True)
    return Inputs([Input(f.name, w, AdapterReader(f)) for f, w in pairs])


@pytest.mark.parametrize("density", [1e-9, 0.05, 0.2, 0.5, 0.999])
def test_thresholds_are_exact(apart: list[Path], density: float) -> None:
    """The value itself, not near it: among the very numbers that the merge computes."""
    read = inputs(apart, [1.0, -2.0, 0.5])
    numbers: list[list[Tensor]] = [[], [], []]
    for module in read.modules:
        for _, values in weighted(read)(module):
            for k, value in values.items():
                numbers[k].append(value.flatten())
    found = thresholds(read, weighted(read), density, lambda module: None)
    assert found == [largest(torch.cat(parts), density) for parts in numbers]


def test_thresholds_keep_equal_magnitudes_together(tmp_path: Path) -> None:
    folder = write(tmp_path / "whole", 1, rank=4, alpha=4, whole=True)  # scale 1: integers
    everything = torch.cat([d.flatten() for d in dense(folder).values()])
    for density in (0.01, 0.1, 0.3, 0.6):
        read = inputs([folder])
        assert thresholds(read, weighted(read), density, lambda m: None) == [
            largest(everything, density)
        ]


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.5, -1.0, 3.0)])
@pytest.mark.parametrize("density", [0.1, 0.4, 1.0])
def test_ties(
    tmp_path: Path, apart: list[Path], weights: tuple[float, ...], density: float
) -> None:
    rest: dict[str, Any] = {"density": density, "lambda": 1.5, "rank": FULL}
    found, report = run(tmp_path / "m", "ties", apart, weights, **rest)
    deltas = scaled([dense(folder) for folder in apart], weights)
    assert distance(found, dense_ties(deltas, density, 1.5)) < 1e-5
    assert report.energy == pytest.approx(1.0, abs=1e-6)


def test_ties_trims_the_whole_vector_and_not_each_matrix(tmp_path: Path) -> None:
    """One matrix is a hundred times larger, so all that is kept lies in it."""
    small = write(tmp_path / "small", 1)
    large = write(tmp_path / "large", 2, shapes={UP: SHAPES[UP]}, alpha=6000)
    run(tmp_path / "both", "sum", [small, large])
    found, _ = run(tmp_path / "m", "ties", [tmp_path / "both"], density=0.2, rank=FULL)
    assert found.keys() == {UP}


@pytest.mark.parametrize("rank", [2, 6])
def test_ties_at_a_smaller_rank(tmp_path: Path, apart: list[Path], rank: int) -> None:
    found, report = run(tmp_path / "m", "ties", apart, rank=rank)
    target = dense_ties([dense(folder) for folder in apart], 0.2, 1.0)
    kept = total = 0.0
    for delta in target.values():
        values = torch.linalg.svdvals(delta).square()
        kept, total = kept + float(values[:rank].sum()), total + float(values.sum())
    assert distance(found, target) ** 2 == pytest.approx(1 - kept / total, abs=1e-5)
    assert report.energy == pytest.approx(kept / total, abs=1e-5)
    assert report.rank == rank


def test_ties_of_a_matrix_too_large_for_an_exact_decomposition(tmp_path: Path) -> None:
    shapes = {UP: (600, 700)}
    pair = [write(tmp_path / str(seed), seed, shapes=shapes) for seed in (1, 2)]
    found, report = run(tmp_path / "m", "ties", pair, rank=8)
    deltas = [dense(folder)[UP] for folder in pair]
    trimmed = [torch.where(d.abs() >= largest(d.flatten(), 0.2), d, 0.0) for d in deltas]
    values = torch.stack(trimmed)
    agree = values * values.sum(0) > 0
    target = (values * agree).sum(0) / agree.sum(0).clamp(min=1)
    energies = torch.linalg.svdvals(target).square()
    optimum = float(energies[:8].sum() / energies.sum())
    assert report.energy == pytest.approx(optimum, abs=1e-4)
    assert distance(found, {UP: target}) ** 2 == pytest.approx(1 - optimum, abs=1e-4)


@pytest.mark.parametrize("slack", [0.3, 1.0])
@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.5, -1.0, 3.0)])
def test_slack(tmp_path: Path, apart: list[Path], weights: tuple[float, ...], slack: float) -> None:
    rest: dict[str, Any] = {"density": 0.2, "lambda": 0.7, "slack": slack, "rank": FULL}
    found, _ = run(tmp_path / "m", "slack", apart, weights, **rest)
    unweighted = [dense(folder) for folder in apart]
    expected = dense_slack(scaled(unweighted, weights), unweighted, 0.2, 0.7, slack)
    assert distance(found, expected) < 1e-5


def test_without_slack_it_is_ties(tmp_path: Path, apart: list[Path]) -> None:
    rest: dict[str, Any] = {"density": 0.3, "rank": FULL}
    found, _ = run(tmp_path / "slack", "slack", apart, [1, -1, 2], slack=0, **rest)
    ties, _ = run(tmp_path / "ties", "ties", apart, [1, -1, 2], **rest)
    assert distance(found, ties) == 0


def test_slack_only_adds_places(tmp_path: Path, apart: list[Path]) -> None:
    def places(slack: float) -> dict[str, Tensor]:
        found, _ = run(tmp_path / str(slack), "slack", apart, rank=FULL, slack=slack)
        return {module: delta.abs() > 1e-4 for module, delta in found.items()}

    none, some, most = places(0), places(0.3), places(0.9)
    for module in SHAPES:
        assert bool((none[module] <= some[module]).all())
        assert bool((some[module] <= most[module]).all())
        assert int(none[module].sum()) < int(some[module].sum()) < int(most[module].sum())


def test_slack_hears_the_adapter_with_small_numbers(tmp_path: Path) -> None:
    """Where signs conflict, the important value of the smaller adapter wins with full slack."""
    small = write(tmp_path / "small", 1, alpha=1)
    large = write(tmp_path / "large", 2, alpha=2)
    deltas = [dense(small)[Q], dense(large)[Q]]

    def winners(slack: float) -> tuple[int, int]:
        rest: dict[str, Any] = {"density": 0.999, "rank": FULL, "slack": slack}
        found, _ = run(tmp_path / str(slack), "slack", [small, large], **rest)
        conflict = (deltas[0] * deltas[1] < 0) & (found[Q].abs() > 1e-3)
        agrees = [int((conflict & (d * found[Q] > 0)).sum()) for d in deltas]
        return agrees[0], agrees[1]

    before, after = winners(0.0), winners(1.0)
    assert before[0] < 0.7 * before[1]
    assert after[0] == pytest.approx(after[1], rel=0.3)


PLAIN: Mapping[str, Mapping[str, Any]] = {
    "ties": {"density": 0.3},
    "slack": {"density": 0.3, "slack": 0.4},
}


@pytest.mark.parametrize("method", PLAIN)
def test_the_order_does_not_matter(tmp_path: Path, apart: list[Path], method: str) -> None:
    weights = dict(zip(apart, (1.0, -1.0, 0.5), strict=True))
    results = [
        run(
            tmp_path / str(i),
            method,
            order,
            [weights[f] for f in order],
            rank=FULL,
            **PLAIN[method],
        )
        for i, order in enumerate(permutations(apart))
    ]
    for other, _ in results[1:]:
        assert distance(other, results[0][0]) < 1e-5


@pytest.mark.parametrize("method", ["ties", "slack"])
def test_weight_0_removes(tmp_path: Path, apart: list[Path], method: str) -> None:
    with_zero, _ = run(tmp_path / "zero", method, apart, [1.0, 0.0, 2.0], rank=5)
    without, _ = run(tmp_path / "without", method, [apart[0], apart[2]], [1.0, 2.0], rank=5)
    assert distance(with_zero, without) == 0
