"""Sparse vectors as three arrays, one entry for each component that is not zero."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_BLOCK = 2**16
"""Numbers that `products` multiplies at once, if a vector has not more of them to meet."""


@dataclass(frozen=True, slots=True)
class Entries:
    """Sparse vectors: `values[e]` is the component `terms[e]` of the vector `owners[e]`."""

    owners: Ints
    terms: Ints
    values: Floats

    def of_length_one(self, count: int, unknown: Floats | float = 0.0) -> Entries:
        """Scale `count` vectors; `unknown` is what else their squared lengths contain."""
        squares = sums(self.owners, self.values**2, count) + unknown
        lengths = np.sqrt(np.where(squares > 0, squares, 1.0))
        return Entries(self.owners, self.terms, self.values / lengths[self.owners])

    def __getitem__(self, entries: slice) -> Entries:
        return Entries(self.owners[entries], self.terms[entries], self.values[entries])


def sums(keys: npt.NDArray[np.integer], values: Floats, count: int) -> Floats:
    """Return `[count]`: the sum of the values with each key."""
    return np.bincount(keys, values, count).astype(np.float64, copy=False)


def products(vectors: Entries, others: Floats, chosen: Ints, count: int) -> Floats:
    """Return `[chosen, count]`: products of vectors with all `count` vectors.

    Beside the result, this needs memory for a few times `_BLOCK` or the number of entries.

    Args:
        vectors: with at least one entry.
        others: `[entries]`, the values of the chosen vectors, which have entries where `vectors`
            has them.
        chosen: owners of the vectors to multiply with all.
        count: of all vectors.
    """
    words, columns = np.unique(vectors.terms, return_inverse=True)
    result = np.empty((len(chosen), count))
    size = max(1, _BLOCK // len(vectors.owners))
    for begin in range(0, len(chosen), size):
        block = chosen[begin : begin + size]
        row_of = np.full(count, -1)
        row_of[block] = np.arange(len(block))
        rows = row_of[vectors.owners]
        inside = rows >= 0
        dense = np.zeros((len(block), len(words)))
        dense[rows[inside], columns[inside]] = others[inside]
        cells = np.arange(len(block))[:, None] * count + vectors.owners  # [block, entries]
        added = sums(
            cells.ravel(), (dense[:, columns] * vectors.values).ravel(), len(block) * count
        )
        result[begin : begin + size] = added.reshape(-1, count)
    return result
