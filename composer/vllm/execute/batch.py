"""Knows in which rows of the batch the members of each group stand.

vLLM tells its logits processors when requests enter, leave or move within the batch. This one
only listens: the composition itself happens earlier, in `composer.vllm.execute.sampler`, so
that logprobs and penalties see the composed distribution. Every model has a batch, and so a
processor, of its own; the base model's puts together what all of them know.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from vllm.config import VllmConfig
from vllm.sampling_params import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

from composer.bounds import check_repetition_penalty, check_token_lists
from composer.engine_plan import EnginePlan
from composer.tensors.compose import Composition
from composer.tensors.gang_rows import GangRows
from composer.vllm.grammars import check_grammar
from composer.vllm.schedule.gang import RowTag, refuse_row_tag


class CompositionProcessor(LogitsProcessor):
    """Keeps the index tensors of the groups, rebuilt only when a batch changes."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool):
        self._device = device
        self._pin_memory = is_pin_memory
        self._tags: dict[int, RowTag] = {}  # row of the batch -> tag, rows of groups only
        self._changes = 0  # how often the tags have changed
        self._built: Sequence[int | None] = ()  # the changes of all batches at the last rebuild
        self._composition: Composition | None = None

    @property
    def tags(self) -> Mapping[int, RowTag]:
        """The rows of groups, by their place in the batch."""
        return self._tags

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Refuse what cannot work, while the request can still be answered with 400.

        Sees every request of every route, composed or not.

        Raises:
            ValueError: the request carries a row's tag or a malformed plan, is composed and asks
                for prompt logprobs, exceeds a bound of `composer.bounds`, or has a grammar that
                no answer fits.
        """
        check_token_lists(
            stop=len(sampling_params.stop_token_ids or ()),
            allowed=len(sampling_params.allowed_token_ids or ()),
            biased=len(sampling_params.logit_bias or ()),
            min_tokens=sampling_params.min_tokens,
        )
        check_grammar(sampling_params)
        refuse_row_tag(sampling_params.extra_args)
        plan = EnginePlan.from_extra_args(sampling_params.extra_args)
        if plan is None:
            return
        check_repetition_penalty(sampling_params.repetition_penalty)
        if sampling_params.prompt_logprobs is not None:
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
        self._changes += changed

    def composition(
        self, auxiliary: Sequence[CompositionProcessor | None] = ()
    ) -> Composition | None:
        """The groups whose leaders are in this batch, None if there are none.

        `auxiliary` are the processors of the auxiliary models, in their order; None for a model
        that does not run in this step, whose processor knows nothing of it.
        """
        batches = (self, *auxiliary)
        changes = [batch._changes if batch is not None else None for batch in batches]
        if changes != self._built:
            self._built = changes
            groups = _complete_groups([batch._tags if batch else {} for batch in batches])
            self._composition = (
                Composition(groups, self._device, self._pin_memory) if groups else None
            )
        return self._composition

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        return logits


def _complete_groups(batches: Sequence[Mapping[int, RowTag]]) -> list[GangRows]:
    """The groups all of whose rows stand in one of the batches, the base model's first.

    One that is not complete is still prefilling: vLLM discards what its rows sample.
    """
    places: dict[str, dict[int, tuple[int, int]]] = defaultdict(dict)  # group -> k -> row, model
    leaders: list[RowTag] = []
    for model, tags in enumerate(batches):
        for row, tag in tags.items():
            places[tag.group][tag.index] = (row, model)
            if tag.index == 0:
                leaders.append(tag)
    groups = []
    for tag in leaders:
        own = places[tag.group]
        if len(own) == tag.size and tag.switch is None:
            rows, models = zip(*(own[k] for k in range(tag.size)), strict=True)
            groups.append(GangRows(rows, tag.weights, tag.filters, models, tag.mixture, tag.group))
    return groups


def processor_of(runner: Any) -> CompositionProcessor:
    """The one that listens to a model runner's batch."""
    processors = runner.input_batch.logitsprocs.non_argmax_invariant
    return next(p for p in processors if isinstance(p, CompositionProcessor))


def step_of(runner: Any) -> tuple[list[int], list[int], list[bool]]:
    """Of the step in progress, for every row of the batch: tokens computed before, where its tokens
    begin among those of the step (and at last where they end), and whether what it samples is
    thrown away, because it has not read its prompt."""
    count = runner.input_batch.num_reqs
    return (
        runner.input_batch.num_computed_tokens_cpu[:count].tolist(),
        runner.query_start_loc.np[: count + 1].tolist(),
        runner.discard_request_mask.np[:count].tolist(),
    )
