"""vLLM's sampler, on composed logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from vllm.v1.outputs import SamplerOutput
from vllm.v1.sample.metadata import SamplingMetadata
from vllm.v1.sample.sampler import Sampler

from composer.vllm.execute.adapter_switch import Switches
from composer.vllm.execute.auxiliary_runners import AuxiliaryRunner, no_tokens
from composer.vllm.execute.batch import CompositionProcessor
from composer.vllm.execute.mixture_state import MixtureRouting
from composer.vllm.workarounds.cpu_generator import RewindableGenerator


class ComposingSampler(Sampler):
    """Composes first, then samples as always, then shares the token within each group.

    So logprobs, penalties, temperature and truncation all see the composed distribution, and every
    row of a group continues with the same token whatever the sampling parameters are. Auxiliary
    models have run before, and take their tokens afterwards. Routers learn of the tokens.
    """

    auxiliaries: Sequence[AuxiliaryRunner] = ()
    runner: Any
    constrained = False  # whether a grammar has put minus infinity into the logits of this step
    mixtures: MixtureRouting
    switches: Switches | None = None
    hidden: torch.Tensor | None = None  # [R, H], the last of each row, where rows may switch

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
            output = super().forward(logits, sampling_metadata, *args, **kwargs)
            self._switch(output)
            return output
        logits = logits.to(torch.float32)  # vLLM's next step anyway
        if (routed := composition.routed) is not None:
            turns = self.mixtures.turns(routed.names, self.runner)
            routed.prepare(turns, self.mixtures.states)
        composition.compose(logits, *auxiliary, constrained=self.constrained)
        output = super().forward(logits, sampling_metadata, *args, **kwargs)
        if routed is not None:
            routed.update(output.sampled_token_ids)
            self.mixtures.note(routed.names, turns, routed.weights)
        self._switch(output)
        tokens = [no_tokens(rows) if rows is not None else None for rows in auxiliary]
        composition.share_tokens(output.sampled_token_ids, *tokens)
        for one, own in zip(self.auxiliaries, tokens, strict=True):
            one.runner.sampler.tokens = own
        return output

    def _switch(self, output: SamplerOutput) -> None:
        if self.hidden is not None and self.switches is not None:
            self.switches.choose(self.hidden, output.sampled_token_ids)
            self.hidden = None
