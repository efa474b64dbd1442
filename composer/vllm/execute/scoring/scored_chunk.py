"""The logits of a gang's members at some tokens of a scored prompt, and their composition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch

from composer.tensors.compose import Composition
from composer.tensors.gang_rows import GangRows, aligned
from composer.vllm.schedule.gang import RowTag

KEPT_LAYOUTS = 64
"""Compositions that are kept for the next chunk of equal length, and for other weights."""


@dataclass(frozen=True, slots=True)
class ScoredChunk:
    """The logits of K members at C consecutive tokens of a prompt.

    tag: of the leader.
    models: `[K]`, the model of each member, as its index among the views.
    rows: `[M * C, v]` of each model, member after member, float32 for the base; None for a model
        without a member.
    targets: `[C]`, the tokens that these logits predict.
    """

    tag: RowTag
    models: tuple[int, ...]
    rows: Sequence[torch.Tensor | None]
    targets: Sequence[int]

    @property
    def base(self) -> torch.Tensor:
        """The logits of the base's members, among them the leader, which comes first."""
        base = self.rows[0]
        assert base is not None
        return base

    @property
    def target_ids(self) -> torch.Tensor:
        """`targets` on the device of the logits, int64."""
        return torch.tensor(self.targets, device=self.base.device)

    def copy(self) -> ScoredChunk:
        """Return the same with logits of the base that may be overwritten."""
        return replace(self, rows=[self.base.clone(), *self.rows[1:]])

    def at(self, index: int) -> ScoredChunk:
        """Return a copy of one token."""
        rows = [r if r is None else r[index :: len(self.targets)].clone() for r in self.rows]
        return replace(self, rows=rows, targets=self.targets[index : index + 1])

    def members(self) -> list[torch.Tensor]:
        """Return the logits of each member with the vocabulary of the base, K of `[C, V]`."""
        count = len(self.targets)
        return [
            aligned(part[n * count : (n + 1) * count].float(), self.base.shape[1])
            for model, n in zip(self.models, self._places(), strict=True)
            if (part := self.rows[model]) is not None
        ]

    def side_by_side(self, weights: tuple[float, ...]) -> tuple[GangRows, ...]:
        """Return a gang with these weights for each token, whose rows are those of `rows`."""
        tag, count = self.tag, len(self.targets)
        return tuple(
            GangRows(
                tuple(n * count + index for n in self._places()),
                weights,
                tag.filters,
                self.models,
                tag.mixture,
                tag.gang,
            )
            for index in range(count)
        )

    def _places(self) -> list[int]:
        """Return the place of each member among those of its model, `[K]`."""
        return [self.models[:k].count(model) for k, model in enumerate(self.models)]


class ChunkComposer:
    """Composes chunks; chunks of equal length share what depends on the composition only."""

    def __init__(self, device: torch.device, pin_memory: bool) -> None:
        self._layout = lru_cache(KEPT_LAYOUTS)(lambda gangs: Composition(gangs, device, pin_memory))

    def layout(self, chunk: ScoredChunk, weights: tuple[float, ...]) -> Composition:
        """Return the composition of a chunk's rows with these weights."""
        return self._layout(chunk.side_by_side(weights))

    def composed(self, chunk: ScoredChunk, weights: tuple[float, ...]) -> torch.Tensor:
        """Return `[C, V]` float32, composed with these weights; overwrite the base's logits."""
        layout = self.layout(chunk, weights)
        layout.compose(chunk.base, *chunk.rows[1:], constrained=False)
        return chunk.base[: len(chunk.targets)]
