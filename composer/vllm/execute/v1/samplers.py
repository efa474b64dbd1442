"""The samplers that stand in for vLLM's: one composes first, one takes given tokens."""

from __future__ import annotations

from typing import Any

import torch
from vllm.platforms import current_platform
from vllm.v1.outputs import LogprobsTensors, SamplerOutput
from vllm.v1.sample.metadata import SamplingMetadata
from vllm.v1.sample.sampler import Sampler

from composer.vllm.execute.batch_view import Forward
from composer.vllm.execute.v1.sampled_rows import SampledRows
from composer.vllm.workarounds.cpu_top_p import PartialSortSampler


class ComposingSampler(Sampler):
    """vLLM's sampler, given the composed logits of leaders and plain requests."""

    def __init__(self, replaced: Sampler, forward: Forward, sampled: SampledRows) -> None:
        super().__init__(replaced.logprobs_mode, replaced.use_fp64_gumbel)
        if current_platform.is_cpu():
            self.topk_topp_sampler = PartialSortSampler(
                replaced.logprobs_mode, replaced.use_fp64_gumbel
            )
        self._forward = forward
        self._sampled = sampled

    def forward(
        self,
        logits: torch.Tensor,
        sampling_metadata: SamplingMetadata,
        *args: Any,
        **kwargs: Any,
    ) -> SamplerOutput:
        output: SamplerOutput = self._forward(
            logits, lambda composed: self._sample(composed, sampling_metadata, *args, **kwargs)
        )
        return output

    def _sample(
        self, logits: torch.Tensor, metadata: SamplingMetadata, *args: Any, **kwargs: Any
    ) -> SamplerOutput:
        """Sample from logits `[R, V]`. Companions have token 0 in the output, and no logprobs."""
        narrowed = self._sampled.narrow(metadata)
        if narrowed is None:
            return super().forward(logits, metadata, *args, **kwargs)
        rows, total = narrowed.rows, len(logits)
        if not len(rows):
            return SamplerOutput(logits.new_zeros(total, 1, dtype=torch.int32), None)
        output = super().forward(logits.index_select(0, rows), narrowed.metadata, *args, **kwargs)

        def spread(values: torch.Tensor) -> torch.Tensor:
            """Put values `[S, ...]` into the rows of the batch: `[R, ...]`."""
            return values.new_zeros(total, *values.shape[1:]).index_copy_(0, rows, values)

        logprobs = output.logprobs_tensors
        if logprobs is not None:
            ids, values, ranks, *_ = logprobs
            logprobs = LogprobsTensors(spread(ids), spread(values), spread(ranks))
        return SamplerOutput(spread(output.sampled_token_ids), logprobs)


class ForcedSampler(Sampler):
    """Samples nothing: the rows of auxiliary models are companions and take their leaders' tokens.

    `token_ids` `[R, 1]` int32 come from the base model's sampler, which runs earlier; None where
    the base model had nothing to compute, so that vLLM discards the tokens of all rows.
    """

    token_ids: torch.Tensor | None = None

    def forward(self, logits: torch.Tensor, *args: Any, **kwargs: Any) -> SamplerOutput:
        token_ids, self.token_ids = self.token_ids, None
        if token_ids is None:
            token_ids = logits.new_zeros(len(logits), 1, dtype=torch.int32)
        return SamplerOutput(sampled_token_ids=token_ids, logprobs_tensors=None)
