"""Low-rank approximation of matrices: the one implementation that merging and extraction share.

Two inputs, one result: factors that are known already (`truncate_factors`) or a matrix in memory
(`truncate_dense`). The best approximation of rank r keeps the r largest singular values (Eckart
and Young 1936); the root of each goes into either factor, so that they are equally large.

Energies are squared singular values: they add up to the squared Frobenius norm. A kept energy is
that of the projection which is returned, so it is never overstated.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

EXACT_SIZE = 512
"""Matrices whose smaller side is at most this are decomposed exactly."""

OVERSAMPLING = 16
"""Directions that are searched beyond the rank wanted (Halko et al. 2011, section 4.2: 5 or 10
suffice for a fast decay of singular values; weight deltas decay slowly)."""

TOLERANCE = 1e-5
"""Subspace iteration ends when a round adds less than this share of the matrix's energy."""

_ROUNDS = 30  # the bound of subspace iteration; a flat spectrum needs about ten
_FIRST_RANK = 32  # of the search for an energy, doubled until it is reached
_FLOAT32_ENERGY = 1e-6  # relative precision of an energy computed from float32 products
_FLOAT64_ENERGY = 1e-12  # and of one from a float64 decomposition
_NUMERICAL_ZERO = 1e-13  # energies below this share of the largest are rounding
_BLOCK = 2**18  # numbers that are converted to float64 at a time


@dataclass(frozen=True, slots=True)
class Truncation:
    """The product `b @ a` that approximates a matrix [out, in].

    a: [r, in] f32 and b: [out, r] f32, with a's rows and b's columns ordered by falling singular
    value. `kept` of the energy `total` is theirs. r is 0 for a matrix of zeros.
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
        """The kept share, 0 to 1; 1 for a matrix of zeros, of which nothing is lost."""
        return min(self.kept / self.total, 1.0) if self.total else 1.0


def truncate_factors(
    a: Tensor, b: Tensor, *, rank: int | None = None, energy: float | None = None
) -> Truncation:
    """The product `b @ a` at a smaller rank, without forming it: QR of both, SVD of the core.

    a: [r, in], b: [out, r], any float dtype; computed in float64. With `rank`, at most this rank;
    with `energy`, the smallest rank that keeps this share; with both, the smaller of the two; with
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
    """A matrix [out, in] f32 at a smaller rank; `rank` and `energy` as in `truncate_factors`.

    Exact if its smaller side is at most `EXACT_SIZE`, or less than twice the rank searched; else by
    randomized subspace iteration: Halko, Martinsson and Tropp 2011, "Finding Structure with
    Randomness", algorithm 4.4, with a test of accuracy in the place of a fixed number of rounds. It
    iterates until a round adds less than `TOLERANCE` of the energy. For a wanted energy the rank
    that is searched doubles until the subspace holds it. The result is the exact projection on the
    subspace, so its energy is right to 1e-6; what is approximate is that no other subspace of the
    rank holds more. The same seed, the same result.

    Beside the matrix it holds about four times the factors of the rank that is searched.
    """
    _check(rank, energy)
    found = None
    if min(matrix.shape) > EXACT_SIZE:
        found = _Search(matrix, frobenius_squared(matrix)).run(rank, energy, seed)
    return found or _exact(matrix, rank, energy)


def frobenius_squared(matrix: Tensor) -> float:
    """The sum of the squares of all entries, in float64, a block of rows at a time."""
    return sum(float(block.square().sum()) for block in _blocks(matrix))


@dataclass(frozen=True, slots=True)
class _Search:
    """Randomized subspace iteration on a matrix [out, in] f32 with the energy `total`."""

    matrix: Tensor
    total: float

    def run(self, rank: int | None, energy: float | None, seed: int) -> Truncation | None:
        """None where an exact decomposition costs no more."""
        full, width = min(self.matrix.shape), self.matrix.shape[1]
        most = min(rank or full, full)
        wanted = most if energy is None else min(most, _FIRST_RANK)
        generator = torch.Generator().manual_seed(seed)
        right = torch.zeros(width, 0)
        while (size := wanted + OVERSAMPLING) <= full // 2:
            # The directions found so far are the start of the larger search.
            fresh = torch.randn(width, size - right.shape[1], generator=generator)
            left, right = self.iterate(torch.cat([right, fresh], 1), wanted)
            energies, vectors = _decompose(right)
            # Nothing computed in float32 can tell the last millionth from rounding.
            enough = ((energy or 1.0) - _FLOAT32_ENERGY) * self.total
            if wanted == most or float(energies[:wanted].sum()) >= enough:
                r = _cut(energies[:wanted], self.total, rank, energy)
                return self.factors(left, right, energies[:r], vectors[:, :r])
            wanted = min(2 * wanted, most)
        return None

    def iterate(self, right: Tensor, wanted: int) -> tuple[Tensor, Tensor]:
        """Turn the subspace of `right` [in, k] towards the leading singular vectors.

        Returns left [out, k], an orthonormal basis, and right = matrix.T @ left [in, k].
        """
        before = 0.0
        for _ in range(_ROUNDS):
            left = torch.linalg.qr(self.matrix @ right).Q
            right = self.matrix.T @ left
            found = float(_decompose(right)[0][:wanted].sum())
            if found - before <= TOLERANCE * self.total:
                break
            before = found
            right = torch.linalg.qr(right).Q
        return left, right

    def factors(self, left: Tensor, right: Tensor, energies: Tensor, vectors: Tensor) -> Truncation:
        """The leading terms of left @ right.T; energies [r], vectors [k, r] are right's."""
        root = energies.sqrt().sqrt()
        return Truncation(
            a=(right @ (vectors / root).float()).T.contiguous(),
            b=left @ (vectors * root).float(),
            kept=float(energies.sum()),
            total=self.total,
        )


def _exact(matrix: Tensor, rank: int | None, energy: float | None) -> Truncation:
    """Through the Gram matrix of the smaller side in float64.

    As exact for float32 input as a float32 SVD: squaring halves the digits, and float64 has more
    than twice as many. It needs no second copy of the matrix, which torch.linalg.svd would.
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
    """Energies [k] f64, falling, and right singular vectors [k, k] f64 of a matrix [n, k]."""
    gram = torch.zeros(tall.shape[1], tall.shape[1], dtype=torch.float64)
    for block in _blocks(tall):
        gram.addmm_(block.T, block)
    energies, vectors = torch.linalg.eigh(gram)
    return energies.flip(0).clamp_min(0), vectors.flip(1)


def _blocks(matrix: Tensor) -> Iterator[Tensor]:
    """The matrix in float64, two MiB of rows at a time."""
    rows = max(1, _BLOCK // max(1, matrix.shape[1]))
    for start in range(0, matrix.shape[0], rows):
        yield matrix[start : start + rows].double()


def _cut(energies: Tensor, total: float, rank: int | None, energy: float | None) -> int:
    """How many of the energies [k] f64, falling, are kept; 0 only where all are zero."""
    if not total:
        return 0
    most = int((energies > _NUMERICAL_ZERO * energies[0]).sum())
    if rank is not None:
        most = min(most, rank)
    if energy is not None:
        enough = (energy - _FLOAT64_ENERGY) * total
        sums = energies[:most].cumsum(0).tolist()
        most = next((i + 1 for i, kept in enumerate(sums) if kept >= enough), most)
    return most


def _check(rank: int | None, energy: float | None) -> None:
    if rank is not None and rank < 1:
        raise ValueError(f"the rank {rank} is less than 1")
    if energy is not None and not 0 < energy <= 1:
        raise ValueError(f"the energy {energy} is not a share between 0 and 1")
