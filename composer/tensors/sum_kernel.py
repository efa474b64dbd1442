"""Sums of logits: `z = sum_k w_k l_k`, of logits as they are or of log-probabilities.

G gangs, M members at one position on one model, S gangs with a soft filter, V the base's
vocabulary, v that of a member's model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from composer.tensors.filter_kernel import outside_top
from composer.tensors.gang_rows import GangRows, allowed_rows, gather_rows, group_by_key


@dataclass(frozen=True, slots=True)
class _Soft:
    """The soft filters of terms `[M, v]`; a term of the judge, or of no filter's gang, has none."""

    filters: torch.Tensor  # [M] int64, indices into [S]; S for none
    centred: torch.Tensor  # [M, 1] bool, whether a term has a filter


@dataclass(frozen=True, slots=True)
class _Members:
    """The members at one position, on one model, of all gangs that have the position."""

    model: int
    leaders: torch.Tensor  # [M] int64, rows of the base's batch
    rows: torch.Tensor  # [M] int64, rows of the model's batch
    weights: torch.Tensor  # [M, 1] float32
    soft: _Soft | None = None


@dataclass(frozen=True, slots=True)
class _Judges:
    """The judges of soft filters that one model computes."""

    model: int
    filters: torch.Tensor  # [m] int64, indices into [S]
    leaders: torch.Tensor  # [m] int64, rows of the base's batch
    rows: torch.Tensor  # [m] int64, rows of the model's batch
    values: torch.Tensor  # [m, 1] float32, the k of each filter


class SumKernel:
    """Add the rows of the gangs of a batch that are sums."""

    def __init__(
        self,
        gangs: Sequence[GangRows],
        tensor: Callable[[Sequence[Any], torch.dtype], torch.Tensor],
    ) -> None:
        """`tensor` copies lists to the device."""

        def index(values: Sequence[int]) -> torch.Tensor:
            return tensor(values, torch.int64)

        def column(values: Sequence[float]) -> torch.Tensor:
            return tensor(values, torch.float32).unsqueeze(1)

        def grouped(places: Sequence[tuple[GangRows, int]]) -> list[_Members]:
            members = [
                ((k, gang.model(k)), (gang, gang.rows[0], gang.rows[k], gang.weights[k]))
                for gang, k in places
            ]
            return [
                _Members(model, index(leaders), index(rows), column(weights), centred(owners, k))
                for (k, model), (owners, leaders, rows, weights) in group_by_key(members)
            ]

        def centred(owners: Sequence[GangRows], k: int) -> _Soft | None:
            """Return the soft filters of the terms at position `k`; None if no term has one."""
            has = [(f := gang.soft) is not None and f.member != k for gang in owners]
            if not any(has):
                return None
            places = [
                soft_place[gang.rows[0]] if it_has else len(soft)
                for gang, it_has in zip(owners, has, strict=True)
            ]
            return _Soft(index(places), tensor(has, torch.bool).unsqueeze(1))

        soft = [(gang, f) for gang in gangs if (f := gang.soft) is not None]
        soft_place = {gang.rows[0]: place for place, (gang, _) in enumerate(soft)}
        self._soft_count = len(soft)
        judges = [
            ((gang.model(f.member),), (place, gang.rows[0], gang.rows[f.member], f.value))
            for place, (gang, f) in enumerate(soft)
        ]
        self._judges = [
            _Judges(model, index(places), index(leaders), index(rows), column(values))
            for (model,), (places, leaders, rows, values) in group_by_key(judges)
        ]
        self._leaders = index([gang.rows[0] for gang in gangs])
        self._leader_weights = column([gang.weights[0] for gang in gangs])
        self._leader_soft = centred(gangs, 0)
        self._members = grouped([(gang, k) for gang in gangs for k in range(1, len(gang.rows))])
        self._normalized = grouped(
            [
                (gang, k)
                for gang in gangs
                if gang.log_softmax
                for k in range(len(gang.rows))
                if gang.soft is None or gang.soft.member == k  # centring absorbs the others'
            ]
        )

    def compose(self, logits_of: Sequence[torch.Tensor | None]) -> None:
        """Write the sum over every leader's row.

        Args:
            logits_of: the rows of each model, the base model's `[R, V]` float32 first, which is
                changed in place; see `composer.tensors.compose.Composition.compose`.
        """
        logits = logits_of[0]
        assert logits is not None
        # Both read the members' own rows, so they come before any row changes.
        spared = self._spared(logits, logits_of) if self._judges else None
        shifts = [(m.leaders, self._shift(m, logits, logits_of)) for m in self._normalized]
        leaders = logits.index_select(0, self._leaders)  # [G, V]
        forbidden = leaders == -math.inf  # [G, V] bool
        leaders = _centre(leaders.mul_(self._leader_weights), self._leader_soft, spared)
        logits.index_copy_(0, self._leaders, leaders)
        del leaders
        for member in self._members:
            term = gather_rows(logits_of[member.model], member.rows).mul_(member.weights)  # [M, v]
            term = _centre(term[:, : logits.shape[1]], member.soft, spared)
            logits[:, : term.shape[1]].index_add_(0, member.leaders, term)
            del term
        for rows, shift in shifts:
            logits.index_add_(0, rows, shift.expand(-1, logits.shape[1]))
        composed = logits.index_select(0, self._leaders).masked_fill_(forbidden, -math.inf)
        logits.index_copy_(0, self._leaders, composed)

    def _spared(
        self, logits: torch.Tensor, logits_of: Sequence[torch.Tensor | None]
    ) -> torch.Tensor:
        """Return `[S + 1, V]` bool: the tokens at which each soft filter leaves the judge alone.

        Forbidden tokens are among them. The last row, of no filter, has none.
        """
        spared = torch.zeros(
            self._soft_count + 1, logits.shape[1], dtype=torch.bool, device=logits.device
        )
        for j in self._judges:
            judge = allowed_rows(logits, j.leaders, logits_of[j.model], j.rows)
            forbidden = judge == -math.inf
            spared.index_copy_(0, j.filters, outside_top(judge, j.values).logical_or_(forbidden))
        return spared

    @staticmethod
    def _shift(
        member: _Members, logits: torch.Tensor, logits_of: Sequence[torch.Tensor | None]
    ) -> torch.Tensor:
        """Return `[M, 1]` float32: what makes a term of logits one of log-probabilities.

        Among the allowed tokens; 0 for a member none of whose tokens is allowed.
        """
        rows = allowed_rows(logits, member.leaders, logits_of[member.model], member.rows)
        size = rows.logsumexp(1, keepdim=True).nan_to_num_(neginf=0.0)
        return size.mul_(-member.weights)


def _centre(terms: torch.Tensor, soft: _Soft | None, spared: torch.Tensor | None) -> torch.Tensor:
    """Centre terms `[M, v]` over the tokens that are not `spared` `[S + 1, V]` bool, where they
    become 0. Change and return `terms`.

    Tokens beyond the vocabulary of a member count as 0 in the mean.
    """
    if soft is None or spared is None:
        return terms
    mask = spared.index_select(0, soft.filters)  # [M, V] bool
    count = (mask.shape[1] - mask.sum(1, keepdim=True)).clamp_(min=1)
    mask = mask[:, : terms.shape[1]]
    mean = terms.masked_fill_(mask, 0.0).sum(1, keepdim=True) / count  # [M, 1]
    # Terms without a filter may have forbidden tokens, and so a mean that is not finite.
    return terms.sub_(torch.where(soft.centred, mean, 0.0)).masked_fill_(mask, 0.0)
