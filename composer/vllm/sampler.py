"""vLLM's sampler, on composed logits."""

from __future__ import annotations

from typing import Any

import torch
from vllm.v1.outputs import SamplerOutput
from vllm.v1.sample.metadata import SamplingMetadata
from vllm.v1.sample.sampler import Sampler

from composer.vllm.generators import RewindableGenerator
from composer.vllm.processor import CompositionProcessor


class ComposingSampler(Sampler):
    """Composes first, then samples as always, then shares the token within each group.

    So logprobs, penalties, temperature and truncation all see the composed distribution, and every
    row of a group continues with the same token whatever the sampling parameters are.
    """

    def forward(
        self,
        logits: torch.Tensor,
        sampling_metadata: SamplingMetadata,
        *args: Any,
        **kwargs: Any,
    ) -> SamplerOutput:
        for generator in sampling_metadata.generators.values():
            if isinstance(generator, RewindableGenerator):
                generator.mark()
        composition = None
        for processor in sampling_metadata.logitsprocs.non_argmax_invariant:
            if isinstance(processor, CompositionProcessor):
                composition = processor.composition
        if composition is None:
            return super().forward(logits, sampling_metadata, *args, **kwargs)
        logits = logits.to(torch.float32)  # vLLM's next step anyway
        composition.compose(logits)
        output = super().forward(logits, sampling_metadata, *args, **kwargs)
        composition.share_tokens(output.sampled_token_ids)
        return output
