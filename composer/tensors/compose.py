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
from typing import Any

import torch
from torch.nn.functional import pad

from composer.filters import Filter, FilterKind
from composer.tensors.gang_rows import GangRows, picked, together
from composer.tensors.mixture_kernel import MixtureKernel

DISTANCE = 65536.0
"""How far below the likeliest kept token the likeliest filtered one is put, in logits, at least.

With it a filtered token has the probability zero in float32, as with minus infinity, up to the
temperature 600, and up to 1 after a `repetition_penalty` within `composer.bounds`, which multiplies
negative logits and divides positive ones, if the likeliest kept logit lies between -500 and 500;
but where bad words, `min_tokens` or a grammar forbid every token that the filter
kept, the filtered ones keep their order and the sampler never sees a row without a possible token
(which would be NaN)."""

RELATIVE_DISTANCE = 2.0**-9
"""The same relative to the magnitude of the composed logits: beside 1e30, 65536 is rounded away."""


@dataclass(frozen=True, slots=True)
class _Members:
    """The members at one position, and of one model, of all groups that are that long."""

    model: int
    leaders: torch.Tensor  # [M] int64, rows of the batch
    rows: torch.Tensor  # [M] int64, rows of the model's batch
    weights: torch.Tensor  # [M, 1] float32


@dataclass(frozen=True, slots=True)
class _Filters:
    """Filters of one kind that look at members of one model, at most one for each leader."""

    kind: FilterKind
    model: int
    places: torch.Tensor  # [F] int64, of the leaders among those that are judged
    leaders: torch.Tensor  # [F] int64, rows of the batch
    rows: torch.Tensor  # [F] int64, rows of the members that are looked at
    values: torch.Tensor  # [F, 1] float32


@dataclass(frozen=True, slots=True)
class _Companions:
    """All companions in the batch of one model."""

    model: int
    rows: torch.Tensor  # [C] int64, rows of the model's batch
    leaders: torch.Tensor  # [C] int64, rows of the batch


class Composition:
    """The index tensors of all groups in a batch, built when the batch changes and used every step.

    Building copies a few hundred bytes to the device without waiting for it; using it never waits
    for the device.
    """

    def __init__(self, groups: Sequence[GangRows], device: torch.device, pin_memory: bool = False):
        def tensor(values: Sequence[Any], dtype: torch.dtype) -> torch.Tensor:
            host = torch.tensor(values, dtype=dtype, pin_memory=pin_memory)
            return host.to(device, non_blocking=True)

        def index(values: Sequence[int]) -> torch.Tensor:
            return tensor(values, torch.int64)

        def column(values: Sequence[float]) -> torch.Tensor:
            return tensor(values, torch.float32).unsqueeze(1)

        summed = [group for group in groups if group.mixture is None]
        self._leaders = index([group.rows[0] for group in summed])
        self._leader_weights = column([group.weights[0] for group in summed])
        members = [
            ((k, group.model(k)), (group.rows[0], group.rows[k], group.weights[k]))
            for group in summed
            for k in range(1, len(group.rows))
        ]
        self._members = [
            _Members(model, index(leaders), index(rows), column(weights))
            for (_, model), (leaders, rows, weights) in together(members)
        ]
        # Leaders whose row loses tokens: to filters, or to auxiliary models that know fewer.
        judged = [g for g in groups if g.filters or (g.mixture is None and any(g.models))]
        place_of = {group.rows[0]: place for place, group in enumerate(judged)}
        self._judged = index(list(place_of))
        filters = [
            (
                # Several of one kind on one leader are judged one after the other.
                (kind, model, nth),
                (place_of[group.rows[0]], group.rows[0], group.rows[f.member], f.value),
            )
            for group in judged
            for (kind, model), own in _by_kind(group).items()
            for nth, f in enumerate(own)
        ]
        self._filters = [
            _Filters(kind, model, index(places), index(leaders), index(rows), column(values))
            for (kind, model, _), (places, leaders, rows, values) in together(filters)
        ]
        tails = [
            ((model,), (place_of[group.rows[0]],))
            for group in judged
            if group.mixture is None
            for model in sorted(set(group.models) - {0})
        ]
        self._tails = [(model, index(places)) for (model,), (places,) in together(tails)]
        mixed = [group for group in groups if group.mixture is not None]
        fixed = [g for g in mixed if g.mixture is not None and not g.mixture.is_routed]
        routed = [g for g in mixed if g not in fixed]
        self._fixed = MixtureKernel(fixed, tensor) if fixed else None
        self.routed = MixtureKernel(routed, tensor) if routed else None
        companions = [
            ((group.model(k),), (group.rows[k], group.rows[0]))
            for group in groups
            for k in range(1, len(group.rows))
        ]
        self._companions = [
            _Companions(model, index(rows), index(leaders))
            for (model,), (rows, leaders) in together(companions)
        ]

    def compose(
        self, logits: torch.Tensor, *auxiliary: torch.Tensor | None, constrained: bool = True
    ) -> None:
        """Write every group's composed row over its leader's row.

        What is minus infinity in the leader's row (grammar, allowed tokens) stays minus infinity:
        the sum alone would turn `-inf - (-inf)` into NaN. Tokens beyond the base's vocabulary are
        cut off an auxiliary model's rows; those that its own vocabulary lacks are filtered out of a
        sum, whatever the weight is: it says nothing about them. Where filters leave no token, they
        do not count.

        Args:
            logits: `[R, V]` float32, one row per request of the batch, changed in place.
            auxiliary: `[A, v]` of any float type, those of each auxiliary model in their order;
                None where a model does not run and so no group has a row.
            constrained: whether a grammar has put minus infinity into rows of the batch. Mixtures
                look for it only then.
        """
        logits_of = (logits, *auxiliary)
        # Filters look at the rows as they came, so they are judged before anything changes.
        dropped = self._dropped(logits_of)
        for kernel in (self._fixed, self.routed):
            if kernel is not None:
                kernel.compose(logits_of, constrained)
        if len(self._leaders):
            self._sum(logits, logits_of)
        if dropped is not None:
            self._demote(logits, dropped)

    def _dropped(self, logits_of: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
        """`[L, V]` bool: the tokens that the judged leaders lose; None if no token is lost."""
        logits = logits_of[0]
        assert logits is not None
        tails = [
            (places, own.shape[1])
            for model, places in self._tails
            if (own := logits_of[model]) is not None and own.shape[1] < logits.shape[1]
        ]
        if not (self._filters or tails):
            return None
        dropped = torch.zeros(
            len(self._judged), logits.shape[1], dtype=torch.bool, device=logits.device
        )
        for f in self._filters:
            outside = self._outside(f, logits, logits_of[f.model])
            if len(f.places) < len(dropped):
                outside.logical_or_(dropped.index_select(0, f.places))
                dropped.index_copy_(0, f.places, outside)
            else:  # all of them, in their order
                dropped.logical_or_(outside)
            del outside
        for places, known in tails:
            dropped[:, known:].index_fill_(0, places, True)
        return dropped

    def _demote(self, logits: torch.Tensor, dropped: torch.Tensor) -> None:
        """Put the dropped tokens of composed rows behind all others, in the order that they have.

        Relative to the row as it is composed: no weight can lift them again.
        """
        rows = logits.index_select(0, self._judged)  # [L, V]
        top = rows.amax(dim=1, keepdim=True)  # [L, 1]
        kept = rows.masked_fill_(dropped, -math.inf).amax(dim=1, keepdim=True)
        del rows
        largest = torch.maximum(top.abs(), kept.abs())
        distance = (largest * RELATIVE_DISTANCE).clamp_(min=DISTANCE)
        # Where no token is kept, nothing is put behind anything.
        lower = torch.where(kept > -math.inf, top - kept + distance, 0.0)
        logits.index_add_(0, self._judged, dropped.to(logits.dtype).mul_(lower), alpha=-1)

    def _sum(self, logits: torch.Tensor, logits_of: Sequence[torch.Tensor | None]) -> None:
        """Write `sum_k w_k l_k` over the leaders' rows of the groups that are sums."""
        leaders = logits.index_select(0, self._leaders)  # [G, V]
        forbidden = leaders == -math.inf  # [G, V] bool
        logits.index_copy_(0, self._leaders, leaders.mul_(self._leader_weights))
        del leaders
        for member in self._members:
            term = picked(logits_of[member.model], member.rows).mul_(member.weights)  # [M, v]
            known = min(term.shape[1], logits.shape[1])
            logits[:, :known].index_add_(0, member.leaders, term[:, :known])
            del term
        composed = logits.index_select(0, self._leaders).masked_fill_(forbidden, -math.inf)
        logits.index_copy_(0, self._leaders, composed)

    def share_tokens(self, token_ids: torch.Tensor, *auxiliary: torch.Tensor | None) -> None:
        """Give every companion the token that its leader sampled.

        Args:
            token_ids: `[R, 1]` int32, changed in place.
            auxiliary: `[A, 1]` int32 for each auxiliary model, changed in place; None as above.
        """
        tokens_of = (token_ids, *auxiliary)
        for companions in self._companions:
            own = tokens_of[companions.model]
            assert own is not None
            own.index_copy_(0, companions.rows, token_ids.index_select(0, companions.leaders))

    @staticmethod
    def _outside(filters: _Filters, logits: torch.Tensor, own: torch.Tensor | None) -> torch.Tensor:
        """`[F, V]` bool: tokens that a filter drops, judged among the tokens that are allowed.

        `own` `[A, v]` are the logits of the members' model, which knows no tokens beyond `v`.
        """
        forbidden = logits.index_select(0, filters.leaders) == -math.inf  # [F, V] bool
        member = picked(own, filters.rows)[:, : logits.shape[1]]  # [F, v]
        if member.shape[1] < logits.shape[1]:
            member = pad(member, (0, logits.shape[1] - member.shape[1]), value=-math.inf)
        member = member.masked_fill_(forbidden, -math.inf)  # [F, V]
        del forbidden
        largest = member.amax(dim=1, keepdim=True)
        if filters.kind is FilterKind.PLAUSIBILITY:
            # l < log(alpha) + max l  (Li et al. 2022, section 3.2)
            return member < largest + filters.values.log()
        if filters.kind is FilterKind.TOP_K:
            return outside_top(member, filters.values)
        weights = member.sub_(largest).exp_()
        return outside_nucleus(weights.div_(weights.sum(dim=1, keepdim=True)), filters.values)


def _by_kind(group: GangRows) -> dict[tuple[FilterKind, int], list[Filter]]:
    """The filters of a group by their kind and the model of the member that they look at."""
    found: dict[tuple[FilterKind, int], list[Filter]] = {}
    for f in group.filters:
        found.setdefault((f.kind, group.model(f.member)), []).append(f)
    return found


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


def outside_top(logits: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """The tokens that are less likely than the k-th likeliest; equal ones stay or go together.

    Finds the k-th largest logit by bisection over float32 bit patterns, as `outside_nucleus` does:
    `k` differs from row to row and stays on the device.

    Args:
        logits: `[F, V]` float32 without NaN or plus infinity.
        k: `[F, 1]` float32, whole numbers from 1; with `V` or more every token stays.

    Returns:
        `[F, V]` bool, True for a token outside.
    """

    def as_float(key: torch.Tensor) -> torch.Tensor:
        # Negative floats order against their bits: turned over, keys order as floats do.
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
