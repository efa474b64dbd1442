"""Dense deltas, a few rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

from torch import Tensor

from adapters.weight_space.merge.inputs import Inputs

BLOCK = 2**17
"""Numbers per block of rows: half a MiB of float32 per adapter."""

Blocks: TypeAlias = Callable[[str], Iterator[tuple[slice, dict[int, Tensor]]]]
"""Module -> its blocks from top to bottom: a slice of rows, and index -> delta [rows, in] f32 of
the inputs that change the module. Every call yields the same numbers."""


def weighted(inputs: Inputs) -> Blocks:
    """Return blocks of w_k d_k; only one block per input is in memory at a time."""

    def blocks(module: str) -> Iterator[tuple[slice, dict[int, Tensor]]]:
        factors = inputs.factors(module)
        scaled = {k: f.b * inputs.weights[k] for k, f in factors.items()}
        height, width = inputs.shape(module)
        rows = max(1, BLOCK // width)
        for start in range(0, height, rows):
            block = slice(start, min(start + rows, height))
            yield block, {k: scaled[k][block] @ f.a for k, f in factors.items()}

    return blocks
