"""Seams: what the engine part overrides and adjusts in vLLM beyond its documented options.

vLLM is started with official options (`options`) and none of its modules or classes is patched. At
the seams below, instances are adjusted and methods overridden. Each seam records the whole
signature of what it touches. What is read or called only is listed in `tests/engine/vllm_source`.
`tests/engine/test_compat.py` compares both lists with the source of the installed vLLM, so that a
new release fails there, by name, and not in the middle of an answer.
"""

from __future__ import annotations

from vllm.config import VllmConfig

SUPPORTED = "0.32.0"
"""The vLLM release that the tests run."""

SEAMS = {
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
class AsyncModelRunnerOutput:
    def get_output(self) -> ModelRunnerOutput: ...
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
"""File in vLLM's package -> what is changed there, and the classes, methods and attributes that the
change touches, as Python source."""


def check_engine(config: VllmConfig) -> None:
    """At the start, refuse engine settings under which gangs could not be kept together.

    Raises:
        ValueError: names the setting and the remedy.
    """
    if config.use_v2_model_runner and config.parallel_config.enable_batch_sharded_sampling:
        raise ValueError(
            "composition does not work with batch-sharded sampling, which puts the rows of one "
            "request on several ranks; drop --enable-batch-sharded-sampling"
        )
    if config.speculative_config is not None:
        raise ValueError(
            "composition does not work with speculative decoding; drop --speculative-config"
        )
    if config.kv_transfer_config is not None:
        raise ValueError(
            "composition does not work with KV cache connectors; drop --kv-transfer-config"
        )
