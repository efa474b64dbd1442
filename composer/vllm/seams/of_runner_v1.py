"""What composition changes and reads in vLLM's V1 model runner."""

from __future__ import annotations

CHANGED: dict[str, str] = {
    "v1/sample/sampler.py": """
# The sampler of a model runner is replaced: the base model's composes before it samples, and
# samples for leaders and plain requests only; an auxiliary model's takes the leaders' tokens.
class Sampler:
    topk_topp_sampler
    def __init__(
        self, logprobs_mode: LogprobsMode = 'raw_logprobs', use_fp64_gumbel: bool = False
    ): ...
    def forward(
        self, logits: torch.Tensor, sampling_metadata: SamplingMetadata,
        predict_bonus_token: bool = False, logprobs_mode_override: LogprobsMode | None = None,
    ) -> SamplerOutput: ...
""",
    "v1/sample/ops/topk_topp_sampler.py": """
# On CPU, top-p is found by a partial sort instead of sorting every row.
class TopKTopPSampler:
    def forward_cpu(
        self, logits: torch.Tensor, generators: dict[int, torch.Generator],
        k: torch.Tensor | None, p: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]: ...
""",
    "v1/sample/metadata.py": """
# Copied, with the rows of companions left out. A new field that has a value for each row must be
# added in composer/vllm/execute/v1/sampled_rows.py.
@complete
class SamplingMetadata:
    temperature: torch.Tensor | None
    all_greedy: bool
    all_random: bool
    top_p: torch.Tensor | None
    top_k: torch.Tensor | None
    generators: dict[int, torch.Generator]
    max_num_logprobs: int | None
    no_penalties: bool
    prompt_token_ids: torch.Tensor | None
    frequency_penalties: torch.Tensor
    presence_penalties: torch.Tensor
    repetition_penalties: torch.Tensor
    output_token_ids: list[list[int]]
    allowed_token_ids_mask: torch.Tensor | None
    bad_words_token_ids: dict[int, list[list[int]]]
    logitsprocs: LogitsProcessors
    logprob_token_ids: dict[int, list[int]] | None = None
    spec_token_ids: list[list[int]] | None = None
    thinking_budget_state_holder: ThinkingBudgetStateHolder | None = None
""",
    "v1/sample/logits_processor/interface.py": """
@complete
class LogitsProcessor:
    @classmethod
    def validate_params(cls, sampling_params: SamplingParams): ...
    def __init__(
        self, vllm_config: "VllmConfig", device: torch.device, is_pin_memory: bool
    ) -> None: ...
    def apply(self, logits: torch.Tensor) -> torch.Tensor: ...
    def is_argmax_invariant(self) -> bool: ...
    def update_state(self, batch_update: "BatchUpdate | None") -> None: ...
""",
    "v1/worker/gpu_input_batch.py": """
# make_lora_inputs is replaced, so that one row may use several adapters;
# logitsprocs_need_output_token_ids is switched off; the prev_ fields are emptied before a step in
# which a model computes nothing; on CPU, generators can be rewound.
class InputBatch:
    logitsprocs_need_output_token_ids
    prev_sampled_token_ids
    prev_req_id_to_index
    generators
    lora_id_to_lora_request
    lora_id_to_request_ids
    def make_lora_inputs(
        self, num_scheduled_tokens: np.ndarray, num_sampled_tokens: np.ndarray
    ) -> tuple[tuple[int, ...], tuple[int, ...], set[LoRARequest]]: ...
""",
    "v1/worker/gpu_model_runner.py": """
# Not-a-number that a failed probe left in kv_caches is overwritten before another request can
# read it. The prompt logprobs of leaders are composed.
class GPUModelRunner:
    kv_caches
    sampler
    execute_model_state
    num_prompt_logprobs
    def _get_prompt_logprobs_dict(
        self, hidden_states: torch.Tensor, num_scheduled_tokens: dict[str, int],
    ) -> dict[str, LogprobsTensors | None]: ...
""",
}

READ: dict[str, tuple[str | tuple[str, ...], ...]] = {
    "v1/sample/sampler.py": (
        "class Sampler(nn.Module)",
        "use_fp64_gumbel",
        "logprobs_mode",
    ),
    "v1/sample/logits_processor/interface.py": (
        "class BatchUpdate",
        "AddedRequest = tuple[int, SamplingParams, list[int] | None, list[int]]",
        "#   - removed, added, moved",
    ),
    "v1/sample/thinking_budget_state.py": ("def has_tracked_requests(self) -> bool:",),
    "v1/worker/gpu_model_runner.py": (
        "self.sampler = Sampler(",
        "return self.sampler(",
        '    def execute_model(\n        self,\n        scheduler_output: "SchedulerOutput",\n',
        '    def sample_tokens(\n        self, grammar_output: "GrammarOutput | None"\n    )',
        "logits=logits,",
        "gen.set_offset(gen.get_offset() - 4)",
        "if grammar_output is not None:\n            apply_grammar_bitmask(",
        "self.requests: dict[str, CachedRequestState]",
        "lora_request=new_req_data.lora_request",
        "self.execute_model_state: ExecuteModelState | None",
        "unscheduled_req_ids = cached_req_ids - (scheduled_req_ids - resumed_req_ids)",
        "if self.use_async_scheduling and num_output_tokens > 0:",
        "self.input_batch.prev_req_id_to_index",
        "def initialize_kv_cache(",
        "self.discard_request_mask.np[:num_reqs] = (",
        "self.query_start_loc.np[1 : num_reqs + 1] = cu_num_tokens",
        "    hidden_states: torch.Tensor\n    sample_hidden_states: torch.Tensor\n",
        "else len(self.input_batch.lora_id_to_lora_request)",
    ),
    "v1/worker/gpu_input_batch.py": (
        "req_id_to_index",
        "self.request_lora_mapping",
        "self.lora_id_to_request_ids: dict[int, set[str]]",
        "self.lora_id_to_lora_request: dict[int, LoRARequest]",
        "self.num_computed_tokens_cpu",
        "self.num_prompt_tokens",
        "self.token_ids_cpu",
        "if batch_update:\n            self.sampling_metadata = self._make_sampling_metadata()",
        "self.req_output_token_ids.append(request.output_token_ids)",
    ),
    "v1/worker/lora_model_runner_mixin.py": (
        "self.lora_manager = LRUCacheWorkerLoRAManager(",
        "input_batch.make_lora_inputs(num_scheduled_tokens, num_sampled_tokens)",
    ),
}
