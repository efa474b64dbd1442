"""LoRA on CPU beside rows without an adapter.

vLLM marks tokens without an adapter with the index -1. Its CUDA kernels skip them; its PyTorch
kernels for CPU (`lora/ops/torch_ops/lora_ops.py`, 0.32) index the stacked weights with -1 and so
give them the adapter in the last slot, as soon as that slot is taken. Base rows beside adapter rows
are what compositions are made of. Upstream: vllm-project/vllm pull request 48421; when a release
has it, `tests/engine/test_compat.py` says that this file can go.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.lora.model_manager import LoRAModelManager
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU


class BaseSafePunica(PunicaWrapperCPU):
    """vLLM's CPU kernels, without effect on tokens that have no adapter."""

    def add_shrink(
        self,
        y: tuple[torch.Tensor, ...] | torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        scale: float,
        **kwargs: Any,
    ) -> None:
        super().add_shrink(y, x, lora_a_stacked, scale, **kwargs)
        # What `A x` is zero for, `B A x` is zero for.
        base = (self.token_lora_indices < 0).unsqueeze(1)  # [T, 1]
        for part in y:
            part.view(-1, part.shape[-1]).masked_fill_(base, 0.0)  # [T, r]

    def add_lora_embedding(
        self, y: torch.Tensor, x: torch.Tensor, *args: Any, **kwargs: Any
    ) -> None:
        base = (self.token_lora_indices < 0).unsqueeze(1)
        super().add_lora_embedding(y, x.masked_fill(base, 0.0), *args, **kwargs)

    def add_lora_logits(self, y: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        base = self.sampler_indices < 0  # [R]
        rows = y.view(-1, y.shape[-1])
        untouched = rows[base]
        super().add_lora_logits(y, *args, **kwargs)
        rows[base] = untouched


def protect_base_rows(manager: LoRAModelManager) -> None:
    """Make all LoRA layers of a loaded model use `BaseSafePunica`."""
    for prefix, kernels in manager.punica_wrapper_mapping.items():
        safe = BaseSafePunica(
            manager.max_num_batched_tokens,
            max_batches=manager.max_num_seqs,
            device=manager.device,
        )
        manager.punica_wrapper_mapping[prefix] = safe
        for layer in manager.modules.values():
            if layer.punica_wrapper is kernels:
                layer.set_mapping(safe)
