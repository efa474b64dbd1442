"""The prompt logprobs of leaders, in the place of those that vLLM computes from one row."""

from __future__ import annotations

from typing import Any

import torch
from vllm.v1.outputs import LogprobsTensors

from composer.vllm.execute.batch_view import PromptScores
from composer.vllm.schedule.gang import RowTag


class PromptLogprobs:
    """Stands in for `_get_prompt_logprobs_dict` of a V1 model runner, which computes those of all
    other requests."""

    def __init__(self, runner: Any, scores: PromptScores) -> None:
        self._runner = runner
        self._scores = scores
        self._of_vllm = runner._get_prompt_logprobs_dict

    def __call__(
        self, hidden_states: torch.Tensor, num_scheduled_tokens: dict[str, int]
    ) -> dict[str, LogprobsTensors | None]:
        """Return the logprobs of prompts that this step completes, by request id.

        Args:
            hidden_states: `[T, H]` of the step.
            num_scheduled_tokens: of each request in the step.
        """
        wanted: dict[str, int] = self._runner.num_prompt_logprobs
        composed = {name: wanted.pop(name) for name in [*wanted] if self._is_composed(name)}
        complete: dict[str, LogprobsTensors | None]
        complete = self._of_vllm(hidden_states, num_scheduled_tokens)
        for name, count in composed.items():
            request = self._runner.requests[name]
            if name in num_scheduled_tokens:
                self._add(name, request, count)
            computed = request.num_computed_tokens + num_scheduled_tokens.get(name, 0)
            if computed < len(request.prompt_token_ids):
                wanted[name] = count
            else:
                complete[name] = request.in_progress_prompt_logprobs_cpu
                request.in_progress_prompt_logprobs_cpu = None
        return complete

    def _is_composed(self, name: str) -> bool:
        return RowTag.of(self._runner.requests[name].sampling_params) is not None

    def _add(self, name: str, request: Any, count: int) -> None:
        """Add the logprobs of what the step has computed of a prompt: those of its tokens, and of
        the `count` likeliest ones at each place."""
        prompt = request.prompt_token_ids
        kept = request.in_progress_prompt_logprobs_cpu
        if kept is None:
            kept = request.in_progress_prompt_logprobs_cpu = _unscored(prompt, count)
        sampler = self._runner.sampler
        for first, logits in self._scores.composed(name, prompt):
            targets = torch.tensor(prompt[first : first + len(logits)], device=logits.device)
            scores = logits
            if not self._runner.model_config.logprobs_mode.endswith("logits"):
                scores = sampler.compute_logprobs(logits)
            tensors = sampler.gather_logprobs(scores, count, targets)
            part = slice(first - 1, first - 1 + len(logits))
            kept.logprob_token_ids[part] = tensors.logprob_token_ids.cpu()
            kept.logprobs[part] = tensors.logprobs.cpu()
            kept.selected_token_ranks[part] = tensors.selected_token_ranks.cpu()


def _unscored(prompt: list[int], count: int) -> LogprobsTensors:
    """Return what is sent for tokens that are not scored: themselves, without a logprob."""
    tensors = LogprobsTensors.empty_cpu(len(prompt) - 1, count + 1)
    tensors.logprob_token_ids.copy_(torch.tensor(prompt[1:]).unsqueeze(1))
    tensors.logprobs.fill_(float("nan"))
    tensors.selected_token_ranks.zero_()
    return tensors
