"""The exact magnitude that a share of a task vector reaches, without holding the vector.

The bits of a float32 that is not negative, read as an integer, are in the order of its value. So
the m-th largest magnitude is found digit by digit: a first pass counts the upper 16 bits, which
gives the upper half of the answer; a second pass counts the lower 16 bits of the values with that
upper half. Two passes over blocks, 512 KiB of counters per adapter, and no approximation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from adapters.weight_space.merge.inputs import Inputs
from adapters.weight_space.merge.method import Step
from adapters.weight_space.merge.methods.deltas import Blocks

PASSES = 2
_HIGH, _LOW = 2**15, 2**16  # values of the upper 16 bits (the sign is 0) and of the lower 16 bits


def thresholds(inputs: Inputs, blocks: Blocks, density: float, step: Step) -> list[float]:
    """Return for each input the m-th largest magnitude of all its deltas.

    m = round(density * number of values), at least 1; all values equal to the threshold reach it.
    With density 1, all thresholds are 0.
    """
    if density == 1:
        return [0.0] * len(inputs)
    kept = [max(1, round(density * inputs.size(k))) for k in range(len(inputs))]
    counts = torch.zeros(len(inputs), _HIGH, dtype=torch.int64)
    for module in inputs.modules:
        for _, values in blocks(module):
            for k, value in values.items():
                counts[k] += torch.bincount(_bits(value) >> 16, minlength=_HIGH)
        step(module)
    upper = [_place(counts[k], kept[k]) for k in range(len(inputs))]
    counts = torch.zeros(len(inputs), _LOW, dtype=torch.int64)
    for module in inputs.modules:
        for _, values in blocks(module):
            for k, value in values.items():
                bits = _bits(value)
                inside = bits[bits >> 16 == upper[k][0]]
                counts[k] += torch.bincount(inside & 0xFFFF, minlength=_LOW)
        step(module)
    lower = [_place(counts[k], upper[k][1]) for k in range(len(inputs))]
    numbers = [high << 16 | low for (high, _), (low, _) in zip(upper, lower, strict=True)]
    return torch.tensor(numbers, dtype=torch.int32).view(torch.float32).tolist()


def trim(value: Tensor, threshold: float) -> Tensor:
    """Return `value` with zeros where the magnitude is below the threshold."""
    return value.where(value.abs() >= threshold, 0.0)


def _bits(value: Tensor) -> Tensor:
    """Return the magnitudes as integers of the same order, [n] int32."""
    return value.abs().flatten().view(torch.int32)


def _place(counts: Tensor, rank: int) -> tuple[int, int]:
    """Return the digit of the `rank`-th largest value, and the rank of the value within it.

    counts: `[D]` int64, the number of values with each digit.
    """
    reaching = counts.flip(0).cumsum(0).flip(0)  # values with this digit or a larger one
    digit = int((reaching >= rank).nonzero().max())
    return digit, rank - int(reaching[digit] - counts[digit])
