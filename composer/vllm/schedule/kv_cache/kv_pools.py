"""One KV cache manager per model, behind the interface of a single manager.

Every model has its own block pool and prefix cache, so that no model can take another's memory or
read another's keys. vLLM's scheduler calls one manager; `RoutedKVCache` passes each call on to the
manager of the request's model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vllm.v1.core.kv_cache_manager import KVCacheManager
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import KVCacheConfig
from vllm.v1.request import Request

from composer.vllm.schedule.gang import model_of


def auxiliary_pool(
    scheduler: Scheduler, cache: KVCacheConfig, max_model_len: int
) -> KVCacheManager:
    """Return an auxiliary model's KV cache manager, set up like the scheduler's own.

    Raises:
        ValueError: the base model's blocks have several sizes.
    """
    [group] = cache.kv_cache_groups
    if group.kv_cache_spec.block_size != scheduler.block_size:
        raise ValueError(
            f"the base model has KV cache blocks of several sizes ({group.kv_cache_spec.block_size}"
            f" and {scheduler.block_size} tokens), beside which auxiliary models do not work"
        )
    return KVCacheManager(
        kv_cache_config=cache,
        max_model_len=max_model_len,
        scheduler_block_size=scheduler.block_size,
        hash_block_size=scheduler.hash_block_size,
        max_in_flight_tokens=scheduler.vllm_config.max_in_flight_tokens,
        enable_caching=scheduler.cache_config.enable_prefix_caching,
        watermark=scheduler.scheduler_config.watermark,
    )


def forget_prefixes(manager: KVCacheManager) -> None:
    """Empty the prefix cache of a model; blocks in use stay with their rows.

    Scheduling a step keys its blocks. After a failure the content of some blocks is not what their
    keys say, and the rows that would name these blocks may be gone: aborted or preempted while the
    step ran.
    """
    blocks = manager.block_pool.blocks
    manager.evict_blocks({b.block_id for b in blocks if b.block_hash is not None})


class RoutedKVCache:
    """What vLLM's scheduler calls on a `KVCacheManager`, without connectors and speculation.

    Nothing more: a method that a later vLLM calls is missing by name, and cannot reach the wrong
    pool.
    """

    def __init__(self, base: KVCacheManager, auxiliary: Mapping[str, KVCacheManager]) -> None:
        self._base = base
        self._managers: dict[str | None, KVCacheManager] = {None: base} | dict(auxiliary)
        self._manager_of: dict[str, KVCacheManager] = {}  # by request, of auxiliary models
        # What no auxiliary model has or needs.
        self.coordinator = base.coordinator
        self.block_pool = base.block_pool
        self.empty_kv_cache_blocks = base.empty_kv_cache_blocks
        self.take_boundary_state_offloads = base.take_boundary_state_offloads
        self.take_kv_cache_block_copies = base.take_kv_cache_block_copies
        self.take_events = base.take_events
        self.make_prefix_cache_stats = base.make_prefix_cache_stats

    @property
    def by_model(self) -> Mapping[str | None, KVCacheManager]:
        """The manager of every model (None: the base)."""
        return self._managers

    # ---- calls about one request

    def add(self, request: Request) -> None:
        """Register a request of an auxiliary model, before any other call about it."""
        self._manager_of[request.request_id] = self._managers[model_of(request)]

    def remove(self, request_id: str) -> None:
        """Forget a request whose blocks are freed."""
        del self._manager_of[request_id]

    def manager_of(self, request_id: str) -> KVCacheManager:
        """Return the manager that holds a request's blocks."""
        return self._manager_of.get(request_id, self._base)

    def get_computed_blocks(self, request: Request, *limit: int | None) -> Any:
        return self.manager_of(request.request_id).get_computed_blocks(request, *limit)

    def allocate_slots(self, request: Request, *args: Any, **kwargs: Any) -> Any:
        return self.manager_of(request.request_id).allocate_slots(request, *args, **kwargs)

    def cache_blocks(self, request: Request, num_computed_tokens: int) -> None:
        self.manager_of(request.request_id).cache_blocks(request, num_computed_tokens)

    def free(self, request: Request) -> None:
        self.manager_of(request.request_id).free(request)

    def get_blocks(self, request_id: str) -> Any:
        return self.manager_of(request_id).get_blocks(request_id)

    def get_block_ids(self, request_id: str) -> Any:
        return self.manager_of(request_id).get_block_ids(request_id)

    def estimate_cached_tokens(self, request: Request) -> int:
        return int(self.manager_of(request.request_id).estimate_cached_tokens(request))

    def record_prefix_cache_stats(self, request: Request, num_hits: int) -> None:
        self.manager_of(request.request_id).record_prefix_cache_stats(request, num_hits)

    # ---- calls about all models

    def new_step_starts(self) -> None:
        for manager in self._managers.values():
            manager.new_step_starts()

    def take_new_block_ids(self) -> list[int]:
        """Return the base model's blocks to overwrite with zeros. No auxiliary model needs that
        (`auxiliary.config`), but vLLM's lists grow until they are taken."""
        taken = [manager.take_new_block_ids() for manager in self._managers.values()]
        return list(taken[0])

    def reset_prefix_cache(self) -> bool:
        done = [manager.reset_prefix_cache() for manager in self._managers.values()]
        return all(done)

    @property
    def usage(self) -> float:
        """Usage of the fullest pool, from 0 to 1: requests will wait for it."""
        return float(max(manager.usage for manager in self._managers.values()))
