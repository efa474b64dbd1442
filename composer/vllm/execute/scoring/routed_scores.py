"""Texts scored by mixtures whose weights change with every token, as they do in an answer."""

from __future__ import annotations

import torch

from composer.tensors.mixture_kernel import Turn
from composer.vllm.execute.batch_view import BatchView
from composer.vllm.execute.mixture_state import MixtureRouting
from composer.vllm.execute.scoring.scored_chunk import ChunkComposer, ScoredChunk
from composer.vllm.schedule.gang import RowTag


class RoutedScores:
    """The states of mixtures while their prompts are scored, beside those of their answers, which
    read the whole prompt as one. Gangs go by the request ids of their leaders."""

    def __init__(self, mixtures: MixtureRouting, composer: ChunkComposer) -> None:
        self._mixtures = mixtures
        self._composer = composer
        self._starts: dict[str, tuple[int, torch.Tensor]] = {}
        """By gang: the slot of its states, and the state before the part that is scored."""

    def begin_step(self, base: BatchView) -> None:
        """Note how mixtures stand before their first scored token. Call it before the prompts of
        the step count for them."""
        if not (self._mixtures and base.computing):
            return
        for row, tag in base.tags.by_row.items():
            if tag.scored and is_routed(tag):
                step = base.step
                if step.computed[row] == step.prompt_lengths[row] - 1 - tag.scored:
                    self._begin(tag)

    def _begin(self, tag: RowTag) -> None:
        states = self._mixtures.states
        if tag.gang not in self._starts:
            slot = states.take(tag.size)
            state = states.first(self._mixtures.slot(tag.gang)).clone()
            self._starts[tag.gang] = slot, state
        slot, state = self._starts[tag.gang]  # a preempted gang begins again
        states.first(slot)[:, : state.shape[1]] = state

    def forget(self, gang: str) -> None:
        """Drop a gang that has left the engine, if there is one of this name."""
        if (start := self._starts.pop(gang, None)) is not None:
            self._mixtures.states.give_back(start[0])

    def tracked(self) -> list[str]:
        """Return the gangs whose states are kept."""
        return list(self._starts)

    def composed(self, chunk: ScoredChunk, position: int) -> torch.Tensor:
        """Return `[C, V]` float32, composed token by token: each changes the weights of the next.

        `position` counts the scored tokens before the chunk.
        """
        layout = self._composer.layout(chunk.at(0), chunk.tag.weights)
        routed, states = layout.routed, self._mixtures.states
        assert routed is not None
        slot, _ = self._starts[chunk.tag.gang]
        composed = []
        for index, target in enumerate(chunk.targets):
            token = chunk.at(index)
            routed.prepare([Turn(slot, position + index)], states)
            layout.compose(token.base, *token.rows[1:], constrained=False)
            routed.update(torch.full((len(token.base), 1), target, device=token.base.device))
            composed.append(token.base[:1])
        return torch.cat(composed)


def is_routed(tag: RowTag) -> bool:
    """Return whether a leader's gang is a mixture whose weights change."""
    return tag.mixture is not None and tag.mixture.is_routed
