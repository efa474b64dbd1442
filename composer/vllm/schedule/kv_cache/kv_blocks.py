"""KV cache blocks: how many rows take, and how many there are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vllm.config import VllmConfig
from vllm.v1.core.kv_cache_manager import KVCacheBlocks, KVCacheManager
from vllm.v1.core.kv_cache_utils import resolve_dcp_kv_block_size
from vllm.v1.kv_cache_interface import KVCacheConfig
from vllm.v1.request import Request

from composer.capacity import blocks_of, usable_blocks


def kv_capacity(cache: KVCacheConfig, config: VllmConfig) -> tuple[int, tuple[int, ...]]:
    """Return the `kv_blocks` and `block_tokens` of a block pool's `ModelCapacity`."""
    dcp = config.parallel_config.decode_context_parallel_size
    groups = [group.kv_cache_spec for group in cache.kv_cache_groups]
    blocks = usable_blocks(cache.num_blocks, config.scheduler_config.watermark)
    return blocks, tuple(resolve_dcp_kv_block_size(spec, dcp) for spec in groups)


class KVBlocks:
    """Block arithmetic over vLLM's KV cache manager, which it only reads.

    All results are blocks. Where several groups of layers have caches of their own (sliding window
    beside full attention), a token takes a slot in each: an upper bound.
    """

    def __init__(self, manager: KVCacheManager, config: VllmConfig, block_size: int):
        """`block_size`: tokens by which the scheduler counts hits in the prefix cache."""
        self._manager = manager
        self._block_size = block_size
        self.capacity, self.block_tokens = kv_capacity(manager.kv_cache_config, config)

    @property
    def free(self) -> int:
        return int(self._manager.block_pool.get_num_free_blocks())

    @property
    def watermark(self) -> int:
        """Blocks that must stay free when a request is admitted."""
        return int(self._manager.watermark_blocks)

    @property
    def free_for_admission(self) -> int:
        return self.free - self.watermark

    def of_tokens(self, num_tokens: int) -> int:
        """Return the blocks that hold `num_tokens` tokens of one row."""
        return blocks_of(num_tokens, self.block_tokens)

    def max_in_step(self, rows: int, tokens: int) -> int:
        """Return what a step of so many rows and tokens can ask for at most: each row may start one
        block beyond what its tokens fill."""
        return self.of_tokens(tokens) + (rows + 1) * len(self.block_tokens)

    def holds(self, rows: Iterable[Request]) -> bool:
        """Return whether all tokens of waiting rows fit now, without shared blocks."""
        return sum(self.of_tokens(row.num_tokens) for row in rows) <= self.free_for_admission

    def before_barrier(
        self, row: Request, after: int, hit: KVCacheBlocks, cached: int
    ) -> tuple[KVCacheBlocks, int]:
        """Shorten a hit of `cached` tokens in the prefix cache, where it leaves a row nothing to
        compute before the barrier; `after`: the row's known tokens after it."""
        before = row.num_tokens - after
        if cached == 0 or cached < before:
            return hit, cached
        cached = max(before - 1, 0) // self._block_size * self._block_size
        return self._manager.truncate_computed_blocks(hit, cached), cached

    def wanted_by(self, row: Request, new_tokens: int) -> int:
        """Return what a running row asks for to compute `new_tokens` more tokens."""
        computed = row.num_computed_tokens
        return self._wanted(row, computed, computed + new_tokens, (), computed)

    def wanted_to_admit(self, rows: Iterable[Request], after: int) -> int:
        """Return what waiting rows need for all their tokens, beyond blocks that they share with
        running rows; `after`: the known tokens of each after the barrier."""
        total = 0
        for row in rows:
            hit, cached, *_ = self._manager.get_computed_blocks(row)
            hit, cached = self.before_barrier(row, after, hit, cached)
            total += self._wanted(row, cached, row.num_tokens, hit.blocks, cached)
        return total

    def _wanted(
        self, row: Request, computed: int, num_tokens: int, hit: Sequence[object], cached: int
    ) -> int:
        return int(
            self._manager.coordinator.get_num_blocks_to_allocate(
                request_id=row.request_id,
                num_tokens=num_tokens,
                new_computed_blocks=hit or self._manager.empty_kv_cache_blocks.blocks,
                num_encoder_tokens=0,
                total_computed_tokens=computed,
                num_local_computed_tokens=cached,
                num_tokens_main_model=num_tokens,
            )
        )
