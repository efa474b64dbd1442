"""What composition changes and reads in vLLM whatever the model runner is."""

from __future__ import annotations

CHANGED: dict[str, str] = {
    "v1/core/sched/scheduler.py": """
# Our scheduler is a subclass that overrides these methods for the rows of gangs. While a step is
# scheduled it lowers max_num_active_reqs and replaces lora_config; with auxiliary models,
# kv_cache_manager is a RoutedKVCache. It refuses a request by its id in
# grammar_compile_error_reqs.
class Scheduler:
    kv_cache_manager
    lora_config
    max_num_active_reqs
    grammar_compile_error_reqs
    kv_holding_waiting
    deferred_waiting
    def add_request(self, request: Request) -> None: ...
    def schedule(self, throttle_prefills: bool = False) -> SchedulerOutput: ...
    def update_from_output(
        self, scheduler_output: SchedulerOutput, model_runner_output: ModelRunnerOutput
    ) -> dict[int, EngineCoreOutputs]: ...
    def finish_requests(
        self, request_ids: str | Iterable[str] | None, finished_status: RequestStatus
    ) -> list[Request]: ...
    def _free_request(
        self, request: Request, delay_free_blocks: bool = False
    ) -> tuple[dict[str, Any] | None, dict[str, Any] | None]: ...
    def _preempt_request(
        self, request: Request, timestamp: float, drop_stale_output: bool = False
    ) -> None: ...
    def _handle_blocked_waiting_request(self, request: Request) -> bool: ...
    def _reserve_prefill_lookahead(
        self, request: Request, num_computed_tokens: int, num_new_tokens: int
    ) -> int: ...
    def _get_local_prefix_cache_hit(
        self, request: Request
    ) -> tuple[KVCacheBlocks, int, int, bool]: ...
    def _get_local_prefix_cache_hit(
        self, request: Request, max_cache_hit_length: int | None = None
    ) -> tuple[KVCacheBlocks, int, int, bool]: ...
    def make_stats(
        self, spec_decoding_stats: SpecDecodingStats | None = None,
        kv_connector_stats: KVConnectorStats | None = None,
        cudagraph_stats: CUDAGraphStat | None = None, perf_stats: PerfStats | None = None,
        ec_connector_stats: ECConnectorStats | None = None,
    ) -> SchedulerStats | None: ...
""",
    "v1/core/kv_cache_manager.py": """
# RoutedKVCache stands in for the manager and passes each call on to the manager of the request's
# model. The same test compares the arguments of all its methods.
class KVCacheManager:
    def get_computed_blocks(self, request: Request) -> tuple[KVCacheBlocks, int, int]: ...
    def get_computed_blocks(
        self, request: Request, max_cache_hit_length: int | None = None
    ) -> tuple[KVCacheBlocks, int, int]: ...
    def truncate_computed_blocks(
        self, blocks: KVCacheBlocks, num_computed_tokens: int
    ) -> KVCacheBlocks: ...
""",
    "v1/request.py": """
# The leader of a gang gets new sampling_params, max_tokens and skip_reading_prefix_cache; a
# request that switches adapters gets a _block_hasher of its own, so that nobody shares the blocks
# of its answer.
class Request:
    sampling_params
    max_tokens
    skip_reading_prefix_cache
    block_hashes
    _block_hasher
    def update_block_hashes(self) -> None: ...
""",
    "v1/worker/gpu_worker.py": """
# Our worker is a subclass of this one, or of CPUWorker, which overrides three of these methods. The
# same test compares the arguments of all of them.
class Worker:
    def init_device(self): ...
    def load_model(self, *, load_dummy_weights: bool = False) -> None: ...
    def determine_available_memory(self) -> int: ...
    def initialize_from_config(self, kv_cache_config: KVCacheConfig) -> None: ...
    def compile_or_warm_up_model(self) -> CompilationTimes: ...
    def execute_model(
        self, scheduler_output: "SchedulerOutput"
    ) -> ModelRunnerOutput | AsyncModelRunnerOutput | None: ...
    def sample_tokens(
        self, grammar_output: "GrammarOutput | None"
    ) -> ModelRunnerOutput | AsyncModelRunnerOutput: ...
""",
    "v1/structured_output/backend_xgrammar.py": """
# The front end compiles grammars with a subclass for a vocabulary of single bytes.
class XgrammarBackend:
    def __post_init__(self): ...
""",
    "lora/worker_manager.py": """
# _load_adapter and set_active_adapters of a LoRA manager are replaced, so that adapters load in
# the background and a missing file ends requests, not the engine.
class WorkerLoRAManager:
    _adapter_manager
    def _load_adapter(self, lora_request: LoRARequest) -> LoRAModel: ...
    def set_active_adapters(self, requests: set[Any], mapping: Any | None) -> None: ...
    def remove_adapter(self, adapter_id: int) -> bool: ...
class LRUCacheWorkerLoRAManager:
    def _apply_adapters(self, lora_requests: set[LoRARequest]) -> None: ...
""",
    "lora/model_manager.py": """
# The adapters of the output layer are exchanged for a moment where other rows go through it. On CPU
# the layers get stacked factors and kernels of ours, which override those of PunicaWrapperCPU; the
# same test compares the arguments of all of them.
class LoRAModelManager:
    punica_wrapper_mapping
    _last_mapping
    def set_adapter_mapping(self, mapping: LoRAMapping) -> None: ...
    def _get_lora_layer_weights(
        self, lora_model: LoRAModel, module_name: str
    ) -> LoRALayerWeights | None: ...
""",
    "v1/outputs.py": """
# The figures of gangs travel to the workers as an attribute of a step's output, and what a step
# could not load travels back on its result, which may be deferred.
@complete
class AsyncModelRunnerOutput:
    def get_output(self) -> ModelRunnerOutput: ...

@optional
class AsyncModelRunnerOutput:
    def get_kv_connector_output(self) -> KVConnectorOutput | None: ...
""",
    "v1/engine/output_processor.py": """
# The server replaces lora_states of the output processor: vLLM would count the adapters of gangs
# by their engine names. (server/engine/vllm/launch.py)
class OutputProcessor:
    lora_states
""",
    "v1/metrics/loggers.py": """
# The server keeps only the latest series of vllm:lora_requests_info, whose labels are the names of
# all adapters that run and wait. (server/engine/vllm/lora_gauge.py)
class StatLoggerManager:
    stat_loggers
class PrometheusStatLogger:
    gauge_lora_info
""",
    "renderers/base.py": """
# The server wraps both: they look into the cache of the request first, so that vLLM's route does
# not render again what the front end has rendered. (server/engine/render_cache.py)
class BaseRenderer:
    async def render_chat_async(
        self, conversations: Sequence[list["ChatCompletionMessageParam"]], chat_params: ChatParams,
        tok_params: TokenizeParams | None = None, *, prompt_extras: dict[str, Any] | None = None,
        skip_mm_cache: bool = False,
    ): ...
    async def render_cmpl_async(
        self, prompts: Sequence[DictPrompt | bytes], tok_params: TokenizeParams | None = None, *,
        prompt_extras: dict[str, Any] | None = None, skip_mm_cache: bool = False,
    ): ...
""",
}

READ: dict[str, tuple[str | tuple[str, ...], ...]] = {
    "v1/core/sched/scheduler.py": (
        "num_new_tokens = self._reserve_prefill_lookahead(",
        "ready_to_schedule = self._handle_blocked_waiting_request(request)",
        "if num_running >= self.max_num_active_reqs:",
        "request_queue = self.kv_holding_waiting",
        "if not preempted_reqs and self._pause_state != PauseState.PAUSED_ALL:",
        (
            "self.grammar_compile_error_reqs: set[str] = set()",
            "self.grammar_compile_error_reqs: dict[str, RequestError] = {}",
        ),
        (
            "error_req_ids = set(self.grammar_compile_error_reqs)",
            "request_errors = self.grammar_compile_error_reqs\n",
        ),
        "self.num_waiting_for_streaming_input",
        "self.requires_kv_delivery",
        "self.max_num_scheduled_tokens",
        "self.kv_cache_manager = KVCacheManager(",
        "self.lora_config = vllm_config.lora_config",
        "self.hash_block_size",
        "max_in_flight_tokens=vllm_config.max_in_flight_tokens",
        "self.prev_step_scheduled_req_ids",
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
    "lora/lora_model.py": (
        "class LoRAModel",
        "loras: dict[str, LoRALayerWeights]",
    ),
    "lora/lora_weights.py": ("scaling: float | None = None",),
    "v1/core/kv_cache_utils.py or v1/core/kv_cache_planning.py": (
        (
            "def get_kv_cache_configs(\n    vllm_config: VllmConfig,\n"
            "    kv_cache_specs: list[dict[str, KVCacheSpec]],\n"
            "    available_memory: list[int],\n) -> list[KVCacheConfig]:",
            "def get_kv_cache_configs(\n    vllm_config: VllmConfig,\n"
            "    kv_cache_specs: list[dict[str, KVCacheSpec]],\n"
            "    available_memory: list[int],\n"
            "    global_kv_cache_groups: list[KVCacheGroupSpec],\n) -> list[KVCacheConfig]:",
        ),
    ),
    "v1/core/kv_cache_utils.py": (
        "def resolve_dcp_kv_block_size(spec: KVCacheSpec, dcp_world_size: int) -> int",
    ),
    "v1/kv_cache_interface.py": (
        "class FullAttentionSpec(",
        "class KVCacheGroupSpec",
    ),
    "config/utils.py": ("def replace(dataclass_instance",),
    "config/vllm.py": (
        "additional_config: dict",
        "def max_in_flight_tokens(",
    ),
    "config/compilation.py": ("static_forward_context: dict[str, Any] = field(",),
    "v1/core/sched/async_scheduler.py": ("class AsyncScheduler(Scheduler)",),
    "v1/core/sched/request_queue.py": (
        "def prepend_request(",
        "def remove_request(",
        "def __iter__(",
    ),
    "v1/core/kv_cache_manager.py": (
        "self.watermark_blocks = int(watermark * kv_cache_config.num_blocks)",
        "self.kv_cache_config = kv_cache_config",
        "self.empty_kv_cache_blocks",
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
    "v1/core/block_pool.py": (
        "def get_num_free_blocks(",
        "self.num_gpu_blocks",
    ),
    "v1/request.py": (
        "self.num_output_placeholders",
        "self.num_stale_output_tokens",
        "self._block_hasher: Callable[[Request], list[BlockHash]] | None",
        "self.skip_reading_prefix_cache = ",
        "self.max_tokens",
    ),
    "v1/worker/cpu_worker.py": (
        "class CPUWorker(Worker)",
        "def init_device(self)",
    ),
    "platforms/cpu.py": (
        "if vllm_config.lora_config is not None:\n"
        "            compilation_config.mode = CompilationMode.NONE",
    ),
    "lora/worker_manager.py": (
        "class LRUCacheWorkerLoRAManager(WorkerLoRAManager)",
        "lora = self._load_adapter(lora_request)",
        "self._apply_adapters(requests)",
        "for lora in loras_map.values():\n            self.add_adapter(lora)",
        "self._adapter_manager = lora_manager",
    ),
    "lora/model_manager.py": (
        "new_module.set_mapping(",
        "self._registered_adapters: AdapterLRUCache[LoRAModel]",
        "self._active_adapters: AdapterLRUCache[None]",
        "self.packed_modules: dict[str, list[str]]",
        "self.modules: dict[str, BaseLayerWithLoRA]",
        "def lora_slots(self) -> int:",
        "def get_adapter(self, adapter_id: int)",
        "self._last_mapping: LoRAMapping | None",
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
    "lora/punica_wrapper/punica_base.py": (
        "def update_metadata(",
        "self._token_lora_indices",
        "self._sampler_indices",
        "self._embeddings_indices",
        "self.indices_len: list[int | None] = [None] * 4",
    ),
}
