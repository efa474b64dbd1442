"""Checks of an adapter's factors that vLLM does not make before it computes with them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from vllm.lora.lora_model import LoRAModel
from vllm.lora.model_manager import LoRAModelManager
from vllm.model_executor.layers.linear import LinearBase, QKVParallelLinear

MAX_MAGNITUDE = 65504.0
"""Largest magnitude of a factor, of the scaled B and of their product: the largest float16, as
`adapters` has it for what is published."""


def check_shapes(models: LoRAModelManager, lora: LoRAModel) -> None:
    """Refuse factors that do not have the shapes of the model.

    vLLM copies factors into a slot without looking: too large ones end the engine, smaller ones are
    taken as they are.

    Raises:
        ValueError: names the module, its shapes and those of the model.
    """
    max_rank = models.lora_config.max_lora_rank
    for name, layer in models.modules.items():
        base = getattr(layer, "base_layer", None)
        if not isinstance(base, LinearBase):
            continue
        modules = models.packed_modules.get(name, [name])
        for module, size in zip(modules, _output_sizes(base, len(modules)), strict=False):
            if (weights := lora.get_lora(module)) is None:
                continue
            if weights.lora_a is None or weights.lora_b is None:
                raise ValueError(f"{module} has one factor only; save the adapter again")
            a, b = weights.lora_a.shape, weights.lora_b.shape
            if a[1:] != (base.input_size,) or b != (size, a[0]) or a[0] > max_rank:
                raise ValueError(
                    f"the factors of {module} are A {list(a)} and B {list(b)}; the model needs "
                    f"[r, {base.input_size}] and [{size}, r] with r of at most {max_rank}"
                )


def check_values(lora: LoRAModel) -> None:
    """Refuse factors that overflow. NaN in the KV cache outlives its request: the kernels read the
    rest of a block that the next request only begins to fill.

    Raises:
        ValueError: names the module and its largest number.
    """
    for name, weights in lora.loras.items():
        a, b = _magnitude(weights.lora_a), _magnitude(weights.lora_b)
        scale = abs(weights.scaling)
        for what, value in (
            ("A", a),
            ("scale", scale),
            ("scale * B", scale * b),
            ("scale * B @ A", scale * b * a),
        ):
            if not value <= MAX_MAGNITUDE:
                raise ValueError(
                    f"{what} of {name} reaches {value:.3g}, more than {MAX_MAGNITUDE:g}"
                )


def _magnitude(factor: torch.Tensor | Sequence[torch.Tensor | None] | None) -> float:
    """Return the largest magnitude in a factor, or in those of all experts; NaN if there is one."""
    factors = [factor] if isinstance(factor, torch.Tensor) else list(factor or ())
    magnitudes = [f.abs().max() for f in factors if f is not None and f.numel()]
    # torch's `max` keeps NaN, unlike Python's.
    return float(torch.stack(magnitudes).max()) if magnitudes else 0.0


def _output_sizes(layer: LinearBase, modules: int) -> list[int]:
    """Return the outputs of each module packed into a layer, over all workers; empty where vLLM
    splits them otherwise."""
    if isinstance(layer, QKVParallelLinear):  # `output_sizes` counts copies of shared heads
        kv = layer.total_num_kv_heads
        sizes = [
            layer.total_num_heads * layer.head_size,
            kv * layer.head_size,
            kv * layer.v_head_size,
        ]
    else:
        sizes = list(getattr(layer, "output_sizes", [layer.output_size]))
    if modules == 1:
        return [sum(sizes)]
    return sizes if len(sizes) == modules else []
