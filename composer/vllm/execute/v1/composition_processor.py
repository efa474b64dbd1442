"""The logits processor through which vLLM says which requests enter, leave and move in a batch."""

from __future__ import annotations

import torch
from vllm.config import VllmConfig
from vllm.sampling_params import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

from composer.vllm.execute.batch_view import GangTags
from composer.vllm.request_check import check_request
from composer.vllm.schedule.gang import RowTag


class CompositionProcessor(LogitsProcessor):
    """Follows the batch and checks requests.

    It changes no logits: composition happens earlier, in the sampler, so that logprobs and
    penalties see the composed distribution.
    """

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool):
        self.tags = GangTags()

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        check_request(sampling_params)

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        if batch_update is None:
            return
        tags = self.tags.by_row
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
        self.tags.changes += changed

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        return logits
