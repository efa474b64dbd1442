"""vLLM's V1 model runner behind `BatchView`; it keeps and condenses one batch for all steps."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import torch

from composer.vllm.execute.batch_view import (
    AdapterChoice,
    Forward,
    LoRAInputs,
    PromptScores,
    StepRows,
)
from composer.vllm.execute.v1.composition_processor import CompositionProcessor
from composer.vllm.execute.v1.prompt_logprobs import PromptLogprobs
from composer.vllm.execute.v1.sampled_rows import SampledRows
from composer.vllm.execute.v1.samplers import ComposingSampler, ForcedSampler
from composer.vllm.workarounds.cpu_generator import RewindableGenerator


class V1View:
    """A V1 model runner whose model is loaded."""

    def __init__(self, runner: Any) -> None:
        self.runner = runner
        batch = runner.input_batch
        tags = [
            processor.tags
            for processor in batch.logitsprocs.non_argmax_invariant
            if isinstance(processor, CompositionProcessor)
        ]
        if not tags:
            raise ValueError(
                "composition needs its logits processor; start vLLM with "
                f"--logits-processors {CompositionProcessor.__module__}:"
                f"{CompositionProcessor.__name__}"
            )
        self.tags = tags[0]
        # Custom processors make vLLM copy all sampled tokens to the host in every step, in case
        # they read them. Ours does not, and a plain request must cost what it costs without us.
        batch.logitsprocs_need_output_token_ids = False
        self._rewinds = runner.device.type == "cpu"
        self._state: Any = None  # vLLM's ExecuteModelState
        self._step: StepRows | None = None
        self._choice: AdapterChoice
        self._added: set[int] = set()  # adapters that only `_choice` put into vLLM's books

    def install_sampler(self, forward: Forward) -> None:
        sampled = SampledRows(self.runner, self.tags)
        self.runner.sampler = ComposingSampler(self.runner.sampler, forward, sampled)

    def install_prompt_scoring(self, scores: PromptScores) -> None:
        self.runner._get_prompt_logprobs_dict = PromptLogprobs(self.runner, scores)

    def install_forced_sampler(self) -> None:
        self.runner.sampler = ForcedSampler()

    def force_tokens(self, token_ids: torch.Tensor | None) -> None:
        self.runner.sampler.token_ids = token_ids

    def install_adapter_choice(self, choice: AdapterChoice) -> None:
        """See `BatchView`. Call it after the KV cache is allocated: vLLM may replace the batch."""
        self._choice = choice
        self._make_lora_inputs = self.runner.input_batch.make_lora_inputs
        self.runner.input_batch.make_lora_inputs = self._lora_inputs

    def begin_sampling(self) -> None:
        self._state, self._step = self.runner.execute_model_state, None
        if self._rewinds and self._state is not None:
            self._mark_generators()

    def end_sampling(self) -> None:
        self._state = self._step = None

    def skip_step(self) -> None:
        """See `BatchView`.

        Under async scheduling vLLM puts the tokens of a model's last step into its next inputs.
        That is wrong for a row that is preempted in between. The scheduler sends the tokens of all
        rows that skipped a step again.
        """
        self.runner.input_batch.prev_sampled_token_ids = None
        self.runner.input_batch.prev_req_id_to_index = None

    @property
    def computing(self) -> bool:
        return self._state is not None

    @property
    def logits(self) -> torch.Tensor | None:
        return self._state.logits if self._state is not None else None

    @property
    def step(self) -> StepRows:
        if self._step is None:
            runner, batch = self.runner, self.runner.input_batch
            rows = batch.num_reqs
            self._step = StepRows(
                batch.req_id_to_index,
                batch.num_computed_tokens_cpu[:rows].tolist(),
                runner.query_start_loc.np[: rows + 1].tolist(),
                runner.discard_request_mask.np[:rows].tolist(),
                batch.num_prompt_tokens[:rows].tolist(),
                batch.request_lora_mapping[:rows].tolist(),
                self._state.hidden_states,
                self._state.sample_hidden_states,
            )
        return self._step

    @property
    def batch_requests(self) -> Collection[str]:
        return self.runner.input_batch.req_id_to_index.keys()

    @property
    def known_requests(self) -> Collection[str]:
        return self.runner.requests.keys()

    def adapters_in_use(self) -> set[int]:
        adapters = (request.lora_request for request in self.runner.requests.values())
        return {adapter.lora_int_id for adapter in adapters if adapter is not None}

    def _lora_inputs(self, scheduled: np.ndarray, sampled: np.ndarray) -> LoRAInputs:
        """Stand in for `InputBatch.make_lora_inputs`: `[R]` tokens to compute and to sample."""
        batch = self.runner.input_batch
        by_id = batch.lora_id_to_lora_request
        for id in self._added:
            if id not in batch.lora_id_to_request_ids:
                by_id.pop(id, None)
        self._added.clear()
        candidates = self._choice.candidates(batch.req_ids)
        for request in candidates:  # vLLM also picks its CUDA graph by how many these are
            if request.lora_int_id not in by_id:
                by_id[request.lora_int_id] = request
                self._added.add(request.lora_int_id)
        inputs: LoRAInputs = self._make_lora_inputs(scheduled, sampled)
        if not candidates:
            return inputs
        computed = batch.num_computed_tokens_cpu[: batch.num_reqs]
        return self._choice.choose(batch.req_ids, computed, scheduled, inputs)

    def _mark_generators(self) -> None:
        """Let vLLM undo what the step draws for rows whose token it discards."""
        batch = self.runner.input_batch
        for row, generator in batch.generators.items():
            if not isinstance(generator, RewindableGenerator):
                generator = RewindableGenerator.like(generator)
                batch.generators[row] = generator
                self.runner.requests[batch.req_ids[row]].generator = generator
            generator.mark()
