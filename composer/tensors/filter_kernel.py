"""Filters as tensor operations: which tokens each keeps, without sorting a row.

In shapes, F is a number of filters and V the vocabulary size.
"""

from __future__ import annotations

import torch

from composer.filters import FilterKind


def outside(kind: FilterKind, logits: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Return the tokens that filters of one kind drop.

    Args:
        kind: of all filters.
        logits: `[F, V]` float32 without NaN or plus infinity, of the judging members; overwritten.
        values: `[F, 1]` float32, of the filters.

    Returns:
        `[F, V]` bool, True for a token outside.
    """
    if kind is FilterKind.TOP_K:
        return outside_top(logits, values)
    largest = logits.amax(dim=1, keepdim=True)  # [F, 1]
    if kind is FilterKind.PLAUSIBILITY:
        # l < log(value) + max l  (Li et al. 2022, section 3.2)
        return logits < largest + values.log()
    weights = logits.sub_(largest).exp_()
    return outside_nucleus(weights.div_(weights.sum(dim=1, keepdim=True)), values)


def outside_nucleus(probs: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Return the tokens outside the smallest set of likeliest tokens whose mass reaches `top_p`.

    Find the set's smallest probability by bisection over float32 bit patterns (positive floats
    order as their bits do), which is exact after 31 halvings and, unlike a sort, needs half a row
    of memory. Tokens of equal probability stay or go together.

    Args:
        probs: `[F, V]` float32, rows sum to one.
        top_p: `[F, 1]` float32 in (0, 1].

    Returns:
        `[F, V]` bool, True for a token outside.
    """
    # Invariant: the mass at `low` reaches top_p, the mass at `high` does not.
    low = torch.zeros_like(top_p, dtype=torch.int32)
    high = torch.full_like(low, 0x3F800001)  # the bits just above 1.0
    # Rounding may leave the mass of a whole row just below top_p = 1: then keep every token.
    target = torch.minimum(top_p, probs.sum(dim=1, keepdim=True))
    halves = probs.chunk(2, dim=1)  # [F, V/2] each: half a row of memory at a time
    for _ in range(31):
        middle = low + (high - low) // 2
        threshold = middle.view(torch.float32)
        mass = sum(
            torch.where(half >= threshold, half, 0.0).sum(dim=1, keepdim=True) for half in halves
        )
        reaches = mass >= target
        low = torch.where(reaches, middle, low)
        high = torch.where(reaches, high, middle)
    return probs < low.view(torch.float32)


def outside_top(logits: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """Return the tokens less likely than the k-th likeliest; equal ones stay or go together.

    Find the k-th largest logit by bisection over float32 bit patterns, as `outside_nucleus` does:
    `k` differs from row to row and stays on the device.

    Args:
        logits: `[F, V]` float32 without NaN or plus infinity.
        k: `[F, 1]` float32, whole numbers from 1; every token stays if `k >= V`.

    Returns:
        `[F, V]` bool, True for a token outside.
    """

    def as_float(key: torch.Tensor) -> torch.Tensor:
        # Negative floats order against their bits: with these flipped, keys order as floats do.
        return torch.where(key < 0, key ^ 0x7FFFFFFF, key).to(torch.int32).view(torch.float32)

    # Invariant: at least k logits reach `low`, fewer reach `high`.
    low = torch.full_like(k, -0x7F800001, dtype=torch.int64)  # minus infinity
    high = torch.full_like(low, 0x7F800000)  # plus infinity
    wanted = k.clamp(max=logits.shape[1])
    for _ in range(32):
        middle = (low + high) // 2
        reaches = (logits >= as_float(middle)).sum(dim=1, keepdim=True) >= wanted
        low = torch.where(reaches, middle, low)
        high = torch.where(reaches, high, middle)
    return logits < as_float(low)
