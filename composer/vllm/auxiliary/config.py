"""Auxiliary models as vLLM sees them: configurations beside the base model's, and KV caches.

Scheduler and workers call the same functions, so that their figures agree.
"""

from __future__ import annotations

import copy

from vllm.config import CompilationConfig, LoRAConfig, ModelConfig, VllmConfig
from vllm.config.utils import replace
from vllm.utils.math_utils import cdiv
from vllm.utils.torch_utils import kv_cache_dtype_str_to_dtype
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec

from composer.vllm.auxiliary.spec import Auxiliary


def model_config(base: VllmConfig, auxiliary: Auxiliary) -> ModelConfig:
    """Return vLLM's configuration of an auxiliary model.

    The model computes in the base model's dtype, because its logits are added to the base's, and
    without graphs and compilation.

    Raises:
        ValueError: the model does not work with the engine or with the base model.
    """
    _check_engine(base, auxiliary)
    model = ModelConfig(
        model=auxiliary.path,
        tokenizer=auxiliary.path,
        skip_tokenizer_init=True,  # it gets token ids only
        dtype=base.model_config.dtype,
        seed=base.model_config.seed,
        trust_remote_code=base.model_config.trust_remote_code,
        logits_processors=base.model_config.logits_processors,
        enforce_eager=True,
    )
    model.max_model_len = min(model.max_model_len, base.model_config.max_model_len)
    _check_logits(base.model_config, model, auxiliary.name)
    return model


def engine_config(base: VllmConfig, auxiliary: Auxiliary) -> VllmConfig:
    """Return the base model's configuration with an auxiliary model in its place.

    Raises:
        ValueError: as `model_config` and `kv_cache`.
    """
    slots = {"max_loras": auxiliary.max_loras, "max_lora_rank": auxiliary.max_lora_rank}
    model = model_config(base, auxiliary)
    # Copies, because vLLM writes to some of these while it checks them.
    config = replace(
        base,
        model_config=model,
        lora_config=LoRAConfig(**slots, max_cpu_loras=auxiliary.max_cpu_loras)
        if auxiliary.max_loras
        else None,
        cache_config=copy.copy(base.cache_config),
        parallel_config=copy.copy(base.parallel_config),
        scheduler_config=copy.copy(base.scheduler_config),
        compilation_config=CompilationConfig(),
        quant_config=None,
        additional_config={},
    )
    config.scheduler_config.async_scheduling = base.scheduler_config.async_scheduling
    # The scheduler knows the model by its configuration only, so all layers keep all tokens.
    config.scheduler_config.disable_hybrid_kv_cache_manager = True
    cache = kv_cache(base, auxiliary, model)
    config.cache_config.num_gpu_blocks_override = cache.num_blocks
    config.cache_config.num_gpu_blocks = cache.num_blocks
    return config


def kv_cache(base: VllmConfig, auxiliary: Auxiliary, model: ModelConfig) -> KVCacheConfig:
    """Return the block pool of an auxiliary model: as many blocks as its memory holds.

    Args:
        base: the base model's configuration.
        auxiliary: gives the memory.
        model: the auxiliary model's configuration.

    Raises:
        ValueError: the pool does not hold one context; shows the arithmetic.
    """
    spec = FullAttentionSpec(
        block_size=base.cache_config.block_size,
        num_kv_heads=model.get_num_kv_heads(base.parallel_config),
        head_size=model.get_head_size(),
        dtype=kv_cache_dtype_str_to_dtype(base.cache_config.cache_dtype, model),
    )
    layers = model.get_num_layers(base.parallel_config)
    block_bytes = layers * spec.page_size_bytes
    blocks = auxiliary.kv_memory_bytes // block_bytes
    needed = cdiv(model.max_model_len, spec.block_size) + 1
    if blocks < needed:
        raise ValueError(
            f"the KV cache of the auxiliary model {auxiliary.name!r} is too small: "
            f"{auxiliary.kv_memory_bytes} bytes / ({layers} layers * {spec.page_size_bytes} bytes "
            f"for {spec.block_size} tokens) = {blocks} blocks, and a context of "
            f"{model.max_model_len} tokens needs {needed}, one of them for vLLM itself; give it "
            f"{needed * block_bytes} bytes or lower --max-model-len"
        )
    layer_names = [f"layer {k}" for k in range(layers)]
    return KVCacheConfig(blocks, [], [KVCacheGroupSpec(layer_names, spec)])


def _check_engine(base: VllmConfig, auxiliary: Auxiliary) -> None:
    parallel = base.parallel_config
    for option, size in (
        ("--pipeline-parallel-size", parallel.pipeline_parallel_size),
        ("--decode-context-parallel-size", parallel.decode_context_parallel_size),
        ("--prefill-context-parallel-size", parallel.prefill_context_parallel_size),
    ):
        if size > 1:
            raise ValueError(
                f"the auxiliary model {auxiliary.name!r} does not work with {option} {size}; "
                "use --tensor-parallel-size, or start without auxiliary models"
            )


def _check_logits(base: ModelConfig, model: ModelConfig, name: str) -> None:
    """Refuse logits that cannot be added: a soft cap, `cap * tanh(l / cap)`, bends differences.

    With the same cap on both sides the sum is what the formula says of the logits that either model
    answers with alone, and adapters of one capped base are composed in the same way.
    """
    caps = [
        getattr(config.hf_text_config, "final_logit_softcapping", None) for config in (base, model)
    ]
    if caps[0] != caps[1]:
        raise ValueError(
            f"the base model caps its logits at {caps[0]}, the auxiliary model {name!r} at "
            f"{caps[1]}: they cannot be added; use models with the same final_logit_softcapping"
        )
