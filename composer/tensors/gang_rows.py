"""Where the rows of composed requests stand in the batches of the models."""

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
    """Where the rows of one group stand; row 0 is the leader.

    Row `rows[k]` is one of the batch of model `models[k]`: 0 is the base, where every leader is,
    1 and up the auxiliary models. Empty means that all are rows of the base. With a mixture,
    `weights` are the prior; `name` tells groups apart whose weights a router keeps.
    """

    rows: tuple[int, ...]
    weights: tuple[float, ...]
    filters: tuple[Filter, ...] = ()
    models: tuple[int, ...] = ()
    mixture: MixtureParameters | None = None
    name: str = ""

    def model(self, k: int) -> int:
        """The model of the member at position `k`."""
        return self.models[k] if self.models else 0


def picked(logits: torch.Tensor | None, rows: torch.Tensor) -> torch.Tensor:
    """A float32 copy of some rows of a model's logits: `[A, v]` -> `[M, v]`."""
    assert logits is not None, "a group has rows of a model that does not run"
    return logits.index_select(0, rows).to(torch.float32)


def together(items: Iterable[tuple[_K, tuple[Any, ...]]]) -> list[tuple[_K, tuple[Any, ...]]]:
    """Pairs of a key and values -> every key, in order, with a list for each of the values."""
    found: dict[_K, list[tuple[Any, ...]]] = {}
    for key, values in items:
        found.setdefault(key, []).append(values)
    return [(key, tuple(zip(*found[key], strict=True))) for key in sorted(found)]
