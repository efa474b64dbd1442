"""Composition of a step's logits, before vLLM samples from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from composer.vllm.execute.adapter_switch import Switches
from composer.vllm.execute.batch_layout import BatchLayout
from composer.vllm.execute.batch_view import BatchView, Sample
from composer.vllm.execute.mixture_state import MixtureRouting
from composer.vllm.execute.scoring.explanations import Asked, Explanations


class ComposingForward:
    """Compose, let vLLM sample, give every companion the token of its leader.

    Logprobs, penalties, temperature and truncation see the composed distribution, and all rows of a
    gang continue with the same token whatever the sampling parameters are. Auxiliary models have
    run before and take their tokens afterwards. Routers learn the tokens. What is explained
    is copied before it changes.
    """

    def __init__(
        self,
        views: Sequence[BatchView],
        mixtures: MixtureRouting,
        switches: Switches | None,
        explanations: Explanations,
        layout: BatchLayout,
    ) -> None:
        """`views`: the base model's batch, then those of the auxiliary models in their order."""
        self._base, *self._auxiliaries = self._views = views
        self._mixtures = mixtures
        self._switches = switches
        self._explanations = explanations
        self._layout = layout
        self.constrained = False
        """Whether a grammar has put minus infinity into the logits of this step."""

    def __call__(self, logits: torch.Tensor, sample: Sample) -> Any:
        """Return the sampler's output for logits `[R, V]`."""
        if not self._base.computing:  # vLLM measures its memory
            return sample(logits)
        composition = self._layout.composition(self._views)
        if composition is None:
            asked = self._ask(logits)
            self._explanations.note_composed(asked, logits, None)
            output = sample(logits)
            self._explanations.explain(asked, output.sampled_token_ids)
            self._switch(output)
            return output
        logits = logits.to(torch.float32)  # vLLM's next step anyway
        auxiliary = [view.logits for view in self._auxiliaries]
        asked = self._ask(logits, *auxiliary)
        if (routed := composition.routed) is not None:
            turns = self._mixtures.turns(routed.names, self._base.step)
            routed.prepare(turns, self._mixtures.states)
        composition.compose(logits, *auxiliary, constrained=self.constrained)
        self._explanations.note_composed(asked, logits, routed)
        output = sample(logits)
        token_ids = output.sampled_token_ids
        self._explanations.explain(asked, token_ids)
        if routed is not None:
            routed.update(token_ids)
            self._mixtures.note(routed.names, turns, routed.weights)
        self._switch(output)
        forced = [
            token_ids.new_zeros(len(rows), 1) if rows is not None else None for rows in auxiliary
        ]
        composition.share_tokens(token_ids, *forced)
        for view, tokens in zip(self._auxiliaries, forced, strict=True):
            view.force_tokens(tokens)
        return output

    def _ask(self, *logits_of: torch.Tensor | None) -> list[Asked]:
        if not self._explanations:
            return []
        return self._explanations.ask(self._layout.gangs, logits_of, self.constrained)

    def _switch(self, output: Any) -> None:
        if self._switches:
            self._switches.follow(self._base, output.sampled_token_ids)
