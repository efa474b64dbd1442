"""Where the members of a scored gang are in a step, and their logits at its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from composer.vllm.execute.adapter_switch import Switches
from composer.vllm.execute.batch_view import BatchView
from composer.vllm.execute.scoring.scored_chunk import ScoredChunk
from composer.vllm.schedule.gang import RowTag
from composer.vllm.workarounds.lm_head_lora import lm_head_adapters


@dataclass(frozen=True, slots=True)
class Place:
    """The row of a member in the step in progress."""

    model: int  # index among the views
    row: int


class MemberLogits:
    """Reads the logits of members from the hidden states of the step in progress."""

    def __init__(self, views: Sequence[BatchView], switches: Switches | None) -> None:
        """`views`: the base model's batch, then those of the auxiliary models in their order."""
        self._views = views
        self._switches = switches

    def places(self, tag: RowTag) -> list[Place]:
        """Return where the members of a gang are, in their order; none if some are absent.

        Raises:
            RuntimeError: they have computed different numbers of tokens.
        """
        place_of = {
            other.index: Place(model, row)
            for model, view in enumerate(self._views)
            if view.computing
            for row, other in view.tags.by_row.items()
            if other.gang == tag.gang
        }
        if len(place_of) < tag.size:
            return []
        places = [place_of[index] for index in sorted(place_of)]
        self._check_lock_step(places)
        return places

    def _check_lock_step(self, places: Sequence[Place]) -> None:
        steps = [self._views[place.model].step for place in places]
        counts = {
            step.starts[place.row + 1] - step.starts[place.row]
            for step, place in zip(steps, places, strict=True)
        }
        if len(counts) > 1:
            raise RuntimeError(
                f"members of a scored gang computed {sorted(counts)} tokens in one step; "
                "this is a bug, please report it"
            )

    def read(
        self, tag: RowTag, places: Sequence[Place], begin: int, targets: Sequence[int]
    ) -> ScoredChunk:
        """Return the members' logits at as many tokens as there are targets.

        Args:
            tag: of the leader.
            places: of the members, the leader's first.
            begin: the first of these tokens, counted from the beginning of the leader's prompt.
            targets: the tokens after each of them.
        """
        leader, count = places[0], len(targets)
        offset = begin - self._views[0].step.computed[leader.row]
        logits: list[torch.Tensor | None] = []
        for model, view in enumerate(self._views):
            members = [place.row for place in places if place.model == model]
            if not members:
                logits.append(None)
                continue
            step = view.step
            firsts = [step.starts[row] + offset for row in members]
            hidden = torch.cat([step.hidden_states[first : first + count] for first in firsts])
            adapters = [step.adapters[row] for row in members for _ in range(count)]
            if tag.switch is not None and self._switches is not None:
                adapters = self._switches.adapters_between(tag.gang, begin, begin + count)
            with lm_head_adapters(view.runner, tuple(adapters)):
                rows = view.runner.model.compute_logits(hidden)
            logits.append(rows.float() if model == 0 else rows)
        return ScoredChunk(tag, tuple(place.model for place in places), logits, targets)
