"""The samplers that stand in for vLLM's on the V2 model runner: one composes first, one takes given
tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from vllm.utils.torch_utils import async_tensor_h2d
from vllm.v1.outputs import LogprobsTensors
from vllm.v1.worker.gpu.input_batch import InputBatch, get_num_sampled_and_rejected
from vllm.v1.worker.gpu.sample.output import SamplerOutput

from composer.vllm.execute.batch_view import Forward, GangTags


class SlotSampler:
    """vLLM's sampler, given the composed logits of leaders and plain requests."""

    def __init__(self, replaced: Any, forward: Forward, tags: GangTags) -> None:
        """`replaced` stays in charge of everything but the call."""
        self._replaced = replaced
        self._forward = forward
        self._tags = tags

    def __getattr__(self, name: str) -> Any:
        return getattr(self._replaced, name)

    def __call__(self, logits: torch.Tensor, input_batch: InputBatch) -> SamplerOutput:
        output: SamplerOutput = self._forward(
            logits, lambda composed: self._sample(composed, input_batch)
        )
        return output

    def _sample(self, logits: torch.Tensor, batch: InputBatch) -> SamplerOutput:
        """Sample from logits `[R, V]`. Companions have token 0 in the output, and no logprobs."""
        companions = {row for row, tag in self._tags.by_row.items() if tag.index > 0}
        total = batch.num_reqs
        if not companions:
            return self._replaced(logits, batch)
        rows = [row for row in range(total) if row not in companions]
        index = async_tensor_h2d(rows, device=logits.device, dtype=torch.int64)

        def spread(values: torch.Tensor) -> torch.Tensor:
            """Put values `[S, ...]` into the rows of the batch: `[R, ...]`."""
            return values.new_zeros(total, *values.shape[1:]).index_copy_(0, index, values)

        sampled = batch.seq_lens.new_zeros(total, 1, dtype=torch.int64)
        logprobs = None
        if rows:
            output = self._replaced(logits.index_select(0, index), _narrow(batch, rows, index))
            sampled = spread(output.sampled_token_ids)
            if (of_rows := output.logprobs_tensors) is not None:
                ids, values, ranks, *_ = of_rows
                logprobs = LogprobsTensors(spread(ids), spread(values), spread(ranks))
        counts = _counts(self._replaced.req_states, batch)
        return SamplerOutput(sampled, logprobs, None, *counts)


class ForcedSample:
    """Stands in for `sample` of an auxiliary model's runner, which samples nothing: its rows are
    companions and take their leaders' tokens.

    `token_ids` `[R, 1]` come from the base model's sampler, which runs earlier; None where the base
    model had nothing to compute, so that vLLM discards the tokens of all rows.
    """

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self.token_ids: torch.Tensor | None = None

    def __call__(
        self, hidden_states: torch.Tensor, input_batch: InputBatch, grammar_output: Any
    ) -> tuple[SamplerOutput, torch.Tensor, torch.Tensor]:
        """Return the output, and how many tokens each row samples and rejects."""
        token_ids, self.token_ids = self.token_ids, None
        if token_ids is None:
            token_ids = input_batch.seq_lens.new_zeros(input_batch.num_reqs, 1)
        counts = _counts(self._runner.req_states, input_batch)
        return SamplerOutput(token_ids.long(), None, None, *counts), *counts


def _counts(req_states: Any, batch: InputBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return how many tokens each row samples, one or none while it reads its prompt, and how many
    drafts are rejected: none."""
    sampled, rejected = get_num_sampled_and_rejected(
        batch.seq_lens.new_ones(batch.num_reqs),
        batch.seq_lens,
        batch.cu_num_logits,
        batch.idx_mapping,
        req_states.prefill_len.gpu,
    )
    return sampled, rejected


def _narrow(batch: InputBatch, rows: list[int], index: torch.Tensor) -> InputBatch:
    """Return a batch of some rows, as far as a sampler reads it: one logit for each."""
    count = len(rows)
    counts = np.arange(count + 1, dtype=batch.cu_num_logits_np.dtype)
    return replace(
        batch,
        req_ids=[batch.req_ids[row] for row in rows],
        num_reqs=count,
        idx_mapping=batch.idx_mapping.index_select(0, index),
        idx_mapping_np=batch.idx_mapping_np[rows],
        expanded_idx_mapping=batch.expanded_idx_mapping.index_select(0, index),
        expanded_local_pos=batch.expanded_local_pos.index_select(0, index),
        seq_lens=batch.seq_lens.index_select(0, index),
        seq_lens_cpu_upper_bound=batch.seq_lens_cpu_upper_bound[rows],
        logits_indices=batch.logits_indices.index_select(0, index),
        cu_num_logits=async_tensor_h2d(
            counts.tolist(), device=index.device, dtype=batch.cu_num_logits.dtype
        ),
        cu_num_logits_np=counts,
    )
