"""The rows of a batch that vLLM samples for, and what its sampler must know of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from vllm.sampling_params import SamplingType
from vllm.utils.torch_utils import PIN_MEMORY, async_tensor_h2d
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessors
from vllm.v1.sample.metadata import SamplingMetadata

from composer.vllm.execute.batch_view import GangTags
from composer.vllm.execute.v1.composition_processor import CompositionProcessor

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Narrowed:
    """The sampled rows of a batch: those of plain requests and the leaders."""

    rows: torch.Tensor  # [S] int64, their rows in the batch
    metadata: SamplingMetadata  # of these S rows, in this order


class SampledRows:
    """Narrows vLLM's sampling metadata to the rows that sample: companions take their leaders'
    tokens and must not cost sorting, noise, penalties or logprobs.

    The narrowed metadata are kept until the batch changes. Logits processors keep their state by
    row, so the sampled rows have processors of their own; these are told all rows anew after a
    change, as vLLM tells them of a request that returns from a preemption.
    """

    def __init__(self, runner: Any, tags: GangTags) -> None:
        """Follow the batch of a V1 model runner, whose gangs are in `tags`."""
        self._runner = runner
        self._tags = tags
        self._processors = LogitsProcessors(
            type(processor)(runner.vllm_config, runner.device, PIN_MEMORY)
            for processor in runner.input_batch.logitsprocs.all
            if not isinstance(processor, CompositionProcessor)
        )
        self._told = 0  # how many rows the processors know
        self._source: SamplingMetadata | None = None  # what `_narrowed` was made of
        self._narrowed: Narrowed | None = None

    def narrow(self, metadata: SamplingMetadata) -> Narrowed | None:
        """Return the sampled rows of the step in progress; None if all rows are sampled.

        Args:
            metadata: of the batch; vLLM makes a new object when the batch changes.
        """
        if metadata is not self._source:
            self._source, self._narrowed = metadata, self._narrow(metadata)
        elif self._narrowed is not None:
            for processor in self._processors.all:
                processor.update_state(None)  # there are new tokens
        return self._narrowed

    def _narrow(self, metadata: SamplingMetadata) -> Narrowed | None:
        batch = self._runner.input_batch
        companions = {row for row, tag in self._tags.by_row.items() if tag.index > 0}
        holder = metadata.thinking_budget_state_holder
        # Budgets for thinking keep a state by row that cannot be told anew. And what is not the
        # batch's is vLLM measuring its memory.
        keeps = holder is not None and holder.has_tracked_requests()
        if not companions or keeps or metadata is not batch.sampling_metadata:
            if self._told:
                self._tell_processors([])
            return None
        rows = [row for row in range(batch.num_reqs) if row not in companions]
        requests = [self._runner.requests[batch.req_ids[row]] for row in rows]
        self._tell_processors(requests)
        index = async_tensor_h2d(rows, device=self._runner.device, dtype=torch.int64)

        def rows_of(tensor: torch.Tensor | None) -> torch.Tensor | None:
            return None if tensor is None else tensor.index_select(0, index)

        place_of = {row: place for place, row in enumerate(rows)}

        def by_place(by_row: Mapping[int, _T]) -> dict[int, _T]:
            return {place_of[row]: value for row, value in by_row.items()}

        penalties = {
            name: rows_of(getattr(metadata, name))
            for name in ("frequency_penalties", "presence_penalties", "repetition_penalties")
            if not metadata.no_penalties
        }
        outputs, ids = metadata.output_token_ids, metadata.logprob_token_ids
        greedy = SamplingType.GREEDY
        narrowed = replace(
            metadata,
            temperature=rows_of(metadata.temperature),
            all_random=all(r.sampling_params.sampling_type != greedy for r in requests),
            top_p=rows_of(metadata.top_p),
            top_k=rows_of(metadata.top_k),
            generators=by_place(metadata.generators),
            prompt_token_ids=rows_of(metadata.prompt_token_ids),
            output_token_ids=[outputs[row] for row in rows] if outputs else [],
            allowed_token_ids_mask=rows_of(metadata.allowed_token_ids_mask),
            bad_words_token_ids=by_place(metadata.bad_words_token_ids),
            logitsprocs=self._processors,
            logprob_token_ids=by_place(ids) if ids else None,
            spec_token_ids=None,  # `check_engine` refuses speculative decoding
            **penalties,
        )
        return Narrowed(index, narrowed)

    def _tell_processors(self, requests: list[Any]) -> None:
        """Let the processors begin with these requests, `[S]` of vLLM's `CachedRequestState`."""
        update = BatchUpdate(
            batch_size=len(requests),
            removed=range(self._told - 1, len(requests) - 1, -1),
            added=[
                (place, r.sampling_params, r.prompt_token_ids, r.output_token_ids)
                for place, r in enumerate(requests)
            ],
            moved=(),
        )
        for processor in self._processors.all:
            processor.update_state(update)
        self._told = len(requests)
