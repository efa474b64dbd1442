"""The tensor operations of a composed step: many rows of logits in, one composed row per group out.

One kernel serves the whole linear family, `z = sum_k w_k * l_k` (docs: formulas in each recipe).
It loops over member positions (at most `Limits.max_members`), never over groups, and adds into the
leaders' rows: at its peak it holds less than two float rows of vocabulary size per group beside
the logits (`python -m bench.claims kernel_memory`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from composer.plan import Filter, FilterKind

FILTERED = 1e4
"""How far below the others a filtered token is put, in logits.

Its probability is exactly zero in float32, as with minus infinity; but where bad words,
`min_tokens` or a grammar forbid every token that the filter kept, the filtered ones keep their
order and the sampler never sees a row without a possible token (which would be NaN).
"""


@dataclass(frozen=True, slots=True)
class Group:
    """Where the rows of one group stand in the batch; row 0 is the leader."""

    rows: tuple[int, ...]
    weights: tuple[float, ...]
    filters: tuple[Filter, ...] = ()


@dataclass(frozen=True, slots=True)
class _Members:
    """The members at one position of all groups that are that long."""

    leaders: torch.Tensor  # [M] int64, rows of the batch
    rows: torch.Tensor  # [M] int64, rows of the batch
    weights: torch.Tensor  # [M, 1] float32


@dataclass(frozen=True, slots=True)
class _Filters:
    """All filters of one kind."""

    kind: FilterKind
    leaders: torch.Tensor  # [F] int64, rows of the batch
    rows: torch.Tensor  # [F] int64, rows of the members that are looked at
    values: torch.Tensor  # [F, 1] float32


class Composition:
    """The index tensors of all groups in a batch, built when the batch changes and used every step.

    Building copies a few hundred bytes to the device without waiting for it; using it never waits
    for the device.
    """

    def __init__(self, groups: Sequence[Group], device: torch.device, pin_memory: bool = False):
        def tensor(values: Sequence[float], dtype: torch.dtype) -> torch.Tensor:
            host = torch.tensor(values, dtype=dtype, pin_memory=pin_memory)
            return host.to(device, non_blocking=True)

        def index(values: Sequence[int]) -> torch.Tensor:
            return tensor(values, torch.int64)

        def column(values: Sequence[float]) -> torch.Tensor:
            return tensor(values, torch.float32).unsqueeze(1)

        self._leaders = index([group.rows[0] for group in groups])
        self._leader_weights = column([group.weights[0] for group in groups])
        self._members: list[_Members] = []
        for k in range(1, max(len(group.rows) for group in groups)):
            longer = [group for group in groups if len(group.rows) > k]
            self._members.append(
                _Members(
                    leaders=index([group.rows[0] for group in longer]),
                    rows=index([group.rows[k] for group in longer]),
                    weights=column([group.weights[k] for group in longer]),
                )
            )
        self._filters: list[_Filters] = []
        for kind in FilterKind:
            found = [
                (group.rows[0], group.rows[f.member], f.value)
                for group in groups
                for f in group.filters
                if f.kind is kind
            ]
            if found:
                leaders, rows, values = zip(*found, strict=True)
                self._filters.append(_Filters(kind, index(leaders), index(rows), column(values)))
        pairs = [(row, group.rows[0]) for group in groups for row in group.rows[1:]]
        self._companions = index([row for row, _ in pairs])
        self._companion_leaders = index([leader for _, leader in pairs])

    def compose(self, logits: torch.Tensor) -> None:
        """Write every group's composed row over its leader's row.

        What is minus infinity in the leader's row (grammar, allowed tokens) stays minus infinity:
        the sum alone would turn `-inf - (-inf)` into NaN.

        Args:
            logits: `[R, V]` float32, one row per request of the batch, changed in place.
        """
        # Filters look at the rows as they came, so they are judged before anything changes.
        dropped = [(f.leaders, self._dropped(f, logits)) for f in self._filters]
        leaders = logits.index_select(0, self._leaders)  # [G, V]
        forbidden = leaders == -math.inf  # [G, V] bool
        logits.index_copy_(0, self._leaders, leaders.mul_(self._leader_weights))
        del leaders
        for member in self._members:
            term = logits.index_select(0, member.rows).mul_(member.weights)  # [M, V]
            logits.index_add_(0, member.leaders, term)
            del term
        for rows, drop in dropped:
            logits.index_add_(0, rows, drop.to(logits.dtype), alpha=-FILTERED)
        composed = logits.index_select(0, self._leaders).masked_fill_(forbidden, -math.inf)
        logits.index_copy_(0, self._leaders, composed)

    def share_tokens(self, token_ids: torch.Tensor) -> None:
        """Give every companion the token that its leader sampled.

        Args:
            token_ids: `[R, 1]` int32, changed in place.
        """
        leaders = token_ids.index_select(0, self._companion_leaders)
        token_ids.index_copy_(0, self._companions, leaders)

    @staticmethod
    def _dropped(filters: _Filters, logits: torch.Tensor) -> torch.Tensor:
        """`[F, V]` bool: tokens that a filter drops, judged among the tokens that are allowed."""
        forbidden = logits.index_select(0, filters.leaders) == -math.inf  # [F, V] bool
        member = logits.index_select(0, filters.rows).masked_fill_(forbidden, -math.inf)  # [F, V]
        del forbidden
        largest = member.amax(dim=1, keepdim=True)
        if filters.kind is FilterKind.PLAUSIBILITY:
            # l < log(alpha) + max l  (Li et al. 2022, section 3.2)
            return member < largest + filters.values.log()
        weights = member.sub_(largest).exp_()
        return outside_nucleus(weights.div_(weights.sum(dim=1, keepdim=True)), filters.values)


def outside_nucleus(probs: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """The tokens outside of the smallest set of likeliest tokens whose mass reaches `top_p`.

    Finds the set's smallest probability by bisection over float32 bit patterns (positive floats
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
    # Rounding may leave a whole row's mass a little short of top_p = 1: then keep everything.
    target = torch.minimum(top_p, probs.sum(dim=1, keepdim=True))
    halves = probs.chunk(2, dim=1)  # half a row of memory at a time
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
