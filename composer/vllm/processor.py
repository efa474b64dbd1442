"""Knows in which rows of the batch the members of each group stand.

vLLM tells its logits processors when requests enter, leave or move within the batch. This one
only listens: the composition itself happens earlier, in `composer.vllm.sampler`, so that logprobs
and penalties see the composed distribution.
"""

from __future__ import annotations

from collections import defaultdict

import torch
from vllm.config import VllmConfig
from vllm.sampling_params import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

from composer.compiled import CompiledPlan
from composer.kernel import Composition, Group
from composer.vllm.rows import RowTag


class CompositionProcessor(LogitsProcessor):
    """Keeps the index tensors of the batch's groups, rebuilt only when the batch changes."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool):
        self._device = device
        self._pin_memory = is_pin_memory
        self._tags: dict[int, RowTag] = {}  # row of the batch -> tag, rows of groups only
        self.composition: Composition | None = None

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Refuse what cannot work, while the request can still be answered with 400.

        Raises:
            ValueError: the plan is malformed, or the request asks for prompt logprobs.
        """
        plan = CompiledPlan.from_extra_args(sampling_params.extra_args)
        if plan is not None and sampling_params.prompt_logprobs is not None:
            raise ValueError(
                "prompt_logprobs is not available for composed requests: only answers are "
                "composed; drop it, or send the request without a composition"
            )

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        if batch_update is None:
            return
        tags = self._tags
        changed = False
        for row in batch_update.removed:
            changed |= tags.pop(row, None) is not None
        for row, params, _, _ in batch_update.added:
            changed |= tags.pop(row, None) is not None
            if (tag := RowTag.of(params)) is not None:
                tags[row] = tag
                changed = True
        for source, target, direction in batch_update.moved:
            moving, replaced = tags.pop(source, None), tags.pop(target, None)
            changed |= moving is not None or replaced is not None
            if moving is not None:
                tags[target] = moving
            if replaced is not None and direction == MoveDirectionality.SWAP:
                tags[source] = replaced
        if changed:
            self._rebuild()

    def _rebuild(self) -> None:
        members: dict[str, dict[int, int]] = defaultdict(dict)  # group -> member -> row
        leaders: dict[str, RowTag] = {}
        for row, tag in self._tags.items():
            members[tag.group][tag.index] = row
            if tag.index == 0:
                leaders[tag.group] = tag
        # A group that is not complete is still prefilling: vLLM discards what its rows sample.
        groups = [
            Group(tuple(members[name][k] for k in range(tag.size)), tag.weights, tag.filters)
            for name, tag in leaders.items()
            if len(members[name]) == tag.size
        ]
        self.composition = Composition(groups, self._device, self._pin_memory) if groups else None

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        return logits
