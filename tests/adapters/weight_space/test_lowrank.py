"""Truncation against dense float64 decompositions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from adapters.weight_space.lowrank import (
    EXACT_SIZE,
    Truncation,
    frobenius_squared,
    truncate_dense,
    truncate_factors,
)

LARGE = (EXACT_SIZE + 200, EXACT_SIZE + 100)
SHAPES = [(60, 40), (40, 60), (1, 30), LARGE, LARGE[::-1]]


def noisy(shape: tuple[int, int], rank: int = 20) -> Tensor:
    """A few strong directions in noise, as the change of a fine-tune."""
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(shape[0], rank, generator=generator) * torch.logspace(0, -1, rank)
    strong = left @ torch.randn(rank, shape[1], generator=generator)
    return strong + 0.1 * torch.randn(shape, generator=generator)


def energies(matrix: Tensor) -> Tensor:
    found: Tensor = torch.linalg.svdvals(matrix.double()).square()
    return found


def lost(found: Truncation, matrix: Tensor) -> float:
    """The share of the energy that the product lacks, measured."""
    rest = matrix.double() - found.b.double() @ found.a.double()
    return float(rest.square().sum() / matrix.double().square().sum())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [1, 8, 30])
def test_a_rank(shape: tuple[int, int], rank: int) -> None:
    matrix = noisy(shape)
    found = truncate_dense(matrix, rank=rank)
    expected = energies(matrix)
    assert found.rank == min(rank, *shape)
    assert (found.a.shape, found.b.shape) == ((found.rank, shape[1]), (shape[0], found.rank))
    best = float(expected[: found.rank].sum() / expected.sum())
    assert best - 1e-4 < found.energy <= best + 1e-6
    assert lost(found, matrix) == pytest.approx(1 - found.energy, abs=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("energy", [0.3, 0.8])
def test_an_energy(shape: tuple[int, int], energy: float) -> None:
    matrix = noisy(shape)
    found = truncate_dense(matrix, energy=energy)
    expected = energies(matrix)
    shares = expected.cumsum(0) / expected.sum()
    assert found.rank == int((shares < energy).sum()) + 1
    assert 1 - lost(found, matrix) > energy - 1e-6


def test_an_energy_within_a_rank() -> None:
    matrix = noisy(LARGE)
    assert truncate_dense(matrix, energy=0.99, rank=5).rank == 5
    assert truncate_dense(matrix, energy=0.2, rank=5).rank < 5


def test_a_flat_spectrum() -> None:
    """The worst case of subspace iteration: pure noise has no directions of its own."""
    matrix = torch.randn(LARGE, generator=torch.Generator().manual_seed(1))
    found = truncate_dense(matrix, rank=20)
    expected = energies(matrix)
    assert float(expected[:20].sum() / expected.sum()) - found.energy < 1e-3


@pytest.mark.parametrize("shape", SHAPES)
def test_both_factors_are_ordered_and_equally_large(shape: tuple[int, int]) -> None:
    found = truncate_dense(noisy(shape), rank=4)
    sizes = found.a.norm(dim=1)
    assert torch.allclose(sizes, found.b.norm(dim=0), rtol=1e-4)
    assert torch.equal(sizes, sizes.sort(descending=True).values)


@pytest.mark.parametrize("shape", [(60, 40), LARGE])
def test_what_has_a_small_rank_keeps_it(shape: tuple[int, int]) -> None:
    left, right = torch.randn(shape[0], 7), torch.randn(7, shape[1])
    for found in (
        truncate_dense(left @ right, rank=30),
        truncate_dense(left @ right, energy=1.0),
        truncate_factors(right, left),
        truncate_factors(torch.cat([right, right]), torch.cat([left, -0.5 * left], 1)),
    ):
        assert found.rank == 7
        assert found.energy == pytest.approx(1)
    assert lost(truncate_dense(left @ right, energy=1.0), left @ right) < 1e-11


def test_everything_is_kept_of_noise() -> None:
    matrix = noisy((60, 40))
    assert lost(truncate_dense(matrix), matrix) < 1e-12
    assert lost(truncate_dense(matrix, energy=1.0), matrix) < 1e-12


def test_nothing() -> None:
    for shape in ((6, 4), LARGE):
        found = truncate_dense(torch.zeros(shape), rank=3)
        assert (found.rank, found.energy) == (0, 1.0)
        assert torch.equal(found.b @ found.a, torch.zeros(shape))
    assert truncate_factors(torch.zeros(2, 4), torch.zeros(6, 2)).rank == 0


@pytest.mark.parametrize("limit", [{"rank": 3}, {"energy": 0.7}, {"rank": 2, "energy": 0.99}])
def test_factors_as_their_product(limit: dict[str, float]) -> None:
    """Also where there are more factors than the matrix has rows."""
    for r in (10, 90):
        a, b = torch.randn(r, 50), torch.randn(80, r)
        found = truncate_factors(a, b, **limit)  # type: ignore[arg-type]
        dense = truncate_dense((b.double() @ a.double()).float(), **limit)  # type: ignore[arg-type]
        assert found.rank == dense.rank
        assert found.energy == pytest.approx(dense.energy, abs=1e-6)
        assert torch.allclose(found.b @ found.a, dense.b @ dense.a, atol=1e-3)


def test_seeds() -> None:
    matrix = noisy(LARGE)
    one, same, other = (truncate_dense(matrix, rank=4, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.a, same.a)
    assert not torch.equal(one.a, other.a)


def test_norms_of_large_matrices_are_exact() -> None:
    matrix = torch.full((3000, 1000), 0.1)
    expected = 3e6 * float(torch.tensor(0.1).double() ** 2)
    assert math.isclose(frobenius_squared(matrix), expected, rel_tol=1e-12)


@pytest.mark.parametrize("limit", [{"rank": 0}, {"energy": 0.0}, {"energy": 1.01}])
def test_limits_that_cannot_be(limit: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"is less than 1|is not a share"):
        truncate_dense(torch.ones(2, 2), **limit)  # type: ignore[arg-type]
