"""Places of the rows of composed requests in the batches of the models."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from composer.engine_plan import MixtureParameters
from composer.filters import Filter

_K = TypeVar("_K", bound=tuple[Any, ...])


@dataclass(frozen=True, slots=True)
class GangRows:
    """Places of the rows of one gang; row 0 is the leader.

    `rows[k]` is a row in the batch of model `models[k]`: 0 is the base, which has every leader, 1
    and up are auxiliary models. Empty `models` means that all rows are on the base. With a mixture,
    `weights` are the prior; `name` identifies a gang whose weights a router keeps.
    """

    rows: tuple[int, ...]
    weights: tuple[float, ...]
    filters: tuple[Filter, ...] = ()
    models: tuple[int, ...] = ()
    mixture: MixtureParameters | None = None
    name: str = ""

    def model(self, k: int) -> int:
        """Return the model of the member at position `k`."""
        return self.models[k] if self.models else 0


def gather_rows(logits: torch.Tensor | None, rows: torch.Tensor) -> torch.Tensor:
    """Copy rows `[M]` int64 of logits `[A, v]` of any float type: `[M, v]` float32."""
    assert logits is not None, "a gang has rows on a model that does not run"
    return logits.index_select(0, rows).to(torch.float32)


def group_by_key(items: Iterable[tuple[_K, tuple[Any, ...]]]) -> list[tuple[_K, tuple[Any, ...]]]:
    """Return each key once, sorted, with its values transposed: a tuple for each kind of value."""
    grouped: dict[_K, list[tuple[Any, ...]]] = {}
    for key, values in items:
        grouped.setdefault(key, []).append(values)
    return [(key, tuple(zip(*grouped[key], strict=True))) for key in sorted(grouped)]
