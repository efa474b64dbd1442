"""The prompt logprobs of leaders on the V2 model runner, in the place of those of one row."""

from __future__ import annotations

from typing import Any

import torch
from vllm.v1.outputs import LogprobsTensors
from vllm.v1.worker.gpu.sample.logprob import compute_topk_scores

from composer.vllm.execute.batch_view import PromptScores
from composer.vllm.schedule.gang import RowTag


class SlotPromptLogprobs:
    """Stands in for a V2 runner's `prompt_logprobs_worker`, which computes those of all other
    requests."""

    def __init__(self, replaced: Any, scores: PromptScores) -> None:
        self._replaced = replaced
        self._scores = scores
        self._composed: dict[str, _Composed] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._replaced, name)

    def add_request(self, req_id: str, req_idx: int, sampling_params: Any) -> None:
        self._replaced.add_request(req_id, req_idx, sampling_params)
        count = sampling_params.prompt_logprobs
        if count is not None and RowTag.of(sampling_params) is not None:
            self._replaced.uses_prompt_logprobs[req_idx] = False
            self._composed[req_id] = _Composed(count)

    def remove_request(self, req_id: str) -> None:
        self._replaced.remove_request(req_id)
        self._composed.pop(req_id, None)

    def compute_prompt_logprobs(
        self,
        logits_fn: Any,
        hidden_states: torch.Tensor,
        input_batch: Any,
        all_token_ids: torch.Tensor,
        num_computed_tokens: torch.Tensor,
        prompt_lens: Any,
    ) -> dict[str, LogprobsTensors]:
        """Return the logprobs of prompts that this step completes, by request id; the arguments are
        those of vLLM's method."""
        complete: dict[str, LogprobsTensors] = self._replaced.compute_prompt_logprobs(
            logits_fn, hidden_states, input_batch, all_token_ids, num_computed_tokens, prompt_lens
        )
        for row, name in enumerate(input_batch.req_ids):
            if (composed := self._composed.get(name)) is None:
                continue
            slot = input_batch.idx_mapping_np[row]
            length = int(prompt_lens[slot])
            computed = int(input_batch.num_computed_tokens_np[row])
            if length < int(input_batch.prefill_len_np[row]) or computed >= length:
                continue  # scored before a preemption, or answering
            if composed.prompt is None:
                composed.prompt = all_token_ids[slot, :length].tolist()
            for first, logits in self._scores.composed(name, composed.prompt):
                composed.add(first, logits, self._replaced.logprobs_mode)
            is_complete = computed + int(input_batch.num_scheduled_tokens[row]) >= length
            if is_complete and composed.tensors is not None:
                complete[name] = composed.tensors
        return complete


class _Composed:
    """What is known of a prompt: logprobs of its tokens, and of the `count` likeliest at each
    place."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.prompt: list[int] | None = None
        self.tensors: LogprobsTensors | None = None  # [T - 1, count + 1] each

    def add(self, first: int, logits: torch.Tensor, mode: str) -> None:
        """Add those of the tokens from the place `first` on, of logits `[C, V]`."""
        assert self.prompt is not None
        count = logits.shape[1] if self._count == -1 else self._count
        targets = torch.tensor(self.prompt[first : first + len(logits)], device=logits.device)
        scores = compute_topk_scores(logits, count, targets, logits_mode=mode.endswith("logits"))
        if self.tensors is None:
            self.tensors = _unscored(self.prompt, count)
        part = slice(first - 1, first - 1 + len(logits))
        self.tensors.logprob_token_ids[part] = scores.logprob_token_ids.cpu().int()
        self.tensors.logprobs[part] = scores.logprobs.cpu()
        self.tensors.selected_token_ranks[part] = scores.selected_token_ranks.cpu().int()


def _unscored(prompt: list[int], count: int) -> LogprobsTensors:
    """Return what is sent for tokens that are not scored: themselves, without a logprob."""
    tensors = LogprobsTensors.empty_cpu(len(prompt) - 1, count + 1)
    tensors.logprob_token_ids.copy_(torch.tensor(prompt[1:]).unsqueeze(1))
    tensors.logprobs.fill_(float("nan"))
    tensors.selected_token_ranks.zero_()
    return tensors
