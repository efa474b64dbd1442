"""Memory for the KV caches of several models."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from vllm.utils.cpu_resource_utils import get_allowed_cpu_list, get_memory_node_info

from composer.vllm.auxiliary.spec import Auxiliary


def memory_beside(
    auxiliaries: Sequence[Auxiliary], memory_bytes: int, *, explicit: bool, device: torch.device
) -> int:
    """Return the bytes for the base model's KV cache beside those of the auxiliary models.

    Args:
        auxiliaries: their weights are in memory, their KV caches are not yet.
        memory_bytes: what vLLM would give to the base model's KV cache.
        explicit: whether the operator asked for `memory_bytes`. Then the base model keeps all of
            it, and the other caches must fit beside; otherwise it is what vLLM measured as free.
        device: where the caches will be.

    Raises:
        ValueError: the caches do not fit; shows the arithmetic.
    """
    if not auxiliaries:
        return memory_bytes
    added = sum(auxiliary.kv_memory_bytes for auxiliary in auxiliaries)
    limit = free_bytes(device) if explicit else memory_bytes
    base = memory_bytes if explicit else 0
    if base + added >= limit:
        shares = " + ".join(f"{a.kv_memory_bytes} ({a.name})" for a in auxiliaries)
        raise ValueError(
            f"the KV caches do not fit: {base} bytes (base model) + {shares} = {base + added} "
            f"bytes, and {limit} are free for them; give the auxiliary models or the base model "
            "(--kv-cache-memory-bytes) less"
            if explicit
            else f"the KV caches of the auxiliary models do not fit: {shares} = {added} bytes of "
            f"{limit} for all KV caches, which leaves nothing to the base model's; give them less "
            "or raise --gpu-memory-utilization"
        )
    return memory_bytes if explicit else memory_bytes - added


def free_bytes(device: torch.device) -> int:
    """Return the free memory of a device."""
    if device.type == "cpu":
        node = get_allowed_cpu_list()[0].numa_node
        return int(get_memory_node_info(node).available_memory)
    return int(torch.cuda.mem_get_info(device)[0])
