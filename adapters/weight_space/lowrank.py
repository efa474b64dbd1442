"""Low-rank approximation of matrices, for merging and extraction.

The input is a product of factors (`truncate_factors`) or a matrix in memory (`truncate_dense`). The
best approximation of rank r keeps the r largest singular values (Eckart and Young 1936); each
factor takes their square roots, so that both have the same norm.

Energies are squared singular values, whose sum is the squared Frobenius norm. The kept energy is
that of the returned projection, so it is never overstated.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

EXACT_SIZE = 512
"""Matrices whose smaller side is at most this are decomposed exactly."""

OVERSAMPLING = 16
"""Directions searched beyond the target rank (Halko et al. 2011, section 4.2: 5 or 10 suffice if
singular values decay fast; those of weight deltas decay slowly)."""

TOLERANCE = 1e-5
"""Subspace iteration ends when a round adds less than this share of the matrix's energy."""

_ROUNDS = 30  # bound of subspace iteration; a flat spectrum needs about ten
_FIRST_RANK = 32  # first rank of a search for an energy, doubled until it is reached
_FLOAT32_ENERGY = 1e-6  # relative precision of an energy computed from float32 products
_FLOAT64_ENERGY = 1e-12  # and of one from a float64 decomposition
_NUMERICAL_ZERO = 1e-13  # energies below this share of the largest are rounding
_BLOCK = 2**18  # numbers converted to float64 at a time


@dataclass(frozen=True, slots=True)
class Truncation:
    """The product `b @ a` that approximates a matrix [out, in].

    a: [r, in] f32, b: [out, r] f32; the rows of a and columns of b are ordered by falling singular
    value. They hold `kept` of the energy `total`. r is 0 for a zero matrix.
    """

    a: Tensor
    b: Tensor
    kept: float
    total: float

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    @property
    def energy(self) -> float:
        """Return the kept share of the energy, from 0 to 1; 1 for a zero matrix."""
        return min(self.kept / self.total, 1.0) if self.total else 1.0


def truncate_factors(
    a: Tensor, b: Tensor, *, rank: int | None = None, energy: float | None = None
) -> Truncation:
    """Truncate the product `b @ a` without forming it: QR of both factors, SVD of the core.

    a: [r, in], b: [out, r], any float dtype; computes in float64. `rank` bounds the rank; `energy`
    selects the smallest rank that keeps this share; with both, the smaller of the two; with
    neither, the numerical rank.
    """
    _check(rank, energy)
    left, left_core = torch.linalg.qr(b.double())  # [out, q], [q, r]
    right, right_core = torch.linalg.qr(a.double().T)  # [in, p], [p, r]
    u, sigma, vt = torch.linalg.svd(left_core @ right_core.T, full_matrices=False)
    energies = sigma.square()
    r = _cut(energies, float(energies.sum()), rank, energy)
    root = sigma[:r].sqrt()
    return Truncation(
        a=(root[:, None] * (vt[:r] @ right.T)).float(),
        b=((left @ u[:, :r]) * root).float(),
        kept=float(energies[:r].sum()),
        total=float(energies.sum()),
    )


def truncate_dense(
    matrix: Tensor, *, rank: int | None = None, energy: float | None = None, seed: int = 0
) -> Truncation:
    """Truncate a matrix [out, in] f32; `rank` and `energy` as in `truncate_factors`.

    Exact if the smaller side is at most `EXACT_SIZE` or less than twice the searched rank; else
    randomized subspace iteration: Halko, Martinsson and Tropp 2011, "Finding Structure with
    Randomness", algorithm 4.4, which ends when a round adds less than `TOLERANCE` of the energy
    instead of after a fixed number of rounds. For a given energy, the target rank doubles until
    the subspace holds it. The result is the exact projection onto the subspace, so its energy is
    correct to 1e-6; only the optimality of the subspace is approximate. Equal seeds give equal
    results.

    Memory beside the matrix: about four times the factors of the searched rank.
    """
    _check(rank, energy)
    low = None
    if min(matrix.shape) > EXACT_SIZE:
        low = _Search(matrix, frobenius_squared(matrix)).run(rank, energy, seed)
    return low or _exact(matrix, rank, energy)


def frobenius_squared(matrix: Tensor) -> float:
    """Return the sum of the squares of all entries, in float64, by blocks of rows."""
    return sum(float(block.square().sum()) for block in _blocks(matrix))


@dataclass(frozen=True, slots=True)
class _Search:
    """Randomized subspace iteration on a matrix [out, in] f32 with the energy `total`."""

    matrix: Tensor
    total: float

    def run(self, rank: int | None, energy: float | None, seed: int) -> Truncation | None:
        """Return None if an exact decomposition is not more expensive."""
        full, width = min(self.matrix.shape), self.matrix.shape[1]
        max_rank = min(rank or full, full)
        target_rank = max_rank if energy is None else min(max_rank, _FIRST_RANK)
        generator = torch.Generator().manual_seed(seed)
        right = torch.zeros(width, 0)
        while (size := target_rank + OVERSAMPLING) <= full // 2:
            # A larger search starts from the directions of the smaller one.
            fresh = torch.randn(width, size - right.shape[1], generator=generator)
            left, right = self.iterate(torch.cat([right, fresh], 1), target_rank)
            energies, vectors = _decompose(right)
            # In float32 the last millionth cannot be told from rounding.
            enough = ((energy or 1.0) - _FLOAT32_ENERGY) * self.total
            if target_rank == max_rank or float(energies[:target_rank].sum()) >= enough:
                r = _cut(energies[:target_rank], self.total, rank, energy)
                return self.factors(left, right, energies[:r], vectors[:, :r])
            target_rank = min(2 * target_rank, max_rank)
        return None

    def iterate(self, right: Tensor, target_rank: int) -> tuple[Tensor, Tensor]:
        """Turn the subspace of `right` [in, k] towards the leading singular vectors.

        Return left [out, k], an orthonormal basis, and right = matrix.T @ left [in, k].
        """
        before = 0.0
        for _ in range(_ROUNDS):
            left = torch.linalg.qr(self.matrix @ right).Q
            right = self.matrix.T @ left
            energy = float(_decompose(right)[0][:target_rank].sum())
            if energy - before <= TOLERANCE * self.total:
                break
            before = energy
            right = torch.linalg.qr(right).Q
        return left, right

    def factors(self, left: Tensor, right: Tensor, energies: Tensor, vectors: Tensor) -> Truncation:
        """Return the leading terms of left @ right.T; energies [r] and vectors [k, r] of right."""
        root = energies.sqrt().sqrt()
        return Truncation(
            a=(right @ (vectors / root).float()).T.contiguous(),
            b=left @ (vectors * root).float(),
            kept=float(energies.sum()),
            total=self.total,
        )


def _exact(matrix: Tensor, rank: int | None, energy: float | None) -> Truncation:
    """Decompose the Gram matrix of the smaller side in float64.

    For float32 input this is as exact as a float32 SVD: squaring halves the digits, and float64 has
    more than twice as many. Unlike torch.linalg.svd it needs no second copy of the matrix.
    """
    if matrix.shape[0] < matrix.shape[1]:
        mirrored = _exact(matrix.T, rank, energy)
        return Truncation(mirrored.b.T, mirrored.a.T, mirrored.kept, mirrored.total)
    energies, vectors = _decompose(matrix)  # vectors [in, in]
    total = float(energies.sum())
    r = _cut(energies, total, rank, energy)
    # M = (M @ vectors) @ vectors.T: the left factor's columns are U * sigma.
    root = energies[:r].sqrt().sqrt()
    chosen = vectors[:, :r]
    return Truncation(
        a=(chosen * root).T.float().contiguous(),
        b=matrix @ (chosen / root).float(),
        kept=float(energies[:r].sum()),
        total=total,
    )


def _decompose(tall: Tensor) -> tuple[Tensor, Tensor]:
    """Return energies [k] f64, falling, and right singular vectors [k, k] f64 of [n, k]."""
    gram = torch.zeros(tall.shape[1], tall.shape[1], dtype=torch.float64)
    for block in _blocks(tall):
        gram.addmm_(block.T, block)
    energies, vectors = torch.linalg.eigh(gram)
    return energies.flip(0).clamp_min(0), vectors.flip(1)


def _blocks(matrix: Tensor) -> Iterator[Tensor]:
    """Yield the matrix in float64, in blocks of rows of two MiB."""
    rows = max(1, _BLOCK // max(1, matrix.shape[1]))
    for start in range(0, matrix.shape[0], rows):
        yield matrix[start : start + rows].double()


def _cut(energies: Tensor, total: float, rank: int | None, energy: float | None) -> int:
    """Return how many of the energies [k] f64, falling, to keep; 0 only if all are zero."""
    if not total:
        return 0
    count = int((energies > _NUMERICAL_ZERO * energies[0]).sum())
    if rank is not None:
        count = min(count, rank)
    if energy is not None:
        enough = (energy - _FLOAT64_ENERGY) * total
        sums = energies[:count].cumsum(0).tolist()
        count = next((i + 1 for i, kept in enumerate(sums) if kept >= enough), count)
    return count


def _check(rank: int | None, energy: float | None) -> None:
    if rank is not None and rank < 1:
        raise ValueError(f"the rank {rank} is less than 1")
    if energy is not None and not 0 < energy <= 1:
        raise ValueError(f"the energy {energy} is not a share between 0 and 1")
