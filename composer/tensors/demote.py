"""Make filtered tokens impossible without losing their order.

On CPU row by row, elsewhere all rows at once, which never waits for the device. In shapes, R is the
number of rows of a batch, L of those that lose tokens and V the vocabulary size.
"""

from __future__ import annotations

import math

import numpy as np
import torch

DISTANCE = 65536.0
"""Minimum distance, in logits, of the likeliest filtered token below the likeliest kept one.

A filtered token then has probability zero in float32, as with minus infinity, at any temperature up
to 600; and at temperatures up to 1 after a `repetition_penalty` within `composer.bounds`, which
multiplies negative logits and divides positive ones, if the likeliest kept logit is between -500
and 500. Unlike with minus infinity, the filtered tokens keep their order: if bad words,
`min_tokens` or a grammar forbid every token that the filter kept, the sampler never sees a row
without a possible token (which would be NaN)."""

RELATIVE_DISTANCE = 2.0**-9
"""The same relative to the magnitude of the composed logits: rounding absorbs 65536 at 1e30."""


def demote(logits: torch.Tensor, rows: torch.Tensor, dropped: torch.Tensor) -> None:
    """Move tokens of composed rows below all others, keeping order; if none is kept, move none.

    The distance is relative to the composed row, so that no weight can compensate for it.

    Args:
        logits: `[R, V]` float32, changed in place.
        rows: `[L]` int64, which rows of `logits` lose tokens.
        dropped: `[L, V]` bool, the tokens that each loses.
    """
    move = _demote_by_row if logits.device.type == "cpu" else _demote_all
    move(logits, rows, dropped)


def _demote_by_row(logits: torch.Tensor, rows: torch.Tensor, dropped: torch.Tensor) -> None:
    """Lower whole rows, then restore the few tokens that are kept."""
    for row, lost in zip(rows.tolist(), dropped.numpy(), strict=True):
        values = logits[row].numpy()
        kept = np.flatnonzero(~lost)
        unchanged = values[kept]
        highest = unchanged.max(initial=-np.inf)
        if highest > -np.inf:
            values -= _lowering(values.max(), highest)
            values[kept] = unchanged


def _lowering(top: np.float32, kept: np.float32) -> np.float32:
    """Return how far to lower a row, by its largest logit and the largest one that is kept."""
    largest = max(abs(top), abs(kept))
    return top - kept + max(largest * np.float32(RELATIVE_DISTANCE), np.float32(DISTANCE))


def _demote_all(logits: torch.Tensor, rows: torch.Tensor, dropped: torch.Tensor) -> None:
    """Do the same for all rows at once, without waiting for the device."""
    losing = logits.index_select(0, rows)  # [L, V]
    top = losing.amax(dim=1, keepdim=True)  # [L, 1]
    nothing = torch.full((1, 1), -math.inf, device=logits.device)
    kept = torch.where(dropped, nothing, losing, out=losing).amax(dim=1, keepdim=True)
    del losing, nothing
    largest = torch.maximum(top.abs(), kept.abs())
    distance = (largest * RELATIVE_DISTANCE).clamp_(min=DISTANCE)
    lower = torch.where(kept > -math.inf, top - kept + distance, 0.0)
    moves = dropped.view(torch.uint8).to(logits.dtype)
    logits.index_add_(0, rows, moves.mul_(lower), alpha=-1)
