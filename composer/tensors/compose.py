"""The tensor operations of a composed step: many rows of logits in, one composed row per gang out.

One kernel serves the whole linear family, `z = sum_k w_k * l_k` (`sum_kernel`); each recipe states
its formula. It loops over member positions (at most `Limits.max_members`), never over gangs, and
adds into the leaders' rows: at its peak it holds less than two float32 rows of vocabulary size per
gang in addition to the logits (`python -m bench.claims kernel_memory`).

In shapes, R is the number of rows of the base's batch, A of an auxiliary model's batch, G of gangs,
V the base's vocabulary size and v that of a member's model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from composer.filters import Filter, FilterKind
from composer.tensors.demote import demote
from composer.tensors.filter_kernel import outside
from composer.tensors.gang_rows import GangRows, allowed_rows, group_by_key
from composer.tensors.mixture_kernel import MixtureKernel
from composer.tensors.sum_kernel import SumKernel


@dataclass(frozen=True, slots=True)
class _Filters:
    """Filters of one kind that judge by members on one model, at most one per leader."""

    kind: FilterKind
    model: int
    places: torch.Tensor  # [F] int64, indices of the leaders among those that lose tokens
    leaders: torch.Tensor  # [F] int64, rows of the base's batch
    rows: torch.Tensor  # [F] int64, rows of the judging members in the model's batch
    values: torch.Tensor  # [F, 1] float32


@dataclass(frozen=True, slots=True)
class _Companions:
    """All companions in the batch of one model."""

    model: int
    rows: torch.Tensor  # [C] int64, rows of the model's batch
    leaders: torch.Tensor  # [C] int64, rows of the base's batch


class Composition:
    """The index tensors of all gangs in a batch: built when the batch changes, used every step.

    Building copies a few hundred bytes to the device without waiting for the device; using them
    never waits either.
    """

    def __init__(self, gangs: Sequence[GangRows], device: torch.device, pin_memory: bool = False):
        def tensor(values: Sequence[Any], dtype: torch.dtype) -> torch.Tensor:
            host = torch.tensor(values, dtype=dtype, pin_memory=pin_memory)
            return host.to(device, non_blocking=True)

        def index(values: Sequence[int]) -> torch.Tensor:
            return tensor(values, torch.int64)

        def column(values: Sequence[float]) -> torch.Tensor:
            return tensor(values, torch.float32).unsqueeze(1)

        sums = [gang for gang in gangs if gang.mixture is None]
        # Gangs that lose tokens: to filters, or to auxiliary models with a smaller vocabulary.
        losing = [g for g in gangs if g.dropping or (g.mixture is None and any(g.models))]
        place_of = {gang.rows[0]: place for place, gang in enumerate(losing)}
        self._losing = index(list(place_of))
        filters = [
            (
                # Several filters of one kind on one leader are applied one after the other.
                (kind, model, nth),
                (place_of[gang.rows[0]], gang.rows[0], gang.rows[f.member], f.value),
            )
            for gang in losing
            for (kind, model), alike in _by_kind(gang).items()
            for nth, f in enumerate(alike)
        ]
        self._filters = [
            _Filters(kind, model, index(places), index(leaders), index(rows), column(values))
            for (kind, model, _), (places, leaders, rows, values) in group_by_key(filters)
        ]
        tails = [
            ((model,), (place_of[gang.rows[0]],))
            for gang in losing
            if gang.mixture is None
            for model in sorted(set(gang.models) - {0})
        ]
        self._tails = [(model, index(places)) for (model,), (places,) in group_by_key(tails)]
        fixed = [g for g in gangs if g.mixture is not None and not g.mixture.is_routed]
        routed = [g for g in gangs if g.mixture is not None and g.mixture.is_routed]
        self._sums = SumKernel(sums, tensor) if sums else None
        self._fixed = MixtureKernel(fixed, tensor) if fixed else None
        self.routed = MixtureKernel(routed, tensor) if routed else None
        companions = [
            ((gang.model(k),), (gang.rows[k], gang.rows[0]))
            for gang in gangs
            for k in range(1, len(gang.rows))
        ]
        self._companions = [
            _Companions(model, index(rows), index(leaders))
            for (model,), (rows, leaders) in group_by_key(companions)
        ]

    def compose(
        self, logits: torch.Tensor, *auxiliary: torch.Tensor | None, constrained: bool = True
    ) -> None:
        """Write every gang's composed row over its leader's row.

        Tokens at minus infinity in the leader's row (grammar, allowed tokens) stay there: the sum
        alone would turn `-inf - (-inf)` into NaN. An auxiliary model's row is cut to the base's
        vocabulary; tokens that its own vocabulary lacks are filtered out of a sum whatever the
        weight, because the model has no logit for them. If the filters of a gang leave no token,
        ignore them.

        Args:
            logits: `[R, V]` float32, one row per request of the batch, changed in place.
            auxiliary: `[A, v]` of any float type for each auxiliary model, in order; None if the
                model does not run in this step, so that no gang has a row on it.
            constrained: whether a grammar has put minus infinity into rows of the batch. Filters
                and mixtures check for it only then.
        """
        logits_of = (logits, *auxiliary)
        # Filters judge the members' own rows, so they come before any row changes.
        dropped = self._dropped(logits_of, constrained)
        for kernel in (self._fixed, self.routed):
            if kernel is not None:
                kernel.compose(logits_of, constrained)
        if self._sums is not None:
            self._sums.compose(logits_of)
        if dropped is not None:
            demote(logits, self._losing, dropped)

    def _dropped(
        self, logits_of: Sequence[torch.Tensor | None], constrained: bool
    ) -> torch.Tensor | None:
        """Return `[L, V]` bool: the tokens that each losing gang loses; None if there are none."""
        logits = logits_of[0]
        assert logits is not None
        tails = [
            (places, rows.shape[1])
            for model, places in self._tails
            if (rows := logits_of[model]) is not None and rows.shape[1] < logits.shape[1]
        ]
        if not (self._filters or tails):
            return None
        shape, dropped = (len(self._losing), logits.shape[1]), None  # shape of [L, V]
        for f in self._filters:
            member = allowed_rows(logits, f.leaders, logits_of[f.model], f.rows, constrained)
            mask = outside(f.kind, member, f.values)  # [F, V]
            del member
            if len(f.places) == shape[0]:  # all gangs, in order
                dropped = mask if dropped is None else dropped.logical_or_(mask)
            else:
                dropped = _none(shape, logits) if dropped is None else dropped
                mask.logical_or_(dropped.index_select(0, f.places))
                dropped.index_copy_(0, f.places, mask)
            del mask
        dropped = _none(shape, logits) if dropped is None else dropped
        for places, size in tails:
            dropped[:, size:].index_fill_(0, places, True)
        return dropped

    def share_tokens(self, token_ids: torch.Tensor, *auxiliary: torch.Tensor | None) -> None:
        """Give every companion the token that its leader sampled.

        Args:
            token_ids: `[R, 1]` int32, changed in place.
            auxiliary: `[A, 1]` int32 for each auxiliary model, changed in place; None as in
                `compose`.
        """
        tokens_of = (token_ids, *auxiliary)
        for companions in self._companions:
            tokens = tokens_of[companions.model]
            assert tokens is not None
            tokens.index_copy_(0, companions.rows, token_ids.index_select(0, companions.leaders))


def _none(shape: tuple[int, int], like: torch.Tensor) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.bool, device=like.device)


def _by_kind(gang: GangRows) -> dict[tuple[FilterKind, int], list[Filter]]:
    """Group the dropping filters of a gang by kind and the model of the judging member."""
    filters: dict[tuple[FilterKind, int], list[Filter]] = {}
    for f in gang.dropping:
        filters.setdefault((f.kind, gang.model(f.member)), []).append(f)
    return filters
