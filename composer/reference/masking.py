"""LoRA for some tokens of a batch; the model computes the others without its adapter.

As in a row whose adapter changes over time, and in Activated LoRA (Greenewald et al. 2025,
arXiv:2504.12397), where the adapter is activated in the middle of a sequence.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def lora_at(model: torch.nn.Module, on: torch.Tensor) -> Iterator[None]:
    """Within this context PEFT's LoRA layers apply only to the tokens `on`, `[B, T]` bool."""
    factor = on[..., None]  # [B, T, 1]
    hooks = [
        inner.register_forward_pre_hook(lambda _, args: (args[0] * factor.to(args[0].dtype),))
        for name, module in model.named_modules()
        if name.endswith("lora_A")
        for inner in module.children()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
