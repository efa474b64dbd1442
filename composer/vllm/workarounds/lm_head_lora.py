"""Adapters of the output layer (lm_head), for rows other than those that are sampled."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from vllm.lora.layers import LogitsProcessorWithLoRA
from vllm.lora.layers.base import BaseLayerWithLoRA
from vllm.lora.layers.utils import LoRAMapping
from vllm.lora.model_manager import LoRAModelManager


def layers_of(manager: LoRAModelManager, kind: type[BaseLayerWithLoRA]) -> list[str]:
    """Return the names of a model's layers of one kind."""
    return [name for name, layer in manager.modules.items() if isinstance(layer, kind)]


def have_factors(manager: LoRAModelManager, ids: Iterable[int], layers: Collection[str]) -> bool:
    """Return whether one of the adapters (`lora_int_id`, 0: none) changes one of the layers."""
    adapters = [manager.get_adapter(id) for id in {*ids} - {0}]
    return any(manager._get_lora_layer_weights(a, name) for a in adapters for name in layers)


@contextmanager
def lm_head_adapters(runner: Any, ids: tuple[int, ...]) -> Iterator[None]:
    """Within this context the output layer (lm_head) applies adapter `ids[i]` to row i.

    vLLM's layer knows the adapters of the rows that are sampled (`LoRAMapping.prompt_mapping`) and
    applies them to whatever comes. Few adapters change it; where none of these does, the context
    costs a look at them.

    Args:
        runner: the model's runner.
        ids: the `lora_int_id` of each row, 0 for none; active in the step in progress.
    """
    if runner.lora_config is None:
        yield
        return
    manager = runner.lora_manager._adapter_manager
    if not have_factors(manager, ids, layers_of(manager, LogitsProcessorWithLoRA)):
        yield
        return
    sampled = manager._last_mapping
    manager.set_adapter_mapping(LoRAMapping(ids, ids, is_prefill=True))
    try:
        yield
    finally:
        manager.set_adapter_mapping(sampled)
