"""vLLM's V2 model runner behind `BatchView`: requests keep their slots, and every step puts a batch
of them together anew."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
import torch
from vllm.lora.request import LoRARequest

from composer.vllm.execute.batch_view import (
    AdapterChoice,
    Forward,
    LoRAInputs,
    PromptScores,
    StepRows,
)
from composer.vllm.execute.v2.slot_processor import SlotProcessor
from composer.vllm.execute.v2.slot_prompt_logprobs import SlotPromptLogprobs
from composer.vllm.execute.v2.slot_samplers import ForcedSample, SlotSampler


class V2View:
    """A V2 model runner whose model is loaded."""

    def __init__(self, runner: Any) -> None:
        self.runner = runner
        processors = [
            processor
            for processor in runner.sampler.logits_processors
            if isinstance(processor, SlotProcessor)
        ]
        if not processors:
            raise ValueError(
                "composition needs its logits processor; start vLLM with --logits-processors "
                f"{SlotProcessor.__module__}:{SlotProcessor.__name__}"
            )
        self._processor = processors[0]
        self.tags = self._processor.tags
        self._state: Any = None  # vLLM's ExecuteModelState
        self._step: StepRows | None = None
        self._logits: torch.Tensor | None = None

    def install_sampler(self, forward: Forward) -> None:
        self.runner.sampler = SlotSampler(self.runner.sampler, forward, self.tags)

    def install_prompt_scoring(self, scores: PromptScores) -> None:
        replaced = self.runner.prompt_logprobs_worker
        self.runner.prompt_logprobs_worker = SlotPromptLogprobs(replaced, scores)

    def install_forced_sampler(self) -> None:
        self.runner.sample = ForcedSample(self.runner)

    def force_tokens(self, token_ids: torch.Tensor | None) -> None:
        self.runner.sample.token_ids = token_ids

    def install_adapter_choice(self, choice: AdapterChoice) -> None:
        _let_choose(self.runner, choice)

    def begin_sampling(self) -> None:
        self._state = self.runner.execute_model_state
        self._step = self._logits = None
        if self._state is not None:
            self._processor.begin_step(self._state.input_batch.idx_mapping_np)

    def end_sampling(self) -> None:
        self._state = self._step = self._logits = None

    def skip_step(self) -> None:
        """See `BatchView`. The last token of a request stays with its slot: nothing to do."""

    @property
    def computing(self) -> bool:
        return self._state is not None

    @property
    def logits(self) -> torch.Tensor | None:
        """See `BatchView`. V2 computes logits when it samples; auxiliary models are read before."""
        if self._state is not None and self._logits is None:
            self._logits = self.runner.model.compute_logits(self.step.last_hidden_states)
        return self._logits

    @property
    def step(self) -> StepRows:
        if self._step is None:
            states, batch = self.runner.req_states, self._state.input_batch
            slots, hidden = batch.idx_mapping_np, self._state.hidden_states
            known = batch.num_computed_tokens_np + batch.num_scheduled_tokens
            self._step = StepRows(
                {name: row for row, name in enumerate(batch.req_ids)},
                batch.num_computed_tokens_np.tolist(),
                batch.query_start_loc_np[: batch.num_reqs + 1].tolist(),
                (known < batch.prefill_len_np).tolist(),
                states.prompt_len.np[slots].tolist(),
                self.runner.lora_state.lora_ids[slots].tolist(),
                hidden,
                hidden[batch.logits_indices],
            )
        return self._step

    @property
    def batch_requests(self) -> Collection[str]:
        return self.known_requests

    @property
    def known_requests(self) -> Collection[str]:
        names: Collection[str] = self.runner.req_states.req_id_to_index.keys()
        return names

    def adapters_in_use(self) -> set[int]:
        requests = self.runner.lora_state.lora_requests.values()
        return {request.lora_int_id for request in requests}


def _let_choose(runner: Any, choice: AdapterChoice) -> None:
    """Let `choice` have the last word of the runner's books of adapters, which stay as they are."""
    of_vllm = runner.lora_state

    class Choosing(type(of_vllm)):  # type: ignore[misc]
        def make_lora_inputs(
            self, req_ids: list[str], idx_mapping: np.ndarray, num_scheduled_tokens: np.ndarray
        ) -> LoRAInputs:
            inputs: LoRAInputs = super().make_lora_inputs(
                req_ids, idx_mapping, num_scheduled_tokens
            )
            if not choice.candidates(req_ids):
                return inputs
            computed = runner.req_states.num_computed_tokens_np[idx_mapping]
            return choice.choose(req_ids, computed, num_scheduled_tokens, inputs)

        def get_activate_loras(self, req_ids: Iterable[str]) -> set[LoRARequest]:
            active: set[LoRARequest] = super().get_activate_loras(req_ids)
            return active | choice.candidates(req_ids)

    runner.lora_state = Choosing.__new__(Choosing)
    runner.lora_state.__dict__ = of_vllm.__dict__
