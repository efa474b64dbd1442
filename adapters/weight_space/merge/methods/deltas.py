"""Dense deltas, a few rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

from torch import Tensor

from adapters.weight_space.merge.inputs import Inputs

BLOCK = 2**17
"""Numbers per block of rows: half a MiB of float32 per adapter."""

Blocks: TypeAlias = Callable[[str], Iterator[tuple[slice, dict[int, Tensor]]]]
"""Module -> its blocks of rows, from the top: which rows, and the deltas [rows, in] f32 of the
inputs that change the module, by index. Every call yields the same numbers."""


def weighted(inputs: Inputs) -> Blocks:
    """Blocks of w_k d_k. One block of every input is held at a time, never a whole delta."""

    def blocks(module: str) -> Iterator[tuple[slice, dict[int, Tensor]]]:
        factors = inputs.factors(module)
        scaled = {k: f.b * inputs.weights[k] for k, f in factors.items()}
        height, width = inputs.shape(module)
        rows = max(1, BLOCK // width)
        for start in range(0, height, rows):
            block = slice(start, min(start + rows, height))
            yield block, {k: scaled[k][block] @ f.a for k, f in factors.items()}

    return blocks
