"""Places of the rows of composed requests in the batches of the models."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch.nn.functional import pad

from composer.engine_plan import MixtureParameters
from composer.filters import Filter, FilterKind

_K = TypeVar("_K", bound=tuple[Any, ...])


@dataclass(frozen=True, slots=True)
class GangRows:
    """Places of the rows of one gang; row 0 is the leader.

    `rows[k]` is a row in the batch of model `models[k]`: 0 is the base, which has every leader, 1
    and up are auxiliary models. Empty `models` means that all rows are on the base. With a mixture,
    `weights` are the prior; `name` identifies a gang whose weights a router keeps. With
    `log_softmax`, log-probabilities are added instead of logits.
    """

    rows: tuple[int, ...]
    weights: tuple[float, ...]
    filters: tuple[Filter, ...] = ()
    models: tuple[int, ...] = ()
    mixture: MixtureParameters | None = None
    name: str = ""
    log_softmax: bool = False

    def model(self, k: int) -> int:
        """Return the model of the member at position `k`."""
        return self.models[k] if self.models else 0

    @property
    def dropping(self) -> tuple[Filter, ...]:
        """The filters that drop tokens."""
        return tuple(f for f in self.filters if f.kind is not FilterKind.SOFT_TOP_K)

    @property
    def soft(self) -> Filter | None:
        """The filter that spares tokens the other members' terms, if there is one."""
        return next((f for f in self.filters if f.kind is FilterKind.SOFT_TOP_K), None)


def gather_rows(logits: torch.Tensor | None, rows: torch.Tensor) -> torch.Tensor:
    """Copy rows `[M]` int64 of logits `[A, v]` of any float type: `[M, v]` float32."""
    assert logits is not None, "a gang has rows on a model that does not run"
    return logits.index_select(0, rows).to(torch.float32)


def aligned(rows: torch.Tensor, vocabulary: int) -> torch.Tensor:
    """Return rows `[M, v]` over the base's vocabulary, `[M, V]`; tokens that they lack are minus
    infinity."""
    rows = rows[:, :vocabulary]
    if rows.shape[1] < vocabulary:
        rows = pad(rows, (0, vocabulary - rows.shape[1]), value=-math.inf)
    return rows


def allowed_rows(
    logits: torch.Tensor,
    leaders: torch.Tensor,
    member_logits: torch.Tensor | None,
    rows: torch.Tensor,
    constrained: bool = True,
) -> torch.Tensor:
    """Copy rows of members, with minus infinity wherever the leader's row has it.

    Args:
        logits: `[R, V]` float32, of the base, with the leaders' rows before composition.
        leaders: `[M]` int64, the leader of each member, rows of `logits`.
        member_logits: `[A, v]` of any float type, of the members' model.
        rows: `[M]` int64, rows of `member_logits`.
        constrained: whether the leaders' rows can have minus infinity.

    Returns:
        `[M, V]` float32; tokens beyond a smaller vocabulary are minus infinity as well.
    """
    forbidden = None
    if constrained:  # before the rows are copied, so that there are never two copies
        forbidden = logits.index_select(0, leaders) == -math.inf
    member = aligned(gather_rows(member_logits, rows), logits.shape[1])  # [M, V]
    if forbidden is not None:
        member.masked_fill_(forbidden, -math.inf)
    return member


def group_by_key(items: Iterable[tuple[_K, tuple[Any, ...]]]) -> list[tuple[_K, tuple[Any, ...]]]:
    """Return each key once, sorted, with its values transposed: a tuple for each kind of value."""
    grouped: dict[_K, list[tuple[Any, ...]]] = {}
    for key, values in items:
        grouped.setdefault(key, []).append(values)
    return [(key, tuple(zip(*grouped[key], strict=True))) for key in sorted(grouped)]
