"""Filters as tensor operations: which tokens each keeps, without sorting whole rows.

On CPU, a partial sort finds the last token that a filter keeps; elsewhere bisection finds it, which
never waits for the device. In shapes, F is a number of filters and V the vocabulary size.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from composer.filters import FilterKind

TAIL = 3e-3
"""Tokens whose share of the likeliest is less than this part of what a nucleus leaves out are left
out at first: few nuclei have any of them, and to compare is faster than to find the likeliest."""

HEAD = 4096
"""How many of the likeliest tokens of a row are sorted next; most other nuclei are smaller."""


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
    if kind is FilterKind.PLAUSIBILITY:
        # l < log(value) + max l  (Li et al. 2022, section 3.2)
        return _less(logits, logits.amax(dim=1, keepdim=True) + values.log())
    return outside_nucleus(logits, values)


def outside_nucleus(logits: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Return the tokens outside the smallest set of likeliest tokens whose mass reaches `top_p`.

    Tokens of equal logits stay or go together; all stay if `top_p` is 1, or no token is possible.

    Args:
        logits: `[F, V]` float32 without NaN or plus infinity; may be overwritten.
        top_p: `[F, 1]` float32 in (0, 1].

    Returns:
        `[F, V]` bool, True for a token outside.
    """
    find = _nucleus_by_sorting if logits.device.type == "cpu" else _nucleus_by_bisection
    return find(logits, top_p)


def outside_top(logits: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """Return the tokens less likely than the k-th likeliest; equal ones stay or go together.

    Args:
        logits: `[F, V]` float32 without NaN or plus infinity.
        k: `[F, 1]` float32, whole numbers from 1; every token stays if `k >= V`.

    Returns:
        `[F, V]` bool, True for a token outside.
    """
    find = _top_by_sorting if logits.device.type == "cpu" else _top_by_bisection
    return _less(logits, find(logits, k))


def _less(values: torch.Tensor, least: torch.Tensor) -> torch.Tensor:
    """Return `values < least`, `[F, V]` bool; on CPU by NumPy, which is eight times faster."""
    if values.device.type == "cpu":
        return torch.from_numpy(values.numpy() < least.numpy())
    return values < least


def _nucleus_by_sorting(logits: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Row by row, so that a row stays in the processor's cache from one operation to the next."""
    lost = np.empty(logits.shape, dtype=np.bool_)
    for row, share, out in zip(logits.numpy(), top_p.flatten().tolist(), lost, strict=True):
        top = row.max()
        if share < 1 and top > -np.inf:
            weights = np.exp(row - top)
            np.less(weights, _least_of_nucleus(weights, share), out=out)
        else:
            out.fill(False)
    return torch.from_numpy(lost)


def _least_of_nucleus(weights: np.ndarray, share: float) -> float:
    """Return the smallest weight needed to reach a share of all, 0 if rounding needs all."""
    target = share * float(weights.sum())
    for largest in _largest(weights, TAIL * (1 - share)):
        likeliest = np.sort(largest)[::-1]
        reached = np.cumsum(likeliest, dtype=np.float64)
        if reached[-1] >= target:
            return float(likeliest[np.searchsorted(reached, target)])
    return 0.0


def _largest(weights: np.ndarray, least: float) -> Iterator[np.ndarray]:
    """Yield ever more of the largest weights, at last all, in any order; at first those that reach
    `least`, of which there are some: the largest weight is 1."""
    yield weights[weights >= least]
    if (rest := len(weights) - HEAD) > 0:
        yield np.partition(weights, rest)[rest:]
    yield weights


def _nucleus_by_bisection(logits: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Bisect the bit patterns of float32: positive floats order as their bits do, so that 31
    halvings are exact. Unlike a sort, this needs half a row of memory. `logits` are overwritten.
    """
    weights = logits.sub_(
        logits.amax(dim=1, keepdim=True)
    ).exp_()  # [F, V]; NaN if none is possible
    # Invariant: the mass at `low` reaches the target, the mass at `high` does not.
    low = torch.zeros_like(top_p, dtype=torch.int32)
    high = torch.full_like(low, 0x7F800000)  # plus infinity
    halves = weights.chunk(2, dim=1)  # [F, V/2] each: half a row of memory at a time
    target = top_p * sum(half.sum(dim=1, keepdim=True) for half in halves)
    for _ in range(31):
        middle = low + (high - low) // 2
        threshold = middle.view(torch.float32)
        mass = sum(
            torch.where(half >= threshold, half, 0.0).sum(dim=1, keepdim=True) for half in halves
        )
        reaches = mass >= target
        low = torch.where(reaches, middle, low)
        high = torch.where(reaches, high, middle)
    return weights < torch.where(top_p < 1, low.view(torch.float32), 0.0)


def _top_by_sorting(logits: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """Return the k-th largest logit of each row, `[F, 1]`; the least one if there are fewer."""
    size = logits.shape[1]
    places = (max(size - int(count), 0) for count in k.flatten().tolist())
    kth = [
        float(np.partition(row, place)[place])
        for row, place in zip(logits.numpy(), places, strict=True)
    ]
    return torch.tensor(kth).unsqueeze(1)


def _top_by_bisection(logits: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """Return the k-th largest logit of each row, `[F, 1]`; the least one if there are fewer.

    `k` differs from row to row and stays on the device.
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
    return as_float(low)
