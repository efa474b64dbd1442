"""Memory for the KV caches of several models."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from vllm.utils.cpu_resource_utils import get_allowed_cpu_list, get_memory_node_info

from composer.vllm.auxiliary.spec import Auxiliary


def memory_beside(
    auxiliaries: Sequence[Auxiliary], memory_bytes: int, *, explicit: bool, device: torch.device
) -> int:
    """What is left for the base model's KV cache beside those of the auxiliary models, in bytes.

    Args:
        auxiliaries: have their weights in memory, but no KV cache yet.
        memory_bytes: what vLLM would give to the base model's KV cache.
        explicit: it was asked for, and is not what vLLM has found to be free for KV caches. Then
            it stays, and there must be room for the others beside it.
        device: where the caches will be.

    Raises:
        ValueError: they do not fit; shows the arithmetic.
    """
    if not auxiliaries:
        return memory_bytes
    theirs = sum(one.kv_memory_bytes for one in auxiliaries)
    limit = free_bytes(device) if explicit else memory_bytes
    base = memory_bytes if explicit else 0
    if base + theirs >= limit:
        shares = " + ".join(f"{one.kv_memory_bytes} ({one.name})" for one in auxiliaries)
        raise ValueError(
            f"the KV caches do not fit: {base} bytes (base model) + {shares} = {base + theirs} "
            f"bytes, and {limit} are free for them; give the auxiliary models or the base model "
            "(--kv-cache-memory-bytes) less"
            if explicit
            else f"the KV caches of the auxiliary models do not fit: {shares} = {theirs} bytes of "
            f"{limit} for all KV caches, which leaves nothing to the base model's; give them less "
            "or raise --gpu-memory-utilization"
        )
    return memory_bytes if explicit else memory_bytes - theirs


def free_bytes(device: torch.device) -> int:
    """Memory of the device that nobody uses."""
    if device.type == "cpu":
        node = get_allowed_cpu_list()[0].numa_node
        return int(get_memory_node_info(node).available_memory)
    return int(torch.cuda.mem_get_info(device)[0])
