"""The logits processor through which the V2 model runner says which requests enter its slots."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from vllm.config import VllmConfig
from vllm.sampling_params import SamplingParams
from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsProcessor

from composer.vllm.execute.batch_view import GangTags
from composer.vllm.request_check import check_request
from composer.vllm.schedule.gang import RowTag


class SlotProcessor(LogitsProcessor):
    """Knows the tag of every slot, and in a step those of its rows. Changes no logits: see
    `composer.vllm.execute.v1.composition_processor`.

    A request keeps its slot until it ends or is preempted; every step has rows of its own.
    """

    def __init__(self, vllm_config: VllmConfig, req_states: Any) -> None:
        self.tags = GangTags()
        self._by_slot: list[RowTag | None] = [None] * req_states.max_num_reqs

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        check_request(sampling_params)

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        self._by_slot[req_idx] = RowTag.of(sampling_params)
        return False  # what it would do to the logits: nothing

    def apply(self, logits: torch.Tensor, ctx: Any) -> torch.Tensor:
        return logits

    def begin_step(self, slots: np.ndarray) -> None:
        """Note the slot of each row of a step, `[R]`."""
        tagged = ((row, self._by_slot[slot]) for row, slot in enumerate(slots.tolist()))
        by_row = {row: tag for row, tag in tagged if tag is not None}
        if by_row != self.tags.by_row:
            self.tags.by_row = by_row
            self.tags.changes += 1
