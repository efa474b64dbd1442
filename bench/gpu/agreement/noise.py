"""Differences of an engine's answers from a reference, judged by the noise of plain requests."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

NEAR = 20
"""Number of likeliest tokens to compare: deeper in the tail, bfloat16 is only noise."""

DROPPED = -1000.0
"""A log-probability below this is of a token that a filter has dropped."""

ROUNDING = 1e-3
"""Differences of log-probabilities up to this size are float32 rounding."""

EDGE = 0.1
"""Tokens for each position that may change sides of a filter without any noise."""

WORST, MEAN = 3.0, 2.0
"""How much larger than the noise the worst and the mean difference may be."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How far distributions over all tokens of some answers are apart."""

    positions: int
    mean: float
    """Mean absolute difference of log-probabilities over the `NEAR` likeliest tokens, in nats."""
    worst: float
    edges: int
    """Tokens that a filter keeps on one side only."""

    def within(self, noise: Difference, floor: Difference) -> bool:
        """Whether rounding differently explains this.

        `noise` is that of the members, carried through the method. In few tokens there may happen
        to be none, so that of plain requests, `floor`, is allowed too.
        """
        return (
            self.worst <= max(ROUNDING, WORST * max(noise.worst, floor.worst))
            and self.mean <= max(ROUNDING / 10, MEAN * noise.mean, floor.mean)
            and self.edges <= max(EDGE * self.positions, WORST * noise.edges)
        )


def difference(pairs: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Difference:
    """Compare pairs of log-probabilities `[T, V]`, computed and expected.

    A filter changes the mass of all tokens if rounding moves a token across its edge. Therefore
    both sides are normalised over the tokens that both keep, and the others are counted.
    """
    apart, edges, positions = [], 0, 0
    for computed, expected in pairs:
        kept = torch.stack([computed > DROPPED, expected > DROPPED])
        both = kept.all(0)
        edges += int((kept[0] != kept[1]).sum())
        positions += len(computed)
        mine, its = (
            side.double().masked_fill(~both, -torch.inf).log_softmax(-1)
            for side in (computed, expected)
        )
        near = its.topk(min(NEAR, its.shape[-1]), dim=-1).indices
        gaps = (mine.gather(1, near) - its.gather(1, near)).abs()
        apart.append(gaps[both.gather(1, near)])
    values = torch.cat(apart)
    return Difference(positions, float(values.mean()), float(values.max()), edges)
