"""How many KV cache blocks rows take, and how many there are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vllm.utils.math_utils import cdiv
from vllm.v1.core.kv_cache_manager import KVCacheBlocks, KVCacheManager
from vllm.v1.request import Request


class KVRoom:
    """Block arithmetic over vLLM's KV cache manager. Reads it, never changes it.

    All figures are blocks. Where a model has several groups of layers with caches of their own
    (sliding window beside full attention), a token takes a slot in each: an upper bound.
    """

    def __init__(self, manager: KVCacheManager, block_size: int):
        self._manager = manager
        self._block_size = block_size
        self._layer_groups = manager.num_kv_cache_groups
        # One block of the pool is vLLM's null block. The watermark must stay free at admission.
        self.capacity: int = manager.block_pool.num_gpu_blocks - 1 - manager.watermark_blocks

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
        """Blocks that hold `num_tokens` tokens of one row."""
        return int(cdiv(num_tokens, self._block_size)) * self._layer_groups

    def most_in_step(self, rows: int, tokens: int) -> int:
        """No step of so many rows and tokens can ask for more: each row may start one block
        beyond what its tokens fill."""
        return self.of_tokens(tokens) + (rows + 1) * self._layer_groups

    def holds(self, rows: Iterable[Request]) -> bool:
        """Whether all tokens of waiting rows fit now, without sharing blocks with anybody."""
        return sum(self.of_tokens(row.num_tokens) for row in rows) <= self.free_for_admission

    def before_barrier(
        self, row: Request, hit: KVCacheBlocks, cached: int
    ) -> tuple[KVCacheBlocks, int]:
        """A hit of `cached` tokens in the prefix cache, cut by a block where it leaves a row that
        was not released nothing to compute before the barrier."""
        if not 0 < cached == row.num_tokens - 1:
            return hit, cached
        cached = (cached - 1) // self._block_size * self._block_size
        return self._manager.truncate_computed_blocks(hit, cached), cached

    def wanted_by(self, row: Request, new_tokens: int) -> int:
        """What a running row asks for to compute `new_tokens` more tokens."""
        computed = row.num_computed_tokens
        return self._wanted(row, computed, computed + new_tokens, (), computed)

    def wanted_to_admit(self, rows: Iterable[Request]) -> int:
        """What waiting rows need for all their tokens, beyond what they share with running ones."""
        total = 0
        for row in rows:
            hit, cached, *_ = self._manager.get_computed_blocks(row)
            hit, cached = self.before_barrier(row, hit, cached)
            total += self._wanted(row, cached, row.num_tokens, hit.blocks, cached)
        return total

    def longest_answer(self, prompts: Sequence[int], limit: int) -> int:
        """The longest answer of at most `limit` tokens with which all rows fit the cache, or 0.

        The last token of an answer is never fed back, so it needs no slot.
        """

        def fits(answer: int) -> bool:
            return sum(self.of_tokens(prompt + answer - 1) for prompt in prompts) <= self.capacity

        if limit < 1 or not fits(1):
            return 0
        fit, unfit = 1, limit + 1
        if fits(limit):
            return limit
        while unfit - fit > 1:
            middle = (fit + unfit) // 2
            fit, unfit = (middle, unfit) if fits(middle) else (fit, middle)
        return fit

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
