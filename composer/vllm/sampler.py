"""vLLM's sampler, on composed logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from vllm.v1.outputs import SamplerOutput
from vllm.v1.sample.metadata import SamplingMetadata
from vllm.v1.sample.sampler import Sampler

from composer.vllm.generators import RewindableGenerator
from composer.vllm.processor import CompositionProcessor
from composer.vllm.runners import AuxiliaryRunner, no_tokens


class ComposingSampler(Sampler):
    """Composes first, then samples as always, then shares the token within each group.

    So logprobs, penalties, temperature and truncation all see the composed distribution, and every
    row of a group continues with the same token whatever the sampling parameters are. Auxiliary
    models have run before, and take their tokens afterwards.
    """

    auxiliaries: Sequence[AuxiliaryRunner] = ()

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
        auxiliary = [one.logits for one in self.auxiliaries]
        for processor in sampling_metadata.logitsprocs.non_argmax_invariant:
            if isinstance(processor, CompositionProcessor):
                composition = processor.composition(
                    [one.processor if one.logits is not None else None for one in self.auxiliaries]
                )
        if composition is None:
            return super().forward(logits, sampling_metadata, *args, **kwargs)
        logits = logits.to(torch.float32)  # vLLM's next step anyway
        composition.compose(logits, *auxiliary)
        output = super().forward(logits, sampling_metadata, *args, **kwargs)
        tokens = [no_tokens(rows) if rows is not None else None for rows in auxiliary]
        composition.share_tokens(output.sampled_token_ids, *tokens)
        for one, own in zip(self.auxiliaries, tokens, strict=True):
            one.runner.sampler.tokens = own
        return output
