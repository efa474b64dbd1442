"""LoRA for some tokens of a batch: the others are computed by the model without its adapter.

As in a row whose adapter changes in time, and in Activated LoRA (Greenewald et al. 2025,
arXiv:2504.12397), where the adapter comes on in the middle of a sequence.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def lora_at(model: torch.nn.Module, on: torch.Tensor) -> Iterator[None]:
    """Within it, the LoRA layers of PEFT compute only the tokens that are `on`, `[B, T]` bool."""
    factor = on[..., None]  # [B, T, 1]
    hooks = [
        inner.register_forward_pre_hook(lambda _, given: (given[0] * factor.to(given[0].dtype),))
        for name, module in model.named_modules()
        if name.endswith("lora_A")
        for inner in module.children()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
