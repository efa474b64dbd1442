"""What composition changes and reads in vLLM's V2 model runner."""

from __future__ import annotations

CHANGED: dict[str, str] = {
    "v1/worker/gpu/model_runner.py": """
# The sampler is replaced, so that it composes first; an auxiliary model's runner gets another
# `sample`, which takes given tokens; lora_state and prompt_logprobs_worker are replaced.
class GPUModelRunner:
    sampler
    prompt_logprobs_worker
    lora_state
    execute_model_state
    req_states
    kv_caches
    def sample(
        self, hidden_states: torch.Tensor, input_batch: InputBatch,
        grammar_output: GrammarOutput | None,
    ) -> tuple[SamplerOutput, torch.Tensor, torch.Tensor]: ...
""",
    "v1/worker/gpu/sample/sampler.py": """
class Sampler:
    logits_processors
    req_states
    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> None: ...
    def __call__(self, logits: torch.Tensor, input_batch: InputBatch) -> SamplerOutput: ...
""",
    "v1/worker/gpu/sample/output.py": """
@complete
class SamplerOutput:
    sampled_token_ids: torch.Tensor
    logprobs_tensors: LogprobsTensors | None
    num_nans: torch.Tensor | None
    num_sampled: torch.Tensor
    num_rejected: torch.Tensor
    sampling_mask_tensors: SamplingMaskTensors | None = None
""",
    "v1/worker/gpu/sample/prompt_logprob.py": """
# The prompts of leaders are composed; vLLM's object computes all others.
class PromptLogprobsWorker:
    uses_prompt_logprobs
    logprobs_mode
    def add_request(
        self, req_id: str, req_idx: int, sampling_params: SamplingParams
    ): ...
    def remove_request(self, req_id: str) -> None: ...
    def compute_prompt_logprobs(
        self, logits_fn: Callable[[torch.Tensor], torch.Tensor], hidden_states: torch.Tensor,
        input_batch: InputBatch, all_token_ids: torch.Tensor, num_computed_tokens: torch.Tensor,
        prompt_lens: np.ndarray,
    ) -> dict[str, LogprobsTensors]: ...
""",
    "v1/worker/gpu/sample/logits_processor/interface.py": """
@complete
class LogitsProcessor:
    def __init__(self, vllm_config: VllmConfig, req_states: LogitsProcRequestState): ...
    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None: ...
    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool: ...
    def apply(self, logits: torch.Tensor, ctx: LogitsContext) -> torch.Tensor: ...
""",
    "v1/worker/gpu/lora_utils.py": """
# Both methods are overridden in a subclass, so that one row may use several adapters.
class LoraState:
    lora_ids
    lora_requests
    def make_lora_inputs(
        self, req_ids: list[str], idx_mapping: np.ndarray, num_scheduled_tokens: np.ndarray
    ) -> tuple[tuple[int, ...], tuple[int, ...], set[LoRARequest]]: ...
    def get_activate_loras(self, req_ids: list[str]) -> set[LoRARequest]: ...
""",
    "v1/worker/gpu/input_batch.py": """
# Copied, with the rows of companions left out, as far as the sampler reads it. A new field that it
# reads for each row must be added in composer/vllm/execute/v2/slot_samplers.py. The optional ones
# are of context parallelism and speculative decoding.
@complete
class InputBatch:
    req_ids: list[str]
    num_reqs: int
    num_reqs_after_padding: int
    idx_mapping: torch.Tensor
    idx_mapping_np: np.ndarray
    expanded_idx_mapping: torch.Tensor
    expanded_local_pos: torch.Tensor
    num_scheduled_tokens: np.ndarray
    num_tokens: int
    num_tokens_after_padding: int
    num_draft_tokens: int
    num_draft_tokens_per_req: np.ndarray | None
    query_start_loc: torch.Tensor
    query_start_loc_np: np.ndarray
    seq_lens: torch.Tensor
    seq_lens_cpu_upper_bound: torch.Tensor
    dcp_local_seq_lens: torch.Tensor | None
    num_computed_tokens_np: np.ndarray
    prefill_len_np: np.ndarray
    num_computed_prefill_tokens_np: np.ndarray
    is_prefilling_np: np.ndarray
    has_prefill: bool
    decode_graph_eligible: bool
    input_ids: torch.Tensor
    positions: torch.Tensor
    is_padding: torch.Tensor
    logits_indices: torch.Tensor
    cu_num_logits: torch.Tensor
    cu_num_logits_np: np.ndarray
    has_structured_output_reqs: bool
    prompt_lens: torch.Tensor | None
    max_seq_len_np: np.ndarray | None = None
    max_query_len: int | None = None
    fast_prefill: "FastPrefillBatchMetadata | None" = None
    prefill_runs_as_decode_np: np.ndarray | None = None

@optional
class InputBatch:
    dcp_local_seq_lens_cpu_upper_bound: torch.Tensor | None = None
    pcp: "PCPBatchMetadata | None" = None
    num_admitted_draft_tokens: "AdmittedDraftCounts | None" = None
""",
}

READ: dict[str, tuple[str | tuple[str, ...], ...]] = {
    "v1/worker/gpu/model_runner.py": (
        "sampler_output = self.sampler(logits, input_batch)",
        "self.structured_outputs_worker.apply_grammar_bitmask(",
        "sampler_output, num_sampled, num_rejected = self.sample(",
        "prompt_logprobs_dict = self.prompt_logprobs_worker.compute_prompt_logprobs(",
        "self.prompt_logprobs_worker.add_request(",
        "self.prompt_logprobs_worker.remove_request(req_id)",
        "lora_inputs = self.lora_state.make_lora_inputs(",
        "self.sampler.add_request(req_index, new_req_data.sampling_params)",
        "finished_req_ids = finished_req_ids.union(preempted_req_ids)",
        "sample_hidden_states = hidden_states[input_batch.logits_indices]",
    ),
    "v1/worker/gpu/states.py": (
        "self.req_id_to_index: dict[str, int] = {}",
        "self.prompt_len = UvaBackedTensor(",
        "self.prefill_len = UvaBackedTensor(",
        "self.num_computed_tokens_np = np.zeros(",
    ),
    "v1/worker/gpu/input_batch.py": ("def get_num_sampled_and_rejected(",),
    "v1/worker/gpu/sample/logprob.py": (
        "def compute_topk_scores(",
        "logits_mode: bool = False",
    ),
    "v1/worker/gpu/sample/logits_processor/interface.py": ("max_num_reqs: int",),
    "config/parallel.py": ("enable_batch_sharded_sampling",),
}
