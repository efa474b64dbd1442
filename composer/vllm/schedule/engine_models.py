"""The models of an engine as the scheduler sees them: block pools, adapter slots, contexts."""

from __future__ import annotations

from typing import Any

from vllm.config import ModelConfig
from vllm.logger import init_logger
from vllm.v1.core.sched.scheduler import Scheduler

from composer.capacity import ModelCapacity
from composer.vllm.auxiliary.config import kv_cache, model_config
from composer.vllm.auxiliary.spec import from_additional_config
from composer.vllm.schedule.kv_cache.kv_blocks import KVBlocks
from composer.vllm.schedule.kv_cache.kv_pools import RoutedKVCache, auxiliary_pool
from composer.vllm.schedule.limits import ModelLimits

logger = init_logger(__name__)


def engine_models(
    scheduler: Scheduler,
) -> tuple[dict[str | None, ModelLimits], RoutedKVCache | None]:
    """Make a block pool for every auxiliary model.

    Returns:
        the limits of every model (None: the base), and the pools; None if there is only the
        scheduler's own.

    Raises:
        ValueError: an auxiliary model does not work with the engine or the base model.
    """
    config, base = scheduler.vllm_config, scheduler.kv_cache_manager
    slots = config.lora_config.max_loras if config.lora_config else 0
    models: dict[str | None, ModelLimits] = {
        None: _limits(scheduler, base, config.model_config, slots)
    }
    managers = {}
    for auxiliary in from_additional_config(config.additional_config):
        model = model_config(config, auxiliary)
        cache = kv_cache(config, auxiliary, model)
        manager = managers[auxiliary.name] = auxiliary_pool(scheduler, cache, model.max_model_len)
        limits = _limits(scheduler, manager, model, auxiliary.max_loras)
        models[auxiliary.name] = limits
        logger.info("Auxiliary model %s: %d KV cache blocks", auxiliary.name, limits.kv.capacity)
    return models, RoutedKVCache(base, managers) if managers else None


def _limits(scheduler: Scheduler, manager: Any, model: ModelConfig, slots: int) -> ModelLimits:
    kv = KVBlocks(manager, scheduler.vllm_config, scheduler.block_size)
    capacity = ModelCapacity(model.max_model_len, slots, kv.capacity, kv.block_tokens)
    return ModelLimits(capacity, kv, model.get_vocab_size())
