"""What the engine part relies on in vLLM, in one place.

`RELIES_ON` lists every name outside of vLLM's documented options that this package reads or
overrides. A test looks each of them up in the source of the installed vLLM, so that a new release
fails there, by name, and not in the middle of somebody's answer.
"""

from __future__ import annotations

from vllm.config import VllmConfig

SUPPORTED = "0.32.0"
"""The vLLM release that the tests run."""

RELIES_ON: dict[str, tuple[str, ...]] = {
    "v1/core/sched/scheduler.py": (
        "def add_request(self, request: Request)",
        "def schedule(self, throttle_prefills: bool = False)",
        "def update_from_output(",
        "def finish_requests(",
        "def _free_request(",
        "def _preempt_request(",
        "def _handle_blocked_waiting_request(self, request: Request) -> bool:",
        "def _reserve_prefill_lookahead(",
        "def _get_local_prefix_cache_hit(",
        "num_new_tokens = self._reserve_prefill_lookahead(",
        "ready_to_schedule = self._handle_blocked_waiting_request(request)",
        "if num_running >= self.max_num_active_reqs:",
        "request_queue = self.kv_holding_waiting",
        "if not preempted_reqs and self._pause_state != PauseState.PAUSED_ALL:",
        "error_req_ids = set(self.grammar_compile_error_reqs)",
        "self.deferred_waiting",
        "self.num_waiting_for_streaming_input",
        "self.requires_kv_delivery",
        "self.max_num_scheduled_tokens",
        "self.kv_cache_manager = KVCacheManager(",
        "self.lora_config = vllm_config.lora_config",
        "self.hash_block_size",
        "max_in_flight_tokens=vllm_config.max_in_flight_tokens",
        "self.prev_step_scheduled_req_ids",
        "def make_stats(",
        "num_skipped_waiting_reqs=num_deferred",
    ),
    "v1/metrics/stats.py": (
        "class SchedulerStats:",
        "waiting_lora_adapters: dict[str, int]",
        "running_lora_adapters: dict[str, int]",
        "class LoRARequestStates:",
        "def __init__(self, log_stats: bool = False)",
    ),
    "v1/engine/output_processor.py": (
        "self.lora_states = LoRARequestStates(log_stats)",
        "self.lora_states.update_scheduler_stats(scheduler_stats)",
    ),
    "v1/core/sched/output.py": (
        "class CachedRequestData:",
        "finished_req_ids: set[str]",
        "new_block_ids_to_zero: list[int] | None",
        "kv_cache_block_copies: list[KVCacheBlockCopy] | None",
        "free_encoder_mm_hashes: list[str]",
    ),
    "v1/structured_output/backend_xgrammar.py": (
        "class XgrammarBackend(StructuredOutputBackend)",
        "def __post_init__(self)",
        "def compile_grammar(",
        "def allocate_token_bitmask(self, max_num_seqs: int)",
        "self.num_speculative_tokens = 0",
        'separators = (",", ":") if self.disable_any_whitespace else None',
    ),
    "v1/structured_output/request.py": ("def get_structured_output_key(",),
    "v1/outputs.py": (
        "class AsyncModelRunnerOutput(ABC)",
        "req_id_to_index: dict[str, int]",
        "EMPTY_MODEL_RUNNER_OUTPUT = ",
    ),
    "v1/engine/__init__.py": (
        "class EngineCoreOutput(",
        "class EngineCoreOutputs(",
        "trace_headers: Mapping[str, str] | None = None",
    ),
    "distributed/parallel_state.py": (
        "def get_tp_group() -> GroupCoordinator",
        "def get_pp_group() -> GroupCoordinator",
        "cpu_group: ProcessGroup",
    ),
    "lora/lora_model.py": ("class LoRAModel", "loras: dict[str, LoRALayerWeights]"),
    "lora/lora_weights.py": ("scaling: float | None = None",),
    "v1/core/kv_cache_utils.py": (
        "def get_kv_cache_configs(",
        "def resolve_dcp_kv_block_size(spec: KVCacheSpec, dcp_world_size: int) -> int",
    ),
    "v1/kv_cache_interface.py": ("class FullAttentionSpec(", "class KVCacheGroupSpec"),
    "config/utils.py": ("def replace(dataclass_instance",),
    "config/vllm.py": ("additional_config: dict", "def max_in_flight_tokens("),
    "config/compilation.py": ("static_forward_context: dict[str, Any] = field(",),
    "v1/core/sched/async_scheduler.py": ("class AsyncScheduler(Scheduler)",),
    "v1/core/sched/request_queue.py": (
        "def prepend_request(",
        "def remove_request(",
        "def __iter__(",
    ),
    "v1/core/kv_cache_manager.py": (
        "def get_computed_blocks(self, request: Request)",
        "def truncate_computed_blocks(",
        "self.watermark_blocks = int(watermark * kv_cache_config.num_blocks)",
        "self.kv_cache_config = kv_cache_config",
        "self.empty_kv_cache_blocks",
        "def allocate_slots(",
        "def cache_blocks(self, request: Request",
        "def free(self, request: Request)",
        "def get_blocks(self, request_id: str)",
        "def get_block_ids(self, request_id: str)",
        "def evict_blocks(self, block_ids: set[int])",
        "def estimate_cached_tokens(",
        "def record_prefix_cache_stats(",
        "def new_step_starts(",
        "def take_new_block_ids(",
        "def take_boundary_state_offloads(",
        "def take_kv_cache_block_copies(",
        "def take_events(",
        "def make_prefix_cache_stats(",
        "def reset_prefix_cache(self)",
        "def usage(self)",
    ),
    "v1/core/kv_cache_coordinator.py": ("def get_num_blocks_to_allocate(",),
    "v1/core/block_pool.py": ("def get_num_free_blocks(", "self.num_gpu_blocks"),
    "v1/request.py": (
        "self.num_output_placeholders",
        "self.num_stale_output_tokens",
        "self._block_hasher: Callable[[Request], list[BlockHash]] | None",
        "def update_block_hashes(self)",
        "self.skip_reading_prefix_cache = ",
        "self.max_tokens",
    ),
    "v1/sample/sampler.py": ("class Sampler(nn.Module)", "use_fp64_gumbel", "logprobs_mode"),
    "v1/sample/metadata.py": ("generators: dict[int, torch.Generator]", "logitsprocs"),
    "v1/sample/logits_processor/interface.py": ("class BatchUpdate", "def update_state("),
    "v1/worker/gpu_model_runner.py": (
        "self.sampler = Sampler(",
        "return self.sampler(",
        "logits=logits,",
        "gen.set_offset(gen.get_offset() - 4)",
        "if grammar_output is not None:\n            apply_grammar_bitmask(",
        "self.requests: dict[str, CachedRequestState]",
        "lora_request=new_req_data.lora_request",
        "self.execute_model_state: ExecuteModelState | None",
        "self.kv_caches: list[torch.Tensor] = []",
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
        "self.logitsprocs_need_output_token_ids",
        "self.generators",
        "req_id_to_index",
        "self.prev_sampled_token_ids",
        "def make_lora_inputs(",
        "self.request_lora_mapping",
        "self.lora_id_to_request_ids: dict[int, set[str]]",
        "self.lora_id_to_lora_request: dict[int, LoRARequest]",
        "self.num_computed_tokens_cpu",
        "self.num_prompt_tokens",
        "self.token_ids_cpu",
    ),
    "v1/worker/cpu_worker.py": ("class CPUWorker(Worker)", "def init_device(self)"),
    "platforms/cpu.py": (
        "if vllm_config.lora_config is not None:\n            compilation_config.mode = "
        "CompilationMode.NONE",
    ),
    "lora/worker_manager.py": (
        "class LRUCacheWorkerLoRAManager(WorkerLoRAManager)",
        "def _load_adapter(self, lora_request: LoRARequest) -> LoRAModel:",
        "lora = self._load_adapter(lora_request)",
        "def set_active_adapters(self, requests: set[Any], mapping: Any | None) -> None:",
        "self._apply_adapters(requests)",
        "for lora in loras_map.values():\n            self.add_adapter(lora)",
        "def remove_adapter(self, adapter_id: int) -> bool:",
        "self._adapter_manager = lora_manager",
    ),
    "lora/model_manager.py": (
        "self.punica_wrapper_mapping",
        "new_module.set_mapping(",
        "self._registered_adapters: AdapterLRUCache[LoRAModel]",
        "self._active_adapters: AdapterLRUCache[None]",
        "self.packed_modules: dict[str, list[str]]",
        "self.modules: dict[str, BaseLayerWithLoRA]",
        "def lora_slots(self) -> int:",
        "def get_adapter(self, adapter_id: int)",
        "def _get_lora_layer_weights(",
        "self._last_mapping: LoRAMapping | None",
        "def set_adapter_mapping(self, mapping: LoRAMapping)",
        "punica_wrapper.update_metadata(\n            mapping,\n            self.lora_index_to_id,",
    ),
    "lora/layers/base_linear.py": (
        "self.lora_a_stacked = tuple(",
        "self.lora_b_stacked = tuple(",
        "output, x, self.lora_a_stacked, self.lora_b_stacked, 1.0, self.output_slices",
    ),
    "model_executor/layers/linear.py": (
        "self.input_size = input_size",
        "self.output_size = output_size",
        "self.output_sizes = output_sizes",
        "self.total_num_kv_heads",
        "self.v_head_size",
    ),
    "utils/cache.py": ("def touch(self, key",),
    "v1/worker/lora_model_runner_mixin.py": (
        "self.lora_manager = LRUCacheWorkerLoRAManager(",
        "input_batch.make_lora_inputs(num_scheduled_tokens, num_sampled_tokens)",
    ),
    "lora/punica_wrapper/punica_base.py": (
        "def update_metadata(",
        "self._token_lora_indices",
        "self._sampler_indices",
        "self._embeddings_indices",
        "self.indices_len: list[int | None] = [None] * 4",
    ),
    "v1/worker/gpu_worker.py": (
        "class Worker(",
        "def init_device(self)",
        "def execute_model(",
        "def sample_tokens(",
        "def determine_available_memory(self)",
        "def initialize_from_config(self, kv_cache_config",
    ),
}


def check_engine(config: VllmConfig) -> None:
    """Refuse, at start, engine settings under which groups could not be kept together.

    Raises:
        ValueError: names the setting and the remedy.
    """
    if config.use_v2_model_runner:
        raise ValueError(
            "composition needs vLLM's V1 model runner; set VLLM_USE_V2_MODEL_RUNNER=0 "
            "in the environment of the server"
        )
    if config.speculative_config is not None:
        raise ValueError(
            "composition does not work with speculative decoding; drop --speculative-config"
        )
    if config.kv_transfer_config is not None:
        raise ValueError(
            "composition does not work with KV cache connectors; drop --kv-transfer-config"
        )
